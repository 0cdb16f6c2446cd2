# SPDX-License-Identifier: Apache-2.0
"""One look at what goes on at a site: which jobs have ended, run, or wait, and why; and what is to be done there.

Only this speaks with an infrastructure, but for launching and stopping, so one that does not answer keeps waiting
whatever waits for it, and nothing else.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_workpools.core.jobs import HELD_BY_PLATFORM
from airflow_workpools.infrastructure.base import CanRenew, Phase
from airflow_workpools.worker import reports
from airflow_workpools.worker.waiting import at_most

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.infrastructure.base import Observation
    from airflow_workpools.store.records import ClaimedJob, Report
    from airflow_workpools.worker.recovery import Recovery
    from airflow_workpools.worker.sites import Site
    from airflow_workpools.worker.tracking import Tracked

TOLD_EVERY = timedelta(seconds=10)
"""Why a job waits is told at most so often, however often the infrastructure changes its mind."""


@dataclass(kw_only=True)
class Watcher:
    """Looks at sites.

    :param tracked: the jobs that the worker looks after.
    :param tell: takes what is to be reported of a job.
    :param tell_last: takes what makes an end of what is on the infrastructure.
    :param start_attempts: says how often a job is launched at most.
    """

    tracked: dict[UUID, Tracked]
    recovery: Recovery
    tell: Callable[[Report], None]
    tell_last: Callable[[Tracked, Report], None]
    clock: Callable[[], datetime]
    observe_seconds: float
    start_attempts: Callable[[ClaimedJob], int]
    give_back: Callable[[ClaimedJob, str], Awaitable[None]]

    async def look(self, site: Site) -> None:
        """Wait until there may be something new at a site, and do what is to be done there."""
        if site.outage is None:
            await at_most(self.observe_seconds, site.opened.wait_for_change(), site.woken.wait())
        site.woken.clear()
        await self.recovery.seek(site)
        await self._renew(site)
        await self._observe(site)
        await self.clean_up(site)

    def _at(self, site: Site) -> dict[UUID, Tracked]:
        return {
            id_: tracked
            for id_, tracked in self.tracked.items()
            if tracked.site is site and tracked.handle is not None
        }

    async def _renew(self, site: Site) -> None:
        """Give jobs that the platform's queue holds their fresh workloads."""
        for tracked in self._at(site).values():
            if tracked.workload is not None and tracked.handle is not None:
                if isinstance(site.infrastructure, CanRenew) and not tracked.running:
                    await site.infrastructure.renew(tracked.handle, tracked.workload)
                tracked.workload = None

    async def _observe(self, site: Site) -> None:
        watched = self._at(site)
        if not watched:
            return
        handles = [tracked.handle for tracked in watched.values() if tracked.handle]
        for id_, observation in (await site.opened.observe(handles)).items():
            if id_ in watched and self.tracked.get(id_) is watched[id_]:
                self._note(watched[id_], observation)

    def _note(self, tracked: Tracked, observation: Observation) -> None:
        """Draw the conclusions from what is seen of a job."""
        assert tracked.handle is not None
        job_id, handle = tracked.job.id, tracked.handle
        report = reports.report_of(job_id, observation, handle=handle, cancel_reason=tracked.cancel_reason)
        known_end = self.recovery.ends.pop(job_id, None) if report is not None else None
        if report is not None:
            self.tracked.pop(job_id, None)
            if observation.never_started and not tracked.running and tracked.cancel_reason is None:
                report = self._failed_start(tracked, observation.reason or "it ended without saying why")
            if observation.phase is Phase.GONE and known_end is not None:
                report = known_end
            self.tell_last(tracked, report)
        elif observation.phase is Phase.RUNNING:
            if not tracked.running:
                tracked.running, tracked.held = True, False
                self._tell(tracked, reports.launched(handle, running=True, now=self.clock()))
        elif not tracked.running:
            tracked.held = observation.phase is Phase.QUEUED
            self._tell_why(tracked, observation)

    def _failed_start(self, tracked: Tracked, reason: str) -> Report:
        """Decide whether a job that ended before anything of its task ran is launched again."""
        assert tracked.handle is not None
        job = tracked.job
        if job.start_attempts + 1 < self.start_attempts(job):
            return reports.start_failed(tracked.handle, reason)
        report = reports.not_started(job.id, reports.too_often(job, reason))
        return replace(report, handle=tracked.handle)

    def _tell_why(self, tracked: Tracked, observation: Observation) -> None:
        """Tell why a job does not run yet, when that has changed."""
        assert tracked.handle is not None
        reason = observation.reason
        if tracked.held:
            reason = f"{HELD_BY_PLATFORM}: {reason}" if reason else HELD_BY_PLATFORM
        now = self.clock()
        lately = tracked.said_at is not None and now - tracked.said_at < TOLD_EVERY
        if reason == tracked.said or (lately and not tracked.held):
            return
        tracked.said, tracked.said_at = reason, now
        self._tell(tracked, reports.waits(tracked.handle, reason))

    def _tell(self, tracked: Tracked, report: Report) -> None:
        self.tell(reports.of_claim(tracked.job, report))

    async def clean_up(self, site: Site) -> None:
        """Remove what is left of jobs that have ended; those whose start failed are given back then."""
        for job_id, leftover in list(site.leftovers.items()):
            await site.opened.cleanup(leftover.handle)
            if leftover.again is not None and leftover.handle.failed_start is not None:
                await self.give_back(leftover.again, leftover.handle.failed_start)
            site.leftovers.pop(job_id, None)

    async def clean_up_at_last(self, site: Site, *, seconds: float) -> None:
        """Do so before the worker ends, if that can be done soon."""
        if site.is_open and site.leftovers:
            await asyncio.wait({asyncio.ensure_future(self.clean_up(site))}, timeout=seconds)
