# SPDX-License-Identifier: Apache-2.0
"""Removes from infrastructures what is left of jobs that are over and that no worker knows of any more.

A worker that dies when the end of a job is stored, before it has removed the rest, leaves that for ever: nobody is
told of the job again. So from time to time each worker looks what this Airflow has on its infrastructures, and asks the
store which of it is over. What still runs of that is asked to end, and removed the next time.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.base import MayLeaveBehind
from airflow_workpools.worker.tracking import grace_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime, timedelta
    from uuid import UUID

    from airflow_workpools.worker.client import WorkerClient
    from airflow_workpools.worker.sites import Site, Sites

log = logging.getLogger(__name__)

MOST_AT_ONCE = 100
"""Most jobs of one infrastructure whose rest is removed in one go."""


@dataclass(kw_only=True)
class Sweeper:
    """Sweeps the sites of a worker.

    :param known: tells of which jobs the worker knows, however far it is with them.
    :param grace: so long after its end a job is left to whoever may still be fetching its log.
    """

    sites: Sites
    client: WorkerClient
    clock: Callable[[], datetime]
    known: Callable[[], Collection[UUID]]
    grace: timedelta
    installation: str = field(default="", init=False)
    """Which Airflow this is, once that is known."""

    async def sweep(self) -> None:
        """Look at every site that answers, once."""
        for site in list(self.sites):
            if site.usable and self.installation:
                try:
                    await self._sweep(site)
                except InfrastructureUnavailable as error:  # there is time until the next round
                    log.info("Worker: %s could not be swept: %s", site.key.kind, error)

    async def _sweep(self, site: Site) -> None:
        infrastructure = site.opened
        if not isinstance(infrastructure, MayLeaveBehind):
            return
        before = self.clock() - self.grace
        handles = await infrastructure.left_behind(self.installation, before=before)
        # Of several attempts to start a job one at a time.
        by_job = {handle.job_id: handle for handle in handles if handle.job_id not in self.known()}
        over = await asyncio.to_thread(self.client.over, list(by_job), before=before) if by_job else set()
        of_these = list(islice((by_job[job_id] for job_id in by_job if job_id in over), MOST_AT_ONCE))
        if not of_these:
            return
        seen = await infrastructure.observe(of_these)
        for handle in of_these:
            if seen[handle.job_id].ended:
                await infrastructure.cleanup(handle)
            else:
                await infrastructure.stop(handle, grace_seconds=grace_of(handle))
        log.info(
            "Worker: removed from %s what was left of jobs that are over: %s",
            site.key.kind,
            ", ".join(str(handle.job_id) for handle in of_these),
        )
