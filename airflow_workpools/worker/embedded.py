# SPDX-License-Identifier: Apache-2.0
"""The embedded worker: a child process of the executor that serves the push pools of this scheduler's host.

It is forked, not executed anew: Airflow is in memory already, shared page by page, and the worker is there
at once.
The very first thing the child does is to fork the process runner from itself, while it still has one
thread and no connection.

The executor and its worker hold the two ends of a socket. A byte from the executor means "look for work now" (there
is another one for errands), one from the worker "jobs have ended". When the executor is gone, however it ended, the
worker says that it is offline, and ends; jobs go on and the next worker adopts them. Other children of the scheduler
hold the executor's end open, too (LocalExecutor forks many): so the executor shuts the connection down, which counts
for all, and the worker also watches the executor's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import struct
import sys
import threading
import time
import urllib.request
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from airflow_workpools.infrastructure.process import ProcessInfrastructure
    from airflow_workpools.settings import Settings
    from airflow_workpools.worker.client import WorkerClient
    from airflow_workpools.worker.roster import Roster

log = logging.getLogger(__name__)

KEEP_LEFTOVERS = timedelta(days=7)
"""How long the directories of ended jobs are kept that a crash kept from being removed."""
_LOOK_NOW = b"!"
_LOOK_FOR_ERRANDS = b"+"
_NEWS = b"."


@dataclass
class EmbeddedWorker:
    """The executor's side: starts the child, wakes it, and starts it again when it has died.

    :param main: what the child runs, given its end of the socket; it never returns to the caller's code.
    :param monotonic: seconds that never go back.
    """

    main: Callable[[socket.socket], None]
    restart_max_delay_seconds: float = 60.0
    monotonic: Callable[[], float] = time.monotonic
    pid: int | None = None
    _socket: socket.socket | None = None
    _started_at: float = 0.0
    _restart_at: float = 0.0
    _backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        self._backoff.maximum = self.restart_max_delay_seconds

    def start(self) -> None:
        """Fork the worker."""
        ours, theirs = socket.socketpair()
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
        self._socket, self.pid, self._started_at = ours, pid, self.monotonic()
        log.info("Embedded worker started, pid %d", pid)

    def look_now(self) -> None:
        """Tell the worker that there is work. Losing this call costs a second, never a job."""
        self._say(_LOOK_NOW)

    def look_for_errands(self) -> None:
        """Tell the worker that there is a callback or a connection test. Losing this call costs some seconds."""
        self._say(_LOOK_FOR_ERRANDS)

    def _say(self, word: bytes) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(word)

    def has_news(self) -> bool:
        """Say whether the worker has told of ended jobs since the last time. Losing its call costs a second."""
        if self._socket is None:
            return False
        try:
            return bool(self._socket.recv(4096))
        except OSError:
            return False

    def supervise(self) -> None:
        """Start the worker again if it has ended: at once the first time, then after growing delays."""
        if self.pid is not None and not self._has_ended(self.pid):
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


def run_embedded_worker(channel: socket.socket, *, settings: Settings, team_name: str | None = None) -> None:
    """Be the embedded worker until the executor closes its end of ``channel``.

    :param channel: the worker's end of the socket to the executor.
    :param team_name: the executor's team.
    """
    from airflow_workpools.airflow_private.telemetry import end_inherited_telemetry
    from airflow_workpools.infrastructure.process import ProcessRunner

    end_inherited_telemetry()
    _title(f"airflow_workpools: embedded worker{f' of {team_name}' if team_name else ''}")
    use_execution_api_of(team_name)
    # Forked before anything else: no thread, no event loop and no connection may be in the runner.
    runner = ProcessRunner.fork()
    asyncio.run(_serve(channel, settings=settings, team_name=team_name, runner=runner))


def use_execution_api_of(team_name: str | None) -> None:
    """Let this process and its jobs use the Execution API that was configured for a team, if one was."""
    from airflow.executors.base_executor import ExecutorConf

    section, option = "core", "execution_api_server_url"
    url = ExecutorConf(team_name).get(section, option, fallback=None) if team_name else None
    if url:
        os.environ[f"AIRFLOW__{section}__{option}".upper()] = url


async def _serve(channel: socket.socket, *, settings: Settings, team_name: str | None, runner: Any) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    from airflow_workpools.store.airflow_connections import airflow_connections
    from airflow_workpools.store.clock import DatabaseClock
    from airflow_workpools.store.pools import keep_secrets_pools_fresh
    from airflow_workpools.store.records import MISSED_HEARTBEATS
    from airflow_workpools.worker.errands import errands_of
    from airflow_workpools.worker.loop import Worker, WorkerTimes
    from airflow_workpools.worker.roster import Roster

    clock = DatabaseClock()
    with contextlib.suppress(SQLAlchemyError):  # asked again with the first heartbeat
        await asyncio.to_thread(clock.refresh)
    record, client, infrastructures = _parts(settings, team_name, runner)
    unsettled_seconds = 2 * MISSED_HEARTBEATS * settings.worker.heartbeat_seconds
    worker = Worker(
        record=record,
        client=client,
        infrastructures=infrastructures,
        clock=clock,
        keep_time=clock.refresh,
        may_judge=lambda: clock.is_settled(unsettled_seconds),
        environ=dict(os.environ),
        connections=airflow_connections,
        times=WorkerTimes(heartbeat=settings.worker.heartbeat_seconds, claim=settings.worker.claim_seconds),
        on_ended=partial(_tell_executor, channel),
    )
    errands = errands_of(record, infrastructures["process"], clock)
    errands.may_judge = worker.may_judge
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(errands.run(), name="errands")

    def stop() -> None:
        running.cancel()
        worker.stop()

    loop.add_signal_handler(signal.SIGTERM, stop)
    ended = threading.Event()
    keep_secrets_pools_fresh(settings, stop=ended)
    roster = Roster(settings.home / "workers")
    await asyncio.to_thread(_bury_the_dead, roster, client, clock)
    _enter(roster, record.id)
    await asyncio.to_thread(_sweep, infrastructures["process"])
    warming = asyncio.create_task(keep_waking_execution_api(), name="wake the Execution API")
    on_heard = {_LOOK_NOW: worker.look_now, _LOOK_FOR_ERRANDS: errands.look_now}
    listener = asyncio.create_task(listen(channel, on_heard, stop), name="listen to the executor")
    await worker.run()
    listener.cancel()
    warming.cancel()
    ended.set()
    roster.leave(record.id)


def _enter(roster: Roster, worker_id: uuid.UUID) -> None:
    try:
        roster.enter(worker_id)
    except OSError as error:
        log.warning(
            "%s can't be written to (%s): when this worker is killed, its jobs wait for its silence to be noticed",
            roster.folder,
            error.strerror,
        )


def _bury_the_dead(roster: Roster, client: WorkerClient, clock: Callable[[], datetime]) -> None:
    """Say of workers that were killed on this machine that they are gone, so that this one has their jobs now."""
    for worker_id in list(roster.dead()):
        try:
            client.stop(worker_id, now=clock())
        except NotFound:
            log.info("Embedded worker %s had ended before it came online", worker_id)
        except Exception as error:
            log.warning("Could not say that embedded worker %s is gone: %s", worker_id, error)
            continue
        roster.leave(worker_id)


def _sweep(infrastructure: ProcessInfrastructure) -> None:
    """Remove what crashes have left of jobs that ended long ago."""
    now = datetime.now(timezone.utc)
    try:
        swept = infrastructure.sweep((), older_than=KEEP_LEFTOVERS, now=now)
    except OSError as error:
        log.warning("What is left of old jobs could not be removed: %s", error)
    else:
        log.info("Removed what was left of %d old jobs", swept)


async def keep_waking_execution_api(*, attempts: int = 60, pause: float = 2.0) -> bool:
    """Wake the Execution API, which may be started after the scheduler; return whether it answered at last."""
    for _ in range(attempts):
        if await asyncio.to_thread(wake_execution_api):
            return True
        await asyncio.sleep(pause)
    log.info("The Execution API has not answered yet; the first task will wake it")
    return False


def wake_execution_api(seconds: float = 30.0) -> bool:
    """Ask the Execution API how it is, so that it is ready when the first task asks it; return whether it answered.

    An API server builds it at the first request, which was measured to take 4.7 s of CPU: the first task would
    wait for that. Whether it answers matters to nobody else; tasks find out for themselves.
    """
    from airflow.executors.base_executor import get_execution_api_server_url

    url = f"{get_execution_api_server_url().rstrip('/')}/health"
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (OSError, ValueError, HTTPException) as error:
        log.debug("The Execution API does not answer yet at %s: %s", url, error)
        return False


def _tell_executor(channel: socket.socket) -> None:
    """Say that jobs have ended. An executor that doesn't listen just now looks by itself soon."""
    with contextlib.suppress(OSError):
        channel.send(_NEWS)


async def listen(
    channel: socket.socket, on_heard: Mapping[bytes, Callable[[], None]], on_end: Callable[[], None]
) -> None:
    """Pass on what the executor says; its end is our end."""
    loop = asyncio.get_running_loop()
    channel.setblocking(False)
    with _end_of_executor(channel) as ended:
        if ended is not None:
            loop.add_reader(ended, channel.shutdown, socket.SHUT_RD)
        try:
            while heard := await loop.sock_recv(channel, 4096):
                for word, call in on_heard.items():
                    if word in heard:
                        call()
        except OSError:
            log.warning("Embedded worker lost its executor")
        finally:
            if ended is not None:
                loop.remove_reader(ended)
    on_end()


@contextlib.contextmanager
def _end_of_executor(channel: socket.socket) -> Iterator[int | None]:
    """Give a descriptor that can be read once the process that made the channel has ended; None without pidfd."""
    pid, _, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    ended = None
    try:
        if pid == 0:  # that is what the kernel says once nobody has this pid any more
            raise ProcessLookupError
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        channel.shutdown(socket.SHUT_RD)
    except OSError as error:
        log.warning("The end of process %d can't be watched: %s", pid, error)
    try:
        yield ended
    finally:
        if ended is not None:
            os.close(ended)


def _parts(settings: Settings, team_name: str | None, runner: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Make what the worker consists of."""
    from airflow_workpools import __version__
    from airflow_workpools.airflow_private import mint_workload_token
    from airflow_workpools.infrastructure.process import ProcessInfrastructure
    from airflow_workpools.store.jobs import SqlStore
    from airflow_workpools.store.pools import work_pools
    from airflow_workpools.store.records import WorkerKind, WorkerRecord
    from airflow_workpools.worker.client import SqlClient

    now = datetime.now(timezone.utc)
    hostname = socket.gethostname()
    record = WorkerRecord(
        id=uuid.uuid4(),
        name=f"embedded@{hostname}:{os.getpid()}",
        hostname=hostname,
        kind=WorkerKind.EMBEDDED,
        started_at=now,
        last_heartbeat_at=now,
        heartbeat_seconds=settings.worker.heartbeat_seconds,
        version=__version__,
        team_name=team_name,
    )
    infrastructures = {"process": ProcessInfrastructure(home=settings.home, connection=None, runner=runner)}
    client = SqlClient(
        store=SqlStore(reserve_after=settings.reserve_after),
        all_pools=lambda: work_pools(settings),
        mint_token=mint_workload_token,
        kinds=frozenset(infrastructures),
        team_name=team_name,
    )
    return record, client, infrastructures


def _title(title: str) -> None:
    with contextlib.suppress(ImportError):
        from setproctitle import setproctitle

        setproctitle(title)
