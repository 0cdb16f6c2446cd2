# SPDX-License-Identifier: Apache-2.0
"""The process of the embedded worker: what the executor's child does until the executor is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_workpools.errors import NotFound
from airflow_workpools.worker.channel import LOOK_FOR_ERRANDS, LOOK_NOW, keep_saying_alive, listen, say_ended
from airflow_workpools.worker.execution_api import keep_waking_execution_api, use_execution_api_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_workpools.infrastructure.process import ProcessInfrastructure
    from airflow_workpools.settings import Settings
    from airflow_workpools.worker.client import WorkerClient
    from airflow_workpools.worker.roster import Roster

log = logging.getLogger(__name__)

TITLE = "airflow_workpools: embedded worker"
"""What the process is called."""
MAX_THREADS = 32
"""Most calls at a time that block: to the database, to infrastructures, to where connections are kept."""
KEEP_LEFTOVERS = timedelta(days=7)
"""How long the directories of ended jobs are kept that a crash kept from being removed."""


def run_embedded_worker(channel: socket.socket, *, settings: Settings, team_name: str | None = None) -> None:
    """Be the embedded worker until the executor closes its end of ``channel``.

    :param channel: the worker's end of the socket to the executor.
    :param team_name: the executor's team.
    """
    from airflow_workpools.airflow_private.telemetry import end_inherited_telemetry
    from airflow_workpools.infrastructure.process import ProcessRunner

    end_inherited_telemetry()
    _title(f"{TITLE} of {team_name}" if team_name else TITLE)
    use_execution_api_of(team_name)
    # Forked before anything else: no thread, no event loop and no connection may be in the runner.
    runner = ProcessRunner.fork()
    asyncio.run(_serve(channel, settings=settings, team_name=team_name, runner=runner))


async def _serve(channel: socket.socket, *, settings: Settings, team_name: str | None, runner: Any) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    from airflow_workpools.store.airflow_connections import airflow_connections, infrastructure_connection
    from airflow_workpools.store.clock import DatabaseClock
    from airflow_workpools.store.pools import keep_secrets_pools_fresh
    from airflow_workpools.store.records import MISSED_HEARTBEATS
    from airflow_workpools.worker.errands import errands_of
    from airflow_workpools.worker.loop import Worker
    from airflow_workpools.worker.roster import Roster
    from airflow_workpools.worker.times import WorkerTimes

    # Whatever waits in a thread for an infrastructure must leave some for the store.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MAX_THREADS, "worker"))
    alive = keep_saying_alive(channel, every_seconds=settings.worker.heartbeat_seconds)
    speaking = asyncio.create_task(alive, name="say that the worker is alive")
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
        home=settings.home,
        infrastructure_connection=infrastructure_connection,
        times=WorkerTimes(heartbeat=settings.worker.heartbeat_seconds, claim=settings.worker.claim_seconds),
        on_ended=partial(say_ended, channel),
    )
    errands = errands_of(record, infrastructures["process"], clock)
    errands.may_judge = worker.may_judge
    errands.is_open = partial(worker.is_open, "process")
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
    on_heard = {LOOK_NOW: worker.look_now, LOOK_FOR_ERRANDS: errands.look_now}
    listener = asyncio.create_task(listen(channel, on_heard, stop), name="listen to the executor")
    await worker.run()
    listener.cancel()
    warming.cancel()
    speaking.cancel()
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


def _parts(settings: Settings, team_name: str | None, runner: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Make what the worker consists of."""
    from airflow_workpools import __version__
    from airflow_workpools.airflow_private import mint_workload_token
    from airflow_workpools.infrastructure.process import ProcessInfrastructure
    from airflow_workpools.infrastructure.registry import kinds
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
        store=SqlStore(reserve_after=settings.reserve_after, max_log_bytes=settings.max_log_bytes),
        all_pools=lambda: work_pools(settings),
        mint_token=mint_workload_token,
        kinds=frozenset(kinds()),
        team_name=team_name,
    )
    return record, client, infrastructures


def _title(title: str) -> None:
    with contextlib.suppress(ImportError):
        from setproctitle import setproctitle

        setproctitle(title)
