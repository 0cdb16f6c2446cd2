# SPDX-License-Identifier: Apache-2.0
"""Why a task waits, read from real databases: the same counts as the gates themselves use, and only looked at."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from airflow.jobs.job import Job
from airflow.models.taskinstance import TaskInstance

from airflow_workpools import airflow_private
from airflow_workpools.core.explain import Explanation, Gate
from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.pools import Delivery, WorkPool
from airflow_workpools.core.task_facts import TaskRef
from airflow_workpools.settings import PoolSettings, Settings
from airflow_workpools.store import airflow_pools
from airflow_workpools.store.explain import explain_task
from airflow_workpools.store.records import RunState, WorkerKind
from tests.store.rigs import NOW, later, new_job, new_worker, work_pool
from tests.store.schedulers import Scheduler, scheduler, statements_of, writes

ETL = work_pool("etl", limit=10, critical=(1, 1), high=(5, 3), low=(10, None))
WITHOUT_PARALLELISM = Settings(home=Path("/nowhere"), pools=PoolSettings(builtin_limit=None))


@pytest.fixture
def stage(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    with scheduler(engine, tmp_path / "logs", monkeypatch) as made:
        made.rig.store.register_worker(new_worker(), now=NOW)
        yield made


def explain(
    stage: Scheduler, task: Any, *pools: WorkPool, settings: Settings = WITHOUT_PARALLELISM
) -> Explanation:
    ref = TaskRef(dag_id=task["dag_id"], run_id=task["run_id"], task_id=task["task_id"])
    by_name = {pool.name: pool for pool in pools or (ETL,)}
    return explain_task(ref, pools=by_name, store=stage.rig.store, settings=settings, now=later(1))


def allocate(stage: Scheduler, pool: WorkPool, *, overdue_since: datetime = NOW) -> None:
    with stage.rig.airflow.session() as session:
        airflow_pools.allocate_slots(
            session, {pool.name: pool}, RunState(as_of=NOW), {pool.name: True}, overdue_since=overdue_since
        )


def handed_over(stage: Scheduler, queue: str, state: str = "queued", **values: Any) -> Any:
    """Make a queued task with its job."""
    task = stage.task(queue, state, **values)
    job = new_job(
        queue,
        task_instance_id=task["id"],
        **{key: task[key] for key in ("dag_id", "run_id", "task_id", "pool_slots", "priority_weight")},
    )
    with stage.rig.airflow.session() as session:
        stage.rig.store.hand_over(job, now=NOW, session=session)
    return task


@pytest.mark.parametrize("seed", range(6))
def test_what_gate_one_lets_through_is_what_explain_says(stage: Scheduler, seed: int) -> None:
    """Of each queue, the work pool holds the next task exactly if its Airflow pool has no slot for it."""
    rng = random.Random(seed)
    for queue in ("critical", "high", "low"):
        for state in ("running", "queued", "scheduled"):
            for _ in range(rng.randint(0, 4)):
                stage.task(f"etl/{queue}", state)
    tasks = {queue: stage.task(f"etl/{queue}", "scheduled") for queue in ("critical", "high", "low")}
    allocate(stage, ETL)

    for task in tasks.values():
        found = explain(stage, task)
        (pool,) = [view for view in found.gates if view.gate is Gate.AIRFLOW_POOL]
        assert (found.holding.gate is Gate.EXECUTOR) == (pool.numbers["open"] >= 1), found
        if found.holding.gate is not Gate.EXECUTOR:
            assert found.holding.gate in (Gate.QUEUE_LIMIT, Gate.POOL_LIMIT)


def test_after_the_hand_over_the_claim_counts_jobs(stage: Scheduler) -> None:
    """A task instance that is no more may have infrastructure yet, which holds its slot."""
    pool = work_pool("etl", limit=1)
    gone = handed_over(stage, "etl/default")
    store = stage.rig.store
    worker = new_worker()
    store.register_worker(worker, now=NOW)
    (claimed,) = store.claim(worker.id, [pool], room=5, now=NOW)
    stage.change_task(gone["id"], state="failed")
    waiting = handed_over(stage, "etl/default")

    found = explain(stage, waiting, pool)

    assert found.holding.gate is Gate.POOL_LIMIT
    (holder,) = found.holding.numbers["holders"]
    assert (holder["run_id"], holder["tasks"]) == (gone["run_id"], 1)
    assert store.job(claimed.id).state is JobState.CLAIMED
    starting = handed_over(stage, "etl/default", run_id="other")
    assert explain(stage, starting, work_pool("etl", limit=2)).holding.gate is Gate.CLAIM
    assert explain(stage, starting, work_pool("etl", limit=2)).holding.numbers["ahead"] <= 1


def test_workers_that_have_no_room_hold_a_job(stage: Scheduler) -> None:
    store, pool = stage.rig.store, work_pool("pulled")
    pool = replace(pool, delivery=Delivery.PULL)
    worker = new_worker(kind=WorkerKind.STANDALONE, pools=("pulled",), slots=1)
    store.register_worker(worker, now=NOW)
    handed_over(stage, "pulled/default")
    assert store.claim(worker.id, [pool], room=1, now=NOW)
    waiting = handed_over(stage, "pulled/default")

    found = explain(stage, waiting, pool).holding

    assert found.gate is Gate.WORKER
    assert found.numbers == {
        "workers_online": 1,
        "workers_known": 1,
        "workers_draining": 0,
        "room": 0,
        "capacity": 1,
    }


@pytest.mark.parametrize("at_claim", [False, True], ids=["gate 1", "gate 2"])
def test_slots_are_kept_for_a_large_task_after_the_time_that_is_configured(
    stage: Scheduler, at_claim: bool
) -> None:
    pool, store = work_pool("etl", limit=10, low=(1, None)), stage.rig.store
    for _ in range(3):
        handed_over(stage, "etl/low", "running")
    assert len(store.claim(stage.rig.worker(), [pool], room=3, now=NOW)) == 3
    if at_claim:
        handed_over(stage, "etl/low", pool_slots=8, priority_weight=2)
        small = handed_over(stage, "etl/low")
    else:
        stage.task("etl/low", "scheduled", pool_slots=8, priority_weight=2, scheduled_dttm=NOW)
        small = stage.task("etl/low", "scheduled", scheduled_dttm=NOW)
        allocate(stage, pool, overdue_since=later(-59))

    assert explain(stage, small, pool).holding.gate is (Gate.CLAIM if at_claim else Gate.EXECUTOR)

    settings = replace(WITHOUT_PARALLELISM, reserve_after=timedelta(seconds=1))
    kept = explain(stage, small, pool, settings=settings).holding
    assert kept.gate is Gate.POOL_LIMIT
    assert "7 of 10 slots free, kept for a task that asks for more" in str(kept.text)


@pytest.mark.parametrize("state", ["scheduled", "queued"])
def test_it_only_looks_and_asks_no_more_of_many_tasks_than_of_few(stage: Scheduler, state: str) -> None:
    pool = work_pool("etl", limit=1)
    task = handed_over(stage, "etl/default") if state == "queued" else stage.task("etl/default", state)
    for _ in range(2):  # more than the pool's limit, so that what no worker has claimed is counted
        handed_over(stage, "etl/default")
    allocate(stage, pool)
    explain(stage, task, pool)

    with statements_of(stage.engine) as few:
        explain(stage, task, pool)
    for number in range(20):
        handed_over(stage, "etl/default", run_id=f"run-{number}")
        stage.task("etl/default", "scheduled", run_id=f"run-{number}")
    with statements_of(stage.engine) as many:
        explain(stage, task, pool)

    assert writes(many) == []
    assert len(many) == len(few) <= 20


def test_nothing_that_airflows_dependencies_change_is_kept(
    stage: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_upstream(ti: Any, _task: Any, session: Any) -> list[str]:
        ti.state = "upstream_failed"
        session.flush()
        return ["a dependency"]

    monkeypatch.setattr(airflow_private, "stored_task", lambda *_: SimpleNamespace(upstream_task_ids=()))
    monkeypatch.setattr(airflow_private, "unmet_dependencies", fail_upstream)
    task = stage.task("etl/low", None)

    assert explain(stage, task).holding.text == "a dependency"
    (row,) = stage.rows(TaskInstance, id=task["id"])
    assert row.state is None


@pytest.fixture
def schedulers(stage: Scheduler) -> Iterator[tuple[int, int]]:
    """Two schedulers that live, and one that has long been silent; returns the ids of the former."""
    table, now = Job.__table__, datetime.now(timezone.utc)  # Airflow compares with the time that it is
    with stage.engine.begin() as connection:
        connection.execute(sa.delete(table))
        for id_, beat in ((7, now), (8, now), (9, now - timedelta(days=1))):
            row = {"id": id_, "job_type": "SchedulerJob", "state": "running", "latest_heartbeat": beat}
            connection.execute(sa.insert(table), [row])
    yield 7, 8
    with stage.engine.begin() as connection:
        connection.execute(sa.delete(table))


def test_the_executor_is_full_when_every_living_scheduler_is(
    stage: Scheduler, schedulers: tuple[int, int]
) -> None:
    """Tasks of another executor count, too: the limit is the scheduler's."""
    busy, other = schedulers
    pool = work_pool("etl")
    settings = replace(WITHOUT_PARALLELISM, pools=PoolSettings(builtin_limit=1))
    handed_over(stage, "etl/default")
    task = stage.task("etl/default", "scheduled")
    allocate(stage, pool)

    found = explain(stage, task, pool, settings=settings).holding
    assert found.gate is Gate.EXECUTOR
    assert "may be handed over" in str(found.text)
    assert found.numbers["schedulers"] == [{"job_id": busy, "tasks": 1}, {"job_id": other, "tasks": 0}]

    stage.task("default", "running", executor="LocalExecutor", queued_by_job_id=other)
    found = explain(stage, task, pool, settings=settings).holding
    assert "the executor is full" in str(found.text)
    assert found.numbers["schedulers"] == [{"job_id": busy, "tasks": 1}, {"job_id": other, "tasks": 1}]
