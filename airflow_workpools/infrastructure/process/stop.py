# SPDX-License-Identifier: Apache-2.0
"""Stops a job that no runner of this worker launched. A runner stops its own jobs itself."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from airflow_workpools.infrastructure.process.files import JobDirectory, JobExit
from airflow_workpools.infrastructure.process.job import now_text
from airflow_workpools.infrastructure.process.proc import ProcessIdentity, kill_family
from airflow_workpools.infrastructure.process.watch import EndWatch

if TYPE_CHECKING:
    from collections.abc import Callable


class Stop:
    """The stopping of one job: its first process is asked to end; later all that is left is killed.

    :param on_stopped: called once, in the loop, when it has ended.
    """

    def __init__(
        self, identity: ProcessIdentity, directory: JobDirectory, on_stopped: Callable[[], None]
    ) -> None:
        self._identity = identity
        self._directory = directory
        self._on_stopped = on_stopped
        self._loop = asyncio.get_running_loop()
        self._kill_at: asyncio.TimerHandle | None = None
        self._killed = False
        identity.signal(signal.SIGTERM)
        self._watch = EndWatch(identity, self._on_end)

    def kill_after(self, seconds: float) -> None:
        """Kill what is left after this time, or when it was to be killed already, whichever is earlier."""
        when = self._loop.time() + seconds
        if self._kill_at is None or when < self._kill_at.when():
            self._cancel_kill()
            self._kill_at = self._loop.call_at(when, self._kill)

    def close(self) -> None:
        """Leave it at that."""
        self._cancel_kill()
        self._watch.close()

    def _cancel_kill(self) -> None:
        if self._kill_at is not None:
            self._kill_at.cancel()

    def _kill(self) -> None:
        if self._identity.stat() is not None:
            self._killed = True
            kill_family(self._identity.pid)

    def _on_end(self) -> None:
        self._cancel_kill()
        if self._killed:
            # Perhaps nobody is left who would see how it ended. We know.
            self._directory.record_exit(JobExit(exit_code=-signal.SIGKILL, ended_at=now_text()))
        self._on_stopped()
