# SPDX-License-Identifier: Apache-2.0
"""What must be known of a task to say why it waits: plain values, read elsewhere, judged in ``core.explain``.

What was not read, because the task is past the gate or has not come to it, is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from airflow_workpools.core.jobs import JobState
    from airflow_workpools.core.names import WorkQueueRef
    from airflow_workpools.core.slots import QueueLoad


@dataclass(frozen=True, kw_only=True)
class TaskRef:
    """Which task instance is asked for."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    """-1 for a task that is not mapped, and for a mapped one that is not expanded yet."""

    def __str__(self) -> str:
        index = f" [{self.map_index}]" if self.map_index >= 0 else ""
        return f"{self.dag_id}.{self.task_id}{index}"


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """The task instance's own row."""

    state: str | None
    """Airflow's word; None before the task is scheduled."""
    try_number: int
    pool_slots: int
    queued_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    hostname: str | None = None
    airflow_pool: str
    work_queue: WorkQueueRef | None = None
    """None if another executor than the WorkPoolExecutor runs it."""
    executor: str | None = None
    """The executor that it names."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The task's DAG and run."""

    state: str
    run_after: datetime
    dag_paused: bool = False
    dag_stale: bool = False
    """The DAG processor does not find the DAG any more."""
    backfill_paused: bool = False
    in_backfill: bool = False
    active_runs: int = 0
    """Runs that count towards the limit of this one."""
    max_active_runs: int | None = None


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """Instances of one upstream task that are in the same state."""

    task_id: str
    state: str | None
    instances: int = 1


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """What Airflow itself says a task waits for before it schedules it."""

    reasons: tuple[str, ...] = ()
    """Airflow's words, one for each dependency that is not met."""
    unfinished: tuple[Upstream, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ActiveLimit:
    """One of Airflow's limits on how many tasks are active at once."""

    name: str
    """As authors write it: ``max_active_tasks``, …"""
    active: int
    limit: int


@dataclass(frozen=True, kw_only=True)
class AirflowPoolFacts:
    """The Airflow pool that the task is in."""

    name: str
    exists: bool = True
    ours: bool = True
    """Whether the executor made it for a work queue; else somebody else has taken its name."""
    refuses: str | None = None
    """Why Airflow never takes the task from this pool: another team's."""
    slots: int | None = None
    """None is no limit."""
    running: int = 0
    queued: int = 0
    deferred: int = 0
    """Slots of deferred tasks, where the pool counts them."""

    @property
    def open(self) -> int | None:
        """Slots that are open; None without limit, negative where more are held than there are."""
        return None if self.slots is None else self.slots - self.running - self.queued - self.deferred


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A run that holds slots of a work pool."""

    dag_id: str
    run_id: str
    queue: str
    tasks: int
    slots: int
    since: datetime
    """When its oldest job was handed over."""


@dataclass(frozen=True, kw_only=True)
class WorkQueueFacts:
    """The work queue of the task and its pool, as the gate sees them at which the task is.

    Before the hand-over the loads are Airflow's counts (gate 1), after it the store's (gate 2).
    """

    ref: WorkQueueRef
    problem: str | None = None
    """Why the queue cannot be used: unknown, invalid, or its Airflow pool is somebody else's."""
    way_out: str | None = None
    fails: bool = False
    """Whether a task is failed for the problem, rather than waiting until it is mended."""
    pool_paused: bool = False
    queue_paused: bool = False
    pool_limit: int | None = None
    queue_limit: int | None = None
    loads: Sequence[QueueLoad] = ()
    queue_holders: tuple[Holder, ...] = ()
    """Who holds most of the queue's slots."""
    pool_holders: tuple[Holder, ...] = ()
    """Who holds most of the pool's slots."""
    push: bool = True
    workers_online: int = 0
    """Workers that take jobs of the queue and can launch them."""
    workers_elsewhere: int = 0
    """Workers that can launch jobs of the pool, also those that take none of this queue."""
    workers_draining: int = 0
    """Workers that would take jobs of the queue if they did not drain."""
    capacity: int | None = None
    """Slots that those online can hold for the queue, and those that its jobs hold; None is without limit."""
    workers_known: int = 0
    hindrance: str | None = None
    """Why none of the workers that are online can launch jobs of the pool."""
    room: int | None = None
    """Slots that the workers online can fill now, by what the gate counts; None is without limit."""

    @property
    def load(self) -> QueueLoad | None:
        return next((load for load in self.loads if load.name == self.ref.queue), None)


@dataclass(frozen=True, kw_only=True)
class SchedulerLoad:
    """A scheduler that is alive, and the tasks that it has given to its executors."""

    job_id: int
    tasks: int


@dataclass(frozen=True, kw_only=True)
class ExecutorFacts:
    """Who could hand the task over."""

    schedulers: tuple[SchedulerLoad, ...]
    parallelism: int | None


@dataclass(frozen=True, kw_only=True)
class JobFacts:
    """The job of the task's newest hand-over."""

    state: JobState
    cancelling: bool = False
    """Whether it shall be stopped."""
    reason: str | None = None
    exit_code: int | None = None
    worker: str | None = None
    worker_gone_since: datetime | None = None
    """When its worker was last heard of, if that has ended or is silent."""
    handed_over_at: datetime
    claimed_at: datetime | None = None
    starting_since: datetime | None = None
    """Since when its start timeout runs; None: since its claim."""
    ended_at: datetime | None = None
    start_timeout_seconds: float = 0
    ahead: int = 0
    """Waiting jobs of its queue that go first."""


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """All that is known of a task on its way."""

    ref: TaskRef
    now: datetime
    task: TaskState
    run: RunFacts
    dependencies: Dependencies | None = None
    limits: tuple[ActiveLimit, ...] = ()
    airflow_pool: AirflowPoolFacts | None = None
    work_queue: WorkQueueFacts | None = None
    """None if the task has no work queue, or is past the claim."""
    executor: ExecutorFacts | None = None
    job: JobFacts | None = None

    @property
    def gate_one(self) -> bool:
        """Whether the work pool sets the slots of the task's Airflow pool, and so decides on its hand-over."""
        queue, pool = self.task.work_queue, self.airflow_pool
        if queue is None or self.task.airflow_pool != queue.airflow_pool:
            return False
        return pool is None or pool.ours or not pool.exists
