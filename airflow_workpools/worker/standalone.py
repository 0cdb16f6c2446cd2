# SPDX-License-Identifier: Apache-2.0
"""The standalone worker: a process that reaches nothing of Airflow but its API server, and runs jobs where it is.

It has no database, and no secret but its token. Its loop is the embedded worker's, and so is its process runner, which
is forked before anything else. Jobs do not depend on it: they go on when it ends, and the next worker of the same name
and home has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.errors import (
    ApiNotThere,
    ApiUnavailable,
    InvalidInput,
    NotFound,
    WorkpoolsError,
)
from airflow_workpools.infrastructure.process import ElsewhereProcessInfrastructure, ProcessRunner
from airflow_workpools.infrastructure.registry import infrastructure_class, kinds, unusable_kinds
from airflow_workpools.store.records import MISSED_HEARTBEATS, WorkerKind, WorkerRecord
from airflow_workpools.worker.execution_api import use_execution_api_under, wait_for_execution_api
from airflow_workpools.worker.healthcheck import Healthcheck
from airflow_workpools.worker.http_client import HttpClient
from airflow_workpools.worker.journal import Journal
from airflow_workpools.worker.loop import Worker
from airflow_workpools.worker.outages import Outages
from airflow_workpools.worker.standalone_home import StandaloneHome
from airflow_workpools.worker.times import WorkerTimes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from airflow_workpools.core.names import WorkQueueRef
    from airflow_workpools.core.pools import WorkPool

log = logging.getLogger(__name__)

MAX_THREADS = 32
"""Most calls at a time that block: to the API server, to infrastructures, to where connections are kept."""
CLAIM_SECONDS = 120.0
"""So often it asks for work though nobody told it of some: being told is the rule."""
WISHES_SECONDS = 15.0
"""The same for wishes to cancel jobs."""
QUIET_SECONDS = 15.0
"""With --run-once: when nothing came for so long, all is taken."""
MAX_RETRY_SECONDS = 10.0
"""Longest time between two tries to speak with the API server, once it is away."""
KEEP_LEFTOVERS = timedelta(days=30)
"""How long is kept what belongs to jobs that nobody has come for."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What a standalone worker is told at its start."""

    url: str
    token: str
    token_file: Path | None = None
    """Where the token is from, and where there may be another one later; None: it was in the environment."""
    pools: tuple[str, ...]
    queues: tuple[WorkQueueRef, ...] | None = None
    name: str
    limit: int | None = None
    type: str | None = None
    run_once: bool = False
    healthcheck: tuple[str, int] | None = None
    drain_timeout_seconds: float | None = 30.0
    create_pool: bool = False
    home: Path
    heartbeat_seconds: float = 10.0
    certificates: str | None = None

    def __repr__(self) -> str:
        """Leave out the token."""
        return f"WorkerOptions(name={self.name!r}, url={self.url!r}, pools={self.pools!r})"


def run_standalone_worker(options: WorkerOptions) -> None:
    """Be a standalone worker until it is told to stop.

    :raises WorkpoolsError: if it can't begin, and trying again would not help.
    """
    from airflow_workpools.airflow_private.no_database import forbid_database

    forbid_database()
    use_execution_api_under(options.url)
    wait_for_execution_api()
    home = StandaloneHome(options.home, options.name)
    with home.locked():
        types = _first_contact(options)
        # Before there is a thread, an event loop or a connection.
        runner = ProcessRunner.fork() if "process" in types else None
        loop = asyncio.new_event_loop()
        loop.run_until_complete(_serve(options, home, runner))
    # Threads may still wait for an answer of the API server: they are not waited for.


# -- before it begins ---------------------------------------------------------------------------------------


def _client(options: WorkerOptions) -> HttpClient:
    return HttpClient(
        options.url,
        options.token,
        kinds=frozenset(kinds()) - unusable_kinds().keys(),
        pools=options.pools,
        queues=options.queues,
        token_file=options.token_file,
        verify=options.certificates or True,
    )


def _first_contact(options: WorkerOptions) -> set[str]:
    """Speak with the API server for the first time; return the types of the worker's pools.

    An API server that does not answer may be about to start: it is asked again. All else would stay as it is.

    :raises WorkpoolsError: if this worker can't serve these pools.
    """
    client, backoff, outages = _client(options), Backoff(maximum=MAX_RETRY_SECONDS), Outages()
    try:
        while True:
            try:
                pools = client.pools()
            except ApiNotThere:
                raise
            except ApiUnavailable as error:
                outages.fails(error)
                time.sleep(backoff.next())
            else:
                outages.works()
                break
        check_pools(options, pools, client.problems)
    finally:
        client.close()
    return {pool.type for pool in pools.values()}


def check_pools(options: WorkerOptions, pools: Mapping[str, WorkPool], problems: Mapping[str, str]) -> None:
    """Check that a worker can serve all of its pools.

    :param problems: which pools it can't serve, and why.
    :raises InvalidInput: with all that is in the way.
    """
    wrong = []
    for name in options.pools:
        pool = pools.get(name)
        if pool is None:
            wrong.append(_why_not_served(options, name, problems.get(name)))
        elif options.type is not None and pool.type != options.type:
            wrong.append(f"work pool '{name}' is of type '{pool.type}', not '{options.type}' as --type says")
    if wrong:
        raise InvalidInput(wrong)


def _why_not_served(options: WorkerOptions, name: str, problem: str | None) -> str:
    why = problem or "there is no such work pool, or this token is not for it"
    for kind, hint in unusable_kinds().items():
        if f"'{kind}'" in why:
            why = f"{why}: {hint}"
    said = f"work pool '{name}' can't be served: {why}"
    if options.create_pool:
        kind = options.type or "process"
        said += (
            ". A worker's token lets nobody create work pools; where Airflow's database can be reached, run: "
            f"airflow workpools create {name} --type {kind} --delivery pull"
        )
    return said


# -- while it works -----------------------------------------------------------------------------------------


def _record(options: WorkerOptions) -> WorkerRecord:
    from airflow_workpools import __version__

    now = datetime.now(timezone.utc)
    return WorkerRecord(
        id=uuid.uuid4(),
        name=options.name,
        hostname=socket.gethostname(),
        kind=WorkerKind.STANDALONE,
        pools=options.pools,
        queues=None if options.queues is None else tuple(map(str, options.queues)),
        slots=options.limit,
        started_at=now,
        last_heartbeat_at=now,
        heartbeat_seconds=options.heartbeat_seconds,
        version=__version__,
    )


def worker_times(options: WorkerOptions) -> WorkerTimes:
    """Return how often a standalone worker does what."""
    return WorkerTimes(
        heartbeat=options.heartbeat_seconds,
        claim=1.0 if options.run_once else CLAIM_SECONDS,
        wishes=WISHES_SECONDS,
        # Who is silent is dead after so many: to look with each would bring nothing more.
        heartbeats_per_take_over=MISSED_HEARTBEATS,
        max_retry=MAX_RETRY_SECONDS,
        settle=60.0 if options.run_once else WorkerTimes.settle,
    )


async def _serve(options: WorkerOptions, home: StandaloneHome, runner: ProcessRunner | None) -> None:
    from airflow_workpools.store.airflow_connections import (
        airflow_connections,
        backends_without_database,
        infrastructure_connection,
    )

    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(MAX_THREADS, "worker"))
    client, record = _client(options), _record(options)
    processes = ElsewhereProcessInfrastructure(home=home.path, connection=None, runner=runner)
    health = _health(options)
    worker = Worker(
        record=record,
        client=client,
        infrastructures={} if runner is None else {"process": processes},
        clock=lambda: datetime.now(timezone.utc),
        environ=dict(os.environ),
        connections=partial(airflow_connections, backends=backends_without_database),
        home=home.path,
        infrastructure_connection=partial(infrastructure_connection, backends=backends_without_database),
        infrastructure_class=_class_of,
        times=worker_times(options),
        limit=options.limit,
        journal=Journal(home.reports),
        on_pools=QueueCheck(options.queues or ()),
        on_heartbeat=health.beat if health is not None else _nothing,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _Stopper(worker, options).on_signal)
    if health is not None:
        log.info("Worker: its health is told at %s", await health.open())
    await _bury(home, record.id, client)
    await asyncio.to_thread(_sweep, processes, worker.journal)
    log.info(
        "Worker '%s' serves %s at %s%s",
        options.name,
        ", ".join(map(str, options.queues or options.pools)),
        options.url,
        "" if options.limit is None else f", at most {options.limit} jobs at a time",
    )
    once = asyncio.create_task(worker.drain_when_all_is_taken(QUIET_SECONDS)) if options.run_once else None
    await worker.run()
    if once is not None:
        once.cancel()
    if health is not None:
        health.close()
    log.info("Worker '%s' has ended; jobs that go on: %d", options.name, worker.job_count)
    if worker.refusal is not None:
        raise worker.refusal


def _class_of(kind: str) -> Any:
    """Return what runs jobs of a kind; those of kind process write where no log folder is read."""
    return ElsewhereProcessInfrastructure if kind == "process" else infrastructure_class(kind)


def _health(options: WorkerOptions) -> Healthcheck | None:
    if options.healthcheck is None:
        return None
    host, port = options.healthcheck
    return Healthcheck(host, port, options.heartbeat_seconds)


async def _bury(home: StandaloneHome, worker_id: uuid.UUID, client: HttpClient) -> None:
    """Say of earlier workers of this name that they are gone, so that this one has their jobs now."""
    left = home.earlier_ids()
    home.note_ids([*left, worker_id])
    for earlier in list(left):
        try:
            await asyncio.to_thread(client.stop, earlier, now=datetime.now(timezone.utc))
        except NotFound:
            pass
        except WorkpoolsError as error:
            log.info("Worker: could not say that an earlier worker of this name is gone: %s", error)
            continue
        left.remove(earlier)
    home.note_ids([*left, worker_id])


def _sweep(processes: ElsewhereProcessInfrastructure, journal: Journal | None) -> None:
    """Remove what is left of jobs that ended long ago."""
    now = datetime.now(timezone.utc)
    with contextlib.suppress(OSError):
        processes.sweep((), older_than=KEEP_LEFTOVERS, now=now)
    if journal is not None:
        journal.sweep(older_than=KEEP_LEFTOVERS, now=now)


@dataclass
class _Stopper:
    """The first signal lets the worker drain, the second stops it."""

    worker: Worker
    options: WorkerOptions
    _asked: bool = False

    def on_signal(self) -> None:
        if self._asked:
            log.info("Worker: stops now; jobs that run go on")
            self.worker.stop()
            return
        self._asked = True
        self.worker.drain(self.options.drain_timeout_seconds)


@dataclass
class QueueCheck:
    """Tells once of each work queue that a worker was named for and that does not exist, and when it does."""

    queues: Collection[WorkQueueRef]
    _missing: frozenset[WorkQueueRef] = frozenset()

    def __call__(self, pools: Mapping[str, WorkPool]) -> None:
        missing = frozenset(
            ref for ref in self.queues if ref.pool in pools and pools[ref.pool].find_queue(ref.queue) is None
        )
        for ref in sorted(missing - self._missing, key=str):
            there_are = ", ".join(queue.name for queue in pools[ref.pool].queues)
            log.warning(
                "Worker: there is no work queue '%s' (work pool '%s' has: %s); it goes on looking",
                ref,
                ref.pool,
                there_are,
            )
        for ref in sorted(self._missing - missing, key=str):
            log.info("Worker: there is a work queue '%s' now", ref)
        self._missing = missing


def _nothing() -> None:
    pass
