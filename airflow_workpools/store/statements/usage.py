# SPDX-License-Identifier: Apache-2.0
"""How pools were used: what pages about the past ask. Each statement answers with a fixed number of groups or rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, and_, case, cast, func, literal, or_, select, true, union_all

from airflow_workpools.core.jobs import JobState
from airflow_workpools.store.statements.common import active, seconds_since, whole
from airflow_workpools.store.tables import jobs

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Select

    from airflow_workpools.store.statements.common import Condition

_BEFORE = -1
"""Number of the bucket in which all is that was before the first."""


def claims(names: Collection[str] | None, since: datetime, bucket_seconds: float) -> Select[Any]:
    """Slots that jobs took, by pool, queue and bucket, of jobs that held some at ``since`` or later."""
    held_later = or_(
        and_(active, jobs.c.state != JobState.PENDING.value), and_(~active, jobs.c.ended_at >= since)
    )
    return _by_bucket(names, jobs.c.claimed_at, since, bucket_seconds).where(
        held_later, jobs.c.claimed_at.is_not(None)
    )


def ends(names: Collection[str] | None, since: datetime, bucket_seconds: float) -> Select[Any]:
    """Slots that jobs gave back since then, by pool, queue and bucket."""
    return _by_bucket(names, jobs.c.ended_at, since, bucket_seconds).where(
        ~active, jobs.c.ended_at >= since, jobs.c.claimed_at.is_not(None)
    )


def _by_bucket(names: Collection[str] | None, at: Any, since: datetime, bucket_seconds: float) -> Select[Any]:
    seconds = seconds_since(since, at)
    bucket = case((at < since, literal(_BEFORE)), else_=cast(whole(seconds / bucket_seconds), Integer))
    return (
        select(
            jobs.c.pool,
            jobs.c.queue,
            bucket.label("bucket"),
            func.count().label("jobs"),
            func.sum(jobs.c.pool_slots).label("slots"),
            func.sum(jobs.c.pool_slots * seconds).label("slot_seconds"),
        )
        .where(true() if names is None else jobs.c.pool.in_(names))
        .group_by(jobs.c.pool, jobs.c.queue, bucket)
    )


def waits(pool: str, state: JobState, since: datetime, limit: int) -> Select[Any]:
    """When the newest jobs of a pool in a state were handed over and claimed, if they were claimed since then."""
    return (
        select(jobs.c.queue, jobs.c.handed_over_at, jobs.c.claimed_at)
        .where(_of_pool_in_state(pool, state), jobs.c.claimed_at >= since)
        .order_by(jobs.c.handed_over_at.desc(), jobs.c.id)
        .limit(limit)
    )


def page(
    pool: str,
    states: Collection[JobState],
    *,
    queue: str | None,
    dag_id: str | None,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> Select[Any]:
    """Jobs of a pool in some states, the newest hand-over first, without workloads.

    Each state is asked by itself: then an index has its jobs in this order, and no more rows are read than are shown.

    :param after: hand-over and id of the last job of the page before.
    """
    columns = [column for column in jobs.c if column is not jobs.c.workload]
    conditions = []
    if queue is not None:
        conditions.append(jobs.c.queue == queue)
    if dag_id is not None:
        conditions.append(jobs.c.dag_id == dag_id)
    if after is not None:
        at, id_ = after
        # The first alone is what an index can begin with.
        conditions += [jobs.c.handed_over_at <= at, or_(jobs.c.handed_over_at < at, jobs.c.id > id_)]
    of_states = [
        select(*columns)
        .where(_of_pool_in_state(pool, state), *conditions)
        .order_by(jobs.c.handed_over_at.desc(), jobs.c.id)
        .limit(limit)
        .subquery()
        for state in sorted(states)
    ]
    found = union_all(*map(select, of_states)).subquery()
    return select(found).order_by(found.c.handed_over_at.desc(), found.c.id).limit(limit)


def _of_pool_in_state(pool: str, state: JobState) -> Condition:
    is_over = state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
    return and_(jobs.c.pool == pool, jobs.c.state == state.value, ~active if is_over else active)
