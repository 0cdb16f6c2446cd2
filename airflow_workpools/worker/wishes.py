# SPDX-License-Identifier: Apache-2.0
"""Jobs that shall be cancelled are stopped, each on its own, so that none waits for another's infrastructure."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.worker.tracking import grace_of
from airflow_workpools.worker.waiting import wait_for

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

    :param look_seconds: time after which it is tried again to stop what could not be stopped.
    :param ask_seconds: time after which the store is asked at the latest, even when nobody told of a wish.
    :param launch_patience: a launch that is under way may take so long, in seconds, before it is given up.
    """

    record: WorkerRecord
    client: WorkerClient
    tracked: dict[UUID, Tracked]
    launcher: Launcher
    look_seconds: float
    ask_seconds: float
    launch_patience: float
    ask_now: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there may be wishes that are not known."""
    _asked_at: float = float("-inf")
    _since: dict[UUID, float] = field(default_factory=dict)
    """Since when (loop time) a job that is being launched is not wanted any more."""
    _stops: set[asyncio.Task[None]] = field(default_factory=set)

    async def step(self) -> None:
        """Wait until there is a reason to look; then have stopped what is not wanted."""
        await wait_for(self.ask_now, self.look_seconds)
        told = self.ask_now.is_set()
        self.ask_now.clear()
        overdue = asyncio.get_running_loop().time() - self._asked_at >= self.ask_seconds
        try:
            if (self.tracked or self.launcher.job_ids) and (told or overdue or self._since):
                await self._ask()
        finally:  # what is known already does not depend on an answer
            self._stop_unwanted()

    async def _ask(self) -> None:
        """Ask which jobs shall be cancelled."""
        self._asked_at = asyncio.get_running_loop().time()
        wishes = await asyncio.to_thread(self.client.wishes, self.record.id)
        self._since = {wish.job_id: self._since[wish.job_id] for wish in wishes if wish.job_id in self._since}
        for id_, reason in wishes:
            tracked = self.tracked.get(id_)
            if tracked is not None:
                tracked.cancel_reason = reason or "cancelled"
            if (tracked is None or tracked.handle is None) and id_ in self.launcher.job_ids:
                self._give_up_launch(id_)

    def _stop_unwanted(self) -> None:
        for tracked in list(self.tracked.values()):
            # Without a handle, it is being launched.
            if tracked.cancel_reason is not None and tracked.handle is not None and not tracked.stopping:
                self._begin_to_stop(tracked)

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
