# SPDX-License-Identifier: Apache-2.0
"""The executors of two teams and of everybody in one scheduler, on real databases."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import TaskInstanceState

from airflow_workpools.airflow_private.tries import key_of_workload
from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.task_facts import TaskRef
from airflow_workpools.dags.executors import WorkPoolExecutorNames
from airflow_workpools.executor import WorkPoolExecutor
from airflow_workpools.store.explain import explain_task
from airflow_workpools.store.records import Report
from airflow_workpools.worker.client import SqlClient
from tests.store.rigs import work_pool
from tests.store.schedulers import Scheduler, scheduler, statements_of, writes
from tests.store.test_executor import next_round

RED, BLUE = "team_red", "team_blue"
FAILED, SUCCESS = TaskInstanceState.FAILED, TaskInstanceState.SUCCESS


@pytest.fixture
def stage(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    names = WorkPoolExecutorNames(
        name="WorkPoolExecutor",
        names=frozenset({"WorkPoolExecutor"}),
        is_default=True,
        teams=(None, RED, BLUE),
    )
    for module in ("duties", "store.explain"):
        monkeypatch.setattr(f"airflow_workpools.{module}.work_pool_executor", lambda: names)
    with scheduler(engine, tmp_path / "logs", monkeypatch) as made:
        for team, dag_id in ((RED, "reds"), (BLUE, "blues")):
            made.dag(dag_id, bundle=made.team(team))
        made.pool("red-pool", team_name=RED, concurrency_limit=4)
        made.pool("blue-pool", team_name=BLUE, queues={"high": {"priority": 1}})
        made.pool("shared", concurrency_limit=4)
        yield made


def executors(stage: Scheduler) -> dict[str | None, WorkPoolExecutor]:
    return {team: stage.executor(team_name=team) for team in (None, RED, BLUE)}


def online(stage: Scheduler, *teams: str | None) -> None:
    for team in teams:
        stage.rig.worker(team_name=team, last_heartbeat_at=datetime.now(timezone.utc))


def reason_of(stage: Scheduler, task_instance_id: uuid.UUID) -> str | None:
    return stage.rig.store.job(task_instance_id).reason


def owned(stage: Scheduler) -> dict[str, tuple[int, str | None]]:
    """Return slots and team of each Airflow pool."""
    return {row.pool: (row.slots, row.team_name) for row in stage.rows(Pool) if row.pool != "default_pool"}


# -- hand-over ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dag_id", "queue", "team"),
    [
        ("reds", "red-pool/default", RED),
        ("reds", "shared/default", RED),
        ("reds", "red-pool/default", None),  # no executor of its own, or named one by name
        ("anybodys", "shared/default", None),
    ],
)
def test_a_task_may_use_pools_of_its_team_and_of_none(
    stage: Scheduler, dag_id: str, queue: str, team: str | None
) -> None:
    workload = stage.workload(queue, dag_id=dag_id)
    stage.hand_over(stage.executor(team_name=team), workload)
    job = stage.rig.store.job(workload.ti.id)
    assert (job.state, job.team_name) == (JobState.PENDING, team)


@pytest.mark.parametrize(
    ("dag_id", "executor", "whose"),
    [
        ("reds", RED, "to team 'team_red'"),
        ("reds", None, "to team 'team_red'"),
        ("anybodys", None, "to no team"),
    ],
)
def test_a_task_that_names_another_teams_pool_is_refused_with_the_reason(
    stage: Scheduler, dag_id: str, executor: str | None, whose: str
) -> None:
    started = stage.executor(team_name=executor)
    workload = stage.workload("blue-pool/high", dag_id=dag_id)
    stage.hand_over(started, workload)
    reason = reason_of(stage, workload.ti.id)
    assert reason is not None
    assert reason.startswith(
        f"Work pool 'blue-pool' belongs to team 'team_blue', and DAG '{dag_id}' {whose}."
    )
    assert ("red-pool" in reason) == (dag_id == "reds")
    started.sync()
    assert started.event_buffer[key_of_workload(workload)] == (FAILED, reason)


def test_without_multi_team_pools_belong_to_nobody(stage: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "False")
    workload = stage.workload("blue-pool/high", dag_id="reds")
    stage.hand_over(stage.executor(), workload)
    assert stage.rig.state(workload.ti.id) is JobState.PENDING


# -- ends, counts, restarts -----------------------------------------------------------------------------------


def test_each_executor_tells_the_ends_of_its_own_jobs(stage: Scheduler) -> None:
    started = executors(stage)
    workloads = {
        team: stage.workload("shared/default", dag_id=dag_id)
        for team, dag_id in ((None, "anybodys"), (RED, "reds"), (BLUE, "blues"))
    }
    for team, workload in workloads.items():
        stage.hand_over(started[team], workload)
        worker = stage.rig.worker(team_name=team)
        (job,) = stage.rig.claim(worker, work_pool("shared"))
        report = Report(job_id=job.id, state=JobState.SUCCEEDED)
        stage.rig.store.report(worker, [report], now=datetime.now(timezone.utc))
    for executor in started.values():
        next_round(executor)
    for team, executor in started.items():
        assert set(executor.event_buffer) == {key_of_workload(workloads[team])}
        assert executor.running == set()


def test_an_executor_counts_its_own_jobs_only(stage: Scheduler) -> None:
    started = executors(stage)
    workload = stage.workload("shared/default", dag_id="reds")
    stage.hand_over(started[RED], workload)
    for executor in started.values():
        next_round(executor)
    assert {team: set(executor.running) for team, executor in started.items()} == {
        None: set(),
        RED: {key_of_workload(workload)},
        BLUE: set(),
    }


# -- gate 1 ---------------------------------------------------------------------------------------------------


def test_each_executor_looks_after_its_own_teams_pools(stage: Scheduler) -> None:
    started = executors(stage)
    online(stage, None, RED, BLUE)
    next_round(started[RED])
    assert owned(stage) == {"red-pool": (4, RED)}
    next_round(started[BLUE])
    assert {name: team for name, (_, team) in owned(stage).items()} == {
        "red-pool": RED,
        "blue-pool": BLUE,
        "blue-pool.high": BLUE,
    }
    next_round(started[None])
    assert {"shared", "default", "red-pool", "blue-pool.high"} <= owned(stage).keys()
    before = owned(stage)
    for executor in started.values():
        with statements_of(stage.engine) as sent:
            next_round(executor)
        assert [one for one in writes(sent) if "slot_pool" in one.partition("WHERE")[0]] == []
    assert owned(stage) == before


def test_pools_of_a_team_without_an_executor_are_everybodys_executors_to_look_after(stage: Scheduler) -> None:
    stage.team("team_green")
    stage.pool("green-pool", team_name="team_green", concurrency_limit=2)
    online(stage, None)
    next_round(stage.executor(team_name=RED))
    assert "green-pool" not in owned(stage)
    next_round(stage.executor())
    assert owned(stage)["green-pool"] == (2, "team_green")


def test_the_airflow_pools_follow_a_work_pool_to_its_new_team(stage: Scheduler) -> None:
    started = executors(stage)
    online(stage, None, RED, BLUE)
    next_round(started[RED])
    stage.pool("red-pool", team_name=BLUE, concurrency_limit=4)
    next_round(started[RED])
    next_round(started[BLUE])
    assert owned(stage)["red-pool"] == (4, BLUE)
    stage.pool("red-pool", concurrency_limit=4)
    next_round(started[None])
    assert owned(stage)["red-pool"] == (4, None)


def test_a_pool_is_not_served_by_workers_of_another_team(stage: Scheduler) -> None:
    red = stage.executor(team_name=RED)
    online(stage, BLUE)
    next_round(red)
    assert owned(stage)["red-pool"] == (0, RED)
    online(stage, RED)
    next_round(red)
    assert owned(stage)["red-pool"] == (4, RED)


def test_what_is_left_of_a_deleted_pool_goes_with_everybodys_executor(stage: Scheduler) -> None:
    started = executors(stage)
    next_round(started[RED])
    stage.forget_pool("red-pool")
    next_round(started[RED])
    next_round(started[BLUE])
    assert "red-pool" in owned(stage)
    next_round(started[None])
    assert "red-pool" not in owned(stage)


def test_only_tasks_of_other_teams_leave_a_teams_airflow_pool(stage: Scheduler) -> None:
    """Airflow passes over them without a word; in the default pool they are handed over, to fail with the reason."""
    red = stage.executor(team_name=RED)
    next_round(red)
    of_others = {
        stage.task("red-pool/default", "scheduled", dag_id=dag)["id"] for dag in ("blues", "nobodys")
    }
    stage.task("red-pool/default", "scheduled", dag_id="reds")
    stage.task("red-pool/default", "queued", dag_id="blues")
    stage.task("red-pool/default", "scheduled", dag_id="blues", executor="LocalExecutor")
    stage.task("shared/default", "scheduled", dag_id="blues")
    next_round(red)
    assert {row.id for row in stage.rows(TaskInstance, pool="default_pool")} == of_others


@pytest.mark.parametrize(
    ("team", "served"),
    [
        (RED, {"default", "shared", "red-pool"}),
        (BLUE, {"default", "shared", "blue-pool"}),
        (None, {"default", "shared", "red-pool", "blue-pool"}),
    ],
)
def test_a_worker_serves_pools_of_its_team_and_of_none_and_everybodys_worker_all(
    stage: Scheduler, team: str | None, served: set[str]
) -> None:
    client = SqlClient(
        store=stage.rig.store,
        all_pools=stage.executor()._started().pools,
        mint_token=lambda *_: "",
        kinds=frozenset({"process"}),
        team_name=team,
    )
    assert client.pools().keys() == served


# -- explain --------------------------------------------------------------------------------------------------


def test_explain_names_the_teams_that_do_not_match(stage: Scheduler) -> None:
    red = stage.executor(team_name=RED)
    next_round(red)
    with stage.engine.begin() as connection:
        row = {"pool": "wide", "slots": 9, "include_deferred": False, "team_name": RED}
        connection.execute(sa.insert(Pool.__table__), [row])

    def said(dag_id: str, queue: str = "red-pool/default", **values: str) -> str:
        task = stage.task(queue, "scheduled", dag_id=dag_id, **values)
        duties = red._started()
        explanation = explain_task(
            TaskRef(dag_id=dag_id, run_id="run", task_id=task["task_id"]),
            pools=duties.pools(),
            store=stage.rig.store,
            settings=duties.settings,
            now=datetime.now(timezone.utc),
        )
        return repr(explanation)

    reason = "work pool 'red-pool' belongs to team 'team_red', and DAG 'blues' to team 'team_blue'"
    assert reason in said("blues")
    assert "belongs to team" not in said("reds")
    reason = "Airflow pool 'wide' belongs to team 'team_red', and DAG 'blues' to team 'team_blue'"
    assert reason in said("blues", "shared/default", pool="wide")
    assert "belongs to team" not in said("reds", "shared/default", pool="wide")


# -- environment ----------------------------------------------------------------------------------------------


def test_a_pool_that_a_variable_defines_for_a_team_is_that_teams(
    stage: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition: dict[str, Any] = {"conn_type": "workpool", "extra": {"type": "process"}}
    monkeypatch.setenv("AIRFLOW_CONN__TEAM_RED___RED_VARS", json.dumps(definition))
    stage.forget_what_is_known()
    executor = stage.executor()
    assert executor._started().pools()["red_vars"].team_name == RED
    workload = stage.workload("red_vars/default", dag_id="blues")
    stage.hand_over(executor, workload)
    assert "Work pool 'red_vars' belongs to team 'team_red'" in (reason_of(stage, workload.ti.id) or "")
