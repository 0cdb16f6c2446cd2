# SPDX-License-Identifier: Apache-2.0
"""Why a task waits: each gate, its numbers, its way out, and the order in which gates are asked."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_workpools.core.explain import Explanation, Gate, GateStatus, Stage, explain, stage_of
from airflow_workpools.core.jobs import HELD_BY_PLATFORM, JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.slots import QueueLoad
from airflow_workpools.core.task_facts import (
    ActiveLimit,
    AirflowPoolFacts,
    Dependencies,
    ExecutorFacts,
    Holder,
    JobFacts,
    RunFacts,
    SchedulerLoad,
    TaskFacts,
    TaskRef,
    TaskState,
    Upstream,
    WorkQueueFacts,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
REF = TaskRef(dag_id="d", run_id="r", task_id="t")
QUEUE = WorkQueueRef("etl", "low")


def load(name: str, priority: int, occupied: int = 0, demand: int = 0, **more: Any) -> QueueLoad:
    values: dict[str, Any] = {"limit": None, "open": True, **more}
    return QueueLoad(name=name, priority=priority, occupied=occupied, demand=demand, **values)


def work_queue(**changes: Any) -> WorkQueueFacts:
    values: dict[str, Any] = {
        "ref": QUEUE,
        "pool_limit": 10,
        "loads": (load("high", 5), load("low", 10, demand=1)),
        "workers_online": 1,
        "workers_known": 1,
        **changes,
    }
    return WorkQueueFacts(**values)


def job(state: JobState, **changes: Any) -> JobFacts:
    values: dict[str, Any] = {"handed_over_at": NOW - timedelta(seconds=30), "start_timeout_seconds": 600}
    return JobFacts(state=state, **{**values, **changes})


def scheduled(**changes: Any) -> TaskFacts:
    """A task that nothing holds but the scheduler's next look."""
    values: dict[str, Any] = {
        "task": TaskState(
            state="scheduled", try_number=1, pool_slots=1, airflow_pool="etl.low", work_queue=QUEUE
        ),
        "run": RunFacts(state="running", run_after=NOW),
        "limits": (ActiveLimit(name="max_active_tasks", active=2, limit=16),),
        "airflow_pool": AirflowPoolFacts(name="etl.low", slots=1),
        "work_queue": work_queue(),
        "executor": ExecutorFacts(schedulers=(SchedulerLoad(job_id=1, tasks=3),), parallelism=32),
    }
    return TaskFacts(ref=REF, now=NOW, **{**values, **changes})


def in_state(state: str | None, **changes: Any) -> TaskFacts:
    facts = scheduled(limits=(), airflow_pool=None, work_queue=None)
    task = {name: changes.pop(name) for name in ("started_at", "ended_at", "hostname") if name in changes}
    return replace(facts, task=replace(facts.task, state=state, **task), **changes)


def handed_over(**changes: Any) -> TaskFacts:
    return in_state("queued", **{"job": job(JobState.PENDING), "work_queue": work_queue(), **changes})


def run_facts(**changes: Any) -> RunFacts:
    return replace(RunFacts(state="running", run_after=NOW), **changes)


HOLDER = Holder(dag_id="night", run_id="r1", queue="low", tasks=3, slots=6, since=NOW - timedelta(seconds=90))
FULL_POOL = work_queue(
    loads=(load("high", 5, occupied=4), load("low", 10, occupied=6, demand=1)), pool_holders=(HOLDER,)
)
FULL_QUEUE = work_queue(
    queue_limit=3,
    loads=(load("high", 5), load("low", 10, occupied=3, demand=1, limit=3)),
    queue_holders=(replace(HOLDER, slots=3),),
)
KEPT = work_queue(loads=(load("high", 5, occupied=6, demand=9), load("low", 10, occupied=2, demand=1)))
TOO_BIG = replace(scheduled().task, pool_slots=11)
OWN_POOL = replace(scheduled().task, airflow_pool="db")
NO_SCHEDULER = ExecutorFacts(schedulers=(), parallelism=32)
FULL_EXECUTOR = ExecutorFacts(schedulers=(SchedulerLoad(job_id=7, tasks=32),), parallelism=32)
UNMET = Dependencies(reasons=("the rule says no",), unfinished=(Upstream(task_id="a", state="running"),))

CASES: dict[str, tuple[TaskFacts, Gate, list[str]]] = {
    "infrastructure down": (
        scheduled(
            work_queue=work_queue(workers_online=0, workers_known=1, hindrance="the engine does not answer")
        ),
        Gate.WORKER,
        ["no worker can launch jobs of work pool 'etl' now: the engine does not answer", "try again"],
    ),
    "held by the platform": (
        in_state(
            "queued",
            job=job(
                JobState.SUBMITTED,
                claimed_at=NOW - timedelta(hours=9),
                starting_since=NOW,
                worker="w",
                reason=f"{HELD_BY_PLATFORM}: the quota of team a",
            ),
        ),
        Gate.START,
        ["held back by the platform's own queue: the quota of team a", "start timeout does not run"],
    ),
    "start timeout that began anew": (
        in_state(
            "queued",
            job=job(
                JobState.SUBMITTED,
                claimed_at=NOW - timedelta(hours=9),
                starting_since=NOW - timedelta(seconds=60),
                worker="w",
            ),
        ),
        Gate.START,
        ["claimed it 9 h", "if it does not run in 9 min"],
    ),
    "DAG paused": (
        scheduled(run=run_facts(dag_paused=True)),
        Gate.RUN,
        ["DAG 'd' is paused", "airflow dags unpause d"],
    ),
    "DAG paused, not scheduled": (
        in_state(None, run=run_facts(dag_paused=True), dependencies=UNMET),
        Gate.RUN,
        ["DAG 'd' is paused"],
    ),
    "DAG gone": (in_state(None, run=run_facts(dag_stale=True)), Gate.RUN, ["stale", "list-import-errors"]),
    "run over": (scheduled(run=run_facts(state="failed")), Gate.RUN, ["ended as failed", "clear the task"]),
    "run later": (
        in_state(None, run=run_facts(state="queued", run_after=NOW + timedelta(days=1))),
        Gate.RUN,
        ["2026-01-03 03:04:05 UTC"],
    ),
    "max_active_runs": (
        in_state(None, run=run_facts(state="queued", active_runs=2, max_active_runs=2)),
        Gate.RUN,
        ["2 of 2 runs of DAG 'd' are running", "max_active_runs"],
    ),
    "max_active_runs of a backfill": (
        in_state(None, run=run_facts(state="queued", active_runs=2, max_active_runs=2, in_backfill=True)),
        Gate.RUN,
        ["2 of 2 runs of the backfill"],
    ),
    "backfill paused": (
        in_state(None, run=run_facts(state="queued", backfill_paused=True)),
        Gate.RUN,
        ["backfill is paused"],
    ),
    "run about to start": (
        in_state(None, run=run_facts(state="queued", max_active_runs=2)),
        Gate.RUN,
        ["not started yet", "next look"],
    ),
    "run without a scheduler": (
        in_state(None, run=run_facts(state="queued"), executor=NO_SCHEDULER),
        Gate.RUN,
        ["no scheduler is running"],
    ),
    "upstream": (
        in_state(None, dependencies=UNMET),
        Gate.DEPENDENCIES,
        ["the rule says no", "upstream: a (running)"],
    ),
    "upstream, mapped": (
        in_state(
            None, dependencies=replace(UNMET, unfinished=(Upstream(task_id="a", state=None, instances=7),))
        ),
        Gate.DEPENDENCIES,
        ["a (7 × not started)"],
    ),
    "retry": (
        in_state("up_for_retry", dependencies=Dependencies(reasons=("not ready for retry yet",))),
        Gate.DEPENDENCIES,
        ["not ready for retry yet", "time alone"],
    ),
    "deferred": (in_state("deferred"), Gate.DEPENDENCIES, ["deferred", "triggerer"]),
    "input": (in_state("awaiting_input"), Gate.DEPENDENCIES, ["input"]),
    "all done": (
        in_state(None, dependencies=Dependencies()),
        Gate.DEPENDENCIES,
        ["all is done", "next look"],
    ),
    "all done, no scheduler": (
        in_state(None, dependencies=Dependencies(), executor=NO_SCHEDULER),
        Gate.DEPENDENCIES,
        ["no scheduler is running"],
    ),
    **{
        name: (
            scheduled(limits=(ActiveLimit(name=name, active=4, limit=4),)),
            Gate.CONCURRENCY,
            [f"4 of 4 {words}", f"({name})", f"a greater {name}"],
        )
        for name, words in {
            "max_active_tasks": "tasks of the run",
            "max_active_tis_per_dag": "instances of the task",
            "max_active_tis_per_dagrun": "instances of the task",
        }.items()
    },
    "author's own Airflow pool": (
        scheduled(task=OWN_POOL, airflow_pool=AirflowPoolFacts(name="db", slots=3, running=2, queued=1)),
        Gate.AIRFLOW_POOL,
        ["Airflow pool 'db' has 3 slots, 2 running, 1 queued", "airflow pools set"],
    ),
    "own Airflow pool too small": (
        scheduled(task=replace(OWN_POOL, pool_slots=4), airflow_pool=AirflowPoolFacts(name="db", slots=3)),
        Gate.AIRFLOW_POOL,
        ["asks for 4", "can never start"],
    ),
    "own Airflow pool missing": (
        scheduled(task=OWN_POOL, airflow_pool=AirflowPoolFacts(name="db", exists=False)),
        Gate.AIRFLOW_POOL,
        ["there is no Airflow pool 'db'"],
    ),
    "Airflow pool of that name is somebody else's": (
        scheduled(airflow_pool=AirflowPoolFacts(name="etl.low", slots=0, ours=False)),
        Gate.AIRFLOW_POOL,
        ["'etl.low' has 0 slots", "airflow pools delete etl.low"],
    ),
    "slots not set yet": (
        scheduled(airflow_pool=AirflowPoolFacts(name="etl.low", slots=0)),
        Gate.AIRFLOW_POOL,
        ["0 slots", "next heartbeat"],
    ),
    "unknown work queue": (
        scheduled(
            work_queue=work_queue(problem="no queue 'lo'", way_out="create it", fails=True),
            airflow_pool=AirflowPoolFacts(name="etl.low", exists=False),
        ),
        Gate.WORK_QUEUE,
        ["no queue 'lo'; the task fails with this reason", "create it"],
    ),
    "invalid pool": (
        scheduled(work_queue=work_queue(problem="pool is invalid: x", way_out="mend it", loads=())),
        Gate.WORK_QUEUE,
        ["pool is invalid: x; the task waits", "mend it"],
    ),
    "pool paused": (
        scheduled(work_queue=work_queue(pool_paused=True, queue_paused=True)),
        Gate.PAUSED,
        ["work pool 'etl' is paused", "airflow workpools resume etl"],
    ),
    "queue paused": (
        scheduled(work_queue=work_queue(queue_paused=True)),
        Gate.PAUSED,
        ["work queue 'etl/low' is paused", "airflow workpools queue resume etl/low"],
    ),
    "queue full": (
        scheduled(work_queue=FULL_QUEUE),
        Gate.QUEUE_LIMIT,
        ["3 of 3 slots of work queue 'etl/low'", "night / r1 (3 in low, for 90 s)", "set-concurrency-limit"],
    ),
    "queue limit 0": (
        scheduled(work_queue=replace(FULL_QUEUE, queue_limit=0)),
        Gate.QUEUE_LIMIT,
        ["asks for 1 slot, and", "has 0: it can never start"],
    ),
    "pool full": (
        scheduled(work_queue=FULL_POOL),
        Gate.POOL_LIMIT,
        ["10 of 10 slots of work pool 'etl'", "night / r1 (6 in low, for 90 s)"],
    ),
    "task bigger than the pool": (
        scheduled(task=TOO_BIG),
        Gate.POOL_LIMIT,
        ["asks for 11 slots", "never", "smaller pool_slots"],
    ),
    "slots kept for a higher queue": (
        scheduled(work_queue=KEPT),
        Gate.POOL_LIMIT,
        ["2 of 10 slots free", "high (waiting: 9 slots)"],
    ),
    "slots kept for a big task": (
        scheduled(work_queue=work_queue(loads=(load("low", 10, occupied=8, demand=5, next_slots=4),))),
        Gate.POOL_LIMIT,
        ["2 of 10 slots free", "more slots than are free"],
    ),
    "no worker": (
        scheduled(work_queue=work_queue(workers_online=0, loads=(load("low", 10, demand=1, open=False),))),
        Gate.WORKER,
        ["no worker that serves work pool 'etl' is online", "start a scheduler"],
    ),
    "no worker of a pull pool": (
        scheduled(work_queue=work_queue(workers_online=0, push=False)),
        Gate.WORKER,
        ["start a worker for the pool"],
    ),
    "no worker of the queue": (
        scheduled(work_queue=work_queue(workers_online=0, workers_elsewhere=2, push=False)),
        Gate.WORKER,
        [
            "no worker that takes jobs of work queue 'etl/",
            "2 workers of its pool",
            "worker start --pool etl --work-queue",
        ],
    ),
    "workers drained": (
        scheduled(work_queue=work_queue(workers_online=0, workers_draining=1, push=False)),
        Gate.WORKER,
        ["is being drained (1)", "airflow workpools worker resume"],
    ),
    "workers full before the hand-over": (
        scheduled(work_queue=work_queue(workers_online=1, room=0, capacity=4)),
        Gate.WORKER,
        ["with room for 0 slots in all of 4", "one more worker"],
    ),
    "workers full": (
        handed_over(work_queue=work_queue(workers_online=2, room=0)),
        Gate.WORKER,
        ["2 workers of work pool 'etl' online, with room for 0 slots", "one more worker"],
    ),
    "executor full": (
        scheduled(executor=FULL_EXECUTOR),
        Gate.EXECUTOR,
        ["scheduler 7 has 32 of 32 tasks", "[core] parallelism"],
    ),
    "no scheduler": (scheduled(executor=NO_SCHEDULER), Gate.EXECUTOR, ["no scheduler is running"]),
    "about to be handed over": (scheduled(), Gate.EXECUTOR, ["may be handed over", "next look"]),
    "being handed over": (in_state("queued"), Gate.EXECUTOR, ["being handed over"]),
    "handed over, queue paused": (
        handed_over(work_queue=work_queue(queue_paused=True)),
        Gate.PAUSED,
        ["work queue 'etl/low' is paused"],
    ),
    "handed over, pool full": (handed_over(work_queue=FULL_POOL), Gate.POOL_LIMIT, ["10 of 10"]),
    "to be claimed": (
        handed_over(job=job(JobState.PENDING, ahead=4)),
        Gate.CLAIM,
        ["handed over 30 s ago, 4 of its queue go first", "next look of a worker"],
    ),
    "starting": (
        in_state(
            "queued",
            job=job(
                JobState.SUBMITTED,
                claimed_at=NOW - timedelta(seconds=60),
                worker="w",
                reason="pulling image",
            ),
        ),
        Gate.START,
        ["submitted: worker w claimed it 60 s ago", "start timeout 10 min", "pulling image", "in 9 min"],
    ),
    "being stopped before it runs": (
        in_state("queued", job=job(JobState.CLAIMED, claimed_at=NOW, cancelling=True, reason="cleared")),
        Gate.START,
        ["being stopped", "cleared"],
    ),
    "running": (
        in_state(
            "running",
            started_at=NOW - timedelta(minutes=5),
            hostname="h",
            job=job(JobState.RUNNING, claimed_at=NOW),
        ),
        Gate.RUNNING,
        ["running for 5 min", "2026-01-02 02:59:05 UTC", "on h"],
    ),
    "running, its worker lost": (
        in_state(
            "running",
            started_at=NOW - timedelta(minutes=5),
            hostname="h",
            job=job(
                JobState.RUNNING,
                claimed_at=NOW,
                worker="edge-1",
                worker_gone_since=NOW - timedelta(minutes=2),
            ),
        ),
        Gate.RUNNING,
        ["its worker edge-1 was last heard of 2 min ago", "nobody looks after it"],
    ),
    "being stopped": (
        in_state("restarting", started_at=NOW, job=job(JobState.RUNNING, cancelling=True, reason="cleared")),
        Gate.RUNNING,
        ["being stopped: cleared"],
    ),
    "failed": (
        in_state(
            "failed",
            started_at=NOW,
            ended_at=NOW,
            job=job(JobState.FAILED, reason="evicted", exit_code=137, claimed_at=NOW),
        ),
        Gate.END,
        ["ended as failed", "evicted", "clear the task"],
    ),
    "failed with nothing but an exit code": (
        in_state("failed", started_at=NOW, ended_at=NOW, job=job(JobState.FAILED, exit_code=137)),
        Gate.END,
        ["out of memory"],
    ),
    "succeeded": (
        in_state("success", started_at=NOW, ended_at=NOW, job=job(JobState.SUCCEEDED, exit_code=0)),
        Gate.END,
        ["ended as success"],
    ),
    "skipped": (in_state("skipped", ended_at=NOW), Gate.END, ["ended as skipped"]),
    "end not told yet": (
        in_state("queued", job=job(JobState.FAILED, reason="refused", ended_at=NOW)),
        Gate.END,
        ["its job has ended as failed", "refused", "heartbeat"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_gate_that_holds_a_task_says_why_and_what_frees_it(name: str) -> None:
    facts, gate, words = CASES[name]

    here = explain(facts).holding

    assert here.gate is gate
    for word in words:
        assert word in f"{here.text} {here.way_out}"


@pytest.mark.parametrize("name", CASES)
def test_what_is_behind_is_passed_and_of_what_is_ahead_nothing_is_said(name: str) -> None:
    found = explain(CASES[name][0])

    assert sum(view.status is GateStatus.HOLDING for view in found.gates) == 1
    ahead = found.gates[found.gates.index(found.holding) + 1 :]
    for view in found.gates:
        if view.status is not GateStatus.HOLDING:
            assert view.way_out is None
        if view.status is GateStatus.NOT_REACHED:
            assert view.text is None
    # What a task has passed stays passed: its DAG may be paused, or its queue, after that.
    passed_ahead = {view.gate for view in ahead if view.status is GateStatus.PASSED}
    assert passed_ahead <= {Gate.DEPENDENCIES, Gate.EXECUTOR}


def test_every_gate_has_a_case() -> None:
    assert {gate for _, gate, _ in CASES.values()} == set(Gate)


def test_the_first_gate_that_holds_is_the_answer() -> None:
    """Everything is wrong at once, and then put right, one after the other."""
    wrong = scheduled(
        run=run_facts(dag_paused=True),
        limits=(ActiveLimit(name="max_active_tasks", active=9, limit=9),),
        airflow_pool=AirflowPoolFacts(name="etl.low", slots=0),
        work_queue=replace(
            FULL_POOL,
            pool_paused=True,
            queue_limit=6,
            workers_online=0,
        ),
        executor=FULL_EXECUTOR,
    )
    assert wrong.work_queue is not None
    steps: list[dict[str, Any]] = [
        {},
        {"run": run_facts()},
        {"limits": ()},
        {"work_queue": replace(wrong.work_queue, pool_paused=False)},
        {"work_queue": replace(wrong.work_queue, pool_paused=False, queue_limit=None)},
        {"work_queue": work_queue(workers_online=0, loads=(load("low", 10, demand=1, open=False),))},
        {"work_queue": work_queue()},
        {"airflow_pool": AirflowPoolFacts(name="etl.low", slots=1)},
    ]
    holding = []
    for step in steps:
        wrong = replace(wrong, **step)
        holding.append(explain(wrong).holding.gate)

    assert holding == [
        Gate.RUN,
        Gate.CONCURRENCY,
        Gate.PAUSED,
        Gate.QUEUE_LIMIT,
        Gate.POOL_LIMIT,
        Gate.WORKER,
        Gate.AIRFLOW_POOL,
        Gate.EXECUTOR,
    ]


def way(found: Explanation) -> list[str]:
    return [view.gate.value for view in found.gates]


def test_the_work_pool_decides_before_the_hand_over() -> None:
    assert way(explain(scheduled())) == [
        *("run", "dependencies", "concurrency", "airflow_pool"),
        *("work_queue", "paused", "queue_limit", "pool_limit", "worker"),
        *("executor", "claim", "start", "running", "end"),
    ]


def test_in_an_airflow_pool_of_its_authors_the_work_pool_decides_at_the_claim() -> None:
    own = scheduled(task=OWN_POOL, airflow_pool=AirflowPoolFacts(name="db", slots=1), work_queue=None)

    found = explain(own)

    assert found.holding.gate is Gate.EXECUTOR
    assert way(found)[3:6] == ["airflow_pool", "executor", "work_queue"]


def test_a_task_of_another_executor_meets_no_work_pool() -> None:
    task = replace(scheduled().task, work_queue=None, executor="LocalExecutor", airflow_pool="default_pool")
    pool = AirflowPoolFacts(name="default_pool", slots=128)

    found = explain(scheduled(task=task, airflow_pool=pool, work_queue=None))

    assert way(found) == [
        *("run", "dependencies", "concurrency", "airflow_pool", "executor", "running", "end")
    ]
    queued = explain(scheduled(task=replace(task, state="queued"), airflow_pool=pool, work_queue=None))
    assert "LocalExecutor" in str(queued.holding.text)


def test_numbers_come_along() -> None:
    numbers = explain(scheduled(work_queue=FULL_POOL)).holding.numbers

    assert {key: numbers[key] for key in ("limit", "held", "free", "asked", "waiting")} == {
        "limit": 10,
        "held": 10,
        "free": 0,
        "asked": 1,
        "waiting": 1,
    }
    (holder,) = numbers["holders"]
    assert (holder["dag_id"], holder["run_id"], holder["slots"]) == ("night", "r1", 6)


@pytest.mark.parametrize(
    ("task_state", "job_state", "stage"),
    [
        (None, None, Stage.WAITING),
        ("deferred", JobState.SUCCEEDED, Stage.WAITING),
        ("up_for_retry", None, Stage.WAITING),
        ("scheduled", None, Stage.SCHEDULED),
        ("queued", None, Stage.HANDED_OVER),
        ("queued", JobState.PENDING, Stage.HANDED_OVER),
        ("queued", JobState.CLAIMED, Stage.STARTING),
        ("queued", JobState.RUNNING, Stage.STARTING),
        ("queued", JobState.FAILED, Stage.ENDED),
        ("running", JobState.CLAIMED, Stage.RUNNING),
        ("restarting", JobState.RUNNING, Stage.RUNNING),
        ("success", JobState.RUNNING, Stage.ENDED),
        ("upstream_failed", None, Stage.ENDED),
    ],
)
def test_how_far_a_task_has_come(task_state: str | None, job_state: JobState | None, stage: Stage) -> None:
    assert stage_of(task_state, job_state) is stage


def test_a_task_that_was_skipped_has_not_been_handed_over() -> None:
    found = explain(in_state("skipped", ended_at=NOW))

    assert {view.status for view in found.gates[:-1]} == {GateStatus.NOT_REACHED}


def test_a_task_that_never_ran_has_not_passed_its_start() -> None:
    late = job(JobState.FAILED, claimed_at=NOW, ended_at=NOW, reason="did not start within 2 s")
    found = explain(in_state("failed", ended_at=NOW, job=late))

    status = {view.gate: view.status for view in found.gates}
    assert status[Gate.CLAIM] is GateStatus.PASSED
    assert status[Gate.START] is GateStatus.NOT_REACHED
