# SPDX-License-Identifier: Apache-2.0
"""The store as workers use it."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.slots import WaitingJob
from airflow_workpools.errors import NotFound
from airflow_workpools.store import rows, rules
from airflow_workpools.store.records import MISSED_HEARTBEATS, Wish, WorkerState
from airflow_workpools.store.sessions import Transactions, add, changed, chunks
from airflow_workpools.store.statements import run_time
from airflow_workpools.store.statements import worker as statements
from airflow_workpools.store.tables import pools as pools_table
from airflow_workpools.store.tables import queues, workers

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.core.jobs import JobState
    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.store.records import ClaimedJob, Report, ReportOutcome, WorkerRecord
    from airflow_workpools.store.statements.common import Condition


MAX_LINES = 100
"""Most queues whose lines one statement reads: it has two parts for each, and SQLite takes 500."""


class WorkerSide(Transactions):
    """See :class:`~airflow_workpools.store.protocol.WorkerStore`."""

    _reserve_after: timedelta

    def register_worker(self, worker: WorkerRecord, *, now: datetime) -> None:
        row = rows.worker_row(worker, now)

        def work(session: Session) -> None:
            if not add(session, workers, row):
                session.execute(statements.change_worker(worker.id, **row))

        self._transaction(work)

    def heartbeat(
        self, worker_id: uuid.UUID, *, now: datetime, hindered: Mapping[str, str] | None = None
    ) -> WorkerState:
        def work(session: Session) -> WorkerState:
            session.execute(statements.touch_worker(worker_id, now, hindered))
            return _registered(session, worker_id).state

        return self._transaction(work)

    def drain_worker(self, worker_id: uuid.UUID) -> None:
        def work(session: Session) -> None:
            if not changed(session, statements.drain_worker(worker_id)):
                _registered(session, worker_id)

        self._transaction(work)

    def stop_worker(self, worker_id: uuid.UUID, *, now: datetime) -> None:
        statement = statements.change_worker(
            worker_id, state=WorkerState.STOPPED.value, last_heartbeat_at=now
        )
        self._transaction(lambda session: session.execute(statement))

    def claim(
        self,
        worker_id: uuid.UUID,
        pools: Sequence[WorkPool],
        *,
        room: int,
        now: datetime,
        most: int | None = None,
    ) -> list[ClaimedJob]:
        wanted = rules.wanted(room, most)
        by_name = {pool.name: pool for pool in sorted(pools, key=lambda pool: pool.name)}

        def look(session: Session) -> tuple[_Claimer, list[WorkPool]]:
            claimer = _claimer(session, worker_id, now)
            promising = _with_waiting(session, by_name, claimer.team_name) if claimer.online else []
            return claimer, promising if wanted > 0 else []

        # Looking is free for the others. Only where there is something to take, the pools' rows are locked.
        worker, promising = self._transaction(look)
        if not promising:
            return []
        overdue_since = now - self._reserve_after
        return self._transaction(
            lambda session: _claim(
                session, worker, promising, room=room, most=wanted, now=now, overdue_since=overdue_since
            )
        )

    def poll(self, refs: Collection[WorkQueueRef], *, now: datetime) -> None:
        def work(session: Session) -> None:
            states = run_time.queue_states({ref.pool for ref in refs})
            polled_at = {WorkQueueRef(r.pool, r.name): r.last_polled_at for r in session.execute(states)}
            due = [ref for ref in refs if rules.poll_is_due(polled_at.get(ref), now)]
            missing = [ref for ref in due if ref not in polled_at]
            for ref in missing:
                add(session, queues, {"pool": ref.pool, "name": ref.queue, "paused": False})
            for some in chunks(due):
                session.execute(run_time.touch_queues(some, now))

        self._transaction(work)

    def report(
        self, worker_id: uuid.UUID, reports: Sequence[Report], *, now: datetime
    ) -> list[ReportOutcome]:
        last = rules.last_reports(reports)
        by_state: dict[JobState, list[Report]] = defaultdict(list)
        for report in last.values():
            by_state[report.state].append(report)

        def work(session: Session) -> dict[uuid.UUID, ReportOutcome]:
            for state, all_of_state in by_state.items():
                for some in chunks(all_of_state):
                    session.execute(statements.report(state, worker_id, some, now))
            return _outcomes(session, worker_id, last)

        outcomes = self._transaction(work)
        return [outcomes[report.job_id] for report in reports]

    def requeue(
        self,
        worker_id: uuid.UUID,
        job_ids: Collection[uuid.UUID],
        reason: str,
        *,
        now: datetime,
        start_attempts: Mapping[uuid.UUID, int] | None = None,
    ) -> int:
        reason, of_claims = rules.fit_text(reason), start_attempts or {}

        def work(session: Session) -> int:
            return sum(
                changed(session, statements.requeue(some, worker_id, reason, of_claims))
                + changed(session, statements.end_instead_of_requeue(some, worker_id, now, of_claims))
                for some in chunks(job_ids)
            )

        return self._transaction(work)

    def wishes(self, worker_id: uuid.UUID) -> list[Wish]:
        statement = statements.wishes(worker_id)
        return self._transaction(lambda session: [Wish(*row) for row in session.execute(statement)])

    def mine(self, worker_id: uuid.UUID) -> list[ClaimedJob]:
        statement = statements.held_by(worker_id)
        return self._transaction(
            lambda session: [rows.claimed_job(row) for row in session.execute(statement)]
        )

    def renew(
        self, worker_id: uuid.UUID, job_ids: Collection[uuid.UUID], *, now: datetime
    ) -> list[ClaimedJob]:
        def work(session: Session) -> list[ClaimedJob]:
            for some in chunks(job_ids):
                session.execute(statements.renew(some, worker_id, now))
            return [
                rows.claimed_job(row)
                for some in chunks(job_ids)
                for row in session.execute(statements.renewed(some, worker_id))
            ]

        return self._transaction(work)

    def take_over(
        self,
        worker_id: uuid.UUID,
        hostname: str,
        *,
        now: datetime,
        roaming: Mapping[str, str] = rules.NOTHING_ROAMS,
    ) -> list[ClaimedJob]:
        def work(session: Session) -> list[ClaimedJob]:
            me = _registered(session, worker_id)
            if me.state is WorkerState.STOPPED:
                return []
            neighbours = statements.neighbours(me, hostname)
            _stop_silent(session, neighbours, now)
            left = list(session.scalars(statements.left_by(neighbours)))
            for some in chunks(left):
                session.execute(statements.take_over(some, neighbours, worker_id))
            if roaming:
                left += _take_over_from_elsewhere(session, me, hostname, roaming, now)
            return _held(session, worker_id, left)

        return self._transaction(work)


def _stop_silent(session: Session, which: Condition, now: datetime) -> None:
    """Mark those of these workers as stopped that have been silent for too long."""
    alive = [rows.worker_record(row) for row in session.execute(statements.not_stopped(which))]
    intervals = {worker.heartbeat_seconds for worker in alive if worker and worker.silent(now)}
    if intervals:
        most = {s: timedelta(seconds=MISSED_HEARTBEATS * s) for s in intervals}
        alive_between = {s: (now - missed, now + missed) for s, missed in most.items()}
        session.execute(statements.stop_silent(which, alive_between))


def _take_over_from_elsewhere(
    session: Session, me: WorkerRecord, hostname: str, roaming: Mapping[str, str], now: datetime
) -> list[uuid.UUID]:
    """Give a worker the jobs of dead workers of other hosts that it can look after as well as they could."""
    elsewhere = statements.workers_elsewhere(me, hostname)
    _stop_silent(session, elsewhere, now)
    left = [
        row.id
        for row in session.execute(statements.handles_left_by(elsewhere, list(roaming)))
        if rules.roams(row.handle, roaming[row.pool])
    ]
    for some in chunks(left):
        session.execute(statements.take_over(some, elsewhere, me.id))
    return left


def _registered(session: Session, worker_id: uuid.UUID) -> WorkerRecord:
    row = session.execute(statements.worker(worker_id)).one_or_none()
    record = None if row is None else rows.worker_record(row)
    if record is None:
        raise _unregistered(worker_id)
    return record


def _unregistered(worker_id: uuid.UUID) -> NotFound:
    return NotFound(f"worker {worker_id} is not registered; it has to register before anything else")


def _held(session: Session, worker_id: uuid.UUID, job_ids: Collection[uuid.UUID]) -> list[ClaimedJob]:
    """Read those of these jobs that the worker has, in the order of their ids' list."""
    found = {
        row.id: rows.claimed_job(row)
        for some in chunks(job_ids)
        for row in session.execute(statements.held_by(worker_id, some))
    }
    return [found[id_] for id_ in job_ids if id_ in found]


def _outcomes(
    session: Session, worker_id: uuid.UUID, reports: Mapping[uuid.UUID, Report]
) -> dict[uuid.UUID, ReportOutcome]:
    states = {
        row.id: row
        for some in chunks(reports)
        for row in session.execute(statements.states_of(worker_id, some))
    }
    return {
        id_: rules.outcome(report, *rows.states(states[id_]) if id_ in states else (None, None))
        for id_, report in reports.items()
    }


# -- claim ---------------------------------------------------------------------------------------------------


class _Claimer(NamedTuple):
    """The worker that claims."""

    id: uuid.UUID
    online: bool
    team_name: str | None
    other_teams: frozenset[str | None]
    """Other teams that have a worker which claims jobs; what no worker takes keeps nobody waiting."""


def _claimer(session: Session, worker_id: uuid.UUID, now: datetime) -> _Claimer:
    found = map(rows.worker_record, session.execute(statements.worker_and_other_teams(worker_id)))
    workers_ = {worker.id: worker for worker in found if worker is not None}
    me = workers_.pop(worker_id, None)
    if me is None:
        raise _unregistered(worker_id)
    others = frozenset(other.team_name for other in workers_.values() if other.online(now))
    return _Claimer(worker_id, me.state is WorkerState.ONLINE, me.team_name, others)


def _with_waiting(session: Session, pools: Mapping[str, WorkPool], team_name: str | None) -> list[WorkPool]:
    names = {
        name
        for some in chunks(pools)
        for name in session.scalars(statements.pools_with_waiting(some, team_name))
    }
    return [pool for name, pool in pools.items() if name in names]


def _claim(
    session: Session,
    worker: _Claimer,
    pools: Sequence[WorkPool],
    *,
    room: int,
    most: int,
    now: datetime,
    overdue_since: datetime,
) -> list[ClaimedJob]:
    """Take jobs of pools that have some. The pools come sorted by name: all lock them in the same order."""
    for pool in pools:
        _lock(session, pool.name)
    names = [pool.name for pool in pools]
    paused_pools = {row.name for row in session.execute(run_time.pool_states(names)) if row.paused}
    paused = _by_pool(row for row in session.execute(run_time.queue_states(names)) if row.paused)
    held: dict[str, dict[str, int]] = defaultdict(dict)
    for row in session.execute(statements.slots_held(names)):
        held[row.pool][row.queue] = int(row.slots)
    lines = [
        _choose(
            session,
            pool,
            worker,
            paused=paused[pool.name],
            held=held[pool.name],
            room=room,
            most=most,
            overdue_since=overdue_since,
        )
        for pool in pools
        if pool.name not in paused_pools
    ]
    chosen = [job.id for job in rules.take_turns(lines, room=room, most=most)]
    for some in chunks(chosen):
        session.execute(statements.take(some, worker.id, now))
    return _held(session, worker.id, chosen)


def _lock(session: Session, pool: str) -> None:
    if not changed(session, run_time.lock_pool(pool)):
        add(session, pools_table, {"name": pool, "paused": False, "claim_count": 0})
        session.execute(run_time.lock_pool(pool))


def _by_pool(states: Iterable[Any]) -> dict[str, set[str]]:
    queues_of: dict[str, set[str]] = defaultdict(set)
    for row in states:
        queues_of[row.pool].add(row.name)
    return queues_of


def _choose(
    session: Session,
    pool: WorkPool,
    worker: _Claimer,
    *,
    paused: Collection[str],
    held: Mapping[str, int],
    room: int,
    most: int,
    overdue_since: datetime,
) -> list[WaitingJob]:
    """Choose the jobs of one pool that may start now, looking at no more of its lines than needed.

    Up to a thousand jobs of each queue may have to be looked at; nearly always, as many as are wanted decide. Not
    where other teams' jobs stand in the lines, too: those that this worker can take may come far behind them.
    """
    heads = rules.heads(pool, paused=paused, held=held, most=most)
    short = {queue: head.shortened(most) for queue, head in heads.items()}
    chosen: list[WaitingJob] = []
    for look in (heads,) if worker.other_teams else (short, heads):
        waiting, foreign = _first_waiting(session, pool.name, look, worker, room=room, most=most)
        chosen = rules.choose_from(
            pool,
            waiting,
            paused=paused,
            held=held,
            room=room,
            overdue_since=overdue_since,
            foreign=foreign,
        )
        found = Counter(job.queue for job in waiting)
        if look == heads or rules.is_enough(pool, chosen, heads=heads, found=found, most=most):
            break
    return chosen


def _first_waiting(
    session: Session,
    pool: str,
    heads: Mapping[str, rules.Head],
    worker: _Claimer,
    *,
    room: int,
    most: int,
) -> tuple[list[WaitingJob], set[uuid.UUID]]:
    """Read the heads of a pool's lines; say which of those jobs are other teams' to take."""
    found: dict[uuid.UUID, WaitingJob] = {}
    foreign = set()
    for queues_ in chunks(heads, size=MAX_LINES):
        some = {queue: heads[queue] for queue in queues_}
        statement = statements.first_waiting(
            pool, some, room=room, most=most, team_name=worker.team_name, others=worker.other_teams
        )
        for row in session.execute(statement):
            if row.team_name != worker.team_name:
                foreign.add(row.id)
            found[row.id] = WaitingJob(
                id=row.id,
                queue=row.queue,
                priority_weight=row.priority_weight,
                slots=row.pool_slots,
                handed_over_at=row.handed_over_at,
            )
    return list(found.values()), foreign
