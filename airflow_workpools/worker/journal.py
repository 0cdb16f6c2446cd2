# SPDX-License-Identifier: Apache-2.0
"""What could not be told of jobs, on disk: it survives the worker, too, when both it and the API server are away.

One small file for each job, in which the last word on it stands. It is written when telling it has failed, as a whole
or not at all, and removed when it was told. Whoever adopts the job tells it; what is no longer anybody's is forgotten.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow_workpools.core.jobs import JobState
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store.records import Report
from airflow_workpools.store.rules import fit_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Journal:
    """Keeps reports in a folder.

    :param folder: for nothing else, and of one worker.
    """

    folder: Path

    def keep(self, reports: Iterable[Report]) -> None:
        """Keep what could not be told; a disk that is full is told of, and keeps nobody from going on."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for report in reports:
                self._write(report)
        except OSError as error:
            log.warning("What is to be told of jobs can't be kept in %s: %s", self.folder, error)

    def forget(self, job_ids: Collection[UUID]) -> None:
        """Forget what was told."""
        for job_id in job_ids:
            with contextlib.suppress(OSError):
                self._path(job_id).unlink(missing_ok=True)

    def kept(self, job_id: UUID, start_attempts: int) -> Report | None:
        """Return what was kept of a claim of a job; None if there is nothing, or if it can't be read."""
        try:
            report = _report(json.loads(self._path(job_id).read_text()))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):  # or it was cut off
            return None
        return report if report.start_attempts == start_attempts else None

    def job_ids(self) -> set[UUID]:
        """Return the jobs of which something is kept."""
        found = set()
        if self.folder.is_dir():
            for path in self.folder.glob("*.json"):
                with contextlib.suppress(ValueError):
                    found.add(UUID(path.stem))
        return found

    def sweep(self, *, older_than: timedelta, now: datetime) -> None:
        """Forget what nobody has come for since."""
        before = (now - older_than).timestamp()
        for job_id in self.job_ids():
            with contextlib.suppress(OSError):
                if self._path(job_id).stat().st_mtime < before:
                    self._path(job_id).unlink()

    def _path(self, job_id: UUID) -> Path:
        return self.folder / f"{job_id}.json"

    def _write(self, report: Report) -> None:
        whole = self._path(report.job_id)
        part = whole.with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(_values(report), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(whole)


def _values(report: Report) -> dict[str, Any]:
    handle = report.handle
    return {
        "job_id": str(report.job_id),
        "state": report.state.value,
        "exit_code": report.exit_code,
        "reason": None if report.reason is None else fit_text(report.reason),
        "started_at": None if report.started_at is None else report.started_at.isoformat(),
        "start_attempts": report.start_attempts,
        "handle": None
        if handle is None
        else {
            "kind": handle.kind,
            "data": dict(handle.data),
            "conn_id": handle.conn_id,
            "failed_start": handle.failed_start,
        },
    }


def _report(values: dict[str, Any]) -> Report:
    job_id, started_at, handle = UUID(values["job_id"]), values["started_at"], values["handle"]
    return Report(
        job_id=job_id,
        state=JobState(values["state"]),
        exit_code=values["exit_code"],
        reason=values["reason"],
        started_at=None if started_at is None else datetime.fromisoformat(started_at),
        start_attempts=values["start_attempts"],
        handle=None if handle is None else Handle(job_id=job_id, **handle),
    )
