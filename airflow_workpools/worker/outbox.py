# SPDX-License-Identifier: Apache-2.0
"""What is to be told to the store: kept until it has accepted it, which may take any time."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_workpools.core.jobs import ENDED
from airflow_workpools.errors import InvalidInput
from airflow_workpools.worker import reports
from airflow_workpools.worker.sites import Leftover
from airflow_workpools.worker.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.store.records import Report, ReportOutcome, WorkerRecord
    from airflow_workpools.worker.client import WorkerClient
    from airflow_workpools.worker.journal import Journal
    from airflow_workpools.worker.tracking import Tracked

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Outbox:
    """Tells the store what became of jobs, in batches; then has removed what is left of those that ended.

    :param on_ended: called when ends of jobs have been stored, with the ids of their task instances, if known.
    :param remove: has removed what is left of a job.
    :param journal: keeps on disk what could not be told.
    """

    record: WorkerRecord
    client: WorkerClient
    clock: Callable[[], datetime]
    on_ended: Callable[[Collection[UUID]], None]
    remove: Callable[[Tracked, Leftover], None]
    journal: Journal | None = None
    _reports: list[Report] = field(default_factory=list)
    _of: dict[UUID, Tracked] = field(default_factory=dict)
    """Jobs that have ended, or whose start has failed."""
    _kept: dict[UUID, Report] = field(default_factory=dict)
    """What the journal has."""
    _to_tell: asyncio.Event = field(default_factory=asyncio.Event)
    _end_to_tell: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def job_ids(self) -> set[UUID]:
        """Jobs of which something is still to be told."""
        return {report.job_id for report in self._reports}

    def ending(self) -> Collection[Tracked]:
        """Return jobs whose end is still to be told."""
        return self._of.values()

    def tell(self, report: Report) -> None:
        """Have something told, soon."""
        self._reports.append(report)
        self._to_tell.set()
        if report.state in ENDED:
            self._end_to_tell.set()

    def tell_last(self, tracked: Tracked, report: Report) -> None:
        """Have told what makes an end of what is on the infrastructure; when it is stored, that is removed.

        The handle says whether the job is launched again then.
        """
        self._of[report.job_id] = tracked
        self.tell(reports.of_claim(tracked.job, report))
        self._end_to_tell.set()

    async def step(self, *, progress_delay: float, delay: float) -> None:
        """Wait until there is something to tell, and tell it.

        :param progress_delay: so long what is no end may wait for one, to be told together.
        :param delay: so long ends are collected.
        """
        await self._to_tell.wait()
        await wait_for(self._end_to_tell, progress_delay)
        await asyncio.sleep(delay)
        await self.flush()

    async def flush(self) -> None:
        """Tell everything that is to be told; what the store did not take stays to be told again."""
        told = list(self._reports)
        if told:
            batch = reports.merge(told)
            outcomes = await self._report(batch)
            del self._reports[: len(told)]
            # What another worker has taken over is for that one to look at, and to remove.
            ours = {outcome.job_id for outcome in outcomes if outcome.state is not None}
            for foreign in {outcome.job_id for outcome in outcomes} - ours:
                log.info(
                    "Worker: job %s is not this worker's any more; what became of it is for another to tell",
                    foreign,
                )
            ended = [report.job_id for report in batch if report.state in ENDED]
            whose = [self._of[id_].job.task_instance_id for id_ in ended if id_ in ours and id_ in self._of]
            for report in batch:
                tracked = self._of.get(report.job_id)
                last = report.state in ENDED or (report.handle is not None and report.handle.failed_start)
                if tracked is not None and last and report.job_id not in self.job_ids:
                    del self._of[report.job_id]
                    if report.job_id in ours or tracked.revoked:
                        self._remove(tracked, report)
            if ended:
                self.on_ended(whose)
        if not self._reports:
            self._to_tell.clear()
        if not any(report.state in ENDED for report in self._reports):
            self._end_to_tell.clear()

    async def _report(self, batch: list[Report]) -> list[ReportOutcome]:
        try:
            outcomes = await self._say(batch)
        except Exception:
            if self.journal is not None:
                new = [report for report in batch if self._kept.get(report.job_id) != report]
                await asyncio.to_thread(self.journal.keep, new)
                self._kept |= {report.job_id: report for report in new}
            raise
        if self.journal is not None and self._kept:
            told = {report.job_id for report in batch if self._is_covered(report)}
            await asyncio.to_thread(self.journal.forget, told)
            self._kept = {id_: report for id_, report in self._kept.items() if id_ not in told}
        return outcomes

    async def _say(self, batch: list[Report]) -> list[ReportOutcome]:
        """Tell the store; one report that it does not take, for good, keeps no other from being told."""
        try:
            return await asyncio.to_thread(self.client.report, self.record.id, batch, now=self.clock())
        except InvalidInput as error:
            if len(batch) > 1:
                half = len(batch) // 2
                return [*await self._say(batch[:half]), *await self._say(batch[half:])]
            return await self._say_less(batch[0], str(error))

    async def _say_less(self, report: Report, problem: str) -> list[ReportOutcome]:
        log.error("Worker: what is to be told of job %s is not taken: %s", report.job_id, problem)
        bare = reports.bare(report, problem)
        try:
            return await asyncio.to_thread(self.client.report, self.record.id, [bare], now=self.clock())
        except InvalidInput as error:
            log.error("Worker: nothing can be told of job %s: %s", report.job_id, error)
            return []

    def _is_covered(self, report: Report) -> bool:
        """Say whether with this report all was told that the journal has of its job."""
        kept = self._kept.get(report.job_id)
        return kept is not None and (kept.state not in ENDED or report.state in ENDED)

    def note_kept(self, report: Report) -> None:
        """Note what the journal has of a job, from an earlier worker: it is forgotten when the job's end is told."""
        self._kept[report.job_id] = report

    def _remove(self, tracked: Tracked, report: Report) -> None:
        if report.handle is not None:
            again = tracked.job if report.handle.failed_start else None
            self.remove(tracked, Leftover(report.handle, again))
