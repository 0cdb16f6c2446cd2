# SPDX-License-Identifier: Apache-2.0
"""What workers have that do not come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import exists, func, literal, or_, select, update

from airflow_workpools.core.jobs import JobState
from airflow_workpools.store.records import WorkerState
from airflow_workpools.store.statements.airflow import is_latest_try, task_instance
from airflow_workpools.store.statements.common import CHUNK, may_become, occupying, unwished, with_ids
from airflow_workpools.store.tables import jobs, workers

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy import Select, Update

    from airflow_workpools.store.records import WorkerRecord


def stop_lost(worker: WorkerRecord) -> Update:
    """Mark a worker as stopped, unless it has been heard of since."""
    return (
        update(workers)
        .where(
            workers.c.id == worker.id,
            or_(
                workers.c.state == WorkerState.STOPPED.value,
                workers.c.last_heartbeat_at == worker.last_heartbeat_at,
            ),
        )
        .values(state=WorkerState.STOPPED.value)
    )


def jobs_of_lost(
    worker_ids: Collection[uuid.UUID], pools: Collection[str], heard_since: datetime
) -> Select[Any]:
    """Jobs of these workers in these pools whose task does not say that it lives.

    :param heard_since: a task lives that has said so since then.
    """
    ours = task_instance.c.id == jobs.c.task_instance_id
    lives = exists().where(
        ours, task_instance.c.state == "running", task_instance.c.last_heartbeat_at > heard_since
    )
    waits = exists().where(ours, is_latest_try, task_instance.c.state == "queued")
    return (
        select(
            jobs.c.id,
            jobs.c.pool,
            jobs.c.worker_id,
            jobs.c.state,
            jobs.c.handle,
            jobs.c.start_attempts,
            waits.correlate(jobs).label("waits"),
        )
        .where(
            occupying,
            unwished,
            jobs.c.worker_id.in_(worker_ids),
            jobs.c.pool.in_(pools),
            ~lives.correlate(jobs),
        )
        .limit(CHUNK)
    )


def fail(job_ids: Collection[uuid.UUID], worker_id: uuid.UUID, reason: str, now: datetime) -> Update:
    """Fail jobs of a lost worker."""
    return (
        update(jobs)
        .where(with_ids(job_ids), occupying, jobs.c.worker_id == worker_id, may_become(JobState.FAILED))
        .values(
            state=JobState.FAILED.value,
            reason=literal(reason) + func.coalesce(literal(": ") + jobs.c.reason, ""),
            ended_at=now,
        )
    )
