# SPDX-License-Identifier: Apache-2.0
"""The page for DAG authors: its examples are DAG files, and it says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from airflow_workpools.core.weights import MAX_OWN_WEIGHT
from tests.dag_reader import WITH_ALIAS, Reading, read

PAGE = (Path(__file__).parents[2] / "docs" / "dag-authors.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    files = {f"example_{number}.py": source for number, source in enumerate(EXAMPLES)}
    return read(tmp_path_factory.mktemp("docs"), files, executor=WITH_ALIAS)


def test_every_example_is_a_dag_file_that_airflow_takes(reading):
    assert reading.errors == {}
    assert len(reading.dags) == len(EXAMPLES) > 0


def test_tasks_are_in_the_queues_that_their_names_say(reading):
    queues = {task_id: task["queue"] for task_id, task in reading.dags["reports"].items()}
    assert queues == {
        "in_low": "etl/low",
        "in_critical": "etl/critical",
        "not_in_a_work_queue": "default",
        "urgent.in_high": "etl/high",
    }


def test_three_ways_to_write_job_variables_are_the_same(reading):
    first, second, third = ({**task, "operator": None} for task in reading.dags["training"].values())
    assert first == second == third


def test_what_needs_no_provider_has_the_same_effect(reading):
    task = reading.dags["without_the_provider"]["load"]
    assert (task["pool"], task["executor"]) == ("etl.low", "wp")


def test_the_page_has_the_right_numbers():
    assert f"{MAX_OWN_WEIGHT:,}" in PAGE
