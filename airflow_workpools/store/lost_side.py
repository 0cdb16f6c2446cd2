# SPDX-License-Identifier: Apache-2.0
"""The store as it gives up what lost workers have."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_workpools.core.lost import NEVER_LAUNCHED, lost_reason
from airflow_workpools.store import rules
from airflow_workpools.store.records import GivenUp
from airflow_workpools.store.sessions import Transactions, changed, chunks
from airflow_workpools.store.statements import lost as statements
from airflow_workpools.store.statements import worker as worker_statements

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.store.records import WorkerRecord


class LostSide(Transactions):
    """See :class:`~airflow_workpools.store.protocol.ExecutorStore`."""

    def give_up_lost(
        self, lost: Collection[WorkerRecord], *, bound: Mapping[str, int], now: datetime, grace_seconds: float
    ) -> GivenUp:
        by_id = {worker.id: worker for worker in lost}
        heard_since = now - timedelta(seconds=grace_seconds)

        def work(session: Session) -> GivenUp:
            failed = requeued = 0
            for some in chunks(by_id):
                found = session.execute(statements.jobs_of_lost(some, list(bound), heard_since)).all()
                again: dict[uuid.UUID, list[uuid.UUID]] = defaultdict(list)
                over: dict[uuid.UUID, list[uuid.UUID]] = defaultdict(list)
                for row in found:
                    starts_again = row.waits and rules.starts_again(
                        row.state, row.handle, row.start_attempts, bound[row.pool]
                    )
                    (again if starts_again else over)[row.worker_id].append(row.id)
                for worker_id in sorted({*again, *over}):
                    if not changed(session, statements.stop_lost(by_id[worker_id])):
                        continue  # it has come back
                    requeued += _requeue(session, worker_id, again[worker_id])
                    failed += _fail(session, by_id[worker_id], over[worker_id], grace_seconds, now)
            return GivenUp(failed, requeued)

        return self._transaction(work) if by_id and bound else GivenUp()


def _requeue(session: Session, worker_id: uuid.UUID, job_ids: Collection[uuid.UUID]) -> int:
    return sum(
        changed(session, worker_statements.requeue(some, worker_id, NEVER_LAUNCHED))
        for some in chunks(job_ids)
    )


def _fail(
    session: Session,
    worker: WorkerRecord,
    job_ids: Collection[uuid.UUID],
    grace_seconds: float,
    now: datetime,
) -> int:
    reason = lost_reason(
        worker.name,
        worker.hostname,
        last_heartbeat_at=worker.last_heartbeat_at,
        grace_seconds=grace_seconds,
    )
    return sum(changed(session, statements.fail(some, worker.id, reason, now)) for some in chunks(job_ids))
