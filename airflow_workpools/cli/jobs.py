# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools jobs …`` and ``queue jobs``: single jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.cli.context import opened
from airflow_workpools.cli.output import reads, show_data, show_rows, writes
from airflow_workpools.core.jobs import ENDED, JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import InvalidPool
from airflow_workpools.errors import NotFound
from airflow_workpools.store.job_edits import cancel_jobs
from airflow_workpools.store.records import JobFilter

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.cli.context import Context
    from airflow_workpools.store.records import JobRecord


@reads
def list_jobs(args: Namespace) -> None:
    """List jobs, the newest first."""
    ref = None if args.queue is None else WorkQueueRef.parse(args.queue)
    with opened() as context:
        which = JobFilter(
            pools=None if args.pool is None else (args.pool,),
            queues=None if ref is None else (ref,),
            states=_states(args),
            dag_id=args.dag_id,
            task_id=args.task_id,
            run_id=args.run_id,
            worker_ids=None if args.worker is None else _worker_ids(context, args.worker),
        )
        _show(context, which, args)


@reads
def list_of_queue(args: Namespace) -> None:
    """List the jobs of a work queue, the newest first."""
    with opened() as context:
        _show(context, JobFilter(queues=(WorkQueueRef.parse(args.queue),), states=_states(args)), args)


@reads
def inspect(args: Namespace) -> None:
    """Show all about a job."""
    with opened() as context:
        job = context.store.job(args.job)
        show_data(_everything(job, _worker_names(context)), args.output)


@writes("workpools_jobs_cancel")
def cancel(args: Namespace) -> None:
    """Cancel jobs."""
    from airflow.utils.platform import getuser

    reason = f"cancelled by {getuser()}" + (f": {args.reason}" if args.reason else "")
    with opened() as context:
        jobs = cancel_jobs(context.store, args.jobs, reason=reason, now=context.now)
    for job in jobs:
        print(f"Job {job.id} ({_task(job)}) {_outcome(job, reason)}")


def _outcome(job: JobRecord, reason: str) -> str:
    if job.state is JobState.CANCELLED:
        return "cancelled"
    if job.state in ENDED:
        return f"had ended before it could be cancelled: {job.state}"
    if job.reason == reason:
        return "is being stopped by its worker"
    return f"was being stopped already: {job.reason}"


def _task(job: JobRecord) -> str:
    index = "" if job.map_index < 0 else f"[{job.map_index}]"
    return f"{job.dag_id}.{job.task_id}{index}, run {job.run_id}"


def _states(args: Namespace) -> frozenset[JobState] | None:
    return None if args.states is None else frozenset(map(JobState, args.states))


def _show(context: Context, which: JobFilter, args: Namespace) -> None:
    jobs = context.store.jobs(which, limit=args.limit)
    if not jobs:
        _check_names(context, which)
    names = _worker_names(context)
    show_rows([_row(job, names) for job in jobs], args.output)


def _check_names(context: Context, which: JobFilter) -> None:
    """Check that nothing was mistyped. What is gone may still have jobs, so this is asked only if none was found.

    :raises NotFound: if there is no such pool or queue.
    """
    for ref in which.queues or ():
        pool = context.pool(ref.pool)
        if not isinstance(pool, InvalidPool):
            pool.queue(ref.queue)
    for name in which.pools or ():
        context.pool(name)


def _worker_ids(context: Context, name_or_id: str) -> tuple[UUID, ...]:
    workers = context.store.run_state(now=context.now).workers
    found = tuple(worker.id for worker in workers if name_or_id in (worker.name, str(worker.id)))
    if not found:
        raise NotFound(
            f"there is no worker {name_or_id!r}; `airflow workpools worker list --all` shows those there are"
        )
    return found


def _worker_names(context: Context) -> Mapping[UUID, str]:
    return {worker.id: worker.name for worker in context.store.run_state(now=context.now).workers}


def _row(job: JobRecord, worker_names: Mapping[UUID, str]) -> dict[str, Any]:
    return {
        "id": str(job.id),
        "queue": str(job.ref),
        "state": job.state.value,
        "dag_id": job.dag_id,
        "task_id": job.task_id,
        "run_id": job.run_id,
        "map_index": job.map_index,
        "try_number": job.try_number,
        "slots": job.pool_slots,
        "worker": _worker(job, worker_names),
        "handed_over_at": _time(job.handed_over_at),
        "ended_at": _time(job.ended_at),
        "reason": job.reason,
    }


def _everything(job: JobRecord, worker_names: Mapping[UUID, str]) -> dict[str, Any]:
    return {
        "id": str(job.id),
        "pool": job.ref.pool,
        "queue": job.ref.queue,
        "state": job.state.value,
        "desired_state": None if job.desired_state is None else job.desired_state.value,
        "reason": job.reason,
        "exit_code": job.exit_code,
        "dag_id": job.dag_id,
        "task_id": job.task_id,
        "run_id": job.run_id,
        "map_index": job.map_index,
        "try_number": job.try_number,
        "task_instance_id": str(job.task_instance_id),
        "round": job.round,
        "slots": job.pool_slots,
        "priority_weight": job.priority_weight,
        "job_variables": dict(job.job_variables),
        "start_timeout_seconds": job.start_timeout_seconds,
        "start_attempts": job.start_attempts,
        "worker": _worker(job, worker_names),
        "worker_id": None if job.worker_id is None else str(job.worker_id),
        "infrastructure": None
        if job.handle is None
        else {"kind": job.handle.kind, "data": dict(job.handle.data)},
        "scheduler_job_id": job.scheduler_job_id,
        "team_name": job.team_name,
        "handed_over_at": _time(job.handed_over_at),
        "claimed_at": _time(job.claimed_at),
        "start_timeout_since": _time(job.starting_since),
        "started_at": _time(job.started_at),
        "ended_at": _time(job.ended_at),
        "reported_at": _time(job.reported_at),
    }


def _worker(job: JobRecord, names: Mapping[UUID, str]) -> str | None:
    """Return the name of the job's worker, or its id if it has been purged."""
    return None if job.worker_id is None else names.get(job.worker_id, str(job.worker_id))


def _time(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat()
