# SPDX-License-Identifier: Apache-2.0
"""The logs of tasks as people read them: in Airflow's UI and API, and on the command line.

A try may have several jobs, one for each of its rounds; their logs follow each other. Where remote logging is set up
and has the log of a try that is over, that one is shown: it may be longer. Not if a job was ended from outside or
crashed: then it could hardly write its log to its end, and the reason stands here.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.logs import lines_of, structured
from airflow_workpools.infrastructure.registry import keeps_log
from airflow_workpools.store.records import TryKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from uuid import UUID

    from airflow_workpools.airflow_private.task_logs import LogStreams
    from airflow_workpools.core.logs import LogChunk, LogMark
    from airflow_workpools.store.protocol import LogStore
    from airflow_workpools.store.records import JobRecord

log = logging.getLogger(__name__)


def read_lines(store: LogStore, job_ids: Iterable[UUID]) -> Iterator[str]:
    """Return what jobs wrote, one after the other, as lines of Airflow's structured form."""
    for job_id in job_ids:
        yield from structured(lines_of(read_chunks(store, job_id)))


def read_chunks(store: LogStore, job_id: UUID, after: LogMark | None = None) -> Iterator[LogChunk]:
    """Read a log piece by piece, each in a transaction of its own: a reader may take its time, or never come back."""
    while some := store.read_log(job_id, after=after):
        yield from some
        after = some[-1].mark


class TaskLogs:
    """Reads logs in the API server.

    :param log_folder: Airflow's.
    """

    def __init__(self, store: LogStore, *, log_folder: str) -> None:
        self._store = store
        self._log_folder = log_folder

    def read(self, relative_path: str, ti: Any, configured: Callable[[], LogStreams] | None) -> LogStreams:
        """Return the log of a try; see :class:`~airflow_workpools.airflow_private.task_logs.ReadLog`."""
        jobs = self._jobs(ti)
        if not jobs:
            if configured is None:
                raise NotImplementedError
            return configured()
        messages: list[str] = []
        if configured is not None and all(job.state is JobState.SUCCEEDED for job in jobs):
            messages, logs = _read_configured(configured)
            if logs:
                return messages, logs
        lines = read_lines(self._store, [job.id for job in jobs])
        if ti.state == "running":
            # The executor says where it is from: that keeps Airflow from asking the task's host, too.
            return [], [lines]
        return [*messages, *map(_source, jobs)], [lines, *self._of_triggerers(relative_path, ti)]

    def while_running(self, ti: Any) -> list[str]:
        """Say where the log of a running try is from; nothing if that is for Airflow to find."""
        return [_source(job) for job in self._jobs(ti)]

    def _jobs(self, ti: Any) -> Sequence[JobRecord]:
        """Find the jobs of a try whose logs are here, the oldest first."""
        key = TryKey(ti.dag_id, ti.task_id, ti.run_id, ti.map_index, ti.try_number)
        try:
            jobs = self._store.jobs_of_try(key)
            stored = self._store.with_log([job.id for job in jobs]) if jobs else set()
        except Exception:
            # Airflow still finds what it finds by itself.
            log.exception("The logs of work pools can't be read: %s", key)
            return []
        return [job for job in jobs if job.id in stored or (job.handle and keeps_log(job.handle.kind))]

    def _of_triggerers(self, relative_path: str, ti: Any) -> Iterator[Iterator[str]]:
        """Find what triggerers wrote into the log folder: of a try that is over, Airflow does not look there itself."""
        from airflow.utils.state import State

        if ti.state in State.finished:
            path = Path(self._log_folder, relative_path)
            for found in sorted(path.parent.glob(f"{path.name}.trigger.*")):
                yield _lines_of_file(found)


def _read_configured(configured: Callable[[], LogStreams]) -> LogStreams:
    """Read the remote log that is configured; if that fails, what is stored here is shown."""
    try:
        return configured()
    except Exception as error:
        log.warning("The remote log can't be read, what is stored of it is shown: %s", error)
        return [f"The remote log can't be read: {error}"], []


def _lines_of_file(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from (line.rstrip("\n") for line in file)
    except OSError as error:
        log.warning("The log %s can't be read: %s", path, error)


def _source(job: JobRecord) -> str:
    return f"Metadata database: job {job.id} of work queue {job.ref}"


@cache
def task_logs() -> TaskLogs:
    """Return what reads logs from Airflow's metadata database."""
    from airflow.configuration import conf

    from airflow_workpools.store.jobs import SqlStore

    return TaskLogs(SqlStore(), log_folder=str(conf.get("logging", "base_log_folder")))
