# SPDX-License-Identifier: Apache-2.0
"""Notices at once when a process ends that is nobody's child here: a job that an earlier worker launched."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_workpools.infrastructure.process.proc import ProcessIdentity

_POLL_SECONDS = 0.5
"""How often to look where the kernel cannot tell (before Linux 5.3)."""


class EndWatch:
    """Watches one process from within an event loop.

    :param on_end: called once, in the loop, when the process has ended.
    """

    def __init__(self, identity: ProcessIdentity, on_end: Callable[[], None]) -> None:
        self.identity = identity
        self._on_end = on_end
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._pidfd = identity.open_pidfd()
        if self._pidfd is not None:
            self._loop.add_reader(self._pidfd, self._end)
        else:
            self._poll()

    async def wait(self) -> None:
        """Return when the process has ended."""
        await self._ended.wait()

    def close(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _poll(self) -> None:
        stat = self.identity.stat()
        if stat is None or stat.has_ended:
            self._timer = self._loop.call_soon(self._end)  # type: ignore[assignment]
        else:
            self._timer = self._loop.call_later(_POLL_SECONDS, self._poll)

    def _end(self) -> None:
        self.close()
        self._ended.set()
        self._on_end()
