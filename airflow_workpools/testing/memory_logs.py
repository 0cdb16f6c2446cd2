# SPDX-License-Identifier: Apache-2.0
"""The store in memory as it keeps what jobs write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_workpools.core.logs import REASONS, LogChunk, LogEnd, accept
from airflow_workpools.testing.memory_jobs import MemoryJobs

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from airflow_workpools.core.logs import LogMark
    from airflow_workpools.store.records import JobRecord, TryKey


class LogSide(MemoryJobs):
    """See :class:`~airflow_workpools.store.protocol.LogStore`."""

    def append_log(
        self, worker_id: uuid.UUID, new: Sequence[LogChunk], *, now: datetime
    ) -> dict[uuid.UUID, LogEnd]:
        ends = {}
        with self._lock:
            for job in self._given(chunk.job_id for chunk in new):
                id_ = job.record.id
                if job.record.worker_id != worker_id:
                    continue
                of_job = [chunk for chunk in new if chunk.job_id == id_]
                end = self._end(id_, of_job[0].attempt)
                accepted, ends[id_] = accept(of_job, end, most=self.max_log_bytes, now=now)
                self._logs.setdefault(id_, []).extend(accepted)
        return ends

    def log_ends(self, attempts: Mapping[uuid.UUID, int]) -> dict[uuid.UUID, LogEnd]:
        with self._lock:
            return {id_: self._end(id_, attempt) for id_, attempt in attempts.items()}

    def _end(self, job_id: uuid.UUID, attempt: int) -> LogEnd:
        of_attempt = [chunk for chunk in self._logs.get(job_id, ()) if chunk.attempt == attempt]
        return LogEnd(of_attempt[-1].end, of_attempt[-1].closing) if of_attempt else LogEnd()

    def add_reasons(self, lines: Mapping[uuid.UUID, bytes]) -> None:
        with self._lock:
            for id_, line in lines.items():
                log = self._logs.setdefault(id_, [])
                if not any(chunk.attempt == REASONS for chunk in log):
                    log.append(LogChunk(job_id=id_, attempt=REASONS, position=0, data=line, closing=True))

    def read_log(
        self, job_id: uuid.UUID, *, after: LogMark | None = None, limit: int = 100
    ) -> list[LogChunk]:
        with self._lock:
            log = sorted(self._logs.get(job_id, ()), key=lambda chunk: chunk.mark)
        return [chunk for chunk in log if after is None or chunk.mark > after][:limit]

    def with_log(self, job_ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
        with self._lock:
            return {id_ for id_ in job_ids if self._logs.get(id_)}

    def jobs_of_try(self, key: TryKey) -> list[JobRecord]:
        with self._lock:
            found = [
                job.record
                for job in self._jobs.values()
                if all(getattr(job.record, name) == value for name, value in key._asdict().items())
            ]
        return sorted(found, key=lambda job: (job.handed_over_at, job.round))
