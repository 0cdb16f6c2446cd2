# SPDX-License-Identifier: Apache-2.0
"""The store as it keeps what jobs write."""

from __future__ import annotations

import zlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import StatementError

from airflow_workpools.core.logs import REASONS, LogChunk, LogEnd, accept
from airflow_workpools.store import rows
from airflow_workpools.store.records import JobFilter
from airflow_workpools.store.sessions import Transactions, changed, chunks
from airflow_workpools.store.statements import airflow, run_time
from airflow_workpools.store.statements import logs as statements
from airflow_workpools.store.statements.common import add_missing
from airflow_workpools.store.tables import logs

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.core.logs import LogMark
    from airflow_workpools.store.records import JobRecord, TryKey

MAX_LOGS = 100
"""Most logs whose ends one statement reads: it has a part for each, and SQLite takes 500."""
MAX_ROUNDS = 1000
"""Most rounds of a try whose logs are looked for; the older ones of a sensor that has come back more often are not."""
MAX_PURGED_CHUNKS = 5000
"""Most chunks of logs that one transaction deletes."""
_COMPRESSION = 1
"""Fast: lines of a log are much alike, so they shrink to a fifth all the same."""


class LogSide(Transactions):
    """See :class:`~airflow_workpools.store.protocol.LogStore`."""

    _max_log_bytes: int

    def append_log(
        self, worker_id: uuid.UUID, new: Sequence[LogChunk], *, now: datetime
    ) -> dict[uuid.UUID, LogEnd]:
        by_job: dict[uuid.UUID, list[LogChunk]] = defaultdict(list)
        for chunk in new:
            by_job[chunk.job_id].append(chunk)

        def work(session: Session) -> dict[uuid.UUID, LogEnd]:
            mine = {
                id_
                for some in chunks(by_job)
                for id_ in session.scalars(statements.jobs_of_worker(worker_id, some))
            }
            ends = _ends(session, {id_: by_job[id_][0].attempt for id_ in by_job if id_ in mine})
            accepted: list[LogChunk] = []
            for id_, end in ends.items():
                taken, ends[id_] = accept(by_job[id_], end, most=self._max_log_bytes, now=now)
                accepted += taken
            _add(session, accepted)
            return ends

        try:
            return self._transaction(work)
        except StatementError as error:
            error.hide_parameters = True  # what jobs write is not for the logs of others
            raise

    def log_ends(self, attempts: Mapping[uuid.UUID, int]) -> dict[uuid.UUID, LogEnd]:
        return self._transaction(lambda session: _ends(session, attempts))

    def add_reasons(self, lines: Mapping[uuid.UUID, bytes]) -> None:
        reasons = [
            LogChunk(job_id=id_, attempt=REASONS, position=0, data=line, closing=True)
            for id_, line in lines.items()
        ]
        if reasons:
            self._transaction(lambda session: _add(session, reasons))

    def read_log(
        self, job_id: uuid.UUID, *, after: LogMark | None = None, limit: int = 100
    ) -> list[LogChunk]:
        statement = statements.chunks_after(job_id, after, limit)
        return self._transaction(lambda session: [_chunk(row) for row in session.execute(statement)])

    def with_log(self, job_ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
        def work(session: Session) -> set[uuid.UUID]:
            return {id_ for some in chunks(job_ids) for id_ in session.scalars(statements.with_log(some))}

        return self._transaction(work)

    def jobs_of_try(self, key: TryKey) -> list[JobRecord]:
        def work(session: Session) -> list[JobRecord]:
            ids = tuple(session.scalars(airflow.ids_of_try(key)))
            if not ids:
                return []
            which = JobFilter(task_instance_ids=ids)
            found = session.execute(run_time.listing(which, limit=MAX_ROUNDS, offset=0))
            return [rows.job_record(row) for row in found]

        found = self._transaction(work)
        return sorted(found, key=lambda job: (job.handed_over_at, job.round))


def forget_jobs(session: Session, job_ids: Collection[uuid.UUID], *, most: int) -> tuple[int, int]:
    """Delete jobs and their logs, up to so many chunks; return how many jobs and chunks are gone.

    A job whose log is not gone yet stays, and is found again.
    """
    gone = jobs_gone = 0
    for some in chunks(job_ids):
        stays = session.execute(statements.first_chunk_to_stay(some, most - gone)).first()
        gone += changed(session, statements.forget(some, stays))
        jobs_gone += changed(session, statements.without_log(some))
        if stays is not None:
            break
    return jobs_gone, gone


def _ends(session: Session, attempts: Mapping[uuid.UUID, int]) -> dict[uuid.UUID, LogEnd]:
    ends = dict.fromkeys(attempts, LogEnd())
    for some in chunks(attempts, size=MAX_LOGS):
        for row in session.execute(statements.last_chunks({id_: attempts[id_] for id_ in some})):
            ends[row.job_id] = LogEnd(row.position + row.size, full=row.size == 0)
    return ends


def _add(session: Session, accepted: Iterable[LogChunk]) -> None:
    rows_: list[dict[str, Any]] = [
        {
            "job_id": chunk.job_id,
            "attempt": chunk.attempt,
            "position": chunk.position,
            "size": chunk.size,
            "data": zlib.compress(chunk.data, _COMPRESSION),
        }
        for chunk in accepted
    ]
    if rows_:
        session.execute(add_missing(session.get_bind().dialect.name, logs), rows_)


def _chunk(row: Any) -> LogChunk:
    return LogChunk(
        job_id=row.job_id,
        attempt=row.attempt,
        position=row.position,
        data=zlib.decompress(row.data),
        closing=row.size == 0,
    )
