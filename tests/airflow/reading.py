# SPDX-License-Identifier: Apache-2.0
"""Reading logs of tasks as Airflow's UI does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from airflow_workpools.cli.local_records import TaskTry
    from tests.airflow.harness import AirflowInstance


def read(airflow: AirflowInstance, task: TaskTry, try_number: int | None = None) -> list[dict[str, Any]]:
    """Return the events of a try's log, as the UI gets them; without where they are from."""
    return parts(airflow, task, try_number)[1]


def parts(
    airflow: AirflowInstance, task: TaskTry, try_number: int | None = None
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return where a log is from, and its events."""
    path = (
        f"dags/{task.dag_id}/dagRuns/{quote(task.run_id)}/taskInstances/{task.task_id}/logs/"
        f"{try_number or task.try_number}?full_content=true"
    )
    content = airflow.api.call("GET", path)["content"]
    end = next(n for n, event in enumerate(content) if event["event"] == "::endgroup::")
    return [event["event"] for event in content[1:end]], content[end + 1 :]


def events(log: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in log]


def ended(airflow: AirflowInstance, dag_id: str, *, state: str = "success") -> TaskTry:
    """Run a DAG of one task until its jobs have ended, too: that is when their logs are complete."""
    run_id = airflow.trigger(dag_id)
    airflow.wait_run(dag_id, run_id, state=state)
    active = "select id from workpool_job where run_id = :run_id and ended_at is null"
    airflow.wait(lambda: not airflow.rows(active, run_id=run_id), what="the jobs to end")
    return only(airflow, dag_id, run_id)


def only(airflow: AirflowInstance, dag_id: str, run_id: str) -> TaskTry:
    [task] = airflow.tries(dag_id, run_id)
    return task
