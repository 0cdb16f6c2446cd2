# SPDX-License-Identifier: Apache-2.0
"""What is really so, whatever the store believes: Airflow's task instances, processes on hosts, pools, time.

Schedulers and workers (in ``actors.py``) see of it what they would see in life; checks see all of it.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import WorkPool
from airflow_workpools.infrastructure.base import Handle
from tests.store.rigs import later, new_job, work_pool

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_workpools.store.records import NewJob
    from tests.store.model.stores import Stores

HOSTS = ("a", "b")
GRACE_SECONDS = 30.0
"""How long a process may go on after its task has told Airflow its end."""
HEARTBEAT_TIMEOUT_SECONDS = 300.0
"""Airflow fails a running task whose process has been silent for so long."""
ENDS = ("success", "failed", "up_for_retry", "deferred", "up_for_reschedule")
"""What a task may tell Airflow at its end."""
RESUMED = ("deferred", "up_for_reschedule")
"""States from which the same try is scheduled again."""
QUEUES: dict[str, dict[str, tuple[int, int | None]]] = {
    "etl": {"high": (1, 2), "low": (3, None)},
    "ml": {},
}
LIMITS: dict[str, int | None] = {"etl": 4, "ml": None}
REFS = tuple(
    WorkQueueRef.parse(name) for name in ("etl/high", "etl/low", "etl/default", "ml/default", "ml/gone")
)


@dataclass(eq=False)
class Try:
    """One try of a task instance, as Airflow has it."""

    job: NewJob
    state: str | None = "scheduled"
    changed_at: float = 0.0
    is_current: bool = True
    """Whether the task instance still has this id; a new try has a new one."""
    scheduler: int | None = None
    """Whose executor it was queued with."""
    latest_job: uuid.UUID | None = None

    @property
    def id(self) -> uuid.UUID:
        return self.job.task_instance_id


@dataclass(eq=False)
class Process:
    """What a worker has launched for a job."""

    job_id: uuid.UUID
    task_instance_id: uuid.UUID
    host: str
    number: int
    is_excused: bool
    """Whether it was launched by a worker that no longer had the job: nothing the store could prevent."""
    started: bool = False
    """Whether the Execution API let the task start."""
    task_ended_at: float | None = None
    exit_code: int | None = None
    changed_at: float = 0.0

    @property
    def alive(self) -> bool:
        return self.exit_code is None

    @property
    def handle(self) -> Handle:
        return Handle(job_id=self.job_id, kind="process", data={"host": self.host, "n": self.number})


@dataclass
class World:
    """All of it. ``stores`` hear of task instances only."""

    stores: Stores
    seconds: float = 0.0
    tries: list[Try] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    limits: dict[str, int | None] = field(default_factory=lambda: dict(LIMITS))
    queues: dict[str, dict[str, tuple[int, int | None]]] = field(
        default_factory=lambda: {pool: dict(queues) for pool, queues in QUEUES.items()}
    )
    doubtful: set[uuid.UUID] = field(default_factory=set)
    """Jobs of which somebody has told the store nonsense: what really runs of them may be anything."""
    forgotten: set[uuid.UUID] = field(default_factory=set)
    """Jobs that a purge was allowed to remove, and did."""
    _numbers: int = 0

    @property
    def now(self) -> datetime:
        return later(self.seconds)

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def new_id(self) -> uuid.UUID:
        return uuid.UUID(int=self.number())

    # -- pools -----------------------------------------------------------------------------------------------

    @property
    def pools(self) -> list[WorkPool]:
        return [work_pool(name, limit=self.limits[name], **queues) for name, queues in self.queues.items()]

    def has(self, ref: WorkQueueRef) -> bool:
        return any(pool.name == ref.pool and pool.find_queue(ref.queue) is not None for pool in self.pools)

    # -- Airflow ---------------------------------------------------------------------------------------------

    def add_try(self, ref: WorkQueueRef, slots: int, weight: int, start_timeout: float) -> Try:
        job = new_job(
            str(ref),
            task_instance_id=self.new_id(),
            pool_slots=slots,
            priority_weight=weight,
            start_timeout_seconds=start_timeout,
        )
        added = Try(job=job, changed_at=self.seconds)
        self.tries.append(added)
        return added

    def becomes(self, one: Try, state: str | None) -> None:
        one.state, one.changed_at = state, self.seconds
        if one.latest_job is not None:
            self.stores.put(state, self.now, one.job)

    def is_renewed(self, one: Try, *, ended_at: float | None) -> None:
        """The task instance gets a new id, for a try that is none of this world's business."""
        one.is_current = False
        if one.latest_job is not None:
            self.stores.remove(one.job, None if ended_at is None else later(ended_at))

    def find_try(self, task_instance_id: uuid.UUID) -> Try:
        return next(one for one in self.tries if one.id == task_instance_id)

    def waits_for(self, one: Try) -> bool:
        """Say whether Airflow wants the newest job of a try."""
        return one.is_current and one.state in ("queued", "running")

    # -- infrastructure --------------------------------------------------------------------------------------

    def launch(self, job_id: uuid.UUID, task_instance_id: uuid.UUID, host: str, *, owned: bool) -> Process:
        """Start a process, or find the one that is there: its name derives from the job."""
        if there := self.find(job_id, host):
            return there
        process = Process(
            job_id=job_id,
            task_instance_id=task_instance_id,
            host=host,
            number=self.number(),
            is_excused=not owned,
            changed_at=self.seconds,
        )
        self.processes.append(process)
        return process

    def find(self, job_id: uuid.UUID, host: str) -> Process | None:
        found = (one for one in self.processes if one.job_id == job_id and one.host == host)
        return next(found, None)

    def clean_up(self, handle: Handle) -> None:
        self.processes = [one for one in self.processes if one.alive or one.handle != handle]

    def exits(self, process: Process, code: int) -> None:
        if process.alive:
            process.exit_code, process.changed_at = code, self.seconds

    def goes_on(self, process: Process, task_end: str) -> None:
        """Let a process take its next step: ask to start, tell Airflow the task's end, exit."""
        one = self.find_try(process.task_instance_id)
        process.changed_at = self.seconds
        if not process.started:
            if one.is_current and one.state == "queued":
                process.started = True
                self.becomes(one, "running")
            else:
                self.exits(process, 1)
        elif process.task_ended_at is None:
            if one.is_current and one.state == "running":
                process.task_ended_at = self.seconds
                self.becomes(one, task_end)
            else:  # its heartbeat is answered with "you are not wanted any more"
                self.exits(process, 1)
        else:
            self.exits(process, 0)

    def miss_heartbeats(self) -> None:
        """Airflow fails running tasks whose processes are gone."""
        running = {one.task_instance_id for one in self.processes if one.alive and one.started}
        for one in self.tries:
            silent = self.seconds - one.changed_at >= HEARTBEAT_TIMEOUT_SECONDS
            if one.is_current and one.state == "running" and one.id not in running and silent:
                self.becomes(one, "failed")
