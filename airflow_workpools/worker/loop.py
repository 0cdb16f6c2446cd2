# SPDX-License-Identifier: Apache-2.0
"""The worker: claim, launch, observe, report, stop. A few named tasks under one roof.

===============  =======================================================================================
task             does
===============  =======================================================================================
``heartbeat``    says that the worker is alive, and what it can't use; adopts what dead workers left behind
``claim``        takes jobs and launches them; woken by :meth:`Worker.look_now`, else every claim interval
``listen``       waits for news of work and of wishes, where the client can wait
``wishes``       asks which jobs shall be cancelled, and has them stopped
``renewal``      lets the start timeouts of jobs that are held back begin anew
``connections``  looks whether connections of infrastructures have changed
``report``       tells the store what happened, in batches, and repeats until it is told
``sweep``        removes what dead workers have left on infrastructures of jobs that are over
``logs``         sends the store what jobs write, where Airflow's log folder does not have it
===============  =======================================================================================

Beside them each infrastructure has a task that opens it and looks at its jobs; see ``sites`` and ``watching``. What is
known of a job is kept until the store has accepted it; the store may be away for any time. A failure in one task is
logged and tried again with back-off: it never cancels a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.pools import DEFAULT_START_ATTEMPTS
from airflow_workpools.infrastructure.registry import infrastructure_class
from airflow_workpools.store.records import WorkerState
from airflow_workpools.worker.claiming import Claiming
from airflow_workpools.worker.draining import stop_when_idle, until_all_is_taken
from airflow_workpools.worker.heartbeats import Heartbeats
from airflow_workpools.worker.launcher import Launcher, ReadConnections
from airflow_workpools.worker.log_shipper import LogShipper
from airflow_workpools.worker.outbox import Outbox
from airflow_workpools.worker.recovery import Recovery
from airflow_workpools.worker.renewal import Renewal
from airflow_workpools.worker.roof import Roof
from airflow_workpools.worker.sites import Leftover, ReadConnection, Site, SiteKey, Sites
from airflow_workpools.worker.sweeping import Sweeper
from airflow_workpools.worker.times import WorkerTimes
from airflow_workpools.worker.watching import Watcher
from airflow_workpools.worker.wishes import Wishes

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.errors import WorkpoolsError
    from airflow_workpools.infrastructure.base import Infrastructure
    from airflow_workpools.store.records import ClaimedJob, Report, WorkerRecord
    from airflow_workpools.worker.client import WorkerClient
    from airflow_workpools.worker.journal import Journal
    from airflow_workpools.worker.tracking import Sought, Tracked

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]


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
    limit: int | None = None
    """Most jobs that it has at a time; None: no limit of its own."""
    journal: Journal | None = None
    """Keeps on disk what can't be told while the store is away."""
    on_pools: Callable[[Mapping[str, WorkPool]], None] = lambda _: None
    """Called with the work pools that it serves, each time it has read them."""
    on_heartbeat: Callable[[], None] = lambda: None
    """Called when the store has taken a heartbeat."""
    on_ended: Callable[[Collection[UUID]], None] = lambda _: None
    """Called with the ids of task instances when the ends of their jobs have been stored, so that nobody has to ask for
    them all the time. Of some ends it is not known here whose they are."""

    def __post_init__(self) -> None:
        self._tracked: dict[UUID, Tracked] = {}
        self._draining: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._roof = Roof(
            self._stop,
            max_retry=self.times.max_retry,
            may_end=lambda: not (self._tracked or self._recovery.sought or self._launcher.job_ids),
            on_unknown=lambda: self._heartbeats.beat_now.set(),
        )
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
            journal=self.journal,
        )
        self._sites = Sites(
            given=self.infrastructures,
            home=self.home,
            connection=self.infrastructure_connection,
            class_of=self.infrastructure_class,
            look=lambda site: self._watcher.look(site),
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
            on_room=lambda: self._claiming.look(),
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
            being_launched=lambda: self._launcher.job_ids,
            kept=self._kept,
            note_kept=self._outbox.note_kept,
            on_unsure=lambda: self._claiming.look(),
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
            look_seconds=self.times.stops,
            ask_seconds=self.times.wishes,
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

        self._claiming = Claiming(
            record=self.record,
            client=self.client,
            sites=self._sites,
            launcher=self._launcher,
            recovery=self._recovery,
            clock=self.clock,
            held=lambda: len(self._held()),
            limit=self.limit,
            serve=self._serve,
            pause_seconds=lambda: self.times.claim,
            heard=lambda: [id_ for id_, one in self._tracked.items() if one.cancel_reason is not None],
            on_wish=self._wishes.ask_now.set,
        )
        self._heartbeats = Heartbeats(
            record=self.record,
            client=self.client,
            clock=self.clock,
            recovery=self._recovery,
            seconds=self.times.heartbeat,
            per_take_over=self.times.heartbeats_per_take_over,
            hindered=self._hindered,
            register=self._register,
            keep_time=lambda: self.keep_time(),
            may_judge=lambda: self.may_judge(),
            on_taken=self._on_heartbeat,
            on_state=lambda state: self._claiming.drained(state is WorkerState.DRAINING),
            installation=lambda: self._launcher.installation,
        )

    # -- how the parts hang together ------------------------------------------------------------------------

    def _held(self) -> set[UUID]:
        """Jobs whose end the store does not know."""
        return {
            *self._tracked,
            *self._recovery.sought,
            *self._launcher.job_ids,
            *self._outbox.job_ids,
            *self._logs.job_ids,
        }

    def _known(self) -> set[UUID]:
        return self._held() | {id_ for site in self._sites for id_ in site.leftovers}

    def _kept(self, job: ClaimedJob) -> Report | None:
        return None if self.journal is None else self.journal.kept(job.id, job.start_attempts)

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
        self._heartbeats.beat_now.set()
        self._claiming.look()

    def _on_heartbeat(self) -> None:
        self._roof.outages.works()
        self.on_heartbeat()

    def _on_ended(self, task_instance_ids: Collection[UUID]) -> None:
        self.on_ended(task_instance_ids)
        self._claiming.look()  # slots have become free

    # -- from outside ---------------------------------------------------------------------------------------

    def is_open(self, kind: str) -> bool:
        """Say whether an infrastructure that was there already has been opened."""
        return any(site.key == SiteKey(kind) and site.is_open for site in self._sites)

    def look_now(self) -> None:
        """Look for work at once: someone knows that there is some."""
        self._claiming.look()

    @property
    def refusal(self) -> WorkpoolsError | None:
        """Why the worker has ended by itself, if it has."""
        return self._roof.refusal

    @property
    def job_count(self) -> int:
        """How many jobs the worker has."""
        return len(self._held())

    def drain(self, timeout_seconds: float | None = None) -> None:
        """Claim no more, look after the jobs that there are, and stop when they are gone.

        :param timeout_seconds: stop after this time in any case; None: however long they take.
        """
        self._claiming.is_over = True
        self._heartbeats.beat_now.set()  # so that no more work is meant for it
        if self._draining is None:
            ending = stop_when_idle(self, timeout_seconds, look_seconds=self.times.drain_look)
            self._draining = asyncio.create_task(ending, name="drain")

    async def drain_when_all_is_taken(self, quiet_seconds: float) -> None:
        """Claim what there is now, wait for those jobs, and stop.

        :param quiet_seconds: all is taken when nothing came for so long: what waits in Airflow itself for a worker
            that is online is handed over only now.
        """
        await until_all_is_taken(self._claiming, quiet_seconds)
        self.drain()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to be done for any job."""
        return not self._known()

    def stop(self) -> None:
        """Claim no more and end; jobs that run go on running, and the next worker adopts them."""
        self._stop.set()

    async def run(self) -> None:
        """Work until :meth:`stop` is called."""
        await self._come_online()
        tasks = [
            asyncio.create_task(self._roof.guard(name, step), name=name)
            for name, step in (
                ("heartbeat", self._heartbeats.step),
                ("claim", self._claiming.step),
                ("listen", self._claiming.listen),
                ("wishes", self._wishes.step),
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
        if self._draining is not None:
            self._draining.cancel()
        await self._launcher.close()
        await self._wishes.close()
        await self._logs.close()
        await self._leave()

    async def _come_online(self) -> None:
        """Say that the worker is there, and of which pools it can launch the jobs so far."""
        await self._roof.persist("learn which Airflow this is", self._learn_whose)
        await self._roof.persist("read the work pools", self._serve)
        await self._sites.settle(self.times.settle)
        await self._roof.persist("come online", self._register)

    async def _register(self) -> None:
        record = replace(self.record, hindered=self._hindered())
        await asyncio.to_thread(self.client.register, record, now=self.clock())

    async def _learn_whose(self) -> None:
        installation = str(await asyncio.to_thread(self.client.installation))
        self._launcher.installation = self._sweeper.installation = installation

    async def _serve(self) -> None:
        pools = await asyncio.to_thread(self.client.pools)
        self.on_pools(pools)
        self._sites.serve(pools)

    def _hindered(self) -> Mapping[str, str]:
        if self._claiming.is_over:
            return dict.fromkeys(self._sites.pools, f"worker {self.record.name} is about to end")
        return self._sites.problems

    async def _leave(self) -> None:
        with contextlib.suppress(Exception):
            await self._outbox.flush()
        for site in list(self._sites):
            with contextlib.suppress(Exception):
                await self._watcher.clean_up_at_last(site, seconds=self.times.last_cleanup)
        with contextlib.suppress(Exception):
            await asyncio.to_thread(self.client.stop, self.record.id, now=self.clock())
        await self._sites.close()

    # -- steps ----------------------------------------------------------------------------------------------

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
