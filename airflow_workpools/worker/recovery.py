# SPDX-License-Identifier: Apache-2.0
"""Jobs that the store holds to be a worker's though it does not know them, and jobs that may or may not exist on their
infrastructure: adopted, launched, or given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from airflow_workpools.core.jobs import ENDED, JobState
from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.base import RemembersJobs, bound_to_host
from airflow_workpools.worker import reports
from airflow_workpools.worker.sites import Leftover
from airflow_workpools.worker.tracking import Sought, Tracked, grace_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.infrastructure.base import Handle
    from airflow_workpools.store.records import ClaimedJob, Report, WorkerRecord
    from airflow_workpools.worker.client import WorkerClient
    from airflow_workpools.worker.sites import Site, Sites

log = logging.getLogger(__name__)


REVOKED = "its worker was silent for so long that the job was given up"


@dataclass(kw_only=True)
class Recovery:
    """Looks after jobs of workers that died, and of claims and launches that went wrong half-way.

    :param known: tells of which jobs the worker knows, however far it is with them.
    :param start_attempts: says how often a job is launched at most.
    :param launch: launches jobs.
    :param being_launched: tells which jobs are being launched.
    :param kept: returns what an earlier worker could not tell of a job, if it was kept.
    :param note_kept: takes note of it.
    :param on_unsure: called when :meth:`find_lost` has to look again.
    """

    record: WorkerRecord
    client: WorkerClient
    sites: Sites
    clock: Callable[[], datetime]
    tracked: dict[UUID, Tracked]
    tell: Callable[[Report], None]
    known: Callable[[], Collection[UUID]]
    start_attempts: Callable[[ClaimedJob], int]
    launch: Callable[[list[ClaimedJob]], None]
    being_launched: Callable[[], Collection[UUID]]
    kept: Callable[[ClaimedJob], Report | None]
    note_kept: Callable[[Report], None]
    on_unsure: Callable[[], None]
    sought: dict[UUID, Sought] = field(default_factory=dict)
    """Jobs that are looked for as soon as their infrastructure answers."""
    ends: dict[UUID, Report] = field(default_factory=dict)
    """How jobs ended that were adopted, as an earlier worker saw it and could not tell."""
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)
    _unsure: bool = False
    """Whether the store may hold jobs to be ours that we know nothing of."""

    def be_unsure(self) -> None:
        """Have :meth:`find_lost` look again."""
        self._unsure = True
        self.on_unsure()

    @contextlib.asynccontextmanager
    async def unsure_if_it_fails(self) -> AsyncIterator[None]:
        """Run something that makes jobs ours, and may fail half-way."""
        try:
            yield
        except Exception:
            self.be_unsure()
            raise

    # -- whose jobs these are -------------------------------------------------------------------------------

    async def take_over(self) -> None:
        """Adopt what dead workers of this host left behind, and those of others where that makes no difference."""
        async with self._one_at_a_time, self.unsure_if_it_fails():
            orphans = await asyncio.to_thread(
                self.client.take_over,
                self.record.id,
                self.record.hostname,
                now=self.clock(),
                roaming=self.sites.roaming(),
            )
            if orphans:
                await self._adopt(orphans)

    async def forget_what_others_have(self) -> None:
        """Let go of jobs that were given to others while this worker was taken for dead.

        Those that were given up are stopped, where nobody but this worker can: on its own host.
        """
        # What is claimed meanwhile is not among them.
        known = {id_: tracked.job for id_, tracked in self.tracked.items()}
        known |= {id_: sought.job for id_, sought in self.sought.items()}
        mine = {job.id for job in await asyncio.to_thread(self.client.mine, self.record.id)}
        gone = {id_: job.start_attempts for id_, job in known.items() if id_ not in mine}
        revoked: Collection[UUID] = ()
        if gone:
            revoked = await asyncio.to_thread(self.client.revoked, self.record.id, gone)
        for id_ in gone:
            self.sought.pop(id_, None)
            tracked = self.tracked.get(id_)
            if tracked is not None and id_ in revoked and self._can_stop(tracked):
                log.warning("Worker: job %s was given up meanwhile, and is stopped", id_)
                tracked.revoked, tracked.cancel_reason = True, REVOKED
            else:
                self.tracked.pop(id_, None)
        self.be_unsure()

    def _can_stop(self, tracked: Tracked) -> bool:
        """Say whether what runs, or is about to, is this worker's alone.

        On infrastructure of several hosts another worker may have begun to look after it, under the same name.
        """
        is_there = tracked.handle is not None or tracked.job.id in self.being_launched()
        return is_there and tracked.site.is_open and bound_to_host(tracked.site.opened)

    async def stop_strangers(self, installation: str) -> None:
        """Stop what an earlier worker has left running here and the store has given up: its next try may run already.

        :param installation: which Airflow this is. Jobs of others, and of pools that this worker does not serve, are
            left alone: of those the store would not say what they are.
        """
        for site in list(self.sites):
            if not (site.is_open and installation and isinstance(site.infrastructure, RemembersJobs)):
                continue
            alive = {
                one.handle.job_id: one
                for one in await site.infrastructure.alive()
                if one.labels.get("installation") == installation
                and one.labels.get("work_pool") in self.sites.pools
            }
            unknown = {id_: alive[id_].attempt for id_ in alive.keys() - set(self.known())}
            revoked = unknown and await asyncio.to_thread(self.client.revoked, self.record.id, unknown)
            for id_ in set(revoked) - set(self.known()):
                log.warning("Worker: job %s of an earlier worker was given up meanwhile, and is stopped", id_)
                await site.opened.stop(alive[id_].handle, grace_seconds=grace_of(alive[id_].handle))

    async def find_lost(self) -> None:
        """Look after jobs that the store gave to this worker, but whose claim or adoption failed half-way.

        Between two claims only: while one goes on, the store knows of jobs that have not come here yet.
        """
        if not self._unsure:
            return
        self._unsure = False
        async with self._one_at_a_time, self.unsure_if_it_fails():
            # What ends meanwhile is known before, and what comes to be known meanwhile is known after.
            before = set(self.known())
            mine = await asyncio.to_thread(self.client.mine, self.record.id)
            known = before | set(self.known())
            lost = [job for job in mine if job.id not in known]
            if lost:
                await self._adopt(lost, never_came=True)

    async def _adopt(self, jobs: list[ClaimedJob], *, never_came: bool = False) -> None:
        """Look after jobs that were somebody else's. Where there is no handle, there may be no job: it is sought.

        :param never_came: the answer that gave us the jobs was lost: that is no failure of theirs to start.
        """
        never_launched: list[ClaimedJob] = []
        for job in jobs:
            kept = self.kept(job)
            if kept is not None and self._told_by(kept):
                continue
            handle = job.handle or (kept.handle if kept is not None else None)
            if handle is not None:
                self._watch(job, handle, self.sites.of_handle(handle, job.ref.pool))
            elif (site := self.sites.of_pool(job.ref.pool)) is not None:
                self.seek_later(job, site, "its worker ended before it could launch the job")
                if never_came:
                    self.sought[job.id].launched_here = self.sought[job.id].outage = True
            else:
                never_launched.append(job)
        await self.give_back(never_launched, "its worker ended before it could launch the job")
        log.info(
            "Worker: adopted %d jobs, gave %d back", len(jobs) - len(never_launched), len(never_launched)
        )

    def _told_by(self, kept: Report) -> bool:
        """Have told what was kept of a job; say whether that is all there is to do for it.

        The end of what was launched is seen again, with its log; only if nothing is left of it, what was kept is all
        that is known.
        """
        self.note_kept(kept)
        launched = kept.handle is not None and kept.handle.failed_start is None
        if launched and kept.state in ENDED:
            self.ends[kept.job_id] = kept
            return False
        self.tell(kept)
        return kept.state in ENDED

    def _watch(self, job: ClaimedJob, handle: Handle, site: Site) -> None:
        if handle.failed_start is not None:  # somebody was about to remove it, and to give the job back
            site.remove(Leftover(handle, job))
            return
        running = job.state is JobState.RUNNING
        self.tracked[job.id] = Tracked(job=job, site=site, handle=handle, running=running)
        site.woken.set()

    # -- whether they exist ---------------------------------------------------------------------------------

    def seek_later(self, job: ClaimedJob, site: Site, reason: str, *, launched_here: bool = False) -> None:
        """Find out, as soon as a site answers, whether a job exists there.

        :param reason: if it does not, why it did not start.
        """
        self.sought[job.id] = Sought(job, site, reason, launched_here, outage=not site.is_open)
        site.woken.set()

    async def seek(self, site: Site) -> None:
        """Find out which of the jobs exist that are sought at a site; those that do not are launched, or given back."""
        sought = {id_: one for id_, one in self.sought.items() if one.site is site}
        if not sought:
            return
        try:
            found = await site.opened.find(list(sought))
        except InfrastructureUnavailable:
            for one in sought.values():
                one.outage = True
            raise
        for id_, one in sought.items():
            if self.sought.get(id_) is not one:
                continue
            if id_ in found:
                self._found(one, replace(found[id_], conn_id=site.key.conn_id))
            elif not (one.outage and one.launched_here and await self._launch_again(one)):
                await self.give_back([one.job], one.reason)
            self.sought.pop(id_, None)

    def _found(self, one: Sought, handle: Handle) -> None:
        self._watch(one.job, handle, one.site)
        if one.job.state is JobState.CLAIMED:
            running = one.site.opened.runs_at_launch
            self.tracked[one.job.id].running = running
            told = reports.launched(handle, running=running, now=self.clock())
            self.tell(reports.of_claim(one.job, told))

    async def _launch_again(self, one: Sought) -> bool:
        """Launch a job that an outage kept from being launched: that is no failure of its own to start."""
        job_id = one.job.id
        fresh = await asyncio.to_thread(self.client.renew, self.record.id, [job_id], now=self.clock())
        if job_id not in fresh:  # it is not wanted any more
            return False
        self.sought.pop(job_id, None)
        self.launch([replace(one.job, workload=fresh[job_id])])
        return True

    async def give_back(self, jobs: Iterable[ClaimedJob], reason: str) -> None:
        """Requeue jobs that did not start, or fail those that did not start often enough."""
        again: dict[UUID, int] = {}
        for job in jobs:
            if job.start_attempts + 1 < self.start_attempts(job):
                again[job.id] = job.start_attempts
            else:
                failed = reports.not_started(job.id, reports.too_often(job, reason))
                self.tell(reports.of_claim(job, failed))
        if again:
            await asyncio.to_thread(
                self.client.requeue,
                self.record.id,
                list(again),
                reason,
                now=self.clock(),
                start_attempts=again,
            )
