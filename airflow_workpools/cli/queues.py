# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools queue …``: the work queues of a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.cli.changes import changes, limit_or_none
from airflow_workpools.cli.context import opened
from airflow_workpools.cli.output import reads, show_rows, writes
from airflow_workpools.core.changes import Changes
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import InvalidInput

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.store.overview import QueueOverview


@writes("workpools_queue_create")
def create(args: Namespace) -> None:
    """Add a work queue to a pool."""
    ref = WorkQueueRef.parse(args.queue)
    with opened() as context:
        pool = context.editor.create_queue(ref, _changes(args), paused=args.paused)
    print(f"Work queue '{ref}' created; {_order(pool)}")


@writes("workpools_queue_update")
def update(args: Namespace) -> None:
    """Change a work queue."""
    ref = WorkQueueRef.parse(args.queue)
    wanted = _changes(args)
    if not wanted:
        raise InvalidInput("nothing to change was given; see `airflow workpools queue update --help`")
    with opened() as context:
        pool = context.editor.update_queue(ref, wanted)
    print(f"Work queue '{ref}' updated; {_order(pool)}")


@writes("workpools_queue_set_concurrency_limit")
def set_concurrency_limit(args: Namespace) -> None:
    """Set a work queue's concurrency limit."""
    _limit(args.queue, limit_or_none(args.limit))


@writes("workpools_queue_clear_concurrency_limit")
def clear_concurrency_limit(args: Namespace) -> None:
    """Remove a work queue's concurrency limit."""
    _limit(args.queue, None)


def _limit(queue: str, limit: int | None) -> None:
    ref = WorkQueueRef.parse(queue)
    with opened() as context:
        context.editor.update_queue(ref, Changes(keys={"concurrency_limit": limit}))
    print(f"Concurrency limit of work queue '{ref}': {'none' if limit is None else limit}")


@writes("workpools_queue_delete")
def delete(args: Namespace) -> None:
    """Delete a work queue."""
    ref = WorkQueueRef.parse(args.queue)
    with opened() as context:
        context.editor.delete_queue(ref)
    print(f"Work queue '{ref}' deleted")


@writes("workpools_queue_pause")
def pause(args: Namespace) -> None:
    """Pause a work queue, wherever its pool is defined."""
    ref = WorkQueueRef.parse(args.queue)
    with opened() as context:
        context.check_queue(ref)
        context.store.set_queue_paused(ref, True)
    print(f"Work queue '{ref}' paused; what runs goes on")


@writes("workpools_queue_resume")
def resume(args: Namespace) -> None:
    """Resume a paused work queue."""
    ref = WorkQueueRef.parse(args.queue)
    with opened() as context:
        context.check_queue(ref)
        context.store.set_queue_paused(ref, False)
    print(f"Work queue '{ref}' resumed")


@reads
def list_queues(args: Namespace) -> None:
    """List the work queues of a pool, in the order of their priority."""
    with opened() as context:
        context.valid_pool(args.pool)
        (pool,) = context.overview(args.pool)
        show_rows([_row(queue) for queue in pool.queues], args.output)


def _row(found: QueueOverview) -> dict[str, Any]:
    return {
        "name": found.queue.name,
        "priority": found.queue.priority,
        "status": found.status.name,
        "limit": found.queue.concurrency_limit,
        "slots_used": found.occupied,
        "waiting": found.waiting,
        "description": found.queue.description,
    }


def _changes(args: Namespace) -> Changes:
    described = {} if args.description is None else {"description": args.description or None}
    return changes(args, **described)


def _order(pool: WorkPool) -> str:
    return "by priority: " + ", ".join(f"{queue.name} ({queue.priority})" for queue in pool.queues)
