# SPDX-License-Identifier: Apache-2.0
"""What holds a worker's tasks: whatever fails is told of and tried again."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.errors import NotFound, VersionNotTaken, WorkerApiError, WorkpoolsError
from airflow_workpools.worker.outages import Outages
from airflow_workpools.worker.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


@dataclass
class Roof:
    """Repeats what a worker does.

    :param stop: set when the worker is to end.
    :param max_retry: longest time between two tries, in seconds.
    :param may_end: says whether no job needs the worker any more.
    :param on_unknown: called when the store does not know the worker: it has to register again.
    """

    stop: asyncio.Event
    max_retry: float
    may_end: Callable[[], bool] = lambda: True
    on_unknown: Callable[[], None] = lambda: None
    outages: Outages = field(default_factory=Outages)
    refusal: VersionNotTaken | None = None
    """Why the worker ends by itself, if it does."""
    _tells_of_end: bool = True

    async def guard(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat a step for ever; a failure is logged and the step tried again after a growing delay."""
        backoff = Backoff(maximum=self.max_retry)
        while not self.stop.is_set():
            try:
                await step()
                backoff.reset()
            except WorkerApiError as error:
                self._note(error)
                await asyncio.sleep(backoff.next())
            except Exception as error:
                delay = backoff.next()
                if isinstance(error, NotFound):
                    self.on_unknown()
                else:
                    known = isinstance(error, WorkpoolsError)
                    log.warning(
                        "Worker: %s failed, trying again in %.1f s: %s",
                        name,
                        delay,
                        error,
                        exc_info=not known,
                    )
                await asyncio.sleep(delay)

    async def persist(self, what: str, call: Callable[[], Awaitable[None]]) -> None:
        """Do something that must be done before anything else can go on, however long it takes."""
        backoff = Backoff(maximum=self.max_retry)
        while not self.stop.is_set():
            try:
                return await call()
            except WorkerApiError as error:
                self._note(error)
                await wait_for(self.stop, backoff.next())
            except Exception as error:
                delay = backoff.next()
                log.warning("Worker: could not %s, trying again in %.1f s: %s", what, delay, error)
                await wait_for(self.stop, delay)
        return None

    def _note(self, error: WorkerApiError) -> None:
        """Tell of a refusal or an outage. All can be over at any time, but for one: a process keeps its version."""
        self.outages.fails(error)
        if not isinstance(error, VersionNotTaken):
            return
        if self.may_end():
            self.refusal = error
            self.stop.set()
        elif self._tells_of_end:
            self._tells_of_end = False
            log.warning(
                "Worker: it claims nothing more, and ends when none of its jobs runs; the next worker of its name "
                "tells what became of them"
            )
