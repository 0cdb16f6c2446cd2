# SPDX-License-Identifier: Apache-2.0
"""The worker: claim, launch, observe, report, stop. A few named tasks under one roof.

===============  =======================================================================================
task             does
===============  =======================================================================================
``heartbeat``    says that the worker is alive, and what it can't use; adopts what dead workers left behind
``claim``        takes jobs and launches them; woken by :meth:`Worker.look_now`, else every claim interval
``wishes``       asks which jobs shall be cancelled, and has them stopped
``renewal``      lets the start timeouts of jobs that are held back begin anew
``connections``  looks whether connections of infrastructures have changed
``report``       tells the store what happened, in batches, and repeats until it is told
``sweep``        removes what dead workers have left on infrastructures of jobs that are over
``logs``         sends the store what jobs write, where Airflow's log folder does not have it
===============  =======================================================================================

Beside them each infrastructure has a task that opens it and looks at its jobs; see ``sites`` and ``watching``.

What is known of a job is kept until the store has accepted it; the store may be away for any time. A
failure in one task is logged and tried again with back-off: it never cancels a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.core.pools import DEFAULT_START_ATTEMPTS
from airflow_workpools.errors import NotFound
from airflow_workpools.infrastructure.registry import infrastructure_class
from airflow_workpools.store.records import WorkerState
from airflow_workpools.worker.launcher import Launcher, ReadConnections
from airflow_workpools.worker.log_shipper import LogShipper, LogTimes
from airflow_workpools.worker.outbox import Outbox
from airflow_workpools.worker.recovery import Recovery
from airflow_workpools.worker.renewal import Renewal
from airflow_workpools.worker.sites import Leftover, ReadConnection, Site, SiteKey, Sites
from airflow_workpools.worker.sweeping import Sweeper
from airflow_workpools.worker.waiting import wait_for
from airflow_workpools.worker.watching import Watcher
from airflow_workpools.worker.wishes import Wishes

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from airflow_workpools.infrastructure.base import Infrastructure
    from airflow_workpools.store.records import ClaimedJob, Report, WorkerRecord
    from airflow_workpools.worker.client import WorkerClient
    from airflow_workpools.worker.tracking import Sought, Tracked

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]


@dataclass(frozen=True, kw_only=True)
class WorkerTimes:
    """How often a worker does what, in seconds."""

    heartbeat: float = 10.0
    claim: float = 1.0
    """At the latest after this time it looks for work, even when nobody called :meth:`Worker.look_now`."""
    observe: float = 5.0
    """At the latest after this time it looks at its jobs, even when the infrastructure told of no change."""
    wishes: float = 1.0
    launch_patience: float = 5.0
    """A launch that is under way, of a job that is not wanted any more, may still take so long."""
    renewal: float = 1.0
    connections: float = 30.0
    """So often it looks whether connections of infrastructures have changed."""
    sweep: float = 300.0
    sweep_grace: float = 900.0
    """So long after its end nobody but its worker removes a job: longer than its log may take to be fetched."""
    settle: float = 1.0
    """So long it waits for its infrastructures before it comes online without those that are not there yet."""
    last_cleanup: float = 5.0
    report_delay: float = 0.05
    """Ends of jobs are collected this long and told together: slots wait for them."""
    progress_delay: float = 0.5
    """What else there is to tell may wait this long for an end to be told with; a job that ends sooner is written once.
    """
    max_retry: float = 30.0
    logs: LogTimes = field(default_factory=LogTimes)


@dataclass
class Worker:
    """Claims jobs of pools, launches them on infrastructure, and watches them to their end.

    :param infrastructures: those that are there already, by kind; others are made when a pool needs them.
    :param clock: tells the time; nothing else here does.
    """

    record: WorkerRecord
    client: WorkerClient
    infrastructures: Mapping[str, Infrastructure]
    clock: Clock
    environ: Mapping[str, str]
    connections: ReadConnections = lambda _: {}
    """Reads Airflow connections for base job templates."""
    home: Path | None = None
    """Folder for files of infrastructures."""
    infrastructure_connection: ReadConnection = lambda _: {}
    """Reads the Airflow connection of an infrastructure."""
    infrastructure_class: Callable[[str], Any] = infrastructure_class
    times: WorkerTimes = field(default_factory=WorkerTimes)
    keep_time: Callable[[], None] = lambda: None
    """Called in a thread with each heartbeat: sets the clock right, if it needs that."""
    may_judge: Callable[[], bool] = lambda: True
    """Says whether others may be taken for dead: not while times can't be compared, because the clock has jumped."""
    on_ended: Callable[[], None] = lambda: None
    """Called when the ends of jobs have been stored, so that nobody has to ask for them all the time."""

    def __post_init__(self) -> None:
        self._tracked: dict[UUID, Tracked] = {}
        self._look_now = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._stop = asyncio.Event()
        self._logs = LogShipper(
            worker_id=self.record.id,
            client=self.client,
            tracked=self._tracked,
            clock=self.clock,
            times=self.times.logs,
        )
        self._outbox = Outbox(
            record=self.record,
            client=self.client,
            clock=self.clock,
            on_ended=self._on_ended,
            remove=self._remove,
        )
        self._sites = Sites(
            given=self.infrastructures,
            home=self.home,
            connection=self.infrastructure_connection,
            class_of=self.infrastructure_class,
            look=self._look_at,
            in_use=self._in_use,
            on_change=self._on_change,
            max_retry=self.times.max_retry,
        )
        self._launcher = Launcher(
            sites=self._sites,
            worker_name=self.record.name,
            environ=self.environ,
            connections=self.connections,
            tracked=self._tracked,
            clock=self.clock,
            tell=self._outbox.tell,
            on_lost=self._on_lost,
            on_room=self._look_now.set,
            on_failure=lambda: self._recovery.be_unsure(),
        )
        self._recovery = Recovery(
            record=self.record,
            client=self.client,
            sites=self._sites,
            clock=self.clock,
            tracked=self._tracked,
            tell=self._outbox.tell,
            known=self._known,
            start_attempts=self._start_attempts,
            launch=lambda jobs: self._launcher.begin(jobs, self._sites.pools),
        )
        self._watcher = Watcher(
            tracked=self._tracked,
            recovery=self._recovery,
            tell=self._outbox.tell,
            tell_last=self._tell_last,
            clock=self.clock,
            observe_seconds=self.times.observe,
            start_attempts=self._start_attempts,
            give_back=lambda job, reason: self._recovery.give_back([job], reason),
        )
        self._wishes = Wishes(
            record=self.record,
            client=self.client,
            tracked=self._tracked,
            launcher=self._launcher,
            launch_patience=self.times.launch_patience,
        )
        self._sweeper = Sweeper(
            sites=self._sites,
            client=self.client,
            clock=self.clock,
            known=self._known,
            grace=timedelta(seconds=self.times.sweep_grace),
        )
        self._renewal = Renewal(
            record=self.record,
            client=self.client,
            clock=self.clock,
            tracked=self._tracked,
            sought=self._recovery.sought,
        )

    # -- how the parts hang together ------------------------------------------------------------------------

    def _known(self) -> set[UUID]:
        left = {id_ for site in self._sites for id_ in site.leftovers}
        return {
            *self._tracked,
            *self._recovery.sought,
            *self._launcher.job_ids,
            *self._outbox.job_ids,
            *self._logs.job_ids,
            *left,
        }

    def _in_use(self, site: Site) -> bool:
        mine: list[Tracked | Sought] = [
            *self._tracked.values(),
            *self._outbox.ending(),
            *self._logs.ending(),
        ]
        mine += self._recovery.sought.values()
        return any(one.site is site for one in mine)

    def _start_attempts(self, job: ClaimedJob) -> int:
        pool = self._sites.pools.get(job.ref.pool)
        return DEFAULT_START_ATTEMPTS if pool is None else pool.start_attempts

    async def _look_at(self, site: Site) -> None:
        await self._watcher.look(site)

    def _on_lost(self, job: ClaimedJob, site: Site, reason: str) -> None:
        self._recovery.seek_later(job, site, reason, launched_here=True)

    def _tell_last(self, tracked: Tracked, report: Report) -> None:
        """Have told what makes an end of what is on the infrastructure, as soon as its log is stored."""
        self._logs.at_end(tracked, partial(self._outbox.tell_last, tracked, report))

    def _remove(self, tracked: Tracked, leftover: Leftover) -> None:
        """Have what is left of a job removed, as soon as its log is stored."""
        self._logs.when_stored(tracked.job.id, partial(tracked.site.remove, leftover))

    def _on_change(self) -> None:
        """What the worker can use has changed: the others are told at once."""
        self._beat_now.set()
        self._look_now.set()

    def _on_ended(self) -> None:
        self.on_ended()
        self._look_now.set()  # slots have become free

    # -- from outside ---------------------------------------------------------------------------------------

    def is_open(self, kind: str) -> bool:
        """Say whether an infrastructure that was there already has been opened."""
        return any(site.key == SiteKey(kind) and site.is_open for site in self._sites)

    def look_now(self) -> None:
        """Look for work at once: someone knows that there is some."""
        self._look_now.set()

    def stop(self) -> None:
        """Claim no more and end; jobs that run go on running, and the next worker adopts them."""
        self._stop.set()

    async def run(self) -> None:
        """Work until :meth:`stop` is called."""
        await self._come_online()
        tasks = [
            asyncio.create_task(self._guard(name, step), name=name)
            for name, step in (
                ("heartbeat", self._heartbeat),
                ("claim", self._claim),
                ("wishes", self._look_at_wishes),
                ("renewal", self._renew),
                ("connections", self._look_at_connections),
                ("sweep", self._sweep),
                ("report", self._report),
                ("logs", self._logs.step),
            )
        ]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._launcher.close()
        await self._wishes.close()
        await self._logs.close()
        await self._leave()

    async def _come_online(self) -> None:
        """Say that the worker is there, and of which pools it can launch the jobs so far."""
        await self._persist("learn which Airflow this is", self._learn_whose)
        await self._persist("read the work pools", self._serve)
        await self._sites.settle(self.times.settle)

        async def register() -> None:
            await asyncio.to_thread(self.client.register, self._record(), now=self.clock())

        await self._persist("come online", register)

    async def _learn_whose(self) -> None:
        installation = str(await asyncio.to_thread(self.client.installation))
        self._launcher.installation = self._sweeper.installation = installation

    async def _serve(self) -> None:
        self._sites.serve(await asyncio.to_thread(self.client.pools))

    def _record(self) -> WorkerRecord:
        return replace(self.record, hindered=self._sites.problems)

    async def _leave(self) -> None:
        with contextlib.suppress(Exception):
            await self._outbox.flush()
        for site in list(self._sites):
            with contextlib.suppress(Exception):
                await self._watcher.clean_up_at_last(site, seconds=self.times.last_cleanup)
        with contextlib.suppress(Exception):
            await asyncio.to_thread(self.client.stop, self.record.id, now=self.clock())
        await self._sites.close()

    # -- the roof -------------------------------------------------------------------------------------------

    async def _guard(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat a step for ever; a failure is logged and the step tried again after a growing delay."""
        backoff = Backoff(maximum=self.times.max_retry)
        while not self._stop.is_set():
            try:
                await step()
                backoff.reset()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                delay = backoff.next()
                log.warning(
                    "Worker: %s failed, trying again in %.1f s: %s", name, delay, error, exc_info=True
                )
                await asyncio.sleep(delay)

    async def _persist(self, what: str, call: Callable[[], Awaitable[None]]) -> None:
        """Do something that must be done before anything else can go on, however long it takes."""
        backoff = Backoff(maximum=self.times.max_retry)
        while not self._stop.is_set():
            try:
                return await call()
            except Exception as error:
                delay = backoff.next()
                log.warning("Worker: could not %s, trying again in %.1f s: %s", what, delay, error)
                await wait_for(self._stop, delay)
        return None

    # -- steps ----------------------------------------------------------------------------------------------

    async def _heartbeat(self) -> None:
        # Cleared before the heartbeat, so that a change during it causes another one.
        self._beat_now.clear()
        try:
            await asyncio.to_thread(self.keep_time)
            state = await asyncio.to_thread(
                self.client.heartbeat, self.record.id, hindered=self._sites.problems, now=self.clock()
            )
        except NotFound:
            state = WorkerState.STOPPED
        if state is WorkerState.STOPPED:
            await self._come_back()
        if self.may_judge():
            await self._recovery.take_over()
        await wait_for(self._beat_now, self.times.heartbeat)

    async def _come_back(self) -> None:
        """Come online again after a silence for which others took this worker for dead, and maybe its jobs."""
        log.warning("Worker: was silent for so long that it was taken for dead; coming online again")
        await asyncio.to_thread(self.client.register, self._record(), now=self.clock())
        await self._recovery.forget_what_others_have()

    async def _claim(self) -> None:
        # Cleared before the look, so that a call during the look causes another one.
        self._look_now.clear()
        await self._serve()
        await self._recovery.find_lost()
        jobs: list[ClaimedJob] = []
        for room in self._room():
            async with self._recovery.unsure_if_it_fails():
                # No more than fits, wherever they are for.
                some = await asyncio.to_thread(
                    self.client.claim,
                    self.record.id,
                    most=min(room.values()),
                    pools=list(room),
                    now=self.clock(),
                )
                if some:
                    self._launcher.begin(some, await asyncio.to_thread(self.client.pools))
                jobs += some
        if not jobs:
            await wait_for(self._look_now, self.times.claim)

    def _room(self) -> list[dict[str, int]]:
        """Return the pools from which jobs may be claimed now, and how many their sites have room for.

        Those that are claimed together have sites of as many places, so that a small one does not slow down the rest.
        """
        together: dict[int, dict[str, int]] = {}
        for name in self._sites.usable():
            site = self._sites.of_pool(name)
            if site is not None and (room := self._launcher.room(site)):
                together.setdefault(site.launch_places, {})[name] = room
        return list(together.values())

    async def _look_at_wishes(self) -> None:
        await asyncio.sleep(self.times.wishes)
        await self._wishes.look()

    async def _renew(self) -> None:
        await asyncio.sleep(self.times.renewal)
        await self._renewal.look()

    async def _look_at_connections(self) -> None:
        await asyncio.sleep(self.times.connections)
        await self._sites.look_at_connections()

    async def _sweep(self) -> None:
        await asyncio.sleep(self.times.sweep)
        if self.may_judge():
            await self._sweeper.sweep()

    async def _report(self) -> None:
        await self._outbox.step(progress_delay=self.times.progress_delay, delay=self.times.report_delay)
