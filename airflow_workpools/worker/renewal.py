# SPDX-License-Identifier: Apache-2.0
"""Jobs that can't start for no fault of their own do not run into their start timeout, and their tokens stay good."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.store.records import WorkerRecord
    from airflow_workpools.worker.client import WorkerClient
    from airflow_workpools.worker.tracking import Sought, Tracked

RENEWALS = 3
"""How often a start timeout is made to begin anew before it is over."""


@dataclass(kw_only=True)
class Renewal:
    """Renews jobs that the platform's own queue holds, or whose infrastructure can't be asked about them."""

    record: WorkerRecord
    client: WorkerClient
    clock: Callable[[], datetime]
    tracked: Mapping[UUID, Tracked]
    sought: Mapping[UUID, Sought]

    async def look(self) -> None:
        """Renew what is due."""
        now = self.clock()
        due = {one.job.id: one for one in self._held_back() if _is_due(one, now)}
        if not due:
            return
        fresh = await asyncio.to_thread(self.client.renew, self.record.id, list(due), now=now)
        for id_, one in due.items():
            one.renewed_at = now
            tracked = self.tracked.get(id_)
            if tracked is not None and id_ in fresh:
                tracked.workload = fresh[id_]
                tracked.site.woken.set()

    def _held_back(self) -> Iterator[Tracked | Sought]:
        for tracked in self.tracked.values():
            if not tracked.running and (tracked.held or not _answers(tracked)):
                yield tracked
        for sought in self.sought.values():
            if not _answers(sought):
                yield sought


def _answers(one: Tracked | Sought) -> bool:
    return one.site.is_open and one.site.outage is None


def _is_due(one: Tracked | Sought, now: datetime) -> bool:
    every = timedelta(seconds=one.job.start_timeout_seconds / RENEWALS)
    # A renewal that lies ahead is one from before the clock was set back.
    return one.renewed_at is None or abs(now - one.renewed_at) >= every
