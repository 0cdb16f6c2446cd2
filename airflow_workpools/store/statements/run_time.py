# SPDX-License-Identifier: Apache-2.0
"""Run-time state of pools and queues, and what people ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, delete, exists, func, or_, select, true, update

from airflow_workpools.store import rules
from airflow_workpools.store.statements.airflow import is_latest_try, task_instance
from airflow_workpools.store.statements.common import (
    active,
    in_states,
    newer_round,
    occupying,
    of_queues,
    of_task_instances,
    waiting,
    with_ids,
)
from airflow_workpools.store.tables import jobs, pools, queues, workers

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Iterable
    from datetime import datetime

    from sqlalchemy import Select, Table, Update
    from sqlalchemy.sql import Delete

    from airflow_workpools.core.names import WorkQueueRef
    from airflow_workpools.store.records import JobFilter, JobRecord
    from airflow_workpools.store.statements.common import Condition


def pause_pool(name: str, paused: bool) -> Update:
    """Pause or resume a pool."""
    return update(pools).where(pools.c.name == name).values(paused=paused)


def pause_queue(ref: WorkQueueRef, paused: bool) -> Update:
    """Pause or resume a queue."""
    return update(queues).where(_is(ref)).values(paused=paused)


def pool_states() -> Select[Any]:
    """Which pools are paused."""
    return select(pools.c.name, pools.c.paused)


def queue_states(of_pools: Collection[str] | None = None) -> Select[Any]:
    """Which queues are paused, and when each was last polled."""
    return select(queues).where(true() if of_pools is None else queues.c.pool.in_(of_pools))


def touch_queues(refs: Collection[WorkQueueRef], now: datetime) -> Update:
    """Remember that queues were polled."""
    return update(queues).where(of_queues(refs, queues.c.pool, queues.c.name)).values(last_polled_at=now)


def forget_pool(name: str) -> tuple[Delete, Delete]:
    """Remove what is known of a pool, and of its queues."""
    return delete(queues).where(queues.c.pool == name), delete(pools).where(pools.c.name == name)


def forget_queue(ref: WorkQueueRef) -> Delete:
    """Remove what is known of a queue."""
    return delete(queues).where(_is(ref))


def _is(ref: WorkQueueRef) -> Condition:
    return and_(queues.c.pool == ref.pool, queues.c.name == ref.queue)


def active_counts(names: Collection[str] | None) -> Select[Any]:
    """Jobs that have not ended and their slots, by queue and state."""
    return (
        select(
            jobs.c.pool,
            jobs.c.queue,
            jobs.c.state,
            func.count().label("job_count"),
            func.sum(jobs.c.pool_slots).label("slots"),
        )
        .where(active, true() if names is None else jobs.c.pool.in_(names))
        .group_by(jobs.c.pool, jobs.c.queue, jobs.c.state)
    )


def counts_by_worker() -> Select[Any]:
    """Jobs that have not ended and their slots, by the worker that has them."""
    return (
        select(jobs.c.worker_id, func.count().label("job_count"), func.sum(jobs.c.pool_slots).label("slots"))
        .where(active, jobs.c.worker_id.is_not(None))
        .group_by(jobs.c.worker_id)
    )


def active_in(pool: str, queue: str | None = None) -> Condition:
    """Jobs of a pool or queue that have not ended."""
    return and_(jobs.c.pool == pool, true() if queue is None else jobs.c.queue == queue, active)


def holders(pool: str, queue: str | None, *, waiting_too: bool, limit: int) -> Select[Any]:
    """The runs whose jobs hold most slots of a pool or queue.

    :param waiting_too: also count jobs that wait to be claimed: for Airflow they hold slots.
    """
    slots = func.sum(jobs.c.pool_slots)
    since = func.min(jobs.c.handed_over_at)
    return (
        select(
            jobs.c.dag_id,
            jobs.c.run_id,
            jobs.c.queue,
            func.count().label("tasks"),
            slots.label("slots"),
            since.label("since"),
        )
        .where(active_in(pool, queue), active if waiting_too else occupying)
        .group_by(jobs.c.dag_id, jobs.c.run_id, jobs.c.queue)
        .order_by(slots.desc(), since, jobs.c.dag_id, jobs.c.run_id)
        .limit(limit)
    )


def ahead_of(job: JobRecord, overdue_since: datetime) -> Select[Any]:
    """How many waiting jobs of its queue go before a job, and the slots of the largest that is overdue."""
    weight, handed_over = jobs.c.priority_weight, jobs.c.handed_over_at
    overdue = case((handed_over <= overdue_since, jobs.c.pool_slots), else_=0)
    return (
        select(func.count().label("jobs"), func.coalesce(func.max(overdue), 0).label("overdue_slots"))
        .select_from(jobs)
        .where(
            jobs.c.pool == job.ref.pool,
            jobs.c.queue == job.ref.queue,
            waiting,
            jobs.c.id != job.id,
            or_(
                weight > job.priority_weight,
                and_(weight == job.priority_weight, handed_over < job.handed_over_at),
                and_(weight == job.priority_weight, handed_over == job.handed_over_at, jobs.c.id < job.id),
            ),
        )
    )


def active_by_scheduler() -> Select[Any]:
    """How many jobs that have not ended each scheduler has handed over."""
    return select(jobs.c.scheduler_job_id, func.count()).where(active).group_by(jobs.c.scheduler_job_id)


def listing(which: JobFilter, *, limit: int, offset: int) -> Select[Any]:
    """Jobs for people to see, the newest hand-over first; without workloads."""
    columns = [column for column in jobs.c if column is not jobs.c.workload]
    return (
        select(*columns)
        .where(*_restrictions(which))
        .order_by(jobs.c.handed_over_at.desc(), jobs.c.id)
        .limit(limit)
        .offset(offset)
    )


def _restrictions(which: JobFilter) -> Iterable[Condition]:
    if which.pools is not None:
        yield jobs.c.pool.in_(which.pools)
    if which.queues is not None:
        yield of_queues(which.queues, jobs.c.pool, jobs.c.queue)
    if which.states is not None:
        yield in_states(which.states)
    if which.job_ids is not None:
        yield with_ids(which.job_ids)
    if which.task_instance_ids is not None:
        yield of_task_instances(which.task_instance_ids)
    if which.worker_ids is not None:
        yield jobs.c.worker_id.in_(which.worker_ids)
    for name in ("dag_id", "task_id", "run_id"):
        if (value := getattr(which, name)) is not None:
            yield jobs.c[name] == value


def ended_before(before: datetime, limit: int) -> Select[Any]:
    """Jobs old enough to be forgotten; of a try that was handed over several times, the newest goes first.

    A first round that is gone would be taken for one that never was.
    """
    return (
        select(jobs.c.id)
        .where(jobs.c.ended_at < before, ~newer_round(), ~_try_goes_on())
        .order_by(jobs.c.ended_at, jobs.c.id)
        .limit(limit)
    )


def count_ended_before(before: datetime) -> Select[Any]:
    """How many jobs are old enough to be forgotten, one after the other."""
    newer = jobs.alias("newer")
    stays = exists().where(
        newer.c.task_instance_id == jobs.c.task_instance_id,
        newer.c.round > jobs.c.round,
        or_(newer.c.ended_at.is_(None), newer.c.ended_at >= before),
    )
    return (
        select(func.count())
        .select_from(jobs)
        .where(jobs.c.ended_at < before, ~stays.correlate(jobs), ~_try_goes_on())
    )


def _try_goes_on() -> Condition:
    """Airflow may still act on the end of the job, or hand the same try over again, under the same id."""
    return (
        exists()
        .where(
            task_instance.c.id == jobs.c.task_instance_id,
            is_latest_try,
            or_(task_instance.c.state.is_(None), task_instance.c.state.not_in(rules.OVER)),
        )
        .correlate(jobs)
    )


def idle_since(before: datetime, limit: int) -> Select[Any]:
    """Workers that have long been silent and have no job left."""
    return (
        select(workers.c.id)
        .where(_idle(before))
        .order_by(workers.c.last_heartbeat_at, workers.c.id)
        .limit(limit)
    )


def count_idle_since(before: datetime) -> Select[Any]:
    """How many workers have long been silent and have no job left."""
    return select(func.count()).select_from(workers).where(_idle(before))


def _idle(since: datetime) -> Condition:
    has_job = exists().where(jobs.c.worker_id == workers.c.id, active)
    return and_(workers.c.last_heartbeat_at < since, ~has_job.correlate(workers))


def remove(target: Table, ids: Collection[uuid.UUID]) -> Delete:
    """Delete rows by id."""
    return delete(target).where(target.c.id.in_(ids))
