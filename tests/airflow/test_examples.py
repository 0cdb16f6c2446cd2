# SPDX-License-Identifier: Apache-2.0
"""The DAGs of ``dags_examples`` do what their texts say."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.airflow.harness import ROOT, most_at_once

if TYPE_CHECKING:
    from tests.airflow.harness import AirflowInstance

pytestmark = pytest.mark.airflow

on_sqlite = pytest.mark.parametrize("airflow", ["sqlite"], indirect=True)
# The backfill command itself may meet a locked database on SQLite.
on_postgres = pytest.mark.parametrize(
    "airflow", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)

TESTED = {
    "reference_example",
    "priority_backfill",
    "switch_pool_by_variable",
    "mapped_job_variables",
    "containers_in_production",
}


@on_sqlite
def test_every_example_is_tested_here(airflow: AirflowInstance) -> None:
    sources = [path.read_text() for path in (ROOT / "dags_examples").glob("*.py")]
    found = {dag_id for source in sources for dag_id in re.findall(r'DAG\(\s*"(\w+)"', source)}
    assert found == TESTED
    for dag_id in TESTED:
        airflow.wait(lambda dag_id=dag_id: airflow.api.has_dag(dag_id), what=dag_id)  # type: ignore[misc]
    assert airflow.api.import_errors() == []


@on_sqlite
def test_the_reference_example_takes_its_numbers_from_whoever_triggers_it(airflow: AirflowInstance) -> None:
    tries = airflow.run("reference_example", {"low": 8, "high": 4, "critical": 2, "seconds": 1})
    counted = Counter(task.queue for task in tries)
    assert counted == {"etl/low": 8, "etl/high": 4, "etl/critical": 2, "default": 3}
    assert most_at_once(tries, "etl/high") <= 3
    assert most_at_once(tries, "etl/critical") == 1


@on_postgres
def test_a_backfill_waits_in_its_own_queue(airflow: AirflowInstance) -> None:
    airflow.local.run_cli(
        *("backfill", "create", "--dag-id", "priority_backfill"),
        *("--from-date", "2026-02-01", "--to-date", "2026-02-02"),
    )

    def tries() -> list[tuple[str, str | None, str]]:
        found = airflow.records.tries("priority_backfill")
        return [(t.task_id, t.state, t.queue) for t in found if t.run_id.startswith("backfill")]

    def published() -> bool:
        return [state for task_id, state, _ in tries() if task_id == "publish"] == ["success"] * 2

    airflow.wait(published, timeout=60, what="the backfill to be published")
    assert Counter((task_id, state) for task_id, state, _ in tries()) == {
        ("choose", "success"): 2,
        ("load", "skipped"): 2,
        ("load_in_backfill", "success"): 2,
        ("publish", "success"): 2,
    }
    assert {queue for task_id, _, queue in tries() if task_id == "load_in_backfill"} == {"etl/low"}


@on_sqlite
def test_one_variable_switches_the_pool(airflow: AirflowInstance) -> None:
    before = airflow.run("switch_pool_by_variable")
    assert {task.queue for task in before} == {"etl/low", "etl/critical"}
    airflow.api.create("variables", {"key": "etl_pool", "value": "production"})
    airflow.wait(
        lambda: airflow.rows("select 1 from slot_pool where pool = 'production.critical'"),
        what="gate 1 to know the other pool",
    )
    reparse(airflow, "switch_pool_by_variable")
    after = airflow.run("switch_pool_by_variable")
    assert {task.queue for task in after} == {"production/low", "production/critical"}


def reparse(airflow: AirflowInstance, dag_id: str) -> None:
    """Have the DAG's file read again, and wait until it has been."""

    def versions() -> int:
        return len(airflow.rows("select id from dag_version where dag_id = :dag_id", dag_id=dag_id))

    known = versions()
    token = airflow.api.call("GET", f"dags/{dag_id}/details")["file_token"]
    airflow.api.call("PUT", f"parseDagFile/{token}")
    airflow.wait(lambda: versions() > known, timeout=60, what=f"{dag_id} to be parsed again")


@on_sqlite
def test_what_is_for_containers_runs_as_processes_where_the_variable_says_so(
    airflow: AirflowInstance,
) -> None:
    tries = airflow.run("containers_in_production")
    assert Counter((task.task_id, task.queue) for task in tries) == {
        ("small_countries", "dev/default"): 1,
        ("big_countries", "dev/default"): 1,
        ("forecast_small", "dev/default"): 3,
        ("forecast_big", "dev/default"): 1,
    }


@on_sqlite
def test_mapped_tasks_get_their_job_variables(airflow: AirflowInstance) -> None:
    tries = airflow.run("mapped_job_variables")
    queues = Counter((task.task_id, task.queue) for task in tries)
    assert queues["load_small", "etl/low"] == 3
    assert queues["load_big", "etl/high"] == 1
    exports = [task for task in tries if task.task_id == "export"]
    logs = [airflow.log(task) for task in exports]
    assert [
        country for country in ("at", "ch", "de") for log in logs if f"exporting {country} for test" in log
    ] == [
        "at",
        "ch",
        "de",
    ]
