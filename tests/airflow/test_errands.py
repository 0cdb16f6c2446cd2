# SPDX-License-Identifier: Apache-2.0
"""What Airflow hands an executor besides tasks: callbacks of missed deadlines, and connection tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.cli.local_airflow import SCHEDULER
from airflow_workpools.core.errands import HANDED_OVER

if TYPE_CHECKING:
    from pathlib import Path

    from tests.airflow.harness import AirflowInstance

pytestmark = pytest.mark.airflow


def folder(airflow: AirflowInstance) -> Path:
    path = airflow.trace.with_name("callbacks")
    path.mkdir(exist_ok=True)
    return path


def said(airflow: AirflowInstance, name: str) -> list[dict[str, Any]]:
    """Return what the callback of a DAG has written down."""
    path = folder(airflow) / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def callback_of(airflow: AirflowInstance, dag_id: str) -> dict[str, Any]:
    (row,) = airflow.rows(
        "select cast(id as text) as id, state, output from callback "
        "where type = 'executor' and cast(data as text) like :dag",
        dag=f"%{dag_id}%",
    )
    return row


def ended(airflow: AirflowInstance, dag_id: str, timeout: float = 60) -> dict[str, Any]:
    """Wait until a DAG's callback has ended; return its row."""
    airflow.wait(
        lambda: callback_of(airflow, dag_id)["state"] in ("success", "failed"),
        timeout=timeout,
        what=f"the callback of {dag_id} to end, which is {callback_of(airflow, dag_id)}",
    )
    return callback_of(airflow, dag_id)


def directories(airflow: AirflowInstance) -> list[str]:
    """Return what is left of jobs and errands."""
    return [path.name.replace("-", "") for path in (airflow.local.home / "workpools" / "jobs").iterdir()]


def test_the_callback_of_a_missed_deadline_runs_in_a_process_of_its_own(airflow: AirflowInstance) -> None:
    airflow.api.create("variables", {"key": "whom_to_page", "value": "Ada"})
    run_id = airflow.trigger("late_told")
    airflow.wait_run("late_told", run_id)
    row = ended(airflow, "late_told")
    assert row["state"] == "success"
    (told,) = said(airflow, "late_told")
    assert told["run_id"] == run_id
    assert told["variable"] == "Ada"
    assert told["deadline_is_a"] == "DateTime"  # not a text: as with LocalExecutor
    airflow.wait(
        lambda: row["id"].replace("-", "") not in directories(airflow), what="its directory to be removed"
    )
    airflow.wait(
        lambda: "completed successfully" in airflow.local.tail(SCHEDULER, 3000), what="Airflow to hear"
    )


def test_a_callback_that_fails_leaves_its_reason(airflow: AirflowInstance) -> None:
    airflow.wait_run("late_fails", run_id := airflow.trigger("late_fails"))
    row = ended(airflow, "late_fails")
    assert row["state"] == "failed"
    assert "LookupError: nobody answers the pager" in row["output"]
    assert len(said(airflow, "late_fails")) == 1
    logs = airflow.local.home / "logs" / "executor_callbacks" / "late_fails" / run_id
    (log,) = [path.read_text() for path in logs.iterdir()]
    assert "nobody answers the pager" in log


def test_a_callback_survives_worker_and_scheduler_and_runs_once(airflow: AirflowInstance) -> None:
    airflow.trigger("late_waits")
    airflow.wait(lambda: said(airflow, "late_waits"), what="the callback to begin")
    assert callback_of(airflow, "late_waits")["state"] in ("queued", "running")
    os.kill(killed := airflow.worker_pid(), signal.SIGKILL)
    airflow.wait(
        lambda: f":{killed} " not in (callback_of(airflow, "late_waits")["output"] or ""), what="adoption"
    )
    assert callback_of(airflow, "late_waits")["state"] == "running"
    airflow.local.kill9(SCHEDULER)
    airflow.local.start(SCHEDULER)
    (folder(airflow) / "late_waits.go").touch()
    assert ended(airflow, "late_waits")["state"] == "success"
    assert [line["event"] for line in said(airflow, "late_waits")] == ["begins", "ends"]


def test_a_callback_that_no_worker_has_taken_outlives_its_scheduler(airflow: AirflowInstance) -> None:
    os.kill(frozen := airflow.worker_pid(), signal.SIGSTOP)
    try:
        airflow.trigger("late_queued")
        airflow.wait(
            lambda: callback_of(airflow, "late_queued")["output"],
            what="the callback to be handed over",
        )
        assert callback_of(airflow, "late_queued")["output"] == HANDED_OVER
        airflow.local.kill9(SCHEDULER)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(frozen, signal.SIGKILL)
    airflow.local.start(SCHEDULER)
    assert "nobody answers" in ended(airflow, "late_queued")["output"]
    assert len(said(airflow, "late_queued")) == 1


@pytest.mark.parametrize(
    ("path", "state", "message"), [("/", "success", "existing"), ("/not/there", "failed", "/not/there")]
)
def test_a_connection_is_tested(airflow: AirflowInstance, path: str, state: str, message: str) -> None:
    body = {"connection_id": "files", "conn_type": "fs", "extra": json.dumps({"path": path})}
    token = airflow.api.call("POST", "connections/enqueue-test", body)["token"]

    def row() -> dict[str, Any]:
        statement = "select state, result_message from connection_test_request where token = :token"
        return airflow.rows(statement, token=token)[0]

    airflow.wait(lambda: row()["state"] in ("success", "failed"), what="the connection test to end")
    assert row()["state"] == state
    assert message in row()["result_message"]
