# SPDX-License-Identifier: Apache-2.0
"""What workers ask and tell."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, func, literal, null, or_, select, true, update

from airflow_workpools.core.jobs import ENDED, JobState, sources_of
from airflow_workpools.store import rules
from airflow_workpools.store.records import WorkerKind, WorkerState
from airflow_workpools.store.statements.common import (
    in_states,
    may_become,
    newer_round,
    occupying,
    unwished,
    waiting,
    with_ids,
)
from airflow_workpools.store.tables import jobs, workers

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Select, Update

    from airflow_workpools.store.records import Report, WorkerRecord
    from airflow_workpools.store.statements.common import Condition

_NOT_SAID: Mapping[uuid.UUID, int] = MappingProxyType({})
"""Of which claims of jobs something is said, where nobody said it."""

# -- workers -------------------------------------------------------------------------------------------------


def change_worker(worker_id: uuid.UUID, **values: Any) -> Update:
    """Set columns of a worker."""
    return update(workers).where(workers.c.id == worker_id).values(values)


def begin_call(worker_id: uuid.UUID, number: int) -> Update:
    """Note the number of a call, if it is higher than any before."""
    earlier = or_(workers.c.call_number.is_(None), workers.c.call_number < number)
    return change_worker(worker_id, call_number=number).where(earlier)


def of_token(token_id: str | None, instead_of: str | None = None) -> Condition:
    """Workers that registered with a token, or with the one that it stands in for, or that need none."""
    of_it = workers.c.token_id.is_not_distinct_from(token_id)
    return of_it if instead_of is None else or_(of_it, workers.c.token_id == instead_of)


def touch_worker(
    worker_id: uuid.UUID, now: datetime, hindered: Mapping[str, str] | None, *, after_silence: bool
) -> Update:
    """Note a heartbeat; that of a stopped worker does not bring it back to life."""
    more: dict[str, Any] = {} if hindered is None else {"hindered": dict(hindered)}
    if after_silence:
        more["steady_since"] = now
    return change_worker(worker_id, last_heartbeat_at=now, **more).where(
        workers.c.state != WorkerState.STOPPED.value
    )


def drain_worker(worker_id: uuid.UUID) -> Update:
    """Wish that a worker claims nothing more; one that has stopped stays stopped."""
    return change_worker(worker_id, state=WorkerState.DRAINING.value).where(
        workers.c.state != WorkerState.STOPPED.value
    )


def resume_worker(worker_id: uuid.UUID) -> Update:
    """Let a worker that drains claim again."""
    return change_worker(worker_id, state=WorkerState.ONLINE.value).where(
        workers.c.state == WorkerState.DRAINING.value
    )


def worker(worker_id: uuid.UUID) -> Select[Any]:
    """All about a worker."""
    return select(workers).where(workers.c.id == worker_id)


def these_workers(worker_ids: Collection[uuid.UUID]) -> Select[Any]:
    """All about some workers."""
    return select(workers).where(workers.c.id.in_(worker_ids))


def pools_of_standalone() -> Select[Any]:
    """In which pools standalone workers have jobs; asked every few seconds for all of them."""
    standalone = select(workers.c.id).where(workers.c.kind == WorkerKind.STANDALONE.value)
    return select(jobs.c.worker_id, jobs.c.pool).where(occupying, jobs.c.worker_id.in_(standalone)).distinct()


def all_workers() -> Select[Any]:
    """All workers, in the order in which they started."""
    return select(workers).order_by(workers.c.started_at, workers.c.id)


def neighbours(of: WorkerRecord, hostname: str) -> Condition:
    """Other workers on a host, of the kind and team of this one."""
    return and_(workers.c.hostname == hostname, _like(of))


def workers_elsewhere(of: WorkerRecord, hostname: str) -> Condition:
    """Workers on other hosts, of the kind and team of this one."""
    return and_(workers.c.hostname != hostname, _like(of))


def _like(of: WorkerRecord) -> Condition:
    """Other workers whose jobs this one may look after; of standalone ones, the pools say which jobs."""
    same_team = workers.c.team_name.is_not_distinct_from(of.team_name)
    return and_(
        workers.c.kind == of.kind.value,
        true() if of.kind is WorkerKind.STANDALONE else same_team,
        workers.c.id != of.id,
    )


def not_stopped(which: Condition) -> Select[Any]:
    """Workers that have not said that they ended."""
    return select(workers).where(which, workers.c.state != WorkerState.STOPPED.value)


def stop_silent(which: Condition, alive_between: Mapping[float, tuple[datetime, datetime]]) -> Update:
    """Mark workers as stopped that have been silent for too long.

    :param alive_between: for each heartbeat interval, in which time the last heartbeat must have been. One that lies
        further ahead was written before the clock was set back.
    """
    silent = or_(
        *(
            and_(workers.c.heartbeat_seconds == seconds, ~workers.c.last_heartbeat_at.between(*times))
            for seconds, times in alive_between.items()
        )
    )
    return (
        update(workers)
        .where(which, silent, workers.c.state != WorkerState.STOPPED.value)
        .values(state=WorkerState.STOPPED.value)
    )


# -- whose jobs --------------------------------------------------------------------------------------------


def held_by(worker_id: uuid.UUID, job_ids: Collection[uuid.UUID] | None = None) -> Select[Any]:
    """Jobs that a worker has, the oldest claim first."""
    return (
        select(jobs)
        .where(jobs.c.worker_id == worker_id, occupying, true() if job_ids is None else with_ids(job_ids))
        .order_by(jobs.c.claimed_at, jobs.c.id)
    )


def left_by(which: Condition, pools: Collection[str] | None) -> Select[Any]:
    """Jobs of stopped workers, the oldest claim first; only of these pools, if any are given."""
    of_pools = true() if pools is None else jobs.c.pool.in_(pools)
    return (
        select(jobs.c.id)
        .where(occupying, of_pools, jobs.c.worker_id.in_(_stopped(which)))
        .order_by(jobs.c.claimed_at, jobs.c.id)
    )


def handles_left_by(which: Condition, pools: Collection[str]) -> Select[Any]:
    """Jobs in these pools of stopped workers, the oldest claim first, and where each is."""
    return (
        select(jobs.c.id, jobs.c.pool, jobs.c.handle)
        .where(occupying, jobs.c.pool.in_(pools), jobs.c.worker_id.in_(_stopped(which)))
        .order_by(jobs.c.claimed_at, jobs.c.id)
    )


def take_over(job_ids: Collection[uuid.UUID], which: Condition, worker_id: uuid.UUID) -> Update:
    """Give jobs of stopped workers to another. Of two who try at once, the second finds them gone."""
    return (
        update(jobs)
        .where(with_ids(job_ids), occupying, jobs.c.worker_id.in_(_stopped(which)))
        .values(worker_id=worker_id)
    )


def _stopped(which: Condition) -> Select[Any]:
    return select(workers.c.id).where(which, workers.c.state == WorkerState.STOPPED.value)


# -- what workers say of their jobs --------------------------------------------------------------------------


def wishes(worker_id: uuid.UUID) -> Select[Any]:
    """A worker's jobs that should be stopped."""
    return (
        select(jobs.c.id, jobs.c.reason)
        .where(jobs.c.worker_id == worker_id, occupying, ~unwished)
        .order_by(jobs.c.claimed_at, jobs.c.id)
    )


def wished_jobs(worker_ids: Collection[uuid.UUID]) -> Select[Any]:
    """Which jobs of workers should be stopped; asked a few times a second for all that wait for such news."""
    return select(jobs.c.worker_id, jobs.c.id).where(jobs.c.worker_id.in_(worker_ids), occupying, ~unwished)


def waiting_jobs(pools: Collection[str]) -> Select[Any]:
    """How many jobs wait in each queue of pools; asked a few times a second, out of the index alone."""
    return (
        select(jobs.c.pool, jobs.c.queue, func.count().label("jobs"))
        .where(jobs.c.pool.in_(pools), waiting)
        .group_by(jobs.c.pool, jobs.c.queue)
    )


def report(target: JobState, worker_id: uuid.UUID, reports: Sequence[Report], now: datetime) -> Update:
    """Move jobs of a worker to the state that it reports.

    A report of the state in which a job is already adds what it knows, as long as the job has not ended.
    """
    guard = may_become(target) if target in ENDED else in_states(sources_of(target) | {target})
    values: dict[str, Any] = {
        "state": target.value,
        "handle": _each("handle", {r.job_id: _handle(r) for r in reports if r.handle}, jobs.c.handle),
        "reason": _reason(target, {r.job_id: rules.fit_text(r.reason) for r in reports if r.reason}),
    }
    if target is JobState.CANCELLED:  # the wish says what this end means
        values["state"] = func.coalesce(jobs.c.desired_state, target.value)
    if target is JobState.RUNNING or target in ENDED:
        starts = {r.job_id: min(r.started_at, now) for r in reports if r.started_at}
        values["started_at"] = func.coalesce(jobs.c.started_at, _start(target, starts, now))
    if target in ENDED:
        codes = {r.job_id: r.exit_code for r in reports if r.exit_code is not None}
        values |= {"ended_at": now, "exit_code": _each("exit_code", codes, jobs.c.exit_code)}
    ids = [r.job_id for r in reports]
    claims = {r.job_id: r.start_attempts for r in reports if r.start_attempts is not None}
    return (
        update(jobs)
        .where(with_ids(ids), jobs.c.worker_id == worker_id, guard, _of_claims(claims))
        .values(values)
    )


def renew(job_ids: Collection[uuid.UUID], worker_id: uuid.UUID, now: datetime) -> Update:
    """Let the start timeout of a worker's jobs begin anew; not of one that runs or is to be stopped."""
    return update(jobs).where(_starting(job_ids, worker_id)).values(renewed_at=now)


def renewed(job_ids: Collection[uuid.UUID], worker_id: uuid.UUID) -> Select[Any]:
    """Those jobs, after that."""
    return select(jobs).where(_starting(job_ids, worker_id))


def _starting(job_ids: Collection[uuid.UUID], worker_id: uuid.UUID) -> Condition:
    starting = in_states({JobState.CLAIMED, JobState.SUBMITTED})
    return and_(with_ids(job_ids), jobs.c.worker_id == worker_id, starting, unwished)


def _of_claims(start_attempts: Mapping[uuid.UUID, int]) -> Condition:
    """The worker speaks of the claim that the job is in, not of an earlier one that it gave back.

    A report may come twice, the second time when the job has been claimed again, even by the same worker.
    """
    if not start_attempts:
        return true()
    return jobs.c.start_attempts == _each("start_attempts", start_attempts, jobs.c.start_attempts)


def _start(target: JobState, given: Mapping[uuid.UUID, datetime], now: datetime) -> ColumnElement[Any]:
    """When a job started: not before it was claimed. Clocks differ, and an old report may be of an earlier claim."""
    unknown = literal(now, jobs.c.started_at.type) if target is JobState.RUNNING else null()
    said = _each("started_at", given, unknown)
    return case((said < jobs.c.claimed_at, jobs.c.claimed_at), else_=said)


def _handle(report: Report) -> dict[str, Any]:
    handle = report.handle
    assert handle is not None
    noted = {"conn_id": handle.conn_id, "failed_start": handle.failed_start}
    return {"kind": handle.kind, "data": dict(handle.data)} | {
        k: v for k, v in noted.items() if v is not None
    }


def _reason(target: JobState, given: Mapping[uuid.UUID, str]) -> ColumnElement[Any]:
    """A wish's reason explains a cancellation best; an end that came by itself has a reason of its own."""
    said = _each("reason", given, null())
    if target is JobState.CANCELLED:
        return case((unwished, func.coalesce(said, jobs.c.reason)), else_=func.coalesce(jobs.c.reason, said))
    if target is JobState.FAILED:
        return func.coalesce(said, jobs.c.reason)
    return said if target is JobState.SUCCEEDED else case((unwished, said), else_=jobs.c.reason)


def _each(name: str, values: Mapping[uuid.UUID, Any], otherwise: ColumnElement[Any]) -> ColumnElement[Any]:
    """A value of its own for each job, so that one statement serves all of them."""
    if not values:
        return otherwise
    whens = [
        (literal(id_, jobs.c.id.type), literal(value, jobs.c[name].type)) for id_, value in values.items()
    ]
    return case(*whens, value=jobs.c.id, else_=otherwise)


def held_claims(job_ids: Collection[uuid.UUID]) -> Select[Any]:
    """Which claim of jobs a worker has now, of those that have not ended."""
    return select(jobs.c.id, jobs.c.start_attempts).where(
        with_ids(job_ids), occupying, jobs.c.worker_id.is_not(None)
    )


def states_of(worker_id: uuid.UUID, job_ids: Collection[uuid.UUID]) -> Select[Any]:
    """What a worker's jobs have become."""
    return select(jobs.c.id, jobs.c.state, jobs.c.desired_state).where(
        with_ids(job_ids), jobs.c.worker_id == worker_id
    )


def requeue(
    job_ids: Collection[uuid.UUID],
    worker_id: uuid.UUID,
    reason: str,
    start_attempts: Mapping[uuid.UUID, int] = _NOT_SAID,
) -> Update:
    """Let jobs wait again, for any worker."""
    return (
        update(jobs)
        .where(_given_back(job_ids, worker_id, start_attempts), unwished, ~newer_round())
        .values(
            state=JobState.PENDING.value,
            worker_id=None,
            claimed_at=None,
            renewed_at=None,
            handle=None,
            start_attempts=jobs.c.start_attempts + 1,
            reason=reason,
        )
    )


def end_instead_of_requeue(
    job_ids: Collection[uuid.UUID],
    worker_id: uuid.UUID,
    now: datetime,
    start_attempts: Mapping[uuid.UUID, int] = _NOT_SAID,
) -> Update:
    """End jobs that would wait again, did nobody wish them stopped and had their try not been handed over anew."""
    return (
        update(jobs)
        .where(_given_back(job_ids, worker_id, start_attempts), or_(~unwished, newer_round()))
        .values(
            state=func.coalesce(jobs.c.desired_state, JobState.CANCELLED.value),
            reason=case((unwished, rules.HANDED_OVER_AGAIN), else_=jobs.c.reason),
            ended_at=now,
        )
    )


def _given_back(
    job_ids: Collection[uuid.UUID], worker_id: uuid.UUID, start_attempts: Mapping[uuid.UUID, int]
) -> Condition:
    of_claims = {id_: start_attempts[id_] for id_ in job_ids if id_ in start_attempts}
    return and_(
        with_ids(job_ids),
        jobs.c.worker_id == worker_id,
        may_become(JobState.PENDING),
        _of_claims(of_claims),
    )
