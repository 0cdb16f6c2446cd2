# SPDX-License-Identifier: Apache-2.0
"""The store as the executor uses it."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import and_

from airflow_workpools.core.jobs import JobState
from airflow_workpools.errors import InvalidJobVariables
from airflow_workpools.store import mending, rows, rules
from airflow_workpools.store.records import Reconciled
from airflow_workpools.store.sessions import Transactions, add, changed, chunks
from airflow_workpools.store.statements import executor as statements
from airflow_workpools.store.statements import reconcile
from airflow_workpools.store.statements.common import of_task_instances, with_ids
from airflow_workpools.store.tables import jobs

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Iterator
    from datetime import datetime
    from typing import Any

    from sqlalchemy import Update
    from sqlalchemy.orm import Session

    from airflow_workpools.store.records import EndedJob, JobSummary, NewJob
    from airflow_workpools.store.statements.common import Condition

log = logging.getLogger(__name__)


class ExecutorSide(Transactions):
    """See :class:`~airflow_workpools.store.protocol.ExecutorStore`."""

    def hand_over(self, job: NewJob, *, now: datetime, session: Session) -> uuid.UUID:
        return _add(job, {}, now, session)

    def hand_over_failed(self, job: NewJob, reason: str, *, now: datetime, session: Session) -> uuid.UUID:
        end = {"state": JobState.FAILED.value, "reason": rules.fit_text(reason), "ended_at": now}
        try:
            return _add(job, end, now, session)
        except InvalidJobVariables:  # which is likely to be what it failed for
            return _add(replace(job, job_variables={}), end, now, session)

    def adopt(
        self,
        task_instance_ids: Collection[uuid.UUID],
        scheduler_job_id: int,
        *,
        session: Session,
        team_name: str | None = None,
    ) -> dict[uuid.UUID, JobSummary]:
        adopted = {}
        for some in chunks(task_instance_ids):
            newest = [rows.job_summary(row) for row in session.execute(statements.newest_jobs(some))]
            if newest:
                session.execute(statements.tell_again([job.id for job in newest]))
                session.execute(statements.adopt(some, scheduler_job_id, team_name))
                adopted.update({job.task_instance_id: job for job in newest})
        return adopted

    def ended(
        self, scheduler_job_id: int, *, limit: int, traced: bool = False, team_name: str | None = None
    ) -> list[EndedJob]:
        statement = statements.unreported(scheduler_job_id, team_name, limit, traced=traced)
        return self._transaction(
            lambda session: [
                job
                for row in session.execute(statement)
                if (job := rows.ended_job(row, traced=traced)) is not None
            ]
        )

    def mark_reported(self, job_ids: Collection[uuid.UUID], *, now: datetime) -> None:
        def work(session: Session) -> None:
            for some in chunks(job_ids):
                session.execute(statements.mark_reported(some, now))

        self._transaction(work)

    def active(self, scheduler_job_id: int, *, team_name: str | None = None) -> list[JobSummary]:
        statement = statements.summaries(statements.active_of(scheduler_job_id, team_name))
        return self._transaction(
            lambda session: [rows.job_summary(row) for row in session.execute(statement)]
        )

    def active_count(self, scheduler_job_id: int, *, team_name: str | None = None) -> int:
        statement = statements.count(statements.active_of(scheduler_job_id, team_name))
        return self._transaction(lambda session: int(session.execute(statement).scalar_one()))

    def request_cancel(
        self,
        *,
        job_ids: Collection[uuid.UUID] = (),
        task_instance_ids: Collection[uuid.UUID] = (),
        reason: str,
        now: datetime,
    ) -> int:
        reason = rules.fit_text(reason)

        def work(session: Session) -> int:
            return sum(
                changed(session, statements.cancel_waiting(which, reason, now))
                + changed(session, statements.wish(which, reason))
                for which in _each_chunk(job_ids, task_instance_ids)
            )

        return self._transaction(work)

    def stop_cleared(self) -> int:
        def work(session: Session) -> int:
            ids = session.scalars(reconcile.cleared()).all()
            wish = partial(statements.wish, reason=rules.TASK_INSTANCE_RESTARTS)
            return sum(changed(session, wish(with_ids(some))) for some in chunks(ids))

        return self._transaction(work)

    def reconcile(self, *, now: datetime, grace_seconds: float, by_time: bool = True) -> Reconciled:
        mended = self._mend(now)  # whatever comes after it looks at states and times
        if not by_time:
            return Reconciled(stale=self._change(reconcile.cancel_stale(now)), mended=mended)
        # Then the lost: what is found to be wished below gets one round's time to find an owner.
        lost = self._change(reconcile.fail_lost(now))
        return Reconciled(
            stale=self._change(reconcile.cancel_stale(now)),
            moved_on=self._change(reconcile.stop_moved_on(now - timedelta(seconds=grace_seconds))),
            not_started=self._stop_not_started(now),
            superseded=self._stop_superseded(now),
            worker_lost=lost,
            mended=mended,
            untold=self._tell_again(now),
        )

    def _mend(self, now: datetime) -> int:
        """Make sense again of rows that were changed by hand, and say so."""

        def work(session: Session) -> list[str]:
            messages = []
            for statement in (reconcile.odd_jobs(now), reconcile.odd_ends()):
                for found in session.execute(statement).all():
                    row = mending.JobRow(**found._mapping)
                    mended = mending.mend(row, now=now)
                    if mended is not None and changed(session, reconcile.mend(row, mended.values)):
                        messages.append(mended.message)
            return messages

        messages = self._transaction(work)
        for message in messages:
            log.error("%s", message)
        return len(messages)

    def _change(self, statement: Update) -> int:
        return self._transaction(lambda session: changed(session, statement))

    def _tell_again(self, now: datetime) -> int:
        def work(session: Session) -> int:
            ids = session.scalars(reconcile.untold(now - rules.TOLD_FOR)).all()
            return sum(changed(session, statements.tell_again(some)) for some in chunks(ids))

        return self._transaction(work)

    def _stop_superseded(self, now: datetime) -> int:
        def work(session: Session) -> int:
            older = session.scalars(reconcile.superseded(now - rules.SUPERSEDED_AFTER)).all()
            return sum(
                changed(session, statements.wish(with_ids(some), rules.SUPERSEDED)) for some in chunks(older)
            )

        return self._transaction(work)

    def _stop_not_started(self, now: datetime) -> int:
        def work(session: Session) -> int:
            timeouts = session.execute(reconcile.start_timeouts()).all()
            if not timeouts:
                return 0
            before = {(pool, seconds): now - timedelta(seconds=seconds) for pool, seconds in timeouts}
            return changed(session, reconcile.stop_not_started(before))

        return self._transaction(work)


def _add(job: NewJob, end: dict[str, Any], now: datetime, session: Session) -> uuid.UUID:
    """Insert a job as the next round of its try; what waited from an earlier round is cancelled."""
    round_ = 0
    row = rows.job_row(job, round_, now) | end
    # Nearly all are the first round, so that is simply tried; an error would spoil the scheduler's transaction.
    while not add(session, jobs, row):
        last = session.execute(statements.last_round(job.task_instance_id)).scalar_one()
        round_ = max(round_, last or 0) + 1
        row = rows.job_row(job, round_, now) | end
    if round_:
        session.execute(
            statements.cancel_waiting(
                and_(of_task_instances([job.task_instance_id]), jobs.c.round < round_),
                rules.HANDED_OVER_AGAIN,
                now,
            )
        )
    job_id: uuid.UUID = row["id"]
    return job_id


def _each_chunk(
    job_ids: Collection[uuid.UUID], task_instance_ids: Collection[uuid.UUID]
) -> Iterator[Condition]:
    yield from (with_ids(some) for some in chunks(job_ids))
    yield from (of_task_instances(some) for some in chunks(task_instance_ids))
