# SPDX-License-Identifier: Apache-2.0
"""What is killed comes back, and no task notices."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from airflow_workpools.cli.local_airflow import SCHEDULER
from tests.airflow.harness import assert_each_ran_once

if TYPE_CHECKING:
    from tests.airflow.harness import AirflowInstance

pytestmark = pytest.mark.airflow


@pytest.fixture
def survivors(airflow: AirflowInstance) -> str:
    """A run whose tasks have begun, in a pool where two more have to wait; returns its run id."""
    run_id = airflow.trigger("survivors")
    airflow.wait(lambda: _begun(airflow, run_id) == 6, what="six tasks to be in their code")
    return run_id


def _begun(airflow: AirflowInstance, run_id: str) -> int:
    return sum(execution.event == "start" for execution in airflow.executions(run_id))


def _assert_none_lost_none_run_twice(airflow: AirflowInstance, run_id: str) -> None:
    tries = airflow.wait_run("survivors", run_id)
    assert len(tries) == 8
    assert {(task.state, task.try_number) for task in tries} == {("success", 1)}
    assert_each_ran_once(airflow.executions(run_id), tries)
    assert not airflow.records.earlier_tries("survivors", run_id)
    jobs = airflow.rows("select state from workpool_job where run_id = :run_id", run_id=run_id)
    assert [job["state"] for job in jobs] == ["succeeded"] * 8


def test_tasks_survive_the_embedded_worker(airflow: AirflowInstance, survivors: str) -> None:
    killed = airflow.worker_pid()
    os.kill(killed, signal.SIGKILL)
    _assert_none_lost_none_run_twice(airflow, survivors)
    assert airflow.worker_pid() != killed


def test_tasks_survive_the_scheduler(airflow: AirflowInstance, survivors: str) -> None:
    airflow.local.kill9(SCHEDULER)
    airflow.local.start(SCHEDULER)
    _assert_none_lost_none_run_twice(airflow, survivors)


def test_tasks_end_while_no_scheduler_is_there_and_are_counted_by_the_next(
    airflow: AirflowInstance, survivors: str
) -> None:
    airflow.local.kill9(SCHEDULER)
    airflow.wait(
        lambda: sum(execution.event == "end" for execution in airflow.executions(survivors)) == 6,
        what="the six tasks to end",
    )
    airflow.local.start(SCHEDULER)
    _assert_none_lost_none_run_twice(airflow, survivors)
