# SPDX-License-Identifier: Apache-2.0
"""The store as workers use it."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import Conflict
from airflow_workpools.store import rows, rules
from airflow_workpools.store.claim_side import ClaimSide, begin_call, held_jobs, unregistered
from airflow_workpools.store.records import MISSED_HEARTBEATS, Wish, WorkerState
from airflow_workpools.store.sessions import add, changed, chunks
from airflow_workpools.store.statements import run_time
from airflow_workpools.store.statements import worker as statements
from airflow_workpools.store.tables import queues, workers

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.core.jobs import JobState
    from airflow_workpools.store.records import ClaimedJob, Report, ReportOutcome, WorkerRecord
    from airflow_workpools.store.statements.common import Condition


class WorkerSide(ClaimSide):
    """See :class:`~airflow_workpools.store.protocol.WorkerStore`."""

    def register_worker(
        self,
        worker: WorkerRecord,
        *,
        now: datetime,
        token_id: str | None = None,
        instead_of: str | None = None,
        call: int | None = None,
    ) -> None:
        row = rows.worker_row(worker, now) | {"token_id": token_id}

        def work(session: Session) -> None:
            if add(session, workers, row | {"call_number": call}):
                return
            change = statements.change_worker(worker.id, **row).where(
                statements.of_token(token_id, instead_of)
            )
            if not changed(session, change):
                raise Conflict(
                    f"worker {worker.id} has registered with another token; start it with a new id"
                )
            begin_call(session, worker.id, call)

        self._transaction(work)

    def worker(self, worker_id: uuid.UUID) -> WorkerRecord:
        return self._transaction(lambda session: _registered(session, worker_id))

    def heartbeat(
        self, worker_id: uuid.UUID, *, now: datetime, hindered: Mapping[str, str] | None = None
    ) -> WorkerState:
        def work(session: Session) -> WorkerState:
            me = _registered(session, worker_id)
            touch = statements.touch_worker(worker_id, now, hindered, after_silence=me.silent(now))
            return me.state if changed(session, touch) else WorkerState.STOPPED

        return self._transaction(work)

    def drain_worker(self, worker_id: uuid.UUID) -> None:
        def work(session: Session) -> None:
            if not changed(session, statements.drain_worker(worker_id)):
                _registered(session, worker_id)

        self._transaction(work)

    def resume_worker(self, worker_id: uuid.UUID) -> None:
        def work(session: Session) -> None:
            if not changed(session, statements.resume_worker(worker_id)):
                _registered(session, worker_id)

        self._transaction(work)

    def stop_worker(self, worker_id: uuid.UUID, *, now: datetime) -> None:
        statement = statements.change_worker(
            worker_id, state=WorkerState.STOPPED.value, last_heartbeat_at=now
        )
        self._transaction(lambda session: session.execute(statement))

    def waiting_jobs(self, pools: Collection[str]) -> dict[WorkQueueRef, int]:
        def work(session: Session) -> dict[WorkQueueRef, int]:
            return {
                WorkQueueRef(row.pool, row.queue): row.jobs
                for some in chunks(pools)
                for row in session.execute(statements.waiting_jobs(some))
            }

        return self._transaction(work)

    def wished_jobs(self, worker_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, set[uuid.UUID]]:
        def work(session: Session) -> dict[uuid.UUID, set[uuid.UUID]]:
            found: dict[uuid.UUID, set[uuid.UUID]] = defaultdict(set)
            for some in chunks(worker_ids):
                for row in session.execute(statements.wished_jobs(some)):
                    found[row.worker_id].add(row.id)
            return dict(found)

        return self._transaction(work)

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

    def mine(self, worker_id: uuid.UUID, *, call: int | None = None) -> list[ClaimedJob]:
        def work(session: Session) -> list[ClaimedJob]:
            begin_call(session, worker_id, call)
            return [rows.claimed_job(row) for row in session.execute(statements.held_by(worker_id))]

        return self._transaction(work)

    def revoked(self, start_attempts: Mapping[uuid.UUID, int]) -> list[uuid.UUID]:
        def work(session: Session) -> list[uuid.UUID]:
            held = {
                row.id: row.start_attempts
                for some in chunks(start_attempts)
                for row in session.execute(statements.held_claims(some))
            }
            return rules.revoked(start_attempts, held)

        return self._transaction(work)

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
        call: int | None = None,
    ) -> list[ClaimedJob]:
        def work(session: Session) -> list[ClaimedJob]:
            begin_call(session, worker_id, call)
            me = _registered(session, worker_id)
            if me.state is WorkerState.STOPPED:
                return []
            neighbours = statements.neighbours(me, hostname)
            may_judge = rules.may_judge(me, now)
            if may_judge:
                _stop_silent(session, neighbours, now)
            left = list(session.scalars(statements.left_by(neighbours, rules.pools_of_jobs(me))))
            for some in chunks(left):
                session.execute(statements.take_over(some, neighbours, worker_id))
            if roaming:
                elsewhere = statements.workers_elsewhere(me, hostname)
                if may_judge:
                    _stop_silent(session, elsewhere, now)
                left += _take_over_from_elsewhere(session, me, elsewhere, roaming)
            return held_jobs(session, worker_id, left)

        return self._transaction(work)

    def pools_left_behind(self, *, now: datetime) -> set[str]:
        def work(session: Session) -> set[str]:
            pools: dict[uuid.UUID, set[str]] = defaultdict(set)
            for row in session.execute(statements.pools_of_standalone()):
                pools[row.worker_id].add(row.pool)
            found = (
                rows.worker_record(row)
                for some in chunks(pools)
                for row in session.execute(statements.these_workers(some))
            )
            dead = [one for one in found if one and (one.state is WorkerState.STOPPED or one.silent(now))]
            return set().union(*(pools[worker.id] for worker in dead))

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
    session: Session, me: WorkerRecord, elsewhere: Condition, roaming: Mapping[str, str]
) -> list[uuid.UUID]:
    """Give a worker the jobs of dead workers of other hosts that it can look after as well as they could."""
    its_own = rules.pools_of_jobs(me)
    pools = [pool for pool in roaming if its_own is None or pool in its_own]
    left = [
        row.id
        for row in session.execute(statements.handles_left_by(elsewhere, pools))
        if rules.roams(row.handle, roaming[row.pool])
    ]
    for some in chunks(left):
        session.execute(statements.take_over(some, elsewhere, me.id))
    return left


def _registered(session: Session, worker_id: uuid.UUID) -> WorkerRecord:
    row = session.execute(statements.worker(worker_id)).one_or_none()
    record = None if row is None else rows.worker_record(row)
    if record is None:
        raise unregistered(worker_id)
    return record


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
