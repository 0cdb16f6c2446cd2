# SPDX-License-Identifier: Apache-2.0
"""The worker: claim, launch, observe, report, stop. A few named tasks under one roof.

=============  =========================================================================================
task           does
=============  =========================================================================================
``heartbeat``  says that the worker is alive; adopts what dead workers of this host left behind
``claim``      takes jobs and launches them; woken by :meth:`Worker.look_now`, else every claim interval
``observe``    one per kind of infrastructure: looks when something changed, reports ends
``wishes``     asks which jobs shall be cancelled, and stops them
``report``     tells the store what happened, in batches, and repeats until it is told
=============  =========================================================================================

What is known of a job is kept until the store has accepted it; the store may be away for any time. A
failure in one task is logged and tried again with back-off: it never cancels a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.core.jobs import ENDED
from airflow_workpools.errors import InfrastructureUnavailable, NotFound
from airflow_workpools.infrastructure.base import MayBeHindered, Phase
from airflow_workpools.store.records import WorkerState
from airflow_workpools.worker import reports
from airflow_workpools.worker.launcher import Launcher, ReadConnections
from airflow_workpools.worker.recovery import Recovery
from airflow_workpools.worker.waiting import at_most, wait_for

if TYPE_CHECKING:
    from uuid import UUID

    from airflow_workpools.infrastructure.base import Infrastructure
    from airflow_workpools.store.records import ClaimedJob, Report, WorkerRecord
    from airflow_workpools.worker.client import WorkerClient
    from airflow_workpools.worker.tracking import Tracked

log = logging.getLogger(__name__)
T = TypeVar("T")

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
    report_delay: float = 0.05
    """Ends of jobs are collected this long and told together: slots wait for them."""
    progress_delay: float = 0.5
    """What else there is to tell may wait this long for an end to be told with; a job that ends sooner is written once.
    """
    max_retry: float = 30.0


@dataclass
class Worker:
    """Claims jobs of pools, launches them on infrastructure, and watches them to their end.

    :param clock: tells the time; nothing else here does.
    """

    record: WorkerRecord
    client: WorkerClient
    infrastructures: Mapping[str, Infrastructure]
    clock: Clock
    environ: Mapping[str, str]
    connections: ReadConnections = lambda _: {}
    """Reads Airflow connections for base job templates."""
    times: WorkerTimes = field(default_factory=WorkerTimes)
    launches_in_flight: int = 16
    """Most jobs that are being launched at a time, and so most that are claimed at a time: what is claimed is out
    of the reach of priorities."""
    keep_time: Callable[[], None] = lambda: None
    """Called in a thread with each heartbeat: sets the clock right, if it needs that."""
    may_judge: Callable[[], bool] = lambda: True
    """Says whether others may be taken for dead: not while times can't be compared, because the clock has jumped."""
    on_ended: Callable[[], None] = lambda: None
    """Called when the ends of jobs have been stored, so that nobody has to ask for them all the time."""

    def __post_init__(self) -> None:
        self._tracked: dict[UUID, Tracked] = {}
        self._reports: list[Report] = []
        self._look_now = asyncio.Event()
        self._hindrance: str | None = None
        self._to_tell = asyncio.Event()
        self._end_to_tell = asyncio.Event()
        self._stop = asyncio.Event()
        self._recovery = Recovery(
            record=self.record,
            client=self.client,
            infrastructures=self.infrastructures,
            clock=self.clock,
            tracked=self._tracked,
            tell=self._tell,
            known=self._known,
        )
        self._launcher = Launcher(
            infrastructures=self.infrastructures,
            worker_name=self.record.name,
            environ=self.environ,
            connections=self.connections,
            in_flight=self.launches_in_flight,
            tracked=self._tracked,
            clock=self.clock,
            tell=self._tell,
            give_back=lambda job, reason: self._recovery.give_back([job], reason),
            on_room=self._look_now.set,
            on_failure=self._recovery.be_unsure,
        )

    def _known(self) -> set[UUID]:
        reported = {report.job_id for report in self._reports}
        return self._tracked.keys() | self._launcher.job_ids | reported

    # -- from outside ---------------------------------------------------------------------------------------

    def look_now(self) -> None:
        """Look for work at once: someone knows that there is some."""
        self._look_now.set()

    def stop(self) -> None:
        """Claim no more and end; jobs that run go on running, and the next worker adopts them."""
        self._stop.set()

    async def run(self) -> None:
        """Work until :meth:`stop` is called."""
        for infrastructure in self.infrastructures.values():
            await self._open(infrastructure)
        await self._persist("come online", lambda: self.client.register(self.record, now=self.clock()))
        tasks = [
            asyncio.create_task(self._guard(name, step), name=name)
            for name, step in (
                ("heartbeat", self._heartbeat),
                ("claim", self._claim),
                ("wishes", self._wishes),
                ("report", self._report),
                *(
                    (f"observe {kind}", lambda kind=kind: self._observe(kind))
                    for kind in self.infrastructures
                ),
            )
        ]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._launcher.close()
        await self._leave()

    async def _open(self, infrastructure: Infrastructure) -> None:
        """Wait until an infrastructure can be used. Until then the worker is not online, and tasks wait in Airflow."""
        backoff = Backoff(maximum=self.times.max_retry)
        while not self._stop.is_set():
            try:
                return await infrastructure.open()
            except InfrastructureUnavailable as error:
                delay = backoff.next()
                log.error(
                    "Worker: %s can't be used, trying again in %.1f s: %s", infrastructure.kind, delay, error
                )
                await wait_for(self._stop, delay)
        return None

    async def _leave(self) -> None:
        with contextlib.suppress(Exception):
            await self._flush()
        with contextlib.suppress(Exception):
            await asyncio.to_thread(self.client.stop, self.record.id, now=self.clock())
        for infrastructure in self.infrastructures.values():
            with contextlib.suppress(Exception):
                await infrastructure.close()

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

    async def _persist(self, what: str, call: Callable[[], None]) -> None:
        """Do something that must be done before anything else can go on, however long it takes."""
        backoff = Backoff(maximum=self.times.max_retry)
        while not self._stop.is_set():
            try:
                return await asyncio.to_thread(call)
            except Exception as error:
                delay = backoff.next()
                log.warning("Worker: could not %s, trying again in %.1f s: %s", what, delay, error)
                await wait_for(self._stop, delay)
        return None

    # -- heartbeat ------------------------------------------------------------------------------------------

    async def _heartbeat(self) -> None:
        try:
            await asyncio.to_thread(self.keep_time)
            state = await asyncio.to_thread(self.client.heartbeat, self.record.id, now=self.clock())
        except NotFound:
            state = WorkerState.STOPPED
        if state is WorkerState.STOPPED:
            await self._come_back()
        if self.may_judge():
            await self._recovery.take_over()
        await asyncio.sleep(self.times.heartbeat)

    async def _come_back(self) -> None:
        """Come online again after a silence for which others took this worker for dead, and maybe its jobs."""
        log.warning("Worker: was silent for so long that it was taken for dead; coming online again")
        await asyncio.to_thread(self.client.register, self.record, now=self.clock())
        await self._recovery.forget_what_others_have()

    # -- claim ----------------------------------------------------------------------------------------------

    async def _claim(self) -> None:
        # Cleared before the look, so that a call during the look causes another one.
        self._look_now.clear()
        await self._recovery.find_lost()
        jobs: list[ClaimedJob] = []
        if (room := self._launcher.room) and not self._is_hindered():
            async with self._recovery.unsure_if_it_fails():
                jobs = await asyncio.to_thread(self.client.claim, self.record.id, most=room, now=self.clock())
                if jobs:
                    self._launcher.begin(jobs, await asyncio.to_thread(self.client.pools))
        if not jobs:
            await wait_for(self._look_now, self.times.claim)

    def _is_hindered(self) -> bool:
        """Say whether nothing that is claimed could be launched now, and tell people why."""
        known = [
            one.hindrance() if isinstance(one, MayBeHindered) else None
            for one in self.infrastructures.values()
        ]
        reason = "; ".join(one for one in known if one) if known and all(known) else None
        if reason != self._hindrance:
            if reason:
                log.error("Worker: claims no job, all wait: %s", reason)
            else:
                log.info("Worker: claims jobs again")
            self._hindrance = reason
        return reason is not None

    # -- observe --------------------------------------------------------------------------------------------

    async def _observe(self, kind: str) -> None:
        infrastructure = self.infrastructures[kind]
        await at_most(infrastructure.wait_for_change(), self.times.observe)
        watched = {
            id_: tracked for id_, tracked in self._tracked.items() if tracked.kind == kind and tracked.handle
        }
        if not watched:
            return
        seen = await infrastructure.observe(
            [tracked.handle for tracked in watched.values() if tracked.handle]
        )
        for id_, observation in seen.items():
            tracked = watched[id_]
            report = reports.report_of(
                id_, observation, handle=tracked.handle, cancel_reason=tracked.cancel_reason
            )
            if report is not None:
                self._tracked.pop(id_, None)
                self._tell(reports.of_claim(tracked.job, report))
            elif observation.phase is Phase.RUNNING and not tracked.running and tracked.handle:
                tracked.running = True
                told = reports.launched(tracked.handle, running=True, now=self.clock())
                self._tell(reports.of_claim(tracked.job, told))

    # -- wishes ---------------------------------------------------------------------------------------------

    async def _wishes(self) -> None:
        await asyncio.sleep(self.times.wishes)
        if not self._tracked:
            return
        for id_, reason in await asyncio.to_thread(self.client.wishes, self.record.id):
            tracked = self._tracked.get(id_)
            if tracked is not None and not tracked.stopping and tracked.handle is not None:
                tracked.cancel_reason = reason or "cancelled"
                tracked.stopping = True
                await self._stop_job(tracked)

    async def _stop_job(self, tracked: Tracked) -> None:
        assert tracked.handle is not None
        grace = tracked.handle.data.get("stop_grace_seconds", 30)
        try:
            await self.infrastructures[tracked.kind].stop(tracked.handle, grace_seconds=float(grace))
        except InfrastructureUnavailable:
            tracked.stopping = False
            raise

    # -- report ---------------------------------------------------------------------------------------------

    def _tell(self, report: Report) -> None:
        self._reports.append(report)
        self._to_tell.set()
        if report.state in ENDED:
            self._end_to_tell.set()

    async def _report(self) -> None:
        await self._to_tell.wait()
        await wait_for(self._end_to_tell, self.times.progress_delay)
        await asyncio.sleep(self.times.report_delay)
        await self._flush()

    async def _flush(self) -> None:
        """Tell everything that is to be told; what the store did not take stays to be told again."""
        told = list(self._reports)
        if not told:
            self._to_tell.clear()
            self._end_to_tell.clear()
            return
        batch = reports.merge(told)
        outcomes = await asyncio.to_thread(self.client.report, self.record.id, batch, now=self.clock())
        del self._reports[: len(told)]
        if not self._reports:
            self._to_tell.clear()
        if not any(report.state in ENDED for report in self._reports):
            self._end_to_tell.clear()
        ended = [report for report in batch if report.state in ENDED]
        if ended:
            self.on_ended()
            self._look_now.set()  # slots have become free
            # What another worker has taken over is for that one to look at, and to remove.
            ours = {outcome.job_id for outcome in outcomes if outcome.state is not None}
            await self._clean_up([report for report in ended if report.job_id in ours])

    async def _clean_up(self, ended: list[Report]) -> None:
        for report in ended:
            if report.handle is not None and report.handle.kind in self.infrastructures:
                await self.infrastructures[report.handle.kind].cleanup(report.handle)
