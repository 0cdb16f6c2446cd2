# SPDX-License-Identifier: Apache-2.0
"""Pull pools in the scheduler's gate: what standalone workers can take is what may be handed over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.pool import Pool

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.pools import PoolStatus
from airflow_workpools.dump import DutyRecord, dump
from airflow_workpools.executor import WorkPoolExecutor
from airflow_workpools.store.clock import database_time
from airflow_workpools.store.records import Report, WorkerKind
from tests.store.rigs import later, new_worker, pull_pool
from tests.store.schedulers import Scheduler, scheduler, statements_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    import sqlalchemy as sa


@pytest.fixture
def stage(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    with scheduler(engine, tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def executor(stage: Scheduler) -> WorkPoolExecutor:
    return stage.executor()


def now_of(stage: Scheduler) -> datetime:
    with stage.transaction() as session:
        return database_time(session)


def online(stage: Scheduler, *pools: str, **values: Any) -> uuid.UUID:
    """Bring a standalone worker online, which is not silent for as long as a test takes."""
    worker = new_worker(
        kind=WorkerKind.STANDALONE, pools=pools or ("far",), heartbeat_seconds=1000.0, **values
    )
    stage.rig.store.register_worker(worker, now=now_of(stage))
    return worker.id


def slots(stage: Scheduler, executor: WorkPoolExecutor, *names: str) -> list[int]:
    """Let the scheduler look, and return the slots of Airflow pools."""
    duties = executor._duties
    assert duties is not None
    duties._run_state_at = duties._allocated_at = float("-inf")
    executor.sync()
    found = {row.pool: row.slots for row in stage.rows(Pool)}
    return [found[name] for name in names]


def test_a_pull_pool_without_a_worker_has_no_slots_and_says_why(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    stage.pool("far", delivery="pull", concurrency_limit=5)
    stage.task("far/default", "scheduled")
    assert slots(stage, executor, "far") == [0]
    overview = _overview(executor)["far"]
    assert overview.status is PoolStatus.NOT_READY
    assert overview.reason == (
        "no worker that serves the pool is online; start one: `airflow workpools worker start --pool far`"
    )


def test_what_its_workers_can_take_is_what_may_be_handed_over(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    stage.pool("far", delivery="pull", concurrency_limit=10)
    for _ in range(20):
        stage.task("far/default", "scheduled")
    first = online(stage, slots=3)
    assert slots(stage, executor, "far") == [3]
    second = online(stage, slots=4)
    assert slots(stage, executor, "far") == [7]
    stage.rig.store.drain_worker(second)
    assert slots(stage, executor, "far") == [3]
    stage.rig.store.resume_worker(second)
    online(stage, slots=9)
    assert slots(stage, executor, "far") == [10]
    stage.rig.store.heartbeat(first, now=now_of(stage), hindered={"far": "no engine"})
    stage.rig.store.stop_worker(second, now=now_of(stage))
    assert slots(stage, executor, "far") == [9]


def test_a_pull_pool_without_limits_is_bounded_by_its_workers_alone(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    stage.pool("far", delivery="pull")
    for _ in range(5):
        stage.task("far/default", "scheduled")
    online(stage, slots=2)
    assert slots(stage, executor, "far") == [2]
    online(stage)
    assert slots(stage, executor, "far") == [-1]


def test_queue_filters_bound_each_queue_and_priorities_hold_within_them(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    queues = {"high": {"priority": 1}, "low": {"priority": 2}, "default": {"priority": 3}}
    stage.pool("far", delivery="pull", concurrency_limit=10, queues=queues)
    for queue in ("high", "low", "default"):
        for _ in range(9):
            stage.task(f"far/{queue}", "scheduled")
    online(stage, slots=2, queues=("far/high",))
    online(stage, slots=3, queues=("far/high", "far/low"))
    assert slots(stage, executor, "far.high", "far.low", "far") == [5, 0, 0]


def test_jobs_of_a_worker_that_is_gone_keep_no_room_from_those_that_are_there(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    stage.pool("far", delivery="pull", concurrency_limit=10)
    gone = online(stage, slots=2)
    held = [stage.workload("far/default") for _ in range(2)]
    stage.hand_over(executor, *held)
    assert len(stage.rig.store.claim(gone, [pull_pool("far")], room=9, now=now_of(stage))) == 2
    for _ in range(9):
        stage.task("far/default", "scheduled")
    assert slots(stage, executor, "far") == [2]
    stage.rig.store.stop_worker(gone, now=now_of(stage))
    online(stage, slots=3)
    assert slots(stage, executor, "far") == [5]


def test_what_a_worker_holds_for_one_pool_it_cannot_take_of_another(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    for name in ("far", "near"):
        stage.pool(name, delivery="pull", concurrency_limit=10)
    worker = online(stage, "far", "near", slots=4)
    stage.hand_over(executor, *(stage.workload("near/default") for _ in range(3)))
    stage.rig.store.claim(worker, [pull_pool("near")], room=9, now=now_of(stage))
    for _ in range(9):
        stage.task("far/default", "scheduled")
    assert slots(stage, executor, "far") == [1]


def test_limits_of_workers_cost_two_statements_for_each_look_at_them(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    stage.pool("far", delivery="pull", concurrency_limit=10)
    stage.task("far/default", "scheduled")

    def cost() -> int:
        slots(stage, executor, "far")
        duties = executor._duties
        assert duties is not None
        duties._run_state_at = duties._allocated_at = float("-inf")
        monotonic = duties._looked_at
        with statements_of(stage.engine) as sent:
            duties.allocate(now=duties.clock(), monotonic=monotonic + 1000)
        return len(sent)

    online(stage)
    before = cost()
    online(stage, slots=1)
    assert cost() == before + 2


def test_the_debug_dump_says_what_workers_can_take(stage: Scheduler, executor: WorkPoolExecutor) -> None:
    stage.pool("far", delivery="pull", concurrency_limit=10)
    online(stage, slots=3, queues=("far/default",))
    duties = executor._duties
    assert duties is not None
    known = json.loads(dump(duties, record=DutyRecord(), in_a_row={}, worker_pid=None, jobs=0))
    assert (known["pools"]["far"]["capacity"], known["pools"]["far"]["capacity_free"]) == (3, 3)
    assert known["pools"]["far"]["queues"]["default"]["capacity_free"] == 3
    assert (known["workers"][0]["slots"], known["workers"][0]["queues"]) == (3, ["far/default"])


def test_processes_of_a_lost_worker_fail_and_the_scheduler_is_told(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    """Twice, as if the scheduler had died in between: the second time there is nothing left to do."""
    stage.pool("far", delivery="pull")
    now = now_of(stage)
    lost = new_worker(kind=WorkerKind.STANDALONE, pools=("far",), name="edge-1", heartbeat_seconds=10.0)
    stage.rig.store.register_worker(lost, now=now)
    workload = stage.workload("far/default", state="queued")
    stage.hand_over(executor, workload)
    (job,) = stage.rig.store.claim(lost.id, [pull_pool("far")], room=9, now=now)
    stage.rig.store.report(lost.id, [Report(job_id=job.id, state=JobState.RUNNING)], now=now)
    stage.change_task(workload.ti.id, state="running")
    witness = new_worker(kind=WorkerKind.STANDALONE, pools=("far",), heartbeat_seconds=1000.0)
    stage.rig.store.register_worker(witness, now=now)
    duties = executor._duties
    assert duties is not None
    for look in (1, 2):
        at = now + (later(400 + look) - later(0))
        duties._run_state_at = float("-inf")
        stage.rig.store.heartbeat(witness.id, now=at)
        duties.look_after(now=at, monotonic=duties._looked_at + 1000 * look)
    (ended,) = duties.ended(limit=9, now=now)
    assert ended.state is JobState.FAILED
    assert ended.reason is not None
    assert ended.reason.startswith("worker 'edge-1' on host 'here' was lost")


def _overview(executor: WorkPoolExecutor) -> dict[str, Any]:
    duties = executor._duties
    assert duties is not None
    return {one.pool.name: one for one in duties.overview(duties.store.run_state(now=duties.clock()))}
