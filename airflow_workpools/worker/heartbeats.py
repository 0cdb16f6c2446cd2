# SPDX-License-Identifier: Apache-2.0
"""Heartbeats: the worker says that it lives and what it can't use, and hears what it is taken for."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_workpools.errors import NotFound
from airflow_workpools.store.records import WorkerState
from airflow_workpools.worker.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from airflow_workpools.store.records import WorkerRecord
    from airflow_workpools.worker.client import WorkerClient
    from airflow_workpools.worker.recovery import Recovery

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Heartbeats:
    """Tells that the worker lives; comes online again if it was taken for dead.

    :param seconds: time between two heartbeats.
    :param per_take_over: with the first heartbeat, and after each so many, it looks for what dead workers have left.
    :param hindered: says which pools it can't use now, and why.
    :param register: comes online.
    :param keep_time: called in a thread with each heartbeat: sets the clock right, if it needs that.
    :param may_judge: says whether others may be taken for dead.
    :param on_taken: called when the store has taken a heartbeat.
    :param on_state: called with what the worker is taken for.
    :param installation: says which Airflow this is.
    """

    record: WorkerRecord
    client: WorkerClient
    clock: Callable[[], datetime]
    recovery: Recovery
    seconds: float
    per_take_over: int
    hindered: Callable[[], Mapping[str, str]]
    register: Callable[[], Awaitable[None]]
    keep_time: Callable[[], None]
    may_judge: Callable[[], bool]
    on_taken: Callable[[], None]
    on_state: Callable[[WorkerState], None]
    installation: Callable[[], str]
    beat_now: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is something to tell at once."""
    _beats_to_take_over: int = 0

    async def step(self) -> None:
        """Tell it once, act on the answer, and wait until the next time."""
        # Cleared before the heartbeat, so that a change during it causes another one.
        self.beat_now.clear()
        state = await self._beat()
        self.on_taken()
        if state is not None:
            self.on_state(state)
        if state in (None, WorkerState.STOPPED):
            await self._come_back(state)
        if self._beats_to_take_over <= 0 and self.may_judge():
            await self.recovery.take_over()
            await self.recovery.stop_strangers(self.installation())
            self._beats_to_take_over = self.per_take_over
        self._beats_to_take_over -= 1
        await wait_for(self.beat_now, self.seconds)

    async def _beat(self) -> WorkerState | None:
        """Return what the worker is taken for; None if it is not known."""
        await asyncio.to_thread(self.keep_time)
        try:
            return await asyncio.to_thread(
                self.client.heartbeat, self.record.id, hindered=self.hindered(), now=self.clock()
            )
        except NotFound:
            return None

    async def _come_back(self, state: WorkerState | None) -> None:
        """Come online again after a silence for which others took this worker for dead, and maybe its jobs.

        :param state: None: it is not known; its token is another now, maybe.
        """
        if state is None:
            log.info("Worker: is not known any more, or not with this token; coming online again")
        else:
            log.warning("Worker: was silent for so long that it was taken for dead; coming online again")
        await self.register()
        await self.recovery.forget_what_others_have()
