# SPDX-License-Identifier: Apache-2.0
"""Waiting for work, for all workers of an API server process at once.

Who waits holds neither a thread nor a connection. One task asks the database for all of them, a few times a second, and
only while somebody waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from airflow_workpools.core.wakeups import Waiter, Wakeups

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from uuid import UUID

    from airflow_workpools.store.protocol import WorkerStore

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
"""Time between two questions to the database."""
LOOK_SECONDS_AFTER_FAILURE = 2.0


class News(NamedTuple):
    """What there is for a worker."""

    work: bool = False
    wishes: bool = False


@dataclass(eq=False)
class _Waiting:
    waiter: Waiter
    heard: frozenset[UUID]
    news: asyncio.Future[News]


@dataclass
class NewsDesk:
    """Tells workers that there may be work for them, or wishes to cancel jobs of theirs.

    :param monotonic: seconds that never go back.
    """

    store: WorkerStore
    look_seconds: float = LOOK_SECONDS
    monotonic: Callable[[], float] = time.monotonic
    _waiting: list[_Waiting] = field(default_factory=list)
    """The one that has waited longest first."""
    _wakeups: Wakeups = field(default_factory=Wakeups)
    _task: asyncio.Task[None] | None = None

    async def wait(self, waiter: Waiter, *, heard: Collection[UUID], seconds: float) -> News:
        """Return when there is news, or there was none for so long.

        :param heard: jobs whose wish the worker knows.
        """
        loop = asyncio.get_running_loop()
        one = _Waiting(waiter, frozenset(heard), loop.create_future())
        self._waiting.append(one)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._look_again_and_again(), name="look for work")
        try:
            return await asyncio.wait_for(one.news, seconds)
        except asyncio.TimeoutError:
            return News()
        finally:
            if one in self._waiting:
                self._waiting.remove(one)

    async def _look_again_and_again(self) -> None:
        while self._waiting:
            pause = self.look_seconds
            try:
                await self._look()
            except Exception as error:
                log.warning("Work pools: can't look for work that workers wait for: %s", error)
                pause = LOOK_SECONDS_AFTER_FAILURE
            await asyncio.sleep(pause)

    async def _look(self) -> None:
        pools = {pool for one in self._waiting for pool in one.waiter.pools}
        worker_ids = {one.waiter.worker_id for one in self._waiting}
        waiting = await asyncio.to_thread(self.store.waiting_jobs, pools)
        wished = await asyncio.to_thread(self.store.wished_jobs, worker_ids)
        here = list(self._waiting)
        chosen = set(self._wakeups.choose(waiting, [one.waiter for one in here], self.monotonic()))
        for one in here:
            news = News(
                work=one.waiter in chosen,
                wishes=not wished.get(one.waiter.worker_id, set()) <= one.heard,
            )
            if any(news) and not one.news.done():
                one.news.set_result(news)
                self._waiting.remove(one)
