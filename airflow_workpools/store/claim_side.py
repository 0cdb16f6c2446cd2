# SPDX-License-Identifier: Apache-2.0
"""The store as workers claim from it."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.slots import WaitingJob
from airflow_workpools.errors import Conflict, NotFound
from airflow_workpools.store import capacity, claim_rules, rows, rules
from airflow_workpools.store.records import WorkerKind, WorkerState
from airflow_workpools.store.sessions import Transactions, add, changed, chunks
from airflow_workpools.store.statements import claim as statements
from airflow_workpools.store.statements import worker as worker_statements
from airflow_workpools.store.tables import pools as pools_table

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy.orm import Session

    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.store.records import ClaimedJob, WorkerRecord
    from airflow_workpools.store.statements.claim import Team


MAX_LINES = 100
"""Most queues whose lines one statement reads: it has two parts for each, and SQLite takes 500."""


class ClaimSide(Transactions):
    """See :class:`~airflow_workpools.store.protocol.WorkerStore`."""

    _reserve_after: timedelta

    def claim(
        self,
        worker_id: uuid.UUID,
        pools: Sequence[WorkPool],
        *,
        room: int,
        now: datetime,
        most: int | None = None,
        call: int | None = None,
    ) -> list[ClaimedJob]:
        wanted = claim_rules.wanted(room, most)
        by_name = sorted(pools, key=lambda pool: pool.name)

        def look(session: Session) -> tuple[_Claimer, list[WorkPool]]:
            claimer = _claimer(session, worker_id, now)
            if wanted <= 0 or claimer.me.state is not WorkerState.ONLINE:
                return claimer, []
            served = [pool for pool in by_name if claimer.serves(pool)]
            return claimer, _with_waiting(session, served, claimer)

        # Looking is free for the others. Only where there is something to take, the pools' rows are locked.
        worker, promising = self._transaction(look)
        if not promising:
            return []
        overdue_since = now - self._reserve_after
        return self._transaction(
            lambda session: _claim(
                session,
                worker,
                promising,
                room=room,
                most=wanted,
                now=now,
                overdue_since=overdue_since,
                call=call,
            )
        )


class _Claimer(NamedTuple):
    """The worker that claims, and those that may claim what it leaves."""

    me: WorkerRecord
    team: Team
    other_teams: frozenset[str | None]
    """Other teams that have a worker which claims jobs; what no worker takes keeps nobody waiting."""
    standalone: tuple[WorkerRecord, ...]
    """Other standalone workers that are online."""

    def serves(self, pool: WorkPool) -> bool:
        return rules.serves(self.me, pool)

    def takes_from(self, pool: WorkPool) -> list[str] | None:
        """Return the queues of a pool from which it takes jobs; None: from all."""
        if self.me.queues is None:
            return None
        return [q.name for q in pool.queues if self.me.takes_from(WorkQueueRef(pool.name, q.name))]


def _claimer(session: Session, worker_id: uuid.UUID, now: datetime) -> _Claimer:
    found = map(rows.worker_record, session.execute(statements.worker_and_others(), {"worker_id": worker_id}))
    workers_ = {worker.id: worker for worker in found if worker is not None}
    me = workers_.pop(worker_id, None)
    if me is None:
        raise unregistered(worker_id)
    others = [other for other in workers_.values() if other.online(now)]
    standalone = tuple(other for other in others if other.kind is WorkerKind.STANDALONE)
    if me.kind is WorkerKind.STANDALONE:
        return _Claimer(me, statements.ANY_TEAM, frozenset(), standalone)
    teams = {other.team_name for other in others if other.kind is WorkerKind.EMBEDDED}
    return _Claimer(me, me.team_name, frozenset(teams - {me.team_name}), standalone)


def unregistered(worker_id: uuid.UUID) -> NotFound:
    return NotFound(f"worker {worker_id} is not registered; it has to register before anything else")


def begin_call(session: Session, worker_id: uuid.UUID, call: int | None) -> None:
    """Have a call of a worker take effect once, and not after a later one.

    Done in the transaction that gives jobs to the worker: who asks later, with a higher number, waits for its end.

    :raises Conflict: if it was made before, or was overtaken.
    """
    if call is not None and not changed(session, worker_statements.begin_call(worker_id, call)):
        raise Conflict(
            f"call {call} of worker {worker_id} was made before, or a later one has overtaken it; ask for its jobs"
        )


def _with_waiting(session: Session, pools: Sequence[WorkPool], claimer: _Claimer) -> list[WorkPool]:
    """Return the pools in which something waits, each of which has a row to lock then."""
    takes_from = {pool.name: claimer.takes_from(pool) for pool in pools}
    found = {
        row.pool: row.has_row
        for some in chunks(pools)
        for row in session.execute(
            statements.pools_with_waiting({pool.name: takes_from[pool.name] for pool in some}, claimer.team)
        )
    }
    for name in sorted(name for name, has_row in found.items() if not has_row):
        add(session, pools_table, {"name": name, "paused": False, "claim_count": 0})
    return [pool for pool in pools if pool.name in found]


def _claim(
    session: Session,
    claimer: _Claimer,
    pools: Sequence[WorkPool],
    *,
    room: int,
    most: int,
    now: datetime,
    overdue_since: datetime,
    call: int | None,
) -> list[ClaimedJob]:
    """Take jobs of pools that have some.

    Whatever is done while the pools are locked keeps all other claims of them waiting: few statements, and none made
    here that can be made beforehand.
    """
    paused_pools = _lock(session, [pool.name for pool in pools])
    me = claimer.me
    if session.execute(statements.lock_worker(), {"worker_id": me.id}).first() is None:
        return []  # meanwhile it was told to drain, or taken for dead
    begin_call(session, me.id, call)
    holds = _slots_of_workers(session, claimer)
    room = min(room, capacity.free_slots(me, holds))
    # One whose row is gone was deleted meanwhile.
    pools = [pool for pool in pools if paused_pools.get(pool.name) is False]
    if room <= 0 or not pools:
        return []
    most = min(most, room)
    held, paused = _held_and_paused(session, [pool.name for pool in pools])
    searches = [
        _Search(
            _within_reach(pool, claimer, held=held[pool.name], holds=holds, now=now),
            claimer,
            paused=paused[pool.name],
            held=held[pool.name],
            room=room,
            most=most,
            overdue_since=overdue_since,
        )
        for pool in pools
    ]
    _search(session, searches, claimer, room=room, most=most)
    chosen = claim_rules.take_turns([one.chosen for one in searches], room=room, most=most)
    return _take(session, me.id, [job.id for job in chosen], now)


def _take(
    session: Session, worker_id: uuid.UUID, job_ids: Sequence[uuid.UUID], now: datetime
) -> list[ClaimedJob]:
    """Give jobs to the worker, and read what it has got."""
    returns = session.get_bind().dialect.update_returning
    taken = {}
    for some in chunks(job_ids):
        asked = {"ids": some, "taken_by": worker_id, "now": now}
        result = session.execute(statements.take(returns=returns), asked)
        if returns:
            taken.update({row.id: rows.claimed_job(row) for row in result})
    return (
        [taken[id_] for id_ in job_ids if id_ in taken] if returns else held_jobs(session, worker_id, job_ids)
    )


def _slots_of_workers(session: Session, claimer: _Claimer) -> dict[uuid.UUID, int]:
    """Count what workers hold whose limits matter to this claim."""
    relevant = [claimer.me, *(claimer.standalone if claimer.me.queues is not None else ())]
    limited = [worker.id for worker in relevant if worker.slots is not None]
    return {
        row.worker_id: int(row.slots)
        for some in chunks(limited)
        for row in session.execute(statements.slots_of_workers(some))
    }


def _within_reach(
    pool: WorkPool,
    claimer: _Claimer,
    *,
    held: Mapping[str, int],
    holds: Mapping[uuid.UUID, int],
    now: datetime,
) -> WorkPool:
    if claimer.me.queues is None:
        return pool
    others = [
        other for other in claimer.standalone if rules.serves(other, pool) and other.can_use(pool.name, now)
    ]
    return capacity.within_reach(pool, claimer.me, others, held=held, holds=holds)


def held_jobs(session: Session, worker_id: uuid.UUID, job_ids: Collection[uuid.UUID]) -> list[ClaimedJob]:
    """Read those of these jobs that the worker has, in the order of their ids' list."""
    found = {
        row.id: rows.claimed_job(row)
        for some in chunks(job_ids)
        for row in session.execute(worker_statements.held_by(worker_id, some))
    }
    return [found[id_] for id_ in job_ids if id_ in found]


def _lock(session: Session, names: Sequence[str]) -> dict[str, bool]:
    """Lock the rows of pools; return which are paused."""
    locked = {}
    for some in chunks(names):
        if session.get_bind().dialect.name == "sqlite":
            session.execute(statements.lock_all(), {"names": some})
        locked.update(
            {row.name: row.paused for row in session.execute(statements.lock_pools(), {"names": some})}
        )
    return locked


def _held_and_paused(
    session: Session, names: Sequence[str]
) -> tuple[Mapping[str, dict[str, int]], Mapping[str, set[str]]]:
    """Return by pool the slots that jobs hold, by queue, and the queues that are paused."""
    held: dict[str, dict[str, int]] = defaultdict(dict)
    paused: dict[str, set[str]] = defaultdict(set)
    for some in chunks(names):
        for row in session.execute(statements.held_and_paused(), {"names": some}):
            if row.slots is None:
                paused[row.pool].add(row.queue)
            else:
                held[row.pool][row.queue] = int(row.slots)
    return held, paused


class _Search:
    """Looks for the jobs of one pool that may start now, at no more of its lines than needed.

    Up to a thousand jobs of each queue may have to be looked at; nearly always, as many as are wanted decide, and
    mostly those of the first queues. Not where other teams' jobs stand in the lines, too: those that this worker can
    take may come far behind them.
    """

    def __init__(
        self,
        pool: WorkPool,
        claimer: _Claimer,
        *,
        paused: Collection[str],
        held: Mapping[str, int],
        room: int,
        most: int,
        overdue_since: datetime,
    ) -> None:
        self._pool = pool
        self._most = most
        self._heads = claim_rules.heads(pool, paused=paused, held=held, most=most)
        self._looks = iter(
            (self._heads,) if claimer.other_teams else claim_rules.looks(pool, self._heads, most=most)
        )
        self._choose = partial(
            claim_rules.choose_from,
            pool,
            paused=paused,
            held=held,
            room=room,
            overdue_since=overdue_since,
            takes_from=claimer.takes_from(pool),
        )
        self._look: Mapping[str, claim_rules.Head] = {}
        self.chosen: list[WaitingJob] = []

    def next_lines(self) -> list[tuple[str, str, claim_rules.Head]]:
        """Return what to look at next; nothing if nothing of the pool may start."""
        self._look = next(self._looks)
        return [(self._pool.name, queue, head) for queue, head in self._look.items()]

    def decides(self, found: Mapping[str, Sequence[WaitingJob]], foreign: Collection[uuid.UUID]) -> bool:
        """Choose from what was seen; say whether that decides, or more has to be looked at.

        :param found: waiting jobs by pool.
        :param foreign: those of the jobs that are other teams' to take.
        """
        waiting = found.get(self._pool.name, ())
        self.chosen = self._choose(waiting, foreign=foreign)
        return self._look == self._heads or claim_rules.is_enough(
            self._pool,
            self.chosen,
            heads=self._heads,
            look=self._look,
            found=Counter(job.queue for job in waiting),
            most=self._most,
        )


def _search(
    session: Session, searches: Iterable[_Search], claimer: _Claimer, *, room: int, most: int
) -> None:
    """Look at the lines of all pools, together, until it is decided for each what may start."""
    undecided = list(searches)
    while undecided:
        lines = [line for one in undecided for line in one.next_lines()]
        found, foreign = _first_waiting(session, lines, claimer, room=room, most=most)
        undecided = [one for one in undecided if not one.decides(found, foreign)]


def _first_waiting(
    session: Session,
    lines: Sequence[tuple[str, str, claim_rules.Head]],
    claimer: _Claimer,
    *,
    room: int,
    most: int,
) -> tuple[dict[str, list[WaitingJob]], set[uuid.UUID]]:
    """Read the heads of lines, by pool; say which of those jobs are other teams' to take."""
    found: dict[uuid.UUID, tuple[str, WaitingJob]] = {}
    foreign = set()
    for some in chunks(lines, size=MAX_LINES):
        statement = statements.first_waiting(
            some, room=room, most=most, team=claimer.team, others=claimer.other_teams
        )
        for row in session.execute(statement):
            if claimer.other_teams and row.team_name != claimer.team:
                foreign.add(row.id)
            job = WaitingJob(
                id=row.id,
                queue=row.queue,
                priority_weight=row.priority_weight,
                slots=row.pool_slots,
                handed_over_at=row.handed_over_at,
            )
            found[row.id] = row.pool, job
    by_pool: dict[str, list[WaitingJob]] = defaultdict(list)
    for pool, job in found.values():
        by_pool[pool].append(job)
    return by_pool, foreign
