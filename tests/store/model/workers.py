# SPDX-License-Identifier: Apache-2.0
"""Workers: what ``worker/loop.py`` does, a step at a time, so that one may die between any two."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.jobs import ENDED, JobState
from airflow_workpools.core.pools import DEFAULT_START_ATTEMPTS
from airflow_workpools.errors import NotFound
from airflow_workpools.infrastructure.base import Observation, Phase
from airflow_workpools.store.records import JobFilter, WorkerState
from airflow_workpools.worker import reports
from tests.store.databases import Crash
from tests.store.rigs import new_worker

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.infrastructure.base import Handle
    from airflow_workpools.store.records import ClaimedJob, Report
    from tests.store.model.world import World


@dataclass(eq=False)
class Tracked:
    """A job that a worker looks after."""

    job: ClaimedJob
    handle: Handle | None = None
    running: bool = False
    cancel_reason: str | None = None


@dataclass(eq=False)
class Worker:
    """A worker's process. What it tracks and has not reported dies with it; what it launched does not."""

    id: uuid.UUID
    host: str
    heartbeat_seconds: float
    world: World
    pools: Sequence[WorkPool] = ()
    """As it knows them; others may have been changed since."""
    alive: bool = True
    frozen: bool = False
    unsure: bool = False
    tracked: dict[uuid.UUID, Tracked] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)
    copies: list[list[Report]] = field(default_factory=list)
    """What the network may deliver once more, whenever it likes."""

    @property
    def works(self) -> bool:
        return self.alive and not self.frozen

    def ask(self, method: str, *arguments: Any, lost: bool = False, **named: Any) -> Any:
        """Ask the store; the answer may be lost on its way, or the store's process die."""
        try:
            answer = self.world.stores.ask(method, *arguments, **named)
        except Crash:
            self.unsure = True
            raise
        if lost:
            self.unsure = True
            raise Crash
        return answer

    def dies(self) -> None:
        self.alive, self.tracked, self.reports = False, {}, []

    # -- life ------------------------------------------------------------------------------------------------

    def registers(self, *, crash: int | None = None) -> None:
        self.pools = self.world.pools
        record = new_worker(
            id=self.id,
            hostname=self.host,
            heartbeat_seconds=self.heartbeat_seconds,
            started_at=self.world.now,
            last_heartbeat_at=self.world.now,
        )
        self.ask("register_worker", record, now=self.world.now, crash=crash)

    def beats(self, *, crash: int | None = None) -> None:
        """Say that it lives, come back if it was taken for dead, and adopt what the dead left behind."""
        self.pools = self.world.pools
        try:
            state = self.ask("heartbeat", self.id, now=self.world.now)
        except NotFound:
            state = WorkerState.STOPPED
        if state is WorkerState.STOPPED:
            self.registers()
            mine = {job.id for job in self.ask("mine", self.id)}
            self.tracked = {id_: tracked for id_, tracked in self.tracked.items() if id_ in mine}
            self.unsure = True
        orphans = self.ask("take_over", self.id, self.host, now=self.world.now, crash=crash)
        self.adopts(orphans)

    def adopts(self, jobs: Sequence[ClaimedJob], *, lost: bool = False) -> None:
        never_launched = []
        for job in jobs:
            process = self.world.find(job.id, self.host)
            handle = job.handle or (process.handle if process else None)
            if handle is None:
                never_launched.append(job)
            else:
                self.tracked[job.id] = Tracked(job, handle, job.state is JobState.RUNNING)
        self.gives_back(never_launched, lost=lost)

    def finds_lost(self) -> None:
        self.unsure = False
        known = self.tracked.keys() | {report.job_id for report in self.reports}
        self.adopts([job for job in self.ask("mine", self.id) if job.id not in known])

    def gives_back(self, jobs: Sequence[ClaimedJob], *, lost: bool = False) -> None:
        again = []
        for job in jobs:
            self.tracked.pop(job.id, None)
            if job.start_attempts + 1 < DEFAULT_START_ATTEMPTS:
                again.append(job.id)
            else:
                self.reports.append(reports.not_started(job.id, "too often"))
        if again:
            self.ask("requeue", self.id, again, "not launched", now=self.world.now, lost=lost)

    # -- jobs ------------------------------------------------------------------------------------------------

    def claims(self, *, room: int, crash: int | None = None, lost: bool = False) -> list[ClaimedJob]:
        taken: list[ClaimedJob] = self.ask(
            "claim", self.id, self.pools, room=room, now=self.world.now, crash=crash, lost=lost
        )
        self.tracked |= {job.id: Tracked(job) for job in taken}
        return taken

    @property
    def to_launch(self) -> list[Tracked]:
        return [tracked for tracked in self.tracked.values() if tracked.handle is None]

    def launches(self, tracked: Tracked, how: str) -> None:
        """Launch a job. "forgotten": the worker dies before it can write down what it has launched."""
        job = tracked.job
        if how == "rejected":
            self.tracked.pop(job.id)
            self.reports.append(reports.not_started(job.id, "rejected"))
        elif how == "unavailable":
            self.gives_back([job])
        else:
            # It may have been cancelled, or even purged, since it was claimed.
            found = self.world.stores.store.jobs(JobFilter(job_ids=(job.id,)))
            owned = any(one.worker_id == self.id and one.state is JobState.CLAIMED for one in found)
            process = self.world.launch(job.id, job.task_instance_id, self.host, owned=owned)
            if how == "forgotten":
                self.dies()
                return
            tracked.handle = process.handle
            tracked.running = how == "running"
            report = reports.launched(process.handle, running=tracked.running, now=self.world.now)
            self.reports.append(report)

    def observes(self) -> None:
        for id_, tracked in list(self.tracked.items()):
            if tracked.handle is None:
                continue
            seen = self._look(id_, tracked.handle)
            report = reports.report_of(id_, seen, handle=tracked.handle, cancel_reason=tracked.cancel_reason)
            if report is not None:
                self.tracked.pop(id_)
                self.reports.append(report)
            elif not tracked.running:
                tracked.running = True
                self.reports.append(reports.launched(tracked.handle, running=True, now=self.world.now))

    def _look(self, job_id: uuid.UUID, handle: Handle) -> Observation:
        process = self.world.find(job_id, self.host)
        if process is None or process.handle != handle:
            return Observation(phase=Phase.GONE, reason="gone")
        if process.alive:
            return Observation(phase=Phase.RUNNING)
        return Observation(phase=Phase.EXITED, exit_code=process.exit_code, reason="exited")

    def stops_wished(self) -> None:
        for id_, reason in self.ask("wishes", self.id):
            tracked = self.tracked.get(id_)
            if tracked is not None and tracked.handle is not None:
                tracked.cancel_reason = reason or "cancelled"
                if process := self.world.find(id_, self.host):
                    self.world.exits(process, -15)

    def tells(
        self, *, most: int = 1000, keeps_a_copy: bool = False, crash: int | None = None, lost: bool = False
    ) -> None:
        """Report what there is to report, the oldest first; what the store did not take stays."""
        told = self.reports[:most]
        if not told:
            return
        batch = reports.merge(told)
        if keeps_a_copy:
            self.copies.append(batch)
        with contextlib.suppress(Crash):
            outcomes = self.ask("report", self.id, batch, now=self.world.now, crash=crash, lost=lost)
            del self.reports[: len(told)]
            ours = {one.job_id for one in outcomes if one.state is not None}
            for report in batch:
                if report.state in ENDED and report.handle is not None and report.job_id in ours:
                    self.world.clean_up(report.handle)

    def is_delivered_again(self, number: int, *, one_by_one: bool) -> None:
        """The network delivers an old message, maybe long after its sender has died."""
        batch = self.copies[number % len(self.copies)]
        parts = [[report] for report in reversed(batch)] if one_by_one else [batch]
        for part in parts:
            self.world.stores.ask("report", self.id, [replace(one) for one in part], now=self.world.now)
