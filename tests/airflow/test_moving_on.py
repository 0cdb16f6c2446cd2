# SPDX-License-Identifier: Apache-2.0
"""Tasks that are stopped, cleared or deleted from outside; tasks that are handed over several times."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from airflow_workpools.cli.local_airflow import TRIGGERER

if TYPE_CHECKING:
    from tests.airflow.harness import AirflowInstance, Execution

pytestmark = pytest.mark.airflow


@pytest.fixture
def pools(airflow: AirflowInstance) -> Iterator[None]:
    """The pools of these tests, gone afterwards."""
    silent = socket.create_server(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    definitions = {
        "moving": {},
        "one-by-one": {"concurrency_limit": 1},
        # A job there knocks at a port where nobody answers; where nobody listens, it might give up in four seconds.
        "slow-start": {
            "start_timeout": 2,
            "job_variables": {
                "env": {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/"}
            },
        },
    }
    for name, definition in definitions.items():
        airflow.create_pool(name, **definition)
    with silent:
        yield
    for name in definitions:
        airflow.api.call("DELETE", f"connections/{name}")


def _begun(airflow: AirflowInstance, run_id: str) -> Execution:
    """Wait until a task of the run is in its code."""
    found: list[Execution] = airflow.wait(lambda: airflow.executions(run_id), what="a task to be in its code")
    return found[-1]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _jobs(airflow: AirflowInstance, run_id: str) -> list[dict[str, object]]:
    return airflow.rows(
        "select state, reason, round from workpool_job where run_id = :run_id order by handed_over_at, round",
        run_id=run_id,
    )


def _ended(airflow: AirflowInstance, run_id: str) -> bool:
    return all(job["state"] in ("succeeded", "failed", "cancelled") for job in _jobs(airflow, run_id))


def _mark_failed(airflow: AirflowInstance, dag_id: str, run_id: str) -> None:
    airflow.api.call("PATCH", f"dags/{dag_id}/dagRuns/{run_id}", {"state": "failed"})


@pytest.mark.usefixtures("pools")
def test_a_task_that_is_marked_as_failed_is_stopped(airflow: AirflowInstance) -> None:
    run_id = airflow.trigger("stubborn")
    pid = _begun(airflow, run_id).pid
    _mark_failed(airflow, "stubborn", run_id)
    airflow.wait(lambda: not _alive(pid), timeout=60, what="the task's process to end")
    airflow.wait(lambda: _ended(airflow, run_id), timeout=60, what="its job to end")


@pytest.mark.usefixtures("pools")
def test_a_task_whose_run_is_deleted_is_stopped(airflow: AirflowInstance) -> None:
    run_id = airflow.trigger("stubborn")
    pid = _begun(airflow, run_id).pid
    _mark_failed(airflow, "stubborn", run_id)  # Airflow refuses to delete a run that runs
    airflow.api.call("DELETE", f"dags/stubborn/dagRuns/{run_id}")
    airflow.wait(lambda: not _alive(pid), timeout=60, what="the task's process to end")
    airflow.wait(lambda: _ended(airflow, run_id), timeout=60, what="its job to end")


@pytest.mark.usefixtures("pools")
def test_a_task_that_is_cleared_runs_anew_and_its_first_process_is_gone(airflow: AirflowInstance) -> None:
    run_id = airflow.trigger("stubborn")
    first = _begun(airflow, run_id)
    airflow.clear(airflow.tries("stubborn", run_id)[0])
    airflow.wait(lambda: not _alive(first.pid), timeout=60, what="the first process to end")
    airflow.wait(lambda: len(airflow.executions(run_id)) == 2, what="the task to run anew")
    second = airflow.executions(run_id)[-1]
    assert second.try_number > first.try_number
    _mark_failed(airflow, "stubborn", run_id)
    airflow.wait(lambda: not _alive(second.pid), timeout=60, what="the second process to end")


@pytest.mark.usefixtures("pools")
def test_a_job_that_still_waits_when_its_run_is_stopped_never_starts(airflow: AirflowInstance) -> None:
    run_id = airflow.trigger("waits_behind")
    pid = _begun(airflow, run_id).pid
    airflow.wait(
        lambda: sorted(str(job["state"]) for job in _jobs(airflow, run_id)) == ["pending", "running"],
        what="the second job to wait in the store",
    )
    _mark_failed(airflow, "waits_behind", run_id)
    airflow.wait(lambda: not _alive(pid), timeout=60, what="the first task's process to end")
    airflow.wait(lambda: _ended(airflow, run_id), timeout=60, what="both jobs to end")
    assert len({execution.map_index for execution in airflow.executions(run_id)}) == 1


@pytest.mark.usefixtures("pools")
def test_a_task_that_does_not_start_in_time_fails_and_says_why(airflow: AirflowInstance) -> None:
    (task,) = airflow.run("never_starts", state="failed", timeout=60)
    assert not airflow.executions(task.run_id)
    log = airflow.wait(lambda: airflow.log(task), what="its log")
    assert "did not start within 2" in log
    assert "slow-start" in log


@pytest.mark.usefixtures("pools")
def test_deferred_and_rescheduled_tasks_are_handed_over_again_and_succeed(airflow: AirflowInstance) -> None:
    airflow.local.start(TRIGGERER)
    try:
        tries = airflow.run("rounds", timeout=90)
    finally:
        airflow.local.terminate(TRIGGERER)
    assert {(task.task_id, task.state, task.try_number) for task in tries} == {
        ("reschedules", "success", 1),
        ("defers", "success", 1),
    }
    rounds = airflow.rows(
        "select task_id, state, round from workpool_job where run_id = :run_id", run_id=tries[0].run_id
    )
    assert sorted((job["task_id"], job["state"], job["round"]) for job in rounds) == [
        ("defers", "succeeded", 0),
        ("defers", "succeeded", 1),
        ("reschedules", "succeeded", 0),
        ("reschedules", "succeeded", 1),
    ]
