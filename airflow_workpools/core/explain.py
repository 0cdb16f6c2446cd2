# SPDX-License-Identifier: Apache-2.0
"""Why a task waits: the gates on its way, in their order, and the one at which it is.

A task passes the gates one by one, and the first that holds it is the answer; what a later one would say now
may have changed by the time the task gets there, so nothing is said of those. What each gate looks at, and
what it says, is in ``core.gates``. The order::

    run, dependencies, concurrency, airflow_pool             Airflow decides
    work_queue, paused, queue_limit, pool_limit, worker      the work pool decides
    executor                                                 Airflow hands the task over
    claim, start, running, end                               the job

The slots of a work queue's Airflow pool are set by its work pool, so the work pool decides before the
hand-over. Where the task's author chose another Airflow pool, the work pool is not asked until a worker is
to claim the job: there ``executor`` comes right after ``airflow_pool``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.gates import by_airflow, by_work_pool, of_job
from airflow_workpools.core.gates.finding import Finding
from airflow_workpools.core.jobs import ENDED, JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_workpools.core.task_facts import TaskFacts, TaskRef


class Gate(str, Enum):
    """What a task has to pass on its way; the values are what API and CLI say."""

    RUN = "run"
    DEPENDENCIES = "dependencies"
    CONCURRENCY = "concurrency"
    AIRFLOW_POOL = "airflow_pool"
    WORK_QUEUE = "work_queue"
    PAUSED = "paused"
    QUEUE_LIMIT = "queue_limit"
    POOL_LIMIT = "pool_limit"
    WORKER = "worker"
    EXECUTOR = "executor"
    CLAIM = "claim"
    START = "start"
    RUNNING = "running"
    END = "end"

    def __str__(self) -> str:
        return self.value


class GateStatus(str, Enum):
    """Where a gate stands on the way of the task."""

    PASSED = "passed"
    HOLDING = "holding"
    """The task is here. Of a task that runs or has ended this is no complaint."""
    NOT_REACHED = "not_reached"

    def __str__(self) -> str:
        return self.value


class Stage(str, Enum):
    """How far a task has come, as its own row and its job say."""

    WAITING = "waiting"
    """Airflow has not made it ``scheduled``."""
    SCHEDULED = "scheduled"
    """It may be handed over."""
    HANDED_OVER = "handed_over"
    """Its job waits to be claimed."""
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class GateView:
    """A gate as the task meets it."""

    gate: Gate
    status: GateStatus
    text: str | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict, hash=False)
    way_out: str | None = None
    """What would let the task pass; None if nothing need be done, or can be."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Where a task is on its way, and why."""

    ref: TaskRef
    state: str | None
    """Airflow's word for its state."""
    try_number: int
    stage: Stage
    gates: tuple[GateView, ...]
    """All gates, in the order of the task's way."""

    @property
    def holding(self) -> GateView:
        """The gate at which the task is."""
        return next(view for view in self.gates if view.status is GateStatus.HOLDING)


_AIRFLOW = (Gate.RUN, Gate.DEPENDENCIES, Gate.CONCURRENCY, Gate.AIRFLOW_POOL)
_WORK_POOL = (Gate.WORK_QUEUE, Gate.PAUSED, Gate.QUEUE_LIMIT, Gate.POOL_LIMIT, Gate.WORKER)
_JOB = (Gate.CLAIM, Gate.START)
_LAST = (Gate.RUNNING, Gate.END)

_CHECKS: Mapping[Gate, Callable[[TaskFacts], Finding]] = {
    Gate.RUN: by_airflow.run,
    Gate.DEPENDENCIES: by_airflow.dependencies,
    Gate.CONCURRENCY: by_airflow.concurrency,
    Gate.AIRFLOW_POOL: by_airflow.airflow_pool,
    Gate.WORK_QUEUE: by_work_pool.work_queue,
    Gate.PAUSED: by_work_pool.paused,
    Gate.QUEUE_LIMIT: by_work_pool.queue_limit,
    Gate.POOL_LIMIT: by_work_pool.pool_limit,
    Gate.WORKER: by_work_pool.worker,
    Gate.EXECUTOR: by_airflow.executor,
    Gate.CLAIM: of_job.claim,
    Gate.START: of_job.start,
    Gate.RUNNING: of_job.running,
    Gate.END: of_job.end,
}

_NOT_SCHEDULED = (None, "up_for_retry", "up_for_reschedule", "deferred", "awaiting_input")
_RUNNING = ("running", "restarting")


def stage_of(task_state: str | None, job_state: JobState | None) -> Stage:
    """Say how far a task has come."""
    if task_state in _NOT_SCHEDULED:
        return Stage.WAITING
    if task_state == "scheduled":
        return Stage.SCHEDULED
    if task_state in _RUNNING:
        return Stage.RUNNING
    if task_state != "queued" or job_state in ENDED:
        return Stage.ENDED
    return Stage.HANDED_OVER if job_state in (None, JobState.PENDING) else Stage.STARTING


def explain(facts: TaskFacts) -> Explanation:
    """Say at which gate a task is, and why."""
    stage = stage_of(facts.task.state, facts.job.state if facts.job else None)
    way = _way(facts)
    asked = _asked(facts, stage, way)
    findings = {gate: _CHECKS[gate](facts) for gate in asked}
    here = next((gate for gate in asked if findings[gate].holds), asked[-1])
    reached = way[: way.index(here)]
    behind = _behind(facts, stage)
    return Explanation(
        ref=facts.ref,
        state=facts.task.state,
        try_number=facts.task.try_number,
        stage=stage,
        gates=tuple(
            _view(
                gate,
                findings.get(gate),
                is_here=gate is here,
                passed=gate in behind or (gate in reached and gate in asked),
            )
            for gate in way
        ),
    )


def _way(facts: TaskFacts) -> tuple[Gate, ...]:
    """Return the gates on the way of a task, in its order."""
    if facts.task.work_queue is None:
        return (*_AIRFLOW, Gate.EXECUTOR, *_LAST)
    if facts.gate_one:
        return (*_AIRFLOW, *_WORK_POOL, Gate.EXECUTOR, *_JOB, *_LAST)
    return (*_AIRFLOW, Gate.EXECUTOR, *_WORK_POOL, *_JOB, *_LAST)


def _asked(facts: TaskFacts, stage: Stage, way: tuple[Gate, ...]) -> tuple[Gate, ...]:
    """Return the gates that may hold a task in its stage. If none of the others does, it is at the last."""
    if stage is Stage.WAITING:
        return Gate.RUN, Gate.DEPENDENCIES
    if stage is Stage.SCHEDULED:
        until_hand_over = way[: way.index(Gate.EXECUTOR) + 1]
        return tuple(gate for gate in until_hand_over if gate is not Gate.DEPENDENCIES)
    if stage is Stage.HANDED_OVER:
        return (*_WORK_POOL, Gate.CLAIM) if facts.job else (Gate.EXECUTOR,)
    return ({Stage.STARTING: Gate.START, Stage.RUNNING: Gate.RUNNING, Stage.ENDED: Gate.END}[stage],)


def _behind(facts: TaskFacts, stage: Stage) -> frozenset[Gate]:
    """Return the gates that a task has passed to come to its stage."""
    if stage is Stage.WAITING:
        return frozenset()
    if stage is Stage.SCHEDULED:
        return frozenset({Gate.DEPENDENCIES})
    handed_over = frozenset({*_AIRFLOW, Gate.EXECUTOR})
    if stage is Stage.HANDED_OVER:
        return handed_over if facts.job else frozenset(_AIRFLOW)
    if stage is Stage.STARTING:
        return handed_over | {*_WORK_POOL, Gate.CLAIM}
    if stage is Stage.RUNNING or facts.task.started_at is not None:
        return frozenset(Gate) - {Gate.END} - ({Gate.RUNNING} if stage is Stage.RUNNING else set())
    # It has ended without having run.
    if facts.job is None:
        return frozenset()
    claimed = facts.job.claimed_at is not None
    return handed_over | {*_WORK_POOL, Gate.CLAIM} if claimed else handed_over


def _view(gate: Gate, finding: Finding | None, *, is_here: bool, passed: bool) -> GateView:
    if not (is_here or passed):
        return GateView(gate=gate, status=GateStatus.NOT_REACHED)
    finding = finding or Finding()
    return GateView(
        gate=gate,
        status=GateStatus.HOLDING if is_here else GateStatus.PASSED,
        text=finding.text,
        numbers=finding.numbers,
        way_out=finding.way_out if is_here else None,
    )
