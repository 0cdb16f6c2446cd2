# SPDX-License-Identifier: Apache-2.0
"""The example DAGs as Airflow reads them. Running them is for the tests of a whole Airflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_workpools.core.templates import value_problems
from airflow_workpools.infrastructure.registry import default_template
from tests.dag_reader import AS_DEFAULT, Reading, read

EXAMPLES = sorted((Path(__file__).parents[2] / "dags_examples").glob("*.py"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    return read(tmp_path_factory.mktemp("examples"), EXAMPLES, executor=AS_DEFAULT)


def queues(reading: Reading, dag_id: str) -> dict[str, str]:
    return {task_id: task["queue"] for task_id, task in reading.dags[dag_id].items()}


def test_every_example_is_read_without_error_and_is_named_like_its_file(examples):
    assert examples.errors == {}
    assert set(examples.dags) == {path.stem for path in EXAMPLES}


def test_the_reference_example_has_a_task_for_each_queue(examples):
    dag = queues(examples, "reference_example")
    assert {dag[queue] for queue in ("low", "high", "critical")} == {"etl/low", "etl/high", "etl/critical"}
    # What only prepares does not count as the pool's work.
    assert {dag[f"count_{queue}"] for queue in ("low", "high", "critical")} == {"default"}


def test_a_backfill_has_its_own_queue(examples):
    dag = queues(examples, "priority_backfill")
    assert (dag["load"], dag["load_in_backfill"]) == ("etl/high", "etl/low")


def test_one_variable_moves_a_dag_to_another_pool(examples, tmp_path):
    path = next(path for path in EXAMPLES if path.stem == "switch_pool_by_variable")
    moved = read(tmp_path, [path], executor=AS_DEFAULT, AIRFLOW_VAR_ETL_POOL="etl_production")
    assert queues(examples, path.stem) == {"extract": "etl/low", "load": "etl/critical"}
    assert queues(moved, path.stem) == {"extract": "etl_production/low", "load": "etl_production/critical"}


def test_one_variable_moves_processes_into_containers_with_what_each_needs(examples, tmp_path):
    path = next(path for path in EXAMPLES if path.stem == "containers_in_production")
    assert set(queues(examples, path.stem).values()) == {"dev/default"}
    assert not any(task["executor_config"] for task in examples.dags[path.stem].values())
    moved = read(tmp_path, [path], executor=AS_DEFAULT, AIRFLOW_VAR_FORECAST_POOL="prod-k8s")
    assert set(queues(moved, path.stem).values()) == {"prod-k8s/default"}
    config = {task_id: task["executor_config"] for task_id, task in moved.dags[path.stem].items()}
    assert config["small_countries"]["image"] == "registry.example.com/forecast/base:1"
    assert config["forecast_small"]["image"] == "registry.example.com/forecast/statistics:1"
    assert config["forecast_big"] == {
        "image": "registry.example.com/forecast/deep-learning:1",
        "cpu_request": "4",
        "memory_request": "16Gi",
        "memory_limit": "16Gi",
    }
    problems = {id_: list(value_problems(default_template("kubernetes"), own)) for id_, own in config.items()}
    assert not any(problems.values()), problems


def test_mapped_tasks_share_job_variables_or_are_different_tasks(examples):
    dag = examples.dags["mapped_job_variables"]
    assert dag["export"]["executor_config"] == {"env": {"STAGE": "test"}}
    assert dag["load_small"]["executor_config"] == {"env": {"THREADS": "1"}}
    assert dag["load_big"]["executor_config"] == {"env": {"THREADS": "8"}}
    assert dag["load_big"]["queue"] == "etl/high"
