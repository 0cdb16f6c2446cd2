# SPDX-License-Identifier: Apache-2.0
"""Launching: some jobs at a time, each on its own, so that one whose launch takes long keeps no other waiting.

Every site has places of its own, so that infrastructures that hang fill those, however many they are, and nobody
else's.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_workpools.errors import InfrastructureUnavailable, InvalidInput, LaunchRejected, NotFound
from airflow_workpools.worker import reports
from airflow_workpools.worker.launching import launch_spec
from airflow_workpools.worker.tracking import Tracked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.store.records import ClaimedJob, Report
    from airflow_workpools.worker.sites import Site, Sites

log = logging.getLogger(__name__)

ReadConnections = Callable[[Collection[str]], "Mapping[str, Mapping[str, Any]]"]
"""Returns the fields of those Airflow connections that there are, by id; may block."""


@dataclass(kw_only=True)
class Launcher:
    """Launches claimed jobs.

    :param connections: reads the Airflow connections that a pool's base job template asks for.
    :param tracked: where a job is entered as soon as it may exist on its infrastructure.
    :param tell: takes what is to be reported of a job.
    :param on_lost: called with a job of which it is not known whether it exists, and why.
    :param on_room: called when there is room to launch more at a site, if there was too little before.
    :param on_failure: called when what became of a job is not known.
    """

    sites: Sites
    worker_name: str
    environ: Mapping[str, str]
    connections: ReadConnections
    tracked: dict[UUID, Tracked]
    clock: Callable[[], datetime]
    tell: Callable[[Report], None]
    on_lost: Callable[[ClaimedJob, Site, str], None]
    on_room: Callable[[], None]
    on_failure: Callable[[], None]
    installation: str = ""
    """Which Airflow this is, once that is known."""
    _tasks: dict[UUID, asyncio.Task[None]] = field(default_factory=dict)
    _given_up: dict[UUID, ClaimedJob] = field(default_factory=dict)
    _under_way: Counter[Site | None] = field(default_factory=Counter)
    """How many launches there are at each site."""

    def room(self, site: Site) -> int:
        """How many jobs may be claimed now to be launched at a site.

        None until half of its places are free: to claim one job costs as much as to claim several.
        """
        free = site.launch_places - self._under_way[site]
        return 0 if 2 * free < site.launch_places else free

    @property
    def job_ids(self) -> set[UUID]:
        """Jobs that are being launched."""
        return set(self._tasks)

    def give_up(self, job_id: UUID) -> None:
        """Give up a launch that takes long; what it may have left behind is looked for."""
        if job_id in self._tasks and (tracked := self.tracked.get(job_id)) is not None:
            self._given_up[job_id] = tracked.job
            self._tasks[job_id].cancel()

    def begin(self, jobs: Iterable[ClaimedJob], pools: Mapping[str, Any]) -> None:
        """Begin to launch jobs, in this order, which is the order of the claim and so of priority."""
        for job in jobs:
            site = self.sites.of_pool(job.ref.pool)
            self._under_way[site] += 1
            self._tasks[job.id] = asyncio.create_task(self._launch(job, pools), name=f"launch {job.id}")
            self._tasks[job.id].add_done_callback(partial(self._on_done, job.id, site))

    async def close(self) -> None:
        """Give up what is under way. What was launched by then is found by the next worker."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_done(self, job_id: UUID, site: Site | None, task: asyncio.Task[None]) -> None:
        self._tasks.pop(job_id, None)
        had_room = site is not None and bool(self.room(site))
        self._under_way[site] -= 1
        if not self._under_way[site]:
            del self._under_way[site]
        if (job := self._given_up.pop(job_id, None)) is not None and task.cancelled():
            self._lose(job, "its launch was given up")
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("Worker: launching job %s failed: %s", job_id, error, exc_info=error)
            self.on_failure()
        if site is not None and self.room(site) and not had_room:
            self.on_room()

    async def _launch(self, job: ClaimedJob, pools: Mapping[str, Any]) -> None:
        try:
            if job.problem is not None:
                raise InvalidInput(job.problem)
            pool = pools.get(job.ref.pool)
            if pool is None:
                raise NotFound(
                    f"work pool '{job.ref.pool}' does not exist any more, or is not valid, or its type or delivery was "
                    "changed to what this worker does not serve"
                )
            site = self.sites.of_pool(job.ref.pool)
            if site is None or not site.is_open:
                raise InfrastructureUnavailable(f"work pool '{job.ref.pool}' can't be used any more")
            tracked = self.tracked[job.id] = Tracked(job=job, site=site)
            infrastructure = site.opened
            spec = launch_spec(
                job,
                pool,
                worker=self.worker_name,
                installation=self.installation,
                environ=self.environ,
                connections=await self._connections_for(pool),
            )
            async for handle in infrastructure.launch(spec):
                tracked.handle = handle = replace(handle, conn_id=site.key.conn_id)
                tracked.running = infrastructure.runs_at_launch
                told = reports.launched(handle, running=tracked.running, now=self.clock())
                self.tell(reports.of_claim(job, told))
        except (LaunchRejected, InvalidInput, NotFound) as error:
            self.tracked.pop(job.id, None)
            self.tell(reports.of_claim(job, reports.not_started(job.id, str(error))))
        except InfrastructureUnavailable as error:
            self._lose(job, str(error))
        except Exception as error:
            log.exception("Worker: launching job %s failed", job.id)
            self._lose(job, f"{type(error).__name__}: {error}")

    async def _connections_for(self, pool: WorkPool) -> Mapping[str, Mapping[str, Any]]:
        conn_ids = pool.base_job_template.connection_ids
        return await asyncio.to_thread(self.connections, conn_ids) if conn_ids else {}

    def _lose(self, job: ClaimedJob, reason: str) -> None:
        """The launch may have left something behind; only what is surely not there is launched again."""
        tracked = self.tracked.get(job.id)
        if tracked is not None and tracked.handle is not None:
            return
        self.tracked.pop(job.id, None)
        site = tracked.site if tracked is not None else self.sites.of_pool(job.ref.pool)
        if site is None:
            self.on_failure()
        else:
            self.on_lost(job, site, reason)
