# SPDX-License-Identifier: Apache-2.0
"""The store as scheduler, API, CLI and UI use it: run-time state, counts, listings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import Conflict, NotFound
from airflow_workpools.store import rows, rules
from airflow_workpools.store.log_side import MAX_PURGED_CHUNKS, forget_jobs
from airflow_workpools.store.records import JobCount, JobFilter, Purged, QueueRunState, RunState
from airflow_workpools.store.sessions import Transactions, add, changed, chunks
from airflow_workpools.store.statements import claim as claim_statements
from airflow_workpools.store.statements import run_time as statements
from airflow_workpools.store.statements import worker as worker_statements
from airflow_workpools.store.statements.executor import count
from airflow_workpools.store.tables import pools, queues, workers

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy import Table
    from sqlalchemy.orm import Session

    from airflow_workpools.store.records import JobRecord


class RunTimeSide(Transactions):
    """See :class:`~airflow_workpools.store.protocol.RunTimeStore`."""

    def set_pool_paused(self, name: str, paused: bool) -> None:
        row = {"name": name, "paused": paused, "claim_count": 0}

        def work(session: Session) -> None:
            if not add(session, pools, row):
                session.execute(statements.pause_pool(name, paused))

        self._transaction(work)

    def set_queue_paused(self, ref: WorkQueueRef, paused: bool) -> None:
        row = {"pool": ref.pool, "name": ref.queue, "paused": paused}

        def work(session: Session) -> None:
            if not add(session, queues, row):
                session.execute(statements.pause_queue(ref, paused))

        self._transaction(work)

    def run_state(self, *, now: datetime) -> RunState:
        def work(session: Session) -> RunState:
            return RunState(
                as_of=now,
                pools={row.name: row.paused for row in session.execute(statements.pool_states())},
                queues={
                    WorkQueueRef(row.pool, row.name): QueueRunState(row.paused, row.last_polled_at)
                    for row in session.execute(statements.queue_states())
                },
                workers=tuple(
                    worker
                    for row in session.execute(worker_statements.all_workers())
                    if (worker := rows.worker_record(row)) is not None
                ),
            )

        return self._transaction(work)

    def counts(self, pools: Collection[str] | None = None) -> dict[WorkQueueRef, dict[JobState, JobCount]]:
        statement = statements.active_counts(pools)
        result: dict[WorkQueueRef, dict[JobState, JobCount]] = {}
        for row in self._transaction(lambda session: session.execute(statement).all()):
            # What is no state was written by hand; until the row is mended the job is taken to run, and holds slots.
            state = rows.state_of(row.state) or JobState.RUNNING
            states = result.setdefault(WorkQueueRef(row.pool, row.queue), {})
            before = states.get(state, JobCount(0, 0))
            states[state] = JobCount(before.jobs + int(row.job_count), before.slots + int(row.slots))
        return result

    def jobs(self, which: JobFilter | None = None, *, limit: int = 100, offset: int = 0) -> list[JobRecord]:
        statement = statements.listing(which or JobFilter(), limit=limit, offset=offset)
        return self._transaction(lambda session: [rows.job_record(row) for row in session.execute(statement)])

    def line(self, ref: WorkQueueRef, *, limit: int) -> list[JobRecord]:
        statement = claim_statements.line(ref, limit)
        return self._transaction(lambda session: [rows.job_record(row) for row in session.execute(statement)])

    def worker_counts(self) -> dict[uuid.UUID, JobCount]:
        statement = statements.counts_by_worker()
        found = self._transaction(lambda session: session.execute(statement).all())
        return {row.worker_id: JobCount(int(row.job_count), int(row.slots)) for row in found}

    def job(self, job_id: uuid.UUID) -> JobRecord:
        found = self.jobs(JobFilter(job_ids=(job_id,)), limit=1)
        if not found:
            raise NotFound(rules.unknown_job(job_id))
        return found[0]

    def forget_pool(self, name: str) -> None:
        def work(session: Session) -> None:
            # Also the lock that keeps claims away; removed first, and put back by the rollback of a refusal.
            for statement in statements.forget_pool(name):
                session.execute(statement)
            _refuse_if_active(session, f"work pool '{name}'", name)

        self._transaction(work)

    def forget_queue(self, ref: WorkQueueRef) -> None:
        def work(session: Session) -> None:
            session.execute(statements.forget_queue(ref))
            _refuse_if_active(session, f"work queue '{ref}'", ref.pool, ref.queue)

        self._transaction(work)

    def purge(self, *, before: datetime, limit: int) -> Purged:
        def work(session: Session) -> Purged:
            old_jobs = session.scalars(statements.ended_before(before, limit)).all()
            idle_workers = session.scalars(statements.idle_since(before, limit)).all()
            gone, log_chunks = forget_jobs(session, old_jobs, most=MAX_PURGED_CHUNKS)
            return Purged(gone, _remove(session, workers, idle_workers), log_chunks)

        return self._transaction(work)

    def purgeable(self, *, before: datetime) -> Purged:
        def work(session: Session) -> Purged:
            return Purged(
                session.execute(statements.count_ended_before(before)).scalar_one(),
                session.execute(statements.count_idle_since(before)).scalar_one(),
            )

        return self._transaction(work)


def _remove(session: Session, table: Table, ids: Collection[uuid.UUID]) -> int:
    return sum(changed(session, statements.remove(table, some)) for some in chunks(ids))


def _refuse_if_active(session: Session, what: str, *pool_and_queue: Any) -> None:
    active = session.execute(count(statements.active_in(*pool_and_queue))).scalar_one()
    if active:
        raise Conflict(rules.has_active_jobs(what, active))
