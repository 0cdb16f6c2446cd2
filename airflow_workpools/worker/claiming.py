# SPDX-License-Identifier: Apache-2.0
"""Taking jobs: when, how many, of which pools; and no more once the worker is to end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from airflow_workpools.worker.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.store.records import ClaimedJob, WorkerRecord
    from airflow_workpools.worker.client import WorkerClient
    from airflow_workpools.worker.launcher import Launcher
    from airflow_workpools.worker.recovery import Recovery
    from airflow_workpools.worker.sites import Sites

log = logging.getLogger(__name__)

WAIT_SECONDS = 25.0
"""Longest time that one call waits for news."""
WAIT_WHEN_FULL_SECONDS = 5.0
"""The same, while there is no room for more jobs."""
MAX_ABANDONED = 4
"""Most calls that wait for what is of no interest any more; each has a thread until it returns."""
REACT_SECONDS = 1.0
"""Longest time that news may take to be looked at, before it is asked for more."""


class News(Protocol):
    """What a wait has brought."""

    @property
    def work(self) -> bool: ...

    @property
    def wishes(self) -> bool: ...

    @property
    def pools(self) -> bool: ...


@runtime_checkable
class CanWait(Protocol):
    """A client that can be told of news at once, instead of asking again and again."""

    def wait_for_work(
        self, worker_id: UUID, *, most: int, seconds: float, heard: Collection[UUID] = ()
    ) -> News:
        """Return as soon as there may be work, or a wish to cancel a job of which is not known, or when the work pools
        are not as they were known. Blocks.

        Nothing is claimed by that.

        :param most: how many jobs the worker could take.
        """


@dataclass(kw_only=True)
class Claiming:
    """Takes jobs and has them launched.

    :param held: how many jobs the worker has, however far it is with them.
    :param limit: most jobs that it may have; None: no limit of its own.
    :param serve: brings what is known of the work pools up to date.
    :param pause_seconds: says after which time it looks again at the latest.
    :param on_wish: called when there may be jobs that shall be cancelled.
    """

    record: WorkerRecord
    client: WorkerClient
    sites: Sites
    launcher: Launcher
    recovery: Recovery
    clock: Callable[[], datetime]
    held: Callable[[], int]
    limit: int | None
    serve: Callable[[], Awaitable[None]]
    pause_seconds: Callable[[], float]
    heard: Callable[[], Collection[UUID]]
    on_wish: Callable[[], None]
    look_now: asyncio.Event = field(default_factory=asyncio.Event)
    took_all: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a look has brought nothing, though all pools were looked at, or when there is no room."""
    is_over: bool = False
    """Whether nothing more is to be claimed."""
    is_drained: bool = False
    """Whether somebody wants it to claim nothing, until that is taken back."""
    claimed_at: float = float("-inf")
    """When jobs were claimed last (loop time)."""
    _looked: asyncio.Event = field(default_factory=asyncio.Event)
    _room_changed: asyncio.Event = field(default_factory=asyncio.Event)
    _abandoned: int = 0

    def look(self) -> None:
        """Look for work at once: there may be some, or there is room for it again."""
        self.look_now.set()
        self._room_changed.set()

    @property
    def most(self) -> int:
        """How many jobs may be claimed now at one time."""
        return max((self._most_of(room) for room in self._rooms()), default=0)

    def _most_of(self, room: Mapping[str, int]) -> int:
        """How many jobs of these pools may be claimed now: no more than fits, wherever they are for."""
        if self.is_over or self.is_drained:
            return 0
        most = min(room.values())
        return most if self.limit is None else max(0, min(most, self.limit - self.held()))

    def _rooms(self) -> list[dict[str, int]]:
        """Return the pools from which jobs may be claimed now, and how many their sites have room for.

        Those that are claimed together have sites of as many places, so that a small one does not slow down the rest.
        """
        together: dict[int, dict[str, int]] = {}
        for name in self.sites.usable():
            site = self.sites.of_pool(name)
            if site is not None and (room := self.launcher.room(site)):
                together.setdefault(site.launch_places, {})[name] = room
        return list(together.values())

    def drained(self, is_drained: bool) -> None:
        """Note whether the worker is drained, as others want it."""
        if is_drained and not self.is_drained:
            log.info("Worker: was drained, and claims nothing until it is resumed; jobs go on")
        elif self.is_drained and not is_drained:
            log.info("Worker: was resumed, and claims jobs again")
            self.look()
        self.is_drained = is_drained

    async def step(self) -> None:
        """Claim once; if that brought nothing, wait until there is a reason to do it again."""
        # Cleared before the look, so that a call during the look causes another one.
        self.look_now.clear()
        await self.serve()
        await self.recovery.find_lost()
        jobs: list[ClaimedJob] = []
        asked = False
        for room in self._rooms():
            if most := self._most_of(room):
                asked = True
                jobs += await self._claim(most, list(room))
        self._looked.set()
        if not jobs:
            if asked or self.is_full:
                self.took_all.set()
            await wait_for(self.look_now, self.pause_seconds())

    async def _claim(self, most: int, pools: list[str]) -> list[ClaimedJob]:
        async with self.recovery.unsure_if_it_fails():
            jobs = await asyncio.to_thread(
                self.client.claim, self.record.id, most=most, pools=pools, now=self.clock()
            )
            if jobs:
                self.claimed_at = asyncio.get_running_loop().time()
                self.launcher.begin(jobs, await asyncio.to_thread(self.client.pools))
        return jobs

    @property
    def is_full(self) -> bool:
        """Whether it has as many jobs as its limit allows."""
        return self.limit is not None and self.held() >= self.limit

    async def listen(self) -> None:
        """Wait for news, where the client can, and pass it on."""
        if not isinstance(self.client, CanWait):
            await asyncio.Event().wait()
            return
        self._room_changed.clear()
        most = self.most
        seconds = WAIT_SECONDS if most else WAIT_WHEN_FULL_SECONDS
        call = asyncio.to_thread(
            self.client.wait_for_work, self.record.id, most=most, seconds=seconds, heard=self.heard()
        )
        news = await self._unless_room_changes(asyncio.ensure_future(call), abandon=most == 0)
        if news is None:
            return
        # Whoever asks again before the news was looked at gets the same answer at once.
        if news.work:
            self._looked.clear()
            self.look_now.set()
            await wait_for(self._looked, REACT_SECONDS)
        if news.pools:
            self.look()
        if news.wishes:
            self.on_wish()
            await asyncio.sleep(REACT_SECONDS)

    async def _unless_room_changes(self, call: asyncio.Future[News], *, abandon: bool) -> News | None:
        """Wait for an answer; None if it is not waited for any more, as the question has become another."""
        if not abandon or self._abandoned >= MAX_ABANDONED:
            return await call
        changed = asyncio.ensure_future(self._room_changed.wait())
        try:
            both: set[asyncio.Future[Any]] = {call, changed}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        if call.done():
            return call.result()
        self._abandoned += 1
        call.add_done_callback(self._on_abandoned)
        return None

    def _on_abandoned(self, call: asyncio.Future[News]) -> None:
        self._abandoned -= 1
        with contextlib.suppress(asyncio.CancelledError):
            call.exception()
