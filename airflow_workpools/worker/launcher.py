# SPDX-License-Identifier: Apache-2.0
"""Launching: some jobs at a time, each on its own, so that one whose launch takes long keeps no other waiting."""

from __future__ import annotations

import asyncio
import logging
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
    :param in_flight: most jobs that are being launched at a time.
    :param tracked: where a job is entered as soon as it may exist on its infrastructure.
    :param tell: takes what is to be reported of a job.
    :param on_lost: called with a job of which it is not known whether it exists, and why.
    :param on_room: called when there is room to launch more, if there was too little before.
    :param on_failure: called when what became of a job is not known.
    """

    sites: Sites
    worker_name: str
    environ: Mapping[str, str]
    connections: ReadConnections
    in_flight: int
    tracked: dict[UUID, Tracked]
    clock: Callable[[], datetime]
    tell: Callable[[Report], None]
    on_lost: Callable[[ClaimedJob, Site, str], None]
    on_room: Callable[[], None]
    on_failure: Callable[[], None]
    _tasks: dict[UUID, asyncio.Task[None]] = field(default_factory=dict)
    _given_up: dict[UUID, ClaimedJob] = field(default_factory=dict)

    @property
    def room(self) -> int:
        """How many jobs may be claimed now.

        None until half of the places are free: to claim one job costs as much as to claim several.
        """
        return 0 if 2 * self._free < self.in_flight else self._free

    @property
    def most_of_site(self) -> int:
        """How many jobs may be claimed at a time of one site: half of all, where there are several."""
        return self.in_flight if len(list(self.sites)) < 2 else -(-self.in_flight // 2)

    @property
    def _free(self) -> int:
        return self.in_flight - len(self._tasks)

    @property
    def job_ids(self) -> set[UUID]:
        """Jobs that are being launched."""
        return set(self._tasks)

    def crowded(self, site: Site) -> bool:
        """Say whether so many launches are under way at a site that more of them could keep the others waiting."""
        here = sum(1 for id_ in self._tasks if (one := self.tracked.get(id_)) and one.site is site)
        return here >= self.most_of_site

    def give_up(self, job_id: UUID) -> None:
        """Give up a launch that takes long; what it may have left behind is looked for."""
        if job_id in self._tasks and (tracked := self.tracked.get(job_id)) is not None:
            self._given_up[job_id] = tracked.job
            self._tasks[job_id].cancel()

    def begin(self, jobs: Iterable[ClaimedJob], pools: Mapping[str, Any]) -> None:
        """Begin to launch jobs, in this order, which is the order of the claim and so of priority."""
        for job in jobs:
            self._tasks[job.id] = asyncio.create_task(self._launch(job, pools), name=f"launch {job.id}")
            self._tasks[job.id].add_done_callback(partial(self._on_done, job.id))

    async def close(self) -> None:
        """Give up what is under way. What was launched by then is found by the next worker."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_done(self, job_id: UUID, task: asyncio.Task[None]) -> None:
        self._tasks.pop(job_id, None)
        if (job := self._given_up.pop(job_id, None)) is not None and task.cancelled():
            self._lose(job, "its launch was given up")
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("Worker: launching job %s failed: %s", job_id, error, exc_info=error)
            self.on_failure()
        if self.room and 2 * (self._free - 1) < self.in_flight:  # just now: there was none before
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
