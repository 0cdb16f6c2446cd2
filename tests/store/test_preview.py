# SPDX-License-Identifier: Apache-2.0
"""The preview against what then happens: on the same tables, jobs are claimed and tasks get their slots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from airflow.models.pool import Pool
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import WorkPool
from airflow_workpools.store import airflow_pools
from airflow_workpools.store.preview import Waiting, preview
from airflow_workpools.store.records import RunState
from tests.store.rigs import NOW, Rig, later, memory_rig, new_job, work_pool
from tests.store.schedulers import Scheduler, scheduler

ETL = work_pool("etl", limit=10, critical=(1, 1), high=(5, 3), low=(10, None))


@pytest.fixture
def stage(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    with scheduler(engine, tmp_path / "logs", monkeypatch) as made:
        yield made


def seen(stage: Scheduler, pool: WorkPool = ETL, limit: int = 100) -> list[Waiting]:
    with stage.rig.airflow.session() as session:
        return preview(session, pool, stage.rig.store, limit=limit, now=later(9))


def names(items: list[Waiting], *, now: bool) -> list[str]:
    return [item.task_id for item in items if (item.waits_for is None) is now]


def test_what_starts_now_is_what_a_worker_then_claims(stage: Scheduler) -> None:
    rig, worker = stage.rig, stage.rig.worker()
    rig.claimed(new_job("etl/low", pool_slots=4), worker=worker)
    for n, queue in enumerate(["low", "low", "low", "high", "high", "critical", "critical", "low"]):
        rig.hand_over(new_job(f"etl/{queue}", pool_slots=1 + n % 3), now=later(n))

    expected = [item.id for item in seen(stage) if item.waits_for is None]

    assert 0 < len(expected) < 8
    assert [job.id for job in rig.claim(worker, ETL, now=later(9))] == expected
    assert names(seen(stage), now=True) == []


def test_tasks_are_seen_in_the_order_in_which_airflow_hands_them_over(stage: Scheduler) -> None:
    stage.rig.worker()
    for n in range(8):
        stage.task("etl/low", "scheduled", task_id=f"low{n}", priority_weight=n)
    stage.task("etl/critical", "scheduled", task_id="urgent", priority_weight=2)
    stage.task("etl/critical", "scheduled", task_id="second")
    for n in range(4):
        stage.task("etl/high", "running", task_id=f"r{n}")
        stage.rig.claimed(new_job("etl/low"))

    items = seen(stage)

    assert names(items, now=True) == ["urgent", "low7", "low6", "low5", "low4", "low3"]
    assert names(items, now=False) == ["second", "low2", "low1", "low0"]
    assert not any(item.is_job for item in items)
    assert names(seen(stage, limit=3), now=True) == ["urgent", "low7", "low6"]


def test_as_many_tasks_start_now_as_gate_one_opens_slots(stage: Scheduler) -> None:
    stage.rig.worker()
    for queue in ("low", "high", "critical"):
        for _ in range(9):
            stage.task(f"etl/{queue}", "scheduled")

    starting = [item.ref for item in seen(stage) if item.waits_for is None]

    with stage.rig.airflow.session() as session:
        airflow_pools.allocate_slots(
            session, {"etl": ETL}, RunState(as_of=NOW), {"etl": True}, overdue_since=NOW
        )
    slots = {row.pool: row.slots for row in stage.rows(Pool)}
    for queue in ("low", "high", "critical"):
        ref = WorkQueueRef("etl", queue)
        assert slots[ref.airflow_pool] == starting.count(ref)


def test_tasks_that_may_not_start_at_all_are_not_seen(stage: Scheduler) -> None:
    stage.dag("paused", paused=True)
    stage.rig.worker()
    stage.task("etl/low", "scheduled", task_id="paused", dag_id="paused")
    stage.run("dag", "done", state="success")
    stage.task("etl/low", "scheduled", task_id="done", run_id="done")
    stage.task("etl/low", None, task_id="upstream")
    stage.task("etl/low", "scheduled", task_id="own", pool="db")

    assert seen(stage) == []


def test_a_run_starts_no_more_tasks_than_its_dag_allows(stage: Scheduler) -> None:
    stage.dag("narrow", max_active_tasks=3)
    stage.rig.worker()
    stage.task("etl/low", "running", dag_id="narrow")
    for n in range(3):
        stage.task("etl/low", "scheduled", dag_id="narrow", task_id=f"t{n}", map_index=n)

    items = seen(stage)

    assert names(items, now=True) == ["t0", "t1"]
    (blocked,) = [item for item in items if not item.can_start]
    assert (blocked.task_id, blocked.waits_for) == (
        "t2",
        "tasks of its run to end: max_active_tasks of the DAG is 3",
    )


def test_a_pull_pool_starts_what_its_workers_have_room_for(stage: Scheduler) -> None:
    pool = WorkPool(**{**vars(ETL), "delivery": type(ETL.delivery)("pull")})
    stage.rig.worker()  # serves push pools only
    stage.rig.hand_over(*(new_job("etl/low") for _ in range(5)))
    assert names(seen(stage, pool), now=True) == []

    worker = stage.rig.worker(pools=("etl",), slots=3)
    stage.rig.claim(worker, pool, room=1)
    assert len(names(seen(stage, pool), now=True)) == 2


class NoTasks:
    """A session on an Airflow in which nothing waits."""

    def execute(self, _statement: object) -> list[object]:
        return []


some_jobs = st.lists(
    st.tuples(st.sampled_from(["critical", "high", "low", "default"]), st.integers(1, 5), st.integers(1, 3)),
    max_size=25,
)


def _hand_over(rig: Rig, jobs: list[tuple[str, int, int]], since: int) -> None:
    for n, (queue, slots, weight) in enumerate(jobs):
        job = new_job(f"etl/{queue}", pool_slots=slots, priority_weight=weight)
        rig.hand_over(job, now=later(since + n * 20))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(some_jobs, some_jobs, st.sets(st.sampled_from(["high", "low"])))
def test_the_preview_says_what_the_claim_does(
    first: list[tuple[str, int, int]], then: list[tuple[str, int, int]], paused: set[str]
) -> None:
    rig = memory_rig()
    worker = rig.worker(heartbeat_seconds=1e6)
    _hand_over(rig, first, 0)
    rig.claim(worker, ETL, now=later(1000))
    for queue in paused:
        rig.store.set_queue_paused(WorkQueueRef("etl", queue), True)
    _hand_over(rig, then, 1000)

    items = preview(NoTasks(), ETL, rig.store, limit=100, now=later(2000))  # type: ignore[arg-type]

    taken = rig.claim(worker, ETL, now=later(2000))
    assert [item.id for item in items if item.waits_for is None] == [job.id for job in taken]
    assert {item.id for item in items if item.waits_for is not None} == {
        job.id
        for ref in map(WorkQueueRef.parse, ("etl/critical", "etl/high", "etl/low", "etl"))
        for job in rig.store.line(ref, limit=99)
    }
