# SPDX-License-Identifier: Apache-2.0
"""How a worker comes to its end by itself: when its jobs have, or when there is nothing more to take."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from airflow_workpools.worker.claiming import Claiming

log = logging.getLogger(__name__)


class Ending(Protocol):
    """A worker that is to end."""

    @property
    def job_count(self) -> int: ...

    @property
    def is_idle(self) -> bool: ...

    def stop(self) -> None: ...


async def stop_when_idle(worker: Ending, timeout_seconds: float | None, *, look_seconds: float) -> None:
    """Stop a worker that claims no more as soon as nothing is left to do.

    :param timeout_seconds: stop it after this time in any case; None: however long its jobs take.
    """
    loop = asyncio.get_running_loop()
    until = None if timeout_seconds is None else loop.time() + timeout_seconds
    log.info("Worker: claims no more, and goes on until its jobs are gone: %d now", worker.job_count)
    while not worker.is_idle:
        if until is not None and loop.time() >= until:
            log.warning("Worker: stops while %d jobs go on; the next worker has them", worker.job_count)
            break
        await asyncio.sleep(look_seconds)
    worker.stop()


async def until_all_is_taken(claiming: Claiming, quiet_seconds: float) -> None:
    """Return when a worker has as many jobs as it may have, or nothing more has come for so long."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    while True:
        await claiming.took_all.wait()
        claiming.took_all.clear()
        if claiming.is_full or loop.time() - max(since, claiming.claimed_at) >= quiet_seconds:
            return
