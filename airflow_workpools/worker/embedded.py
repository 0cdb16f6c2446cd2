# SPDX-License-Identifier: Apache-2.0
"""The embedded worker: a child process of the executor that serves the push pools of this scheduler's host.

It is forked, not executed anew: Airflow is in memory already, shared page by page, and the worker is there
at once.
The very first thing the child does is to fork the process runner from itself, while it still has one
thread and no connection.

The two speak through a socket (``channel``). When the executor is gone, the worker says that it is offline, and ends;
jobs go on and the next worker adopts them. When the worker is gone, or silent, it is started anew; its jobs go on, too.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.worker.channel import (
    LOOK_FOR_ERRANDS,
    LOOK_NOW,
    MAX_SIZE,
    NEWS,
    ended_in,
    make_channel,
    say,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Set
    from uuid import UUID

log = logging.getLogger(__name__)

_MOST_MESSAGES = 1000
"""Most that are read at a time: who listens is in the scheduler's loop."""


@dataclass
class EmbeddedWorker:
    """The executor's side: starts the child, wakes it, and starts it again when it has died.

    :param main: what the child runs, given its end of the socket; it never returns to the caller's code.
    :param silence_seconds: a worker that says nothing for so long hangs, and is replaced; None: it may be silent.
    :param monotonic: seconds that never go back.
    """

    main: Callable[[socket.socket], None]
    restart_max_delay_seconds: float = 60.0
    silence_seconds: float | None = None
    monotonic: Callable[[], float] = time.monotonic
    pid: int | None = None
    _socket: socket.socket | None = None
    _news: bool = False
    _ended: set[UUID] = field(default_factory=set)
    _heard_at: float = 0.0
    _started_at: float = 0.0
    _restart_at: float = 0.0
    _backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        self._backoff.maximum = self.restart_max_delay_seconds

    def start(self) -> None:
        """Fork the worker."""
        ours, theirs = make_channel()
        ours.setblocking(False)
        sys.stdout.flush()
        sys.stderr.flush()
        # Frozen objects are not touched by the child's garbage collector: their pages stay shared.
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            ours.close()
            if self._socket is not None:
                self._socket.close()
            _run_child(self.main, theirs)
        gc.unfreeze()
        theirs.close()
        self._drop_socket()
        self._socket, self.pid = ours, pid
        self._started_at = self._heard_at = self.monotonic()
        log.info("Embedded worker started, pid %d", pid)

    def look_now(self) -> None:
        """Tell the worker that there is work. Losing this call costs a second, never a job."""
        self._say(LOOK_NOW)

    def look_for_errands(self) -> None:
        """Tell the worker that there is a callback or a connection test. Losing this call costs some seconds."""
        self._say(LOOK_FOR_ERRANDS)

    def _say(self, word: bytes) -> None:
        if self._socket is not None:
            say(self._socket, word)

    def has_news(self) -> bool:
        """Say whether the worker has told of ended jobs since the last time. Losing its call costs a second."""
        self._hear()
        news, self._news = self._news, False
        self._ended.clear()
        return news

    def ended(self) -> Set[UUID]:
        """Return of which tries of tasks the worker has told since :meth:`has_news` that their jobs have ended."""
        self._hear()
        return self._ended

    def _hear(self) -> None:
        """Take in what the worker has said."""
        if self._socket is None:
            return
        for _ in range(_MOST_MESSAGES):
            try:
                heard = self._socket.recv(MAX_SIZE)
            except OSError:
                return
            if not heard:
                return
            self._heard_at = self.monotonic()
            if heard.startswith(NEWS):
                self._news = True
                self._ended |= ended_in(heard)

    def supervise(self) -> None:
        """Start the worker again if it has ended: at once the first time, then after growing delays."""
        if self.pid is not None and not self._has_ended(self.pid):
            self._end_silent(self.pid)
            return
        now = self.monotonic()
        if self.pid is not None:
            if now - self._started_at > self.restart_max_delay_seconds:
                self._backoff.reset()
            delay = self._backoff.next() if self._backoff.failures else 0.0
            self._backoff.failures += delay == 0.0
            self.pid, self._restart_at = None, now + delay
            log.error("Embedded worker has ended; starting it again in %.1f s. Its jobs go on.", delay)
        if now >= self._restart_at:
            self.start()

    def _end_silent(self, pid: int) -> None:
        """Kill a worker that has said nothing for so long that it hangs; it is started again when it has ended."""
        self._hear()
        silence = self.monotonic() - self._heard_at
        if self.silence_seconds is None or silence <= self.silence_seconds:
            return
        log.error(
            "Embedded worker, pid %d, has not been heard of for %.0f s: it hangs, and is ended. Its jobs go on.",
            pid,
            silence,
        )
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def stop(self, *, timeout_seconds: float) -> None:
        """Ask the worker to end, and end it when it takes too long. Its jobs go on."""
        self._drop_socket()
        if self.pid is None:
            return
        deadline = self.monotonic() + timeout_seconds
        while not self._has_ended(self.pid):
            if self.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.02)
        self.pid = None

    def _drop_socket(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None

    @staticmethod
    def _has_ended(pid: int) -> bool:
        try:
            ended, _status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # somebody else reaped it
            return True
        return ended == pid


def _run_child(main: Callable[[socket.socket], None], channel: socket.socket) -> None:
    """Run the worker and leave without returning into the code of the scheduler that was forked."""
    status = 1
    try:
        # The terminal's Ctrl-C is for the scheduler; it tells the worker by closing the socket.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGALRM):
            signal.signal(name, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        main(channel)
        status = 0
    except BaseException:
        log.exception("Embedded worker failed")
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
