# SPDX-License-Identifier: Apache-2.0
"""From database rows to records, and back."""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.jobs import ENDED, JobState, job_id_for
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store import rules
from airflow_workpools.store.records import (
    ClaimedJob,
    EndedJob,
    JobRecord,
    JobSummary,
    NewJob,
    WorkerKind,
    WorkerRecord,
    WorkerState,
)

if TYPE_CHECKING:
    import uuid
    from datetime import datetime

    from sqlalchemy import Row

log = logging.getLogger(__name__)


def job_row(job: NewJob, round_: int, now: datetime) -> dict[str, Any]:
    """Return the row of a job that waits.

    :raises InvalidJobVariables: if the job variables are no JSON.
    """
    return {
        "id": job_id_for(job.task_instance_id, round_),
        "task_instance_id": job.task_instance_id,
        "round": round_,
        "dag_id": job.dag_id,
        "task_id": job.task_id,
        "run_id": job.run_id,
        "map_index": job.map_index,
        "try_number": job.try_number,
        "pool": job.ref.pool,
        "queue": job.ref.queue,
        "pool_slots": job.pool_slots,
        "priority_weight": job.priority_weight,
        "state": JobState.PENDING.value,
        "workload": job.workload,
        "job_variables": rules.checked_variables(job),
        "scheduler_job_id": job.scheduler_job_id,
        "start_timeout_seconds": job.start_timeout_seconds,
        "start_attempts": 0,
        "team_name": job.team_name,
        "handed_over_at": now,
    }


def worker_row(worker: WorkerRecord, now: datetime) -> dict[str, Any]:
    """Return the row of a worker that comes online."""
    return {
        "id": worker.id,
        "name": worker.name,
        "hostname": worker.hostname,
        "kind": WorkerKind(worker.kind).value,
        "pools": None if worker.pools is None else list(worker.pools),
        "queues": None if worker.queues is None else list(worker.queues),
        "slots": worker.slots,
        "state": WorkerState.ONLINE.value,
        "started_at": worker.started_at,
        "last_heartbeat_at": now,
        "heartbeat_seconds": worker.heartbeat_seconds,
        "version": worker.version,
        "team_name": worker.team_name,
        "hindered": dict(worker.hindered),
        "steady_since": now,
    }


def worker_record(row: Row[Any]) -> WorkerRecord | None:
    """Return a worker, or None if its row was changed by hand and can't be read any more.

    A worker that lives comes online again, and writes its row anew.
    """
    try:
        return _worker_record(row)
    except (ValueError, TypeError) as error:
        _complain(
            f"Worker {row.id}: its row in workpool_worker can't be read: {error}. It was changed by hand; if the "
            "worker lives, it writes the row anew with its next heartbeat, else delete the row"
        )
        return None


@lru_cache(maxsize=1000)
def _complain(message: str) -> None:
    """Log something once: the row may be read many times a minute."""
    log.error("%s", message)


def _worker_record(row: Row[Any]) -> WorkerRecord:
    for name, value in (("pools", row.pools), ("queues", row.queues)):
        if not (value is None or isinstance(value, list)):
            raise ValueError(f"{name} is no list: {value!r}")
    return WorkerRecord(
        id=row.id,
        name=row.name,
        hostname=row.hostname,
        kind=WorkerKind(row.kind),
        pools=None if row.pools is None else tuple(row.pools),
        queues=None if row.queues is None else tuple(row.queues),
        slots=row.slots,
        state=WorkerState(row.state),
        started_at=row.started_at,
        last_heartbeat_at=row.last_heartbeat_at,
        heartbeat_seconds=row.heartbeat_seconds,
        version=row.version,
        team_name=row.team_name,
        hindered={name: str(reason) for name, reason in row.hindered.items()}
        if isinstance(row.hindered, dict)
        else {},
        steady_since=row.steady_since,
        token_id=row.token_id,
    )


def job_summary(row: Row[Any]) -> JobSummary:
    return JobSummary(**_identity(row))


def ended_job(row: Row[Any], *, traced: bool) -> EndedJob | None:
    """Return the end of a job, or None if its row was changed by hand and does not say how it ended."""
    job = _identity(row)
    if job["state"] not in ENDED:
        return None
    return EndedJob(
        **job,
        reason=row.reason,
        exit_code=row.exit_code,
        log_path=None if job["state"] is JobState.SUCCEEDED else rules.log_path(row.workload),
        latest=bool(row.latest),
        desired_state=_desired_state(row),
        scheduled_at=row.scheduled_at,
        handed_over_at=row.handed_over_at,
        claimed_at=row.claimed_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        context_carrier=rules.context_carrier(row.workload) if traced else None,
    )


def claimed_job(row: Row[Any]) -> ClaimedJob:
    return ClaimedJob(
        **_identity(row),
        workload=row.workload,
        job_variables=_variables(row),
        handle=_handle(row),
        desired_state=_desired_state(row),
        start_timeout_seconds=row.start_timeout_seconds,
        start_attempts=row.start_attempts,
        reason=row.reason,
        problem=_problem(row),
    )


def job_record(row: Row[Any]) -> JobRecord:
    return JobRecord(
        **_identity(row, unknown=JobState.RUNNING if row.ended_at is None else JobState.FAILED),
        round=row.round,
        pool_slots=row.pool_slots,
        priority_weight=row.priority_weight,
        desired_state=_desired_state(row),
        reason=row.reason,
        exit_code=row.exit_code,
        job_variables=_variables(row),
        handle=_handle(row),
        worker_id=row.worker_id,
        scheduler_job_id=row.scheduler_job_id,
        start_timeout_seconds=row.start_timeout_seconds,
        start_attempts=row.start_attempts,
        team_name=row.team_name,
        handed_over_at=row.handed_over_at,
        claimed_at=row.claimed_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        reported_at=row.reported_at,
        renewed_at=row.renewed_at,
    )


def states(row: Row[Any]) -> tuple[JobState | None, JobState | None]:
    """Return what a job is and what it should be."""
    return state_of(row.state), _desired_state(row)


def state_of(text: str) -> JobState | None:
    """Return a state, or None if somebody wrote something by hand that is none."""
    try:
        return JobState(text)
    except ValueError:
        return None


def _identity(row: Row[Any], *, unknown: JobState = JobState.RUNNING) -> dict[str, Any]:
    """Say which try of which task a job is.

    :param unknown: taken for the state of a job whose state is none; reconciliation mends the row.
    """
    return {
        "id": row.id,
        "task_instance_id": row.task_instance_id,
        "dag_id": row.dag_id,
        "task_id": row.task_id,
        "run_id": row.run_id,
        "map_index": row.map_index,
        "try_number": row.try_number,
        "ref": WorkQueueRef(row.pool, row.queue),
        "state": state_of(row.state) or unknown,
    }


def _desired_state(row: Row[Any]) -> JobState | None:
    return None if row.desired_state is None else state_of(row.desired_state)


def _handle(row: Row[Any]) -> Handle | None:
    if row.handle is None:
        return None
    job_id: uuid.UUID = row.id
    try:
        return Handle(
            job_id=job_id,
            kind=row.handle["kind"],
            data=dict(row.handle["data"]),
            conn_id=row.handle.get("conn_id"),
            failed_start=row.handle.get("failed_start"),
        )
    except (TypeError, KeyError, ValueError):
        _complain(
            f"Job {job_id}: its handle in workpool_job can't be read; it was changed by hand. "
            "The worker looks for the job on its infrastructure by its id"
        )
        return None


def _variables(row: Row[Any]) -> dict[str, Any]:
    return row.job_variables if isinstance(row.job_variables, dict) else {}


def _problem(row: Row[Any]) -> str | None:
    """Say what of a job's row was changed by hand so that the job can't be launched."""
    if not isinstance(row.job_variables, dict):
        return _unreadable(row, "job_variables")
    try:
        workload = json.loads(row.workload)
    except ValueError:
        return _unreadable(row, "workload")
    return None if isinstance(workload, dict) else _unreadable(row, "workload")


def _unreadable(row: Row[Any], column: str) -> str:
    return (
        f"{column} of job {row.id} in table workpool_job was changed by hand and can't be read; "
        "clear the task to hand it over anew"
    )
