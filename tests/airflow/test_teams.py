# SPDX-License-Identifier: Apache-2.0
"""Two teams with a DAG bundle and an executor each, and the executor of everybody, in one real Airflow."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.airflow.harness import ROOT, WORK_POOL_EXECUTOR, AirflowInstance, most_at_once
from tests.postgres import postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_workpools.cli.local_records import TaskTry

pytestmark = [pytest.mark.airflow, pytest.mark.postgres]

RED, BLUE = "team_red", "team_blue"
BUNDLES = [
    {
        "name": name,
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(ROOT / "tests/airflow/dags_teams" / name), "refresh_interval": 1},
        "team_name": team,
    }
    for name, team in {"red": RED, "blue": BLUE, "everybody": None}.items()
]


def create(airflow: AirflowInstance, name: str, team: str | None, **definition: Any) -> None:
    """Declare a process pool of a team as a connection."""
    extra = json.dumps({"type": "process", **definition})
    body = {"connection_id": name, "conn_type": "workpool", "extra": extra, "team_name": team}
    airflow.api.create("connections", body)


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowInstance]:
    home = tmp_path_factory.mktemp("teams")
    with ExitStack() as stack:
        instance = AirflowInstance(
            home,
            executor=f"{WORK_POOL_EXECUTOR};{RED}={WORK_POOL_EXECUTOR};{BLUE}={WORK_POOL_EXECUTOR}",
            database_url=stack.enter_context(postgres_server()).create_database("airflow"),
            dags_folder=home / "dags",
            settings={
                "AIRFLOW__CORE__MULTI_TEAM": "True",
                "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
                "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(BUNDLES),
                f"AIRFLOW_CONN__{RED.upper()}___RED-VARS": json.dumps(
                    {
                        "conn_type": "workpool",
                        "extra": {"type": "process", "queues": {"urgent": {"priority": 1}}},
                    }
                ),
            },
        )
        instance.migrate()
        instance.local.run_cli("teams", "sync")
        stack.callback(instance.stop)
        instance.start()
        create(instance, "red-pool", RED)
        create(instance, "blue-pool", BLUE, queues={"high": {"priority": 1}})
        queues = {"high": {"priority": 1, "concurrency_limit": 3}, "low": {"priority": 2}}
        create(instance, "shared", None, concurrency_limit=4, queues=queues)
        instance.api.create("pools", {"name": "wide", "slots": 50})
        yield instance


def workers_of(airflow: AirflowInstance, dag_id: str, run_id: str) -> dict[str, str | None]:
    """Return the team of the worker that ran each task."""
    rows = airflow.rows(
        "select task_id, worker.team_name from workpool_job join workpool_worker worker "
        "on worker.id = worker_id where dag_id = :dag_id and run_id = :run_id",
        dag_id=dag_id,
        run_id=run_id,
    )
    return {row["task_id"]: row["team_name"] for row in rows}


def run_to_the_end(airflow: AirflowInstance, dag_id: str) -> tuple[str, list[TaskTry]]:
    run_id = airflow.trigger(dag_id)
    return run_id, airflow.wait_run(dag_id, run_id)


def test_tasks_of_a_team_run_on_its_own_worker_in_its_own_pools_and_those_of_no_team(
    airflow: AirflowInstance,
) -> None:
    red, _ = run_to_the_end(airflow, "red_at_home")
    blue, _ = run_to_the_end(airflow, "blue_at_home")
    tasks = ("own", "from_environment", "shared", "plain")
    assert workers_of(airflow, "red_at_home", red) == dict.fromkeys(tasks, RED)
    assert workers_of(airflow, "blue_at_home", blue) == {"own": BLUE}


def test_tasks_of_no_team_run_on_the_worker_of_everybody(airflow: AirflowInstance) -> None:
    run_id, _ = run_to_the_end(airflow, "nobodys_own")
    assert workers_of(airflow, "nobodys_own", run_id) == {"shared": None}


@pytest.mark.parametrize(
    ("dag_id", "reason"),
    [
        (
            "red_trespasses",
            "Work pool 'blue-pool' belongs to team 'team_blue', and DAG 'red_trespasses' to team 'team_red'. A task "
            "may use its own team's work pools and those of no team: default, red-pool, red-vars, shared.",
        ),
        (
            "nobodys_trespass",
            "Work pool 'red-pool' belongs to team 'team_red', and DAG 'nobodys_trespass' to no team. A task may use "
            "its own team's work pools and those of no team: default, shared.",
        ),
    ],
)
def test_a_task_that_names_a_pool_of_another_team_fails_with_the_reason(
    airflow: AirflowInstance, dag_id: str, reason: str
) -> None:
    run_id = airflow.trigger(dag_id)
    for task in airflow.wait_run(dag_id, run_id, state="failed"):
        assert reason in airflow.log(task)
        (event,) = airflow.rows(
            "select extra from log where event = 'work pool job failed' and dag_id = :dag_id "
            "and run_id = :run_id and task_id = :task_id",
            dag_id=dag_id,
            run_id=run_id,
            task_id=task.task_id,
        )
        assert reason in event["extra"]


def test_the_airflow_pools_of_a_work_pool_belong_to_its_team(airflow: AirflowInstance) -> None:
    def owners() -> dict[str, str | None]:
        rows = airflow.rows("select pool, team_name from slot_pool where description like 'Work queue %'")
        return {row["pool"]: row["team_name"] for row in rows}

    expected = {
        "default": None,
        "shared": None,
        "shared.high": None,
        "shared.low": None,
        "red-pool": RED,
        "red-vars": RED,
        "red-vars.urgent": RED,
        "blue-pool": BLUE,
        "blue-pool.high": BLUE,
    }
    airflow.wait(lambda: owners() == expected, what=f"Airflow pools with their teams, which are {owners()}")


def test_teams_share_a_pool_within_its_limits(airflow: AirflowInstance) -> None:
    crowds = {dag_id: airflow.trigger(dag_id) for dag_id in ("red_crowd", "blue_crowd")}
    tries = [task for dag_id, run_id in crowds.items() for task in airflow.wait_run(dag_id, run_id)]
    assert most_at_once(tries) <= 4
    assert most_at_once(tries, "shared/high") <= 3
    for dag_id, team in {"red_crowd": RED, "blue_crowd": BLUE}.items():
        assert workers_of(airflow, dag_id, crowds[dag_id]) == {"many": team}


def test_list_and_inspect_show_the_team(airflow: AirflowInstance) -> None:
    listed = {row["name"]: row["team_name"] for row in json.loads(airflow.workpools("list", "-o", "json"))}
    assert listed == {
        "default": None,
        "shared": None,
        "red-pool": RED,
        "red-vars": RED,
        "blue-pool": BLUE,
    }
    assert json.loads(airflow.workpools("inspect", "blue-pool"))["team_name"] == BLUE


def test_a_connection_test_of_a_team_is_carried_out(airflow: AirflowInstance) -> None:
    body = {"connection_id": "files", "conn_type": "fs", "extra": json.dumps({"path": "/"}), "team_name": RED}
    token = airflow.api.call("POST", "connections/enqueue-test", body)["token"]

    def row() -> dict[str, str]:
        statement = "select state, result_message from connection_test_request where token = :token"
        return airflow.rows(statement, token=token)[0]

    airflow.wait(lambda: row()["state"] in ("success", "failed"), what="the connection test to end")
    assert row()["state"] == "success"
