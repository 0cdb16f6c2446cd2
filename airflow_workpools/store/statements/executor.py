# SPDX-License-Identifier: Apache-2.0
"""What the executor asks and tells."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, case, func, select, update

from airflow_workpools.core.jobs import ENDED, JobState
from airflow_workpools.store.statements.airflow import task_instance
from airflow_workpools.store.statements.common import (
    active,
    in_states,
    may_become,
    newer_round,
    occupying,
    of_task_instances,
    unwished,
    waiting,
    with_ids,
)
from airflow_workpools.store.tables import jobs

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy import ColumnElement, Select, Update

    from airflow_workpools.store.statements.common import Condition

_SUCCEEDED = JobState.SUCCEEDED.value


def last_round(task_instance_id: uuid.UUID) -> Select[Any]:
    """The newest round of a try, or null if it was never handed over."""
    return select(func.max(jobs.c.round)).where(jobs.c.task_instance_id == task_instance_id)


def newest_jobs(task_instance_ids: Collection[uuid.UUID]) -> Select[Any]:
    """The newest job of each task instance."""
    return select(*_summary).where(of_task_instances(task_instance_ids), ~newer_round())


def adopt(task_instance_ids: Collection[uuid.UUID], scheduler_job_id: int, team_name: str | None) -> Update:
    """Give a scheduler's executor all jobs of task instances of whose end Airflow has not heard."""
    return (
        update(jobs)
        .where(of_task_instances(task_instance_ids), jobs.c.reported_at.is_(None))
        .values(scheduler_job_id=scheduler_job_id, team_name=team_name)
    )


@cache
def lately_ended() -> Select[Any]:
    """Slots that jobs gave back since ``ended_since``, by queue, of those that were claimed since ``claimed_since``.

    What ended after ``now`` did so by a clock that was set back since: it says nothing.
    """
    return (
        select(jobs.c.pool, jobs.c.queue, func.sum(jobs.c.pool_slots).label("slots"))
        .where(
            ~active,
            jobs.c.ended_at.between(
                bindparam("ended_since", type_=jobs.c.ended_at.type),
                bindparam("now", type_=jobs.c.ended_at.type),
            ),
            jobs.c.claimed_at >= bindparam("claimed_since", type_=jobs.c.claimed_at.type),
        )
        .group_by(jobs.c.pool, jobs.c.queue)
    )


def tell_again(job_ids: Collection[uuid.UUID]) -> Update:
    """Forget that Airflow has heard of the end of these jobs."""
    return update(jobs).where(with_ids(job_ids), jobs.c.reported_at.is_not(None)).values(reported_at=None)


def unreported(scheduler_job_id: int, team_name: str | None, limit: int, *, traced: bool) -> Select[Any]:
    """Ended jobs of a scheduler's executor of which Airflow has not heard, the oldest end first.

    A workload is large, and wanted only for the log of what did not succeed, and for traces.
    """
    workload = jobs.c.workload if traced else case((jobs.c.state != _SUCCEEDED, jobs.c.workload))
    scheduled_at = (
        select(task_instance.c.scheduled_dttm)
        .where(task_instance.c.id == jobs.c.task_instance_id)
        .correlate(jobs)
        .scalar_subquery()
    )
    return (
        select(
            *_summary,
            jobs.c.reason,
            jobs.c.exit_code,
            workload.label("workload"),
            (~newer_round()).label("latest"),
            jobs.c.desired_state,
            scheduled_at.label("scheduled_at"),
            jobs.c.handed_over_at,
            jobs.c.claimed_at,
            jobs.c.started_at,
            jobs.c.ended_at,
        )
        .where(
            jobs.c.scheduler_job_id == scheduler_job_id,
            jobs.c.team_name == team_name,
            jobs.c.reported_at.is_(None),
            jobs.c.ended_at.is_not(None),
        )
        .order_by(jobs.c.ended_at, jobs.c.id)
        .limit(limit)
    )


def mark_reported(job_ids: Collection[uuid.UUID], now: datetime) -> Update:
    """Remember that Airflow has heard of the end of these jobs."""
    return update(jobs).where(with_ids(job_ids), in_states(ENDED)).values(reported_at=now)


def active_of(scheduler_job_id: int, team_name: str | None) -> Condition:
    """An executor's jobs that have not ended. That they are unreported is what the index is made on."""
    return and_(
        jobs.c.scheduler_job_id == scheduler_job_id,
        jobs.c.team_name == team_name,
        jobs.c.reported_at.is_(None),
        active,
    )


def summaries(which: Condition) -> Select[Any]:
    """Which tries these jobs are, oldest first."""
    return select(*_summary).where(which).order_by(jobs.c.handed_over_at, jobs.c.id)


def count(which: Condition) -> Select[Any]:
    """How many jobs these are."""
    return select(func.count()).select_from(jobs).where(which)


_summary = (
    jobs.c.id,
    jobs.c.task_instance_id,
    jobs.c.dag_id,
    jobs.c.task_id,
    jobs.c.run_id,
    jobs.c.map_index,
    jobs.c.try_number,
    jobs.c.pool,
    jobs.c.queue,
    jobs.c.state,
)


def cancel_waiting(which: Condition, reason: str | ColumnElement[str], now: datetime) -> Update:
    """End jobs that no worker has taken."""
    return (
        update(jobs)
        .where(which, may_become(JobState.CANCELLED), waiting)
        .values(state=JobState.CANCELLED.value, reason=reason, ended_at=now)
    )


def wish(
    which: Condition, reason: str | ColumnElement[str], desired: JobState = JobState.CANCELLED
) -> Update:
    """Wish that workers stop jobs; a wish that is there already stays as it is."""
    return update(jobs).where(which, occupying, unwished).values(desired_state=desired.value, reason=reason)
