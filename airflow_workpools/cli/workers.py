# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools worker …``: who runs the jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.cli.context import opened
from airflow_workpools.cli.output import reads, show_data, show_rows, writes
from airflow_workpools.core.jobs import OCCUPYING
from airflow_workpools.core.wording import counted
from airflow_workpools.store.records import JobCount, JobFilter, WorkerState
from airflow_workpools.store.worker_edits import find_worker, living_worker

if TYPE_CHECKING:
    from argparse import Namespace
    from datetime import datetime

    from airflow_workpools.cli.context import Context
    from airflow_workpools.store.records import WorkerRecord

MAX_SHOWN = 1000
"""Most jobs of a worker that are listed."""
_NONE = JobCount(0, 0)


@reads
def list_workers(args: Namespace) -> None:
    """List workers, in the order in which they started."""
    with opened() as context:
        if args.pool is None:
            workers = context.store.run_state(now=context.now).workers
        else:
            (pool,) = context.overview(args.pool)
            workers = pool.workers
        busy = context.store.worker_counts()
        rows = [
            _row(worker, busy.get(worker.id, _NONE), context.now)
            for worker in workers
            if args.all or worker.state is not WorkerState.STOPPED or worker.id in busy
        ]
    show_rows(rows, args.output)


@reads
def inspect(args: Namespace) -> None:
    """Show all about a worker."""
    with opened() as context:
        worker = find_worker(_all(context), args.worker)
        holds = context.store.worker_counts().get(worker.id, _NONE)
        jobs = context.store.jobs(JobFilter(worker_ids=(worker.id,), states=OCCUPYING), limit=MAX_SHOWN)
        data = {
            **worker_data(worker, context.now),
            "jobs": holds.jobs,
            "slots_used": holds.slots,
            "slots_free": None if worker.slots is None else max(0, worker.slots - holds.slots),
            "job_ids": [str(job.id) for job in jobs],
        }
    show_data(data, args.output)


@writes("workpools_worker_drain")
def drain(args: Namespace) -> None:
    """Let a worker take no more jobs."""
    with opened() as context:
        worker = living_worker(_all(context), args.worker)
        context.store.drain_worker(worker.id)
        held = context.store.worker_counts().get(worker.id, _NONE).jobs
    print(
        f"Worker {worker.name} takes no more jobs; it has {counted(held, 'job')}, still running. "
        f"`airflow workpools worker resume {worker.name}` undoes it"
    )


@writes("workpools_worker_resume")
def resume(args: Namespace) -> None:
    """Let a worker that was drained take jobs again."""
    with opened() as context:
        worker = living_worker(_all(context), args.worker)
        context.store.resume_worker(worker.id)
    print(f"Worker {worker.name} takes jobs")


def _all(context: Context) -> tuple[WorkerRecord, ...]:
    return context.store.run_state(now=context.now).workers


def _row(worker: WorkerRecord, holds: JobCount, now: datetime) -> dict[str, Any]:
    known = worker_data(worker, now)
    pools = "all push pools" if worker.pools is None else list(worker.pools)
    return {
        "name": known["name"],
        "status": known["status"],
        "kind": known["kind"],
        "hostname": known["hostname"],
        "pools": pools,
        "queues": known["queues"],
        "team_name": known["team_name"],
        "jobs": holds.jobs,
        "slots_used": holds.slots,
        "slots": known["slots"],
        "last_heartbeat_at": known["last_heartbeat_at"],
        "started_at": known["started_at"],
        "version": known["version"],
        "id": known["id"],
    }


def worker_data(worker: WorkerRecord, now: datetime) -> dict[str, Any]:
    """Return what is known of a worker, as JSON."""
    return {
        "id": str(worker.id),
        "name": worker.name,
        "hostname": worker.hostname,
        "kind": worker.kind.value,
        "status": worker.status(now),
        "pools": None if worker.pools is None else list(worker.pools),
        "queues": None if worker.queues is None else list(worker.queues),
        "slots": worker.slots,
        "team_name": worker.team_name,
        "started_at": worker.started_at.isoformat(),
        "last_heartbeat_at": worker.last_heartbeat_at.isoformat(),
        "version": worker.version,
        "hindered": dict(worker.hindered),
    }
