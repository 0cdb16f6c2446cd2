# SPDX-License-Identifier: Apache-2.0
"""What goes into the store and what comes out of it: plain frozen values, never database rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_workpools.core.ends import EndCause, JobPhase, end_cause, phases
from airflow_workpools.store.worker_records import MISSED_HEARTBEATS, WorkerKind, WorkerRecord, WorkerState

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping
    from datetime import datetime

    from airflow_workpools.core.jobs import JobState
    from airflow_workpools.core.names import WorkQueueRef
    from airflow_workpools.infrastructure.base import Handle

__all__ = [
    "MISSED_HEARTBEATS",
    "ClaimedJob",
    "EndedJob",
    "GivenUp",
    "JobCount",
    "JobFilter",
    "JobRecord",
    "JobSummary",
    "NewJob",
    "Purged",
    "QueueRunState",
    "Reconciled",
    "Report",
    "ReportOutcome",
    "RunState",
    "TryKey",
    "Wish",
    "WorkerKind",
    "WorkerRecord",
    "WorkerState",
]


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """One try of a task instance, as the executor hands it over."""

    task_instance_id: uuid.UUID
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int
    ref: WorkQueueRef
    pool_slots: int
    priority_weight: int
    workload: str = field(repr=False)
    """The workload as JSON, without a token."""
    job_variables: Mapping[str, Any] = field(default_factory=dict, hash=False)
    scheduler_job_id: int | None
    start_timeout_seconds: float
    team_name: str | None = None
    """Team of the executor that hands it over; only a worker of this team claims it."""


@dataclass(frozen=True, kw_only=True)
class ClaimedJob:
    """A job as its worker sees it."""

    id: uuid.UUID
    task_instance_id: uuid.UUID
    ref: WorkQueueRef
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int
    workload: str = field(repr=False)
    job_variables: Mapping[str, Any] = field(default_factory=dict, hash=False)
    handle: Handle | None = None
    state: JobState
    desired_state: JobState | None = None
    """None, or how the job shall end: ``cancelled``, or ``failed`` when the wish is the job's own fault."""
    start_timeout_seconds: float
    start_attempts: int = 0
    """How often it was given back: together with its id, which claim of it this is."""
    reason: str | None = None
    problem: str | None = None
    """Why it can't be launched: its row was changed by hand, and can't be read."""


@dataclass(frozen=True, kw_only=True)
class EndedJob:
    """The end of a job, to be told to Airflow once."""

    id: uuid.UUID
    task_instance_id: uuid.UUID
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int
    state: JobState
    reason: str | None
    exit_code: int | None
    ref: WorkQueueRef
    log_path: str | None = None
    """The task's log, relative to Airflow's log folder, where the job did not succeed."""
    latest: bool
    """False if the same try has been handed over again since: Airflow must not hear of this end."""
    desired_state: JobState | None
    scheduled_at: datetime | None
    """Since when its task waited in Airflow to be handed over; None if Airflow has forgotten."""
    handed_over_at: datetime
    claimed_at: datetime | None
    started_at: datetime | None
    ended_at: datetime
    context_carrier: Mapping[str, str] | None = field(default=None, hash=False)
    """The trace of its task, where that was asked for."""

    @cached_property
    def cause(self) -> EndCause:
        return end_cause(
            self.state,
            desired_state=self.desired_state,
            exit_code=self.exit_code,
            claimed_at=self.claimed_at,
            started_at=self.started_at,
        )

    @cached_property
    def phases(self) -> list[JobPhase]:
        return phases(
            handed_over_at=self.handed_over_at,
            claimed_at=self.claimed_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
        )


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """Which try of which task a job is, and how far it has come."""

    id: uuid.UUID
    task_instance_id: uuid.UUID
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int
    ref: WorkQueueRef
    state: JobState


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """Everything about a job that people may see: all but its workload."""

    id: uuid.UUID
    task_instance_id: uuid.UUID
    round: int
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int
    ref: WorkQueueRef
    pool_slots: int
    priority_weight: int
    state: JobState
    desired_state: JobState | None
    reason: str | None
    exit_code: int | None
    job_variables: Mapping[str, Any] = field(default_factory=dict, hash=False)
    handle: Handle | None
    worker_id: uuid.UUID | None
    scheduler_job_id: int | None
    start_timeout_seconds: float
    start_attempts: int
    team_name: str | None
    handed_over_at: datetime
    claimed_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    reported_at: datetime | None
    renewed_at: datetime | None = None
    """When its start timeout began anew, because it did not run while the job was held back."""

    @property
    def starting_since(self) -> datetime | None:
        """Since when its start timeout runs."""
        return self.renewed_at or self.claimed_at


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs to list; what is None does not restrict, and everything given must hold."""

    pools: tuple[str, ...] | None = None
    queues: tuple[WorkQueueRef, ...] | None = None
    states: frozenset[JobState] | None = None
    dag_id: str | None = None
    task_id: str | None = None
    run_id: str | None = None
    job_ids: tuple[uuid.UUID, ...] | None = None
    task_instance_ids: tuple[uuid.UUID, ...] | None = None
    worker_ids: tuple[uuid.UUID, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a worker says of one of its jobs.

    A report of the state in which the job already is, is welcome: it stores a newer handle or reason.
    """

    job_id: uuid.UUID
    state: JobState
    handle: Handle | None = None
    exit_code: int | None = None
    reason: str | None = None
    started_at: datetime | None = None
    """When the job was first seen to run, which may be told later, or together with its end."""
    start_attempts: int | None = None
    """Of which claim it tells; a report that comes so late that the job was claimed anew is not for that claim."""


class ReportOutcome(NamedTuple):
    """What became of a report.

    ``state`` is the job's state afterwards; None if there is no such job, or if another worker has it now.
    """

    job_id: uuid.UUID
    accepted: bool
    state: JobState | None


class Wish(NamedTuple):
    """A job that shall be stopped, and why."""

    job_id: uuid.UUID
    reason: str | None


class JobCount(NamedTuple):
    """How many jobs, and how many slots they ask for or hold."""

    jobs: int
    slots: int


class TryKey(NamedTuple):
    """Which try of which task instance, as people name it."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int


class Purged(NamedTuple):
    """How many old rows are gone, or would be."""

    jobs: int
    workers: int
    log_chunks: int = 0
    """Of the logs of jobs; a job whose log is long goes after several times."""

    @property
    def total(self) -> int:
        return sum(self)


class QueueRunState(NamedTuple):
    paused: bool = False
    last_polled_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Run-time state of pools, queues and workers. A pool or queue that is not mentioned is not paused."""

    as_of: datetime
    pools: Mapping[str, bool] = field(default_factory=dict)
    """Whether a pool is paused, by name."""
    queues: Mapping[WorkQueueRef, QueueRunState] = field(default_factory=dict)
    workers: tuple[WorkerRecord, ...] = ()

    def pool_paused(self, name: str) -> bool:
        return self.pools.get(name, False)

    def queue(self, ref: WorkQueueRef) -> QueueRunState:
        return self.queues.get(ref, QueueRunState())

    def workers_of(
        self, pool: str, *, push: bool = True, team_name: str | None = None
    ) -> tuple[WorkerRecord, ...]:
        """Return the workers that serve a pool, whether online or not.

        :param push: whether the pool is a push pool.
        :param team_name: the pool's team.
        """
        return tuple(worker for worker in self.workers if worker.serves(pool, push=push, team_name=team_name))

    def workers_online(self, pool: str, *, push: bool = True, team_name: str | None = None) -> int:
        """Count the workers that are online and serve a pool, and that nothing hinders."""
        workers = self.workers_of(pool, push=push, team_name=team_name)
        return sum(worker.can_use(pool, self.as_of) for worker in workers)

    def hindrance(self, pool: str, *, push: bool = True, team_name: str | None = None) -> str | None:
        """Say why no worker can launch jobs of a pool, though some are online; None if one can, or none is."""
        online = [
            one for one in self.workers_of(pool, push=push, team_name=team_name) if one.online(self.as_of)
        ]
        if any(pool not in worker.hindered for worker in online):
            return None
        return "; ".join(dict.fromkeys(worker.hindered[pool] for worker in online)) or None


class GivenUp(NamedTuple):
    """How many jobs of lost workers were ended, or let wait again."""

    failed: int = 0
    requeued: int = 0


class Reconciled(NamedTuple):
    """How many jobs a reconciliation changed, by cause."""

    stale: int = 0
    """Waiting jobs that were cancelled: their task instance no longer waits for them."""
    moved_on: int = 0
    """Started jobs that were told to stop: their task instance is gone, cleared or finished."""
    not_started: int = 0
    """Jobs told to stop because the task did not start within the start timeout."""
    superseded: int = 0
    """Jobs told to stop because the same try was handed over again and waits for them."""
    worker_lost: int = 0
    """Jobs to be stopped that were failed because nobody is left to stop them."""
    mended: int = 0
    """Jobs whose row said what cannot be: it was changed by hand."""
    untold: int = 0
    """Ended jobs whose end is told again: their task is queued still."""

    @property
    def total(self) -> int:
        return sum(self)
