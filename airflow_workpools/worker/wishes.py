# SPDX-License-Identifier: Apache-2.0
"""Jobs that shall be cancelled are stopped, each on its own, so that none waits for another's infrastructure."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.worker.tracking import grace_of

if TYPE_CHECKING:
    from uuid import UUID

    from airflow_workpools.store.records import WorkerRecord
    from airflow_workpools.worker.client import WorkerClient
    from airflow_workpools.worker.launcher import Launcher
    from airflow_workpools.worker.tracking import Tracked

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Wishes:
    """Carries out wishes to cancel jobs.

    :param launch_patience: a launch that is under way may take so long, in seconds, before it is given up.
    """

    record: WorkerRecord
    client: WorkerClient
    tracked: dict[UUID, Tracked]
    launcher: Launcher
    launch_patience: float
    _since: dict[UUID, float] = field(default_factory=dict)
    """Since when (loop time) a job that is being launched is not wanted any more."""
    _stops: set[asyncio.Task[None]] = field(default_factory=set)

    async def look(self) -> None:
        """Ask which jobs shall be cancelled, and begin to stop them."""
        if not self.tracked and not self.launcher.job_ids:
            return
        for given_up in [one for one in self.tracked.values() if one.revoked and not one.stopping]:
            if given_up.handle is not None:  # else it is being launched
                self._begin_to_stop(given_up)
        wishes = await asyncio.to_thread(self.client.wishes, self.record.id)
        self._since = {wish.job_id: self._since[wish.job_id] for wish in wishes if wish.job_id in self._since}
        for id_, reason in wishes:
            tracked = self.tracked.get(id_)
            if tracked is not None:
                tracked.cancel_reason = reason or "cancelled"
            if tracked is not None and tracked.handle is not None:
                if not tracked.stopping:
                    self._begin_to_stop(tracked)
            elif id_ in self.launcher.job_ids:
                self._give_up_launch(id_)

    def _begin_to_stop(self, tracked: Tracked) -> None:
        tracked.stopping = True
        task = asyncio.create_task(self._stop(tracked), name=f"stop {tracked.job.id}")
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    async def _stop(self, tracked: Tracked) -> None:
        assert tracked.handle is not None
        try:
            await tracked.site.opened.stop(tracked.handle, grace_seconds=grace_of(tracked.handle))
        except Exception as error:  # the next look tries again
            tracked.stopping = False
            known = isinstance(error, InfrastructureUnavailable)
            log.warning("Worker: job %s can't be stopped yet: %s", tracked.job.id, error, exc_info=not known)

    def _give_up_launch(self, job_id: UUID) -> None:
        """Nothing can be stopped that may not be there yet; it is looked for when its launch has been given up."""
        now = asyncio.get_running_loop().time()
        if now - self._since.setdefault(job_id, now) >= self.launch_patience:
            self.launcher.give_up(job_id)

    async def close(self) -> None:
        """Give up what is under way; the next worker hears of the same wishes."""
        for task in list(self._stops):
            task.cancel()
        await asyncio.gather(*self._stops, return_exceptions=True)
