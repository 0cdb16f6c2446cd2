# SPDX-License-Identifier: Apache-2.0
"""The directory of a job: what outlives its worker and its runner.

::

    <home>/jobs/<job id>/        0700, owned by the worker's user
        pid                      who runs the job; made once, by the process that runs it
        exit                     empty until the job has ended, then how it ended
        output.log               what the job's own process wrote; the task's log is elsewhere

``pid`` is what decides that a job runs only once. It comes into being complete and exclusively, by
``link(2)``, as the last thing before the task starts. A directory without it is nobody's: any launch may use
it. A job with it has run, whatever became of it.

``exit`` is opened while the process still is the worker's user and written with one ``write(2)`` as its last
act, so a job that runs as another user needs no right to the directory, and ``pid`` stays out of its reach.
Where the job could not write it (it was killed), the runner that reaps it puts a complete file in its place.

Nothing here ever holds a job's token.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import uuid
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_workpools.infrastructure.process.proc import ProcessIdentity, pid_realm

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from datetime import datetime, timedelta
    from pathlib import Path

_TRASH = ".removed-"
_TAIL = 4096
_PIECE = 64 * 1024
"""Most that is read at a time of what a job wrote."""


@dataclass(frozen=True, kw_only=True)
class JobExit:
    """How a job ended."""

    exit_code: int
    """What its process returned, or minus the number of the signal that ended it."""
    ended_at: str
    reason: str | None = None
    """What it said about its end itself, if anything."""
    max_rss_kb: int | None = None

    @classmethod
    def from_json(cls, text: str | bytes) -> JobExit | None:
        """Read what :meth:`to_json` wrote; None if it is not complete (the job has not ended)."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def to_values(self) -> dict[str, Any]:
        """Return what :class:`JobExit` can be made of again."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class JobProcess:
    """Who runs a job."""

    identity: ProcessIdentity
    host: str = field(default_factory=socket.gethostname)
    stop_grace_seconds: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """For people who look into the directory, and for who finds it and does not know the job."""
    attempt: int = 0
    """How often the job had failed to start before."""

    @classmethod
    def from_json(cls, text: str | bytes) -> JobProcess | None:
        """Read what :meth:`to_json` wrote, or None if it is something else."""
        try:
            values = json.loads(text)
            return cls(
                identity=ProcessIdentity(**values["process"]),
                host=values["host"],
                stop_grace_seconds=values["stop_grace_seconds"],
                labels=values["labels"],
                attempt=values.get("attempt", 0),
            )
        except (ValueError, TypeError, KeyError):
            return None

    def to_json(self) -> str:
        return json.dumps(
            {
                "process": asdict(self.identity),
                "host": self.host,
                "stop_grace_seconds": self.stop_grace_seconds,
                "labels": dict(self.labels),
                "attempt": self.attempt,
            }
        )


@dataclass(frozen=True)
class JobDirectory:
    """The directory of one job."""

    path: Path

    @property
    def _output(self) -> Path:
        return self.path / "output.log"

    def create(self) -> None:
        """Make it; fine if it exists."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def claim(self, process: JobProcess) -> bool:
        """Become the one process that runs this job; False if another was first."""
        complete = self.path / f"pid.{process.identity.pid}"
        self._write(complete, process.to_json())
        try:
            os.link(complete, self.path / "pid")
        except FileExistsError:
            return False
        finally:
            complete.unlink()
        return True

    def process(self) -> JobProcess | None:
        """Return who runs, or ran, this job; None if nobody does yet."""
        text = self._read("pid")
        return None if text is None else JobProcess.from_json(text)

    def lives(self, process: JobProcess) -> bool:
        """Say whether the process that runs this job does so still."""
        stat = process.identity.stat()
        return stat is not None and not stat.has_ended and self.exit() is None

    def changed_at(self) -> float:
        """Return when something in it has changed last, in seconds since 1970."""
        try:
            return max(entry.stat().st_mtime for entry in (self.path, *self.path.iterdir()))
        except OSError:
            return math.inf  # it changes right now

    def open_exit(self) -> int:
        """Open the file that takes the job's exit; to be used with :func:`write_exit`."""
        return os.open(self.path / "exit", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def exit(self) -> JobExit | None:
        """Return how the job ended, or None if it has not, or could not say."""
        text = self._read("exit")
        return None if text is None else JobExit.from_json(text)

    def record_exit(self, exit_: JobExit) -> None:
        """Say how a job ended that could not say so itself; its own word stands if there is one."""
        if self.exit() is None:
            complete = self.path / f"exit.{os.getpid()}"
            self._write(complete, exit_.to_json())
            complete.replace(self.path / "exit")

    def open_output(self) -> int:
        """Open what takes the job's standard output and error."""
        return os.open(self._output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def output(self, offset: int) -> bytes:
        """Return some of what the job wrote, from this byte on; nothing if that is all."""
        try:
            with self._output.open("rb") as file:
                file.seek(offset)
                return file.read(_PIECE)
        except OSError:
            return b""

    def output_tail(self) -> str:
        """Return the last of what the job wrote."""
        try:
            with self._output.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                return file.read().decode(errors="replace").strip()
        except OSError:
            return ""

    def remove(self) -> None:
        """Remove it; fine if it is gone. It disappears as a whole, so half a job is never found."""
        trash = self.path.with_name(f"{_TRASH}{self.path.name}-{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)

    def _read(self, name: str) -> str | None:
        try:
            return (self.path / name).read_text()
        except OSError:
            return None

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.touch(mode=0o600)
        path.write_text(text)


def write_exit(descriptor: int, exit_: JobExit) -> None:
    """Write a job's exit with one call, so that it is there as a whole or not at all."""
    os.write(descriptor, exit_.to_json().encode())


@dataclass(frozen=True)
class JobDirectories:
    """The directories of all jobs below one home."""

    home: Path

    @property
    def path(self) -> Path:
        return self.home / "jobs"

    def of(self, job_id: uuid.UUID) -> JobDirectory:
        """Return the directory of a job, whether it exists or not."""
        return JobDirectory(self.path / str(job_id))

    def __iter__(self) -> Iterator[tuple[uuid.UUID, JobDirectory]]:
        with contextlib.suppress(FileNotFoundError):
            for path in self.path.iterdir():
                with contextlib.suppress(ValueError):
                    yield uuid.UUID(path.name), JobDirectory(path)

    def sweep(self, known_ids: Collection[uuid.UUID], *, older_than: timedelta, now: datetime) -> int:
        """Remove directories of jobs that nobody knows any more; return how many.

        Left alone is what lives, what changed lately, and what another machine that shares this home has not
        ended: from here nobody can tell whether it lives.
        """
        before = (now - older_than).timestamp()
        removed = 0
        for job_id, directory in self:
            if job_id in known_ids or directory.changed_at() > before or _may_live(directory):
                continue
            directory.remove()
            removed += 1
        self._empty_trash()
        return removed

    def _empty_trash(self) -> None:
        for trash in self.path.glob(f"{_TRASH}*"):
            shutil.rmtree(trash, ignore_errors=True)


def _may_live(directory: JobDirectory) -> bool:
    process = directory.process()
    if process is None or directory.exit() is not None:
        return False
    if process.identity.realm != pid_realm():
        return (
            process.host != socket.gethostname()
        )  # the same host: it was restarted, and nothing survived that
    return process.identity.stat() is not None
