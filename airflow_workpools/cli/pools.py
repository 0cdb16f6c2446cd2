# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools create``, ``list``, ``inspect``, …: work pools as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.cli.changes import assigned, changes, given_keys, limit_or_none, queues
from airflow_workpools.cli.context import opened
from airflow_workpools.cli.output import reads, show_data, show_rows, writes
from airflow_workpools.cli.workers import worker_data
from airflow_workpools.core.changes import Changes
from airflow_workpools.core.pools import WorkPool
from airflow_workpools.errors import InvalidInput
from airflow_workpools.store.preview import preview as upcoming

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from datetime import datetime

    from airflow_workpools.store.overview import PoolOverview, QueueOverview
    from airflow_workpools.store.preview import Waiting


@writes("workpools_create")
def create(args: Namespace) -> None:
    """Create a work pool."""
    definition = {
        "type": args.type,
        **given_keys(args),
        "queues": queues(args.queues) or None,
        "job_variables": assigned(args.variables) or None,
    }
    with opened() as context:
        pool = context.editor.create_pool(
            args.pool,
            definition,
            description=args.description,
            overwrite=args.overwrite,
            paused=True if args.paused else None,
            team_name=args.team_name,
        )
    by_priority = ", ".join(queue.name for queue in pool.queues)
    whose = f" for team {pool.team_name!r}" if pool.team_name else ""
    print(
        f"Work pool {pool.name!r} of type {pool.type} created{whose}; its work queues by priority: {by_priority}"
    )


@writes("workpools_update")
def update(args: Namespace) -> None:
    """Change a work pool."""
    wanted = changes(args)
    if not wanted and args.description is None and args.team_name is None:
        raise InvalidInput("nothing to change was given; see `airflow workpools update --help`")
    with opened() as context:
        context.editor.update_pool(args.pool, wanted, description=args.description, team_name=args.team_name)
    print(f"Work pool {args.pool!r} updated")


@writes("workpools_set_concurrency_limit")
def set_concurrency_limit(args: Namespace) -> None:
    """Set a work pool's concurrency limit."""
    limit = limit_or_none(args.limit)
    with opened() as context:
        context.editor.update_pool(args.pool, Changes(keys={"concurrency_limit": limit}))
    print(f"Concurrency limit of work pool {args.pool!r}: {args.limit}")


@writes("workpools_clear_concurrency_limit")
def clear_concurrency_limit(args: Namespace) -> None:
    """Remove a work pool's concurrency limit."""
    with opened() as context:
        context.editor.update_pool(args.pool, Changes(keys={"concurrency_limit": None}))
    print(f"Concurrency limit of work pool {args.pool!r}: none")


@writes("workpools_delete")
def delete(args: Namespace) -> None:
    """Delete a work pool."""
    with opened() as context:
        context.editor.delete_pool(args.pool)
    print(f"Work pool {args.pool!r} deleted")


@writes("workpools_pause")
def pause(args: Namespace) -> None:
    """Pause a work pool, wherever it is defined."""
    with opened() as context:
        context.store.set_pool_paused(context.pool(args.pool).name, True)
    print(f"Work pool {args.pool!r} paused; what runs goes on")


@writes("workpools_resume")
def resume(args: Namespace) -> None:
    """Resume a paused work pool."""
    with opened() as context:
        context.store.set_pool_paused(context.pool(args.pool).name, False)
    print(f"Work pool {args.pool!r} resumed")


@reads
def list_pools(args: Namespace) -> None:
    """List work pools."""
    with opened() as context:
        show_rows([_pool_row(pool) for pool in context.overview()], args.output)


@reads
def slots(args: Namespace) -> None:
    """Show who holds slots, and who waits for them."""
    with opened() as context:
        show_rows([row for pool in context.overview() for row in _slot_rows(pool)], args.output)


@reads
def preview(args: Namespace) -> None:
    """Show what would start next, in order."""
    with opened() as context:
        pool = context.valid_pool(args.pool)
        waiting = upcoming(
            context.session,
            pool,
            context.store,
            limit=args.limit,
            now=context.now,
            reserve_after=context.settings.reserve_after,
        )
        show_rows([_waiting_row(item) for item in waiting], args.output)


@reads
def inspect(args: Namespace) -> None:
    """Show all about a work pool."""
    with opened() as context:
        (found,) = context.overview(args.pool)
        show_data(_everything(found, now=context.now), args.output)


def _pool_row(found: PoolOverview) -> dict[str, Any]:
    pool = found.pool
    return {
        "name": pool.name,
        "type": pool.type if isinstance(pool, WorkPool) else None,
        "status": found.status.name,
        "limit": found.limit,
        "slots_used": found.occupied,
        "waiting": found.waiting,
        "queues": [queue.queue.name for queue in found.queues],
        "team_name": pool.team_name,
        "reason": found.reason,
    }


def _waiting_row(item: Waiting) -> dict[str, Any]:
    return {
        "starts": "now" if item.waits_for is None else "later" if item.can_start else "blocked",
        "queue": str(item.ref),
        "dag_id": item.dag_id,
        "task_id": item.task_id,
        "run_id": item.run_id,
        "map_index": item.map_index,
        "slots": item.slots,
        "job": str(item.id) if item.is_job else None,
        "waits_for": item.waits_for,
    }


def _slot_rows(found: PoolOverview) -> Iterator[dict[str, Any]]:
    yield {
        "pool": found.pool.name,
        "queue": None,
        "status": found.status.name,
        "limit": found.limit,
        "running": found.occupied,
        "free": found.free,
        "waiting": found.waiting,
        "airflow_pool_slots": None,
    }
    for queue in found.queues:
        yield {
            "pool": found.pool.name,
            "queue": queue.queue.name,
            "status": queue.status.name,
            "limit": queue.queue.concurrency_limit,
            "running": queue.occupied,
            "free": found.free_in(queue),
            "waiting": queue.waiting,
            "airflow_pool_slots": queue.airflow_slots,
        }


def _everything(found: PoolOverview, *, now: datetime) -> dict[str, Any]:
    pool = found.pool
    head = {
        "name": pool.name,
        "status": found.status.name,
        "paused": found.paused,
        "source": pool.source.value,
        "team_name": pool.team_name,
    }
    workers = [worker_data(worker, now) for worker in found.workers]
    if not isinstance(pool, WorkPool):
        return {**head, "reason": pool.reason, "workers": workers}
    return {
        **head,
        "type": pool.type,
        "reason": found.reason,
        "description": pool.description,
        "concurrency_limit": pool.concurrency_limit,
        "slots_used": found.occupied,
        "waiting": found.waiting,
        "delivery": pool.delivery.value,
        "start_timeout_seconds": pool.start_timeout_seconds,
        "start_attempts": pool.start_attempts,
        "infrastructure_conn_id": pool.infrastructure_conn_id,
        "job_variables": dict(pool.job_variables),
        "queues": [_queue(queue) for queue in found.queues],
        "capacity": found.capacity.total,
        "capacity_free": found.capacity.free,
        "workers": workers,
        "base_job_template": pool.base_job_template.to_json(),
    }


def _queue(found: QueueOverview) -> dict[str, Any]:
    queue = found.queue
    return {
        "name": queue.name,
        "status": found.status.name,
        "paused": found.paused,
        "priority": queue.priority,
        "concurrency_limit": queue.concurrency_limit,
        "description": queue.description,
        "job_variables": dict(queue.job_variables),
        "slots_used": found.occupied,
        "waiting": found.waiting,
        "airflow_pool": found.ref.airflow_pool,
        "airflow_pool_slots": found.airflow_slots,
        "airflow_pool_is_ours": found.airflow_pool_is_ours,
        "last_polled_at": found.last_polled_at.isoformat() if found.last_polled_at else None,
    }
