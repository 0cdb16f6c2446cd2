# SPDX-License-Identifier: Apache-2.0
"""What holds a worker's tasks: whatever fails is told of and tried again."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.errors import WorkerApiError
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
    """

    stop: asyncio.Event
    max_retry: float
    outages: Outages = field(default_factory=Outages)

    async def guard(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat a step for ever; a failure is logged and the step tried again after a growing delay."""
        backoff = Backoff(maximum=self.max_retry)
        while not self.stop.is_set():
            try:
                await step()
                backoff.reset()
            except WorkerApiError as error:
                self.outages.fails(error)
                await asyncio.sleep(backoff.next())
            except Exception as error:
                delay = backoff.next()
                log.warning(
                    "Worker: %s failed, trying again in %.1f s: %s", name, delay, error, exc_info=True
                )
                await asyncio.sleep(delay)

    async def persist(self, what: str, call: Callable[[], Awaitable[None]]) -> None:
        """Do something that must be done before anything else can go on, however long it takes."""
        backoff = Backoff(maximum=self.max_retry)
        while not self.stop.is_set():
            try:
                return await call()
            except WorkerApiError as error:
                self.outages.fails(error)
                await wait_for(self.stop, backoff.next())
            except Exception as error:
                delay = backoff.next()
                log.warning("Worker: could not %s, trying again in %.1f s: %s", what, delay, error)
                await wait_for(self.stop, delay)
        return None
