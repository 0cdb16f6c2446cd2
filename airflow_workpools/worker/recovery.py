# SPDX-License-Identifier: Apache-2.0
"""Jobs that the store holds to be a worker's though it does not know them: adopted, or given back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.jobs import JobState
from airflow_workpools.worker import reports
from airflow_workpools.worker.tracking import Tracked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.infrastructure.base import Handle, Infrastructure
    from airflow_workpools.store.records import ClaimedJob, Report, WorkerRecord
    from airflow_workpools.worker.client import WorkerClient

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Recovery:
    """Looks after jobs of workers that died, and of claims that went wrong half-way.

    :param known: tells of which jobs the worker knows, however far it is with them.
    """

    record: WorkerRecord
    client: WorkerClient
    infrastructures: Mapping[str, Infrastructure]
    clock: Callable[[], datetime]
    tracked: dict[UUID, Tracked]
    tell: Callable[[Report], None]
    known: Callable[[], Collection[UUID]]
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)
    _unsure: bool = False
    """Whether the store may hold jobs to be ours that we know nothing of."""

    def be_unsure(self) -> None:
        """Have :meth:`find_lost` look again."""
        self._unsure = True

    @contextlib.asynccontextmanager
    async def unsure_if_it_fails(self) -> AsyncIterator[None]:
        """Run something that makes jobs ours, and may fail half-way."""
        try:
            yield
        except Exception:
            self.be_unsure()
            raise

    async def take_over(self) -> None:
        """Adopt what dead workers of this host left behind."""
        async with self._one_at_a_time, self.unsure_if_it_fails():
            orphans = await asyncio.to_thread(
                self.client.take_over, self.record.id, self.record.hostname, now=self.clock()
            )
            if orphans:
                await self._adopt(orphans)

    async def forget_what_others_have(self) -> None:
        """Let go of jobs that were given to others while this worker was taken for dead."""
        known = set(self.tracked)  # what is claimed meanwhile is not among them
        mine = {job.id for job in await asyncio.to_thread(self.client.mine, self.record.id)}
        for id_ in known - mine:
            self.tracked.pop(id_, None)
        self.be_unsure()

    async def find_lost(self) -> None:
        """Look after jobs that the store gave to this worker, but whose claim or adoption failed half-way.

        Between two claims only: while one goes on, the store knows of jobs that have not come here yet.
        """
        if not self._unsure:
            return
        self._unsure = False
        async with self._one_at_a_time, self.unsure_if_it_fails():
            # What ends meanwhile is known before, and what comes to be known meanwhile is known after.
            before = set(self.known())
            mine = await asyncio.to_thread(self.client.mine, self.record.id)
            known = before | set(self.known())
            lost = [job for job in mine if job.id not in known]
            if lost:
                await self._adopt(lost)

    async def _adopt(self, jobs: list[ClaimedJob]) -> None:
        """Look after jobs that were somebody else's. One that was claimed but never launched is given back."""
        pools = await asyncio.to_thread(self.client.pools)
        never_launched: list[ClaimedJob] = []
        for job in jobs:
            kind = job.handle.kind if job.handle else self._kind_of(job, pools)
            handle = job.handle or await self._find(job, kind)
            if handle is None:
                never_launched.append(job)
                continue
            self.tracked[job.id] = Tracked(
                job=job, kind=handle.kind, handle=handle, running=job.state is JobState.RUNNING
            )
        await self.give_back(never_launched, "its worker ended before it could launch the job")
        log.info(
            "Worker: adopted %d jobs, gave %d back", len(jobs) - len(never_launched), len(never_launched)
        )

    def _kind_of(self, job: ClaimedJob, pools: Mapping[str, Any]) -> str | None:
        pool = pools.get(job.ref.pool)
        return pool.type if pool is not None else None

    async def _find(self, job: ClaimedJob, kind: str | None) -> Handle | None:
        infrastructure = self.infrastructures.get(kind) if kind else None
        found = await infrastructure.find([job.id]) if infrastructure else {}
        return found.get(job.id)

    async def give_back(self, jobs: Iterable[ClaimedJob], reason: str) -> None:
        """Requeue jobs that did not start, or fail those that did not start often enough."""
        again: dict[UUID, int] = {}
        for job in jobs:
            if job.start_attempts + 1 < reports.MAX_START_ATTEMPTS:
                again[job.id] = job.start_attempts
            else:
                attempts = f"{reason} ({job.start_attempts + 1} attempts)"
                self.tell(reports.of_claim(job, reports.not_started(job.id, attempts)))
        if again:
            await asyncio.to_thread(
                self.client.requeue,
                self.record.id,
                list(again),
                reason,
                now=self.clock(),
                start_attempts=again,
            )
