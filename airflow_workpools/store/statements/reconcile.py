# SPDX-License-Identifier: Apache-2.0
"""Jobs compared with Airflow's task instances, and with what became of their workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, exists, func, literal, or_, select, update

from airflow_workpools.core.jobs import ACTIVE, ENDED, JobState
from airflow_workpools.store import mending, rules
from airflow_workpools.store.statements.airflow import is_latest_try, task_instance, try_ended_since
from airflow_workpools.store.statements.common import (
    active,
    in_states,
    may_become,
    newer_round,
    occupying,
    unwished,
)
from airflow_workpools.store.statements.executor import cancel_waiting, wish
from airflow_workpools.store.tables import jobs, workers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy import ColumnElement, Select, Update

    from airflow_workpools.store.statements.common import Condition


MAX_MENDED = 100
"""Most rows that are mended at a time; nobody changes more by hand without knowing it."""


def odd_jobs(now: datetime) -> Select[Any]:
    """Jobs that have not ended and whose rows say what cannot be; hardly ever any."""
    held_by_one = jobs.c.worker_id.is_not(None)
    odd = or_(
        ~in_states(ACTIVE),
        and_(jobs.c.state == JobState.PENDING.value, held_by_one),
        and_(occupying, jobs.c.claimed_at.is_(None)),
        and_(occupying, jobs.c.claimed_at > now + mending.CLOCKS_DIFFER_BY),
        and_(~unwished, jobs.c.desired_state.not_in(sorted(wish.value for wish in mending.WISHES))),
        jobs.c.pool_slots < 1,
    )
    return select(*_odd).where(active, odd).limit(MAX_MENDED)


def odd_ends() -> Select[Any]:
    """Jobs that have ended, but whose state says something else, before Airflow has heard of it."""
    return (
        select(*_odd)
        .where(jobs.c.ended_at.is_not(None), jobs.c.reported_at.is_(None), ~in_states(ENDED))
        .limit(MAX_MENDED)
    )


_odd = (
    jobs.c.id,
    jobs.c.dag_id,
    jobs.c.task_id,
    jobs.c.run_id,
    jobs.c.pool,
    jobs.c.queue,
    jobs.c.state,
    jobs.c.desired_state,
    jobs.c.pool_slots,
    jobs.c.worker_id,
    jobs.c.handle.is_not(None).label("has_handle"),
    jobs.c.exit_code,
    jobs.c.claimed_at,
    jobs.c.started_at,
    jobs.c.ended_at,
)


def mend(row: mending.JobRow, values: Mapping[str, Any]) -> Update:
    """Mend a row, unless it has changed since."""
    return (
        update(jobs)
        .where(
            jobs.c.id == row.id,
            jobs.c.state == row.state,
            jobs.c.worker_id.is_not_distinct_from(row.worker_id),
            jobs.c.ended_at.is_(None) if row.ended_at is None else jobs.c.ended_at.is_not(None),
        )
        .values(**values)
    )


def cancel_stale(now: datetime) -> Update:
    """Cancel waiting jobs whose task instance does not wait for them any more."""
    return cancel_waiting(~_task_instance(task_instance.c.state.in_(rules.WAITED_FOR)), _now_it_is(), now)


def cleared() -> Select[Any]:
    """Started jobs whose task instance was cleared while it ran: nearly always none.

    Begins with the task instances that are so, of which there are few, so that it may be asked often.
    """
    return (
        select(jobs.c.id)
        .join(task_instance, task_instance.c.id == jobs.c.task_instance_id)
        .where(task_instance.c.state == "restarting", is_latest_try, occupying, unwished)
    )


def stop_moved_on(finishing_since: datetime) -> Update:
    """Wish that started jobs stop whose task instance is gone, was cleared, or has come to its end.

    A task that reports its end has a process that is still finishing: it calls listeners and uploads the log.
    Airflow may have made the next try already, under another id; it still knows when this one ended.
    """
    ended_lately = try_ended_since(jobs.c.task_instance_id, finishing_since).correlate(jobs)
    gone = and_(~_task_instance(), ~ended_lately)
    at_once = _task_instance(
        or_(task_instance.c.state.is_(None), task_instance.c.state.in_(rules.STOP_AT_ONCE)),
    )
    overdue = _task_instance(
        task_instance.c.state.not_in((*rules.WANTED, *rules.STOP_AT_ONCE)),
        # No coalesce() with a time that we give: MariaDB makes text of both, and compares that.
        or_(task_instance.c.updated_at.is_(None), task_instance.c.updated_at <= finishing_since),
    )
    return wish(or_(gone, at_once, overdue), _now_it_is())


def _task_instance(*conditions: Condition) -> Condition:
    """The job's try is its task instance's latest, and is so."""
    ours = task_instance.c.id == jobs.c.task_instance_id
    return exists().where(ours, is_latest_try, *conditions).correlate(jobs)


def _now_it_is() -> ColumnElement[str]:
    state = (
        select(task_instance.c.state)
        .where(task_instance.c.id == jobs.c.task_instance_id, is_latest_try)
        .correlate(jobs)
        .scalar_subquery()
    )
    return literal(rules.TASK_INSTANCE_IS_NOW) + func.coalesce(state, rules.CLEARED_OR_GONE)


_starting_since = func.coalesce(jobs.c.renewed_at, jobs.c.claimed_at)
"""Since when a job's start timeout runs."""


def start_timeouts() -> Select[Any]:
    """The different start timeouts among started jobs: about one per pool."""
    return select(jobs.c.pool, jobs.c.start_timeout_seconds).where(occupying, unwished).distinct()


def stop_not_started(claimed_before: Mapping[tuple[str, float], datetime]) -> Update:
    """Wish that jobs stop whose task has not started in time. They end as failed: the try is over.

    A task that was handed over again is queued for its newer round; the older one did start, and may be finishing.
    What the infrastructure said last is the best explanation there is, and becomes part of the reason.

    :param claimed_before: for each pool and start timeout, when a job must have been claimed to be late now. Where its
        timeout has begun anew since, that counts.
    """
    late = {
        key: and_(jobs.c.pool == key[0], jobs.c.start_timeout_seconds == key[1], _starting_since < when)
        for key, when in claimed_before.items()
    }
    reason = case(
        *((condition, rules.start_timeout_reason(*key)) for key, condition in late.items()), else_=""
    ) + func.coalesce(literal(": ") + jobs.c.reason, "")
    still_queued = _task_instance(task_instance.c.state == "queued")
    return wish(and_(or_(*late.values()), still_queued, ~newer_round()), reason, desired=JobState.FAILED)


def superseded(waiting_since: datetime) -> Select[Any]:
    """Started jobs that keep a newer hand-over of the same try waiting for long.

    Read first, because there is hardly ever any, and asked from the side of what waits in a later round: as a
    condition of the UPDATE, PostgreSQL without statistics compared all jobs with all others, and with 2,000 of
    them did not come to an end in five minutes.
    """
    newer = jobs.alias("newer")
    return (
        select(jobs.c.id)
        .select_from(newer)
        .join(jobs, and_(jobs.c.task_instance_id == newer.c.task_instance_id, jobs.c.round < newer.c.round))
        .where(
            newer.c.round > 0,
            newer.c.state == JobState.PENDING.value,
            newer.c.ended_at.is_(None),
            newer.c.handed_over_at < waiting_since,
            occupying,
            unwished,
        )
    )


def untold(told_before: datetime) -> Select[Any]:
    """Jobs whose end was told long ago to a scheduler that has not acted on it: nearly always none.

    It is the newest hand-over of its try, and the task instance is queued still. Begins with the queued task
    instances, which are few.
    """
    newer = jobs.alias("newer")
    again = exists().where(newer.c.task_instance_id == jobs.c.task_instance_id, newer.c.round > jobs.c.round)
    return (
        select(jobs.c.id)
        .join(task_instance, task_instance.c.id == jobs.c.task_instance_id)
        .where(
            task_instance.c.state == "queued",
            is_latest_try,
            jobs.c.ended_at.is_not(None),
            jobs.c.reported_at < told_before,
            ~again.correlate(jobs),
        )
    )


def fail_lost(now: datetime) -> Update:
    """Fail jobs that should be stopped but whose worker has been silent for so long that nobody will.

    A heartbeat that lies far ahead was written before the clock was set back.
    """
    since, until = now - rules.WORKER_LOST_AFTER, now + rules.WORKER_LOST_AFTER
    alive = (
        exists()
        .where(workers.c.id == jobs.c.worker_id, workers.c.last_heartbeat_at.between(since, until))
        .correlate(jobs)
    )
    return (
        update(jobs)
        .where(occupying, ~unwished, ~alive, may_become(JobState.FAILED))
        .values(
            state=JobState.FAILED.value,
            reason=literal(rules.WORKER_LOST) + func.coalesce(literal(": ") + jobs.c.reason, ""),
            ended_at=now,
        )
    )
