# SPDX-License-Identifier: Apache-2.0
"""Tasks in containers, in a real Airflow: a Docker Engine's, and a Kubernetes cluster's."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.cli.local_airflow import SCHEDULER
from tests.airflow.harness import ROOT, AirflowInstance, held_at_once, seconds
from tests.airflow.separate import RunningWorker, worker_command, worker_environment
from tests.namespace import line_to
from tests.postgres import postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_workpools.cli.local_records import TaskTry
    from tests.airflow.platforms import ContainerPlatform

pytestmark = pytest.mark.airflow

DAGS = ROOT / "tests/airflow/dags_containers"
LIMIT = 2
OUTAGE_SECONDS = 40
"""Longer than the task sleeps that ends meanwhile."""


@dataclass(frozen=True)
class Contained:
    """An Airflow with a pool of containers, and how to see those from outside."""

    airflow: AirflowInstance
    kind: str
    platform: ContainerPlatform

    def job(self, task: TaskTry) -> dict[str, Any]:
        rows = self.airflow.rows(
            "select * from workpool_job where run_id = :run_id and task_id = :task_id",
            run_id=task.run_id,
            task_id=task.task_id,
        )
        assert len(rows) == 1
        return rows[0]

    def log(self, task: TaskTry) -> str:
        """Return the whole log of a task: its last lines may come a moment after its end."""
        self.airflow.wait(lambda: self.job(task)["ended_at"], what="its job to end")
        return self.airflow.log(task)

    def start(self, dag_id: str) -> TaskTry:
        """Trigger a run of one task and wait until it runs, alone."""
        self.wait_until_nothing_is_left()
        run_id = self.airflow.trigger(dag_id)
        what = f"{dag_id} to run"
        return self.airflow.wait(lambda: self.airflow.running(dag_id, run_id), what=what)[0]

    def wait_until_nothing_is_left(self) -> None:
        self.airflow.wait(lambda: not self.platform.names(), what="everything to be removed")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("docker", marks=pytest.mark.docker),
        pytest.param("kubernetes", marks=pytest.mark.kubernetes),
    ],
)
def contained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Contained]:
    # Imported late: they need what the parts' extras bring.
    from tests.airflow import platforms

    with ExitStack() as stack:
        platform = stack.enter_context(platforms.PLATFORMS[request.param](DAGS))
        database_url = stack.enter_context(postgres_server()).create_database("airflow")
        instance = AirflowInstance(
            tmp_path_factory.mktemp(request.param),
            database_url=database_url,
            dags_folder=DAGS,
            settings={"AIRFLOW__CORE__KILLED_TASK_CLEANUP_TIME": "5", **platform.environment},
        )
        instance.migrate()
        stack.callback(instance.stop)
        instance.start()
        instance.create_pool("here")
        for name, delivery in (("there", "push"), ("pulled", "pull")):
            instance.create_pool(
                name,
                type=request.param,
                delivery=delivery,
                concurrency_limit=LIMIT,
                job_variables={**platform.job_variables, "env": {"WORKPOOLS_TEST_CONTAINER": "yes"}},
            )
        yield Contained(instance, request.param, platform)


def test_another_work_queue_moves_a_task_into_a_container_and_nothing_else_changes(
    contained: Contained,
) -> None:
    said = {}
    for dag_id in ("moved_here", "moved_there"):
        (task,) = contained.airflow.run(dag_id)
        said[dag_id] = contained.log(task)
    assert "runs in a container: no" in said["moved_here"]
    assert "runs in a container: yes" in said["moved_there"]
    contained.wait_until_nothing_is_left()


def test_what_tasks_return_reaches_the_next_and_the_pools_limit_holds(contained: Contained) -> None:
    run_id = contained.airflow.trigger("in_containers")
    tries = contained.airflow.wait_run("in_containers", run_id, timeout=240)
    (last,) = (task for task in tries if task.task_id == "add")
    assert "the sum is 30" in contained.log(last)
    assert held_at_once(contained.airflow, [run_id]).at_least[""] <= LIMIT


def test_a_log_is_there_while_the_task_runs_and_when_its_container_is_gone(contained: Contained) -> None:
    airflow = contained.airflow
    task = contained.start("talks")
    airflow.wait(lambda: "said early" in airflow.log(task), what="its log")
    assert "said late" not in airflow.log(task)
    (task,) = airflow.wait_run("talks", task.run_id)
    contained.wait_until_nothing_is_left()
    log = airflow.log(task)
    assert log.count("said early") == 1
    assert log.count("said late") == 1
    assert "eyJ" not in log
    assert "Could not read served logs" not in log


def test_a_task_that_is_marked_failed_is_asked_to_end_and_its_container_goes(contained: Contained) -> None:
    airflow = contained.airflow
    task = contained.start("long_wait")
    airflow.wait(lambda: "has begun to wait" in airflow.log(task), what="the task's own code")
    airflow.mark(task, "failed")
    airflow.wait(lambda: contained.job(task)["ended_at"], what="its job to end")
    # Airflow's own supervisor may have noticed first, and ended the task.
    assert contained.job(task)["state"] in ("cancelled", "succeeded")
    contained.wait_until_nothing_is_left()
    airflow.wait(lambda: "was asked to end" in airflow.log(task), what="what on_kill said")


@pytest.mark.parametrize("how", ["cleared", "run deleted"])
def test_a_container_goes_when_its_task_is_not_wanted_any_more(contained: Contained, how: str) -> None:
    airflow = contained.airflow
    task = contained.start("long_wait")
    airflow.wait(lambda: "has begun to wait" in airflow.log(task), what="the task's own code")
    run, launched = f"dags/long_wait/dagRuns/{task.run_id}", contained.platform.names()
    began = time.monotonic()
    if how == "cleared":
        airflow.clear(task)
    else:
        airflow.api.call("PATCH", run, {"state": "failed"})  # Airflow refuses to delete a run that runs
        airflow.api.call("DELETE", run)
    # This task does not end by being asked, so Airflow's supervisor lets it go on for 5 of these seconds.
    airflow.wait(lambda: not launched & contained.platform.names(), timeout=60, what="its container to go")
    print(f"{how}: its container was gone after {time.monotonic() - began:.1f} s")
    if how == "cleared":
        airflow.wait(lambda: airflow.running("long_wait", task.run_id), what="the task to run anew")
        airflow.api.call("PATCH", run, {"state": "failed"})
    contained.wait_until_nothing_is_left()


def test_a_task_that_fails_has_its_own_reason_in_its_log(contained: Contained) -> None:
    (task,) = contained.airflow.run("fails", state="failed")
    assert "this task fails on purpose" in contained.log(task)


def test_an_image_that_is_nowhere_is_told_where_people_look(contained: Contained) -> None:
    airflow = contained.airflow
    (task,) = airflow.run("no_image", state="failed", timeout=240)
    assert "127.0.0.1:9/workpools/no-such" in airflow.log(task)
    events = airflow.rows(
        "select extra from log where run_id = :run_id and extra is not null", run_id=task.run_id
    )
    assert any("127.0.0.1:9/workpools/no-such" in row["extra"] for row in events)
    job = json.loads(airflow.workpools("jobs", "inspect", _id_of(contained.job(task))))
    assert "127.0.0.1:9/workpools/no-such" in job["reason"]
    assert task.try_number == 1


def test_what_is_killed_from_outside_is_a_reason_that_a_person_understands(contained: Contained) -> None:
    task = contained.start("long_wait")
    contained.airflow.wait(
        lambda: "has begun to wait" in contained.airflow.log(task), what="the task's own code"
    )
    (name,) = contained.platform.names()
    contained.platform.kill(name)
    (task,) = contained.airflow.wait_run("long_wait", task.run_id, state="failed", timeout=240)
    assert contained.platform.killed in contained.log(task)


@pytest.mark.parametrize("victim", ["worker", "scheduler and worker"])
def test_a_container_goes_on_and_runs_once_when_who_started_it_is_killed(
    contained: Contained, victim: str
) -> None:
    airflow = contained.airflow
    task = contained.start("sleeps")
    airflow.wait(lambda: "has begun to sleep" in airflow.log(task), what="the task's own code")
    launched = contained.platform.names()
    worker = airflow.worker_pid()
    if "scheduler" in victim:
        airflow.local.kill9(SCHEDULER)
    os.kill(worker, signal.SIGKILL)
    if "scheduler" in victim:
        airflow.local.start(SCHEDULER)
    (after,) = airflow.wait_run("sleeps", task.run_id, timeout=240)
    assert after.try_number == 1
    assert airflow.log(after).count("has begun to sleep") == 1
    assert len(launched) == 1
    airflow.wait(lambda: contained.job(after)["ended_at"], what="its job to end")
    job = contained.job(after)
    assert (job["state"], job["reason"]) == ("succeeded", None)
    assert seconds(job["ended_at"]) - seconds(job["started_at"]) > 20
    contained.wait_until_nothing_is_left()


@pytest.mark.worker
def test_a_worker_elsewhere_has_its_containers_again_when_it_is_killed_while_the_api_server_is_away(
    contained: Contained, tmp_path: Path
) -> None:
    """The task ends meanwhile, and can't tell it before the API server is back."""
    airflow = contained.airflow
    token = airflow.workpools("token", "create", "--pool", "pulled").strip()
    command = worker_command("pulled", "--name", "elsewhere")
    with ExitStack() as stack:
        line = stack.enter_context(line_to(airflow.local.ports.api))
        url = f"http://127.0.0.1:{line.port}"
        made = worker_environment(tmp_path, dags=DAGS, url=url, trace=airflow.trace)
        environment = {**made, **contained.platform.environment, "AIRFLOW_WORKPOOLS_TOKEN": token}

        def start() -> RunningWorker:
            worker = RunningWorker(command, environment, tmp_path / "worker.log")
            stack.callback(worker.end)
            return worker

        first = start()
        (task,) = airflow.run("moved_pulled", timeout=240)
        assert "runs in a container: yes" in contained.log(task)
        task = contained.start("sleeps_pulled")
        airflow.wait(lambda: "has begun to sleep" in airflow.log(task), what="the task's own code")
        launched = contained.platform.names()
        line.cut()
        back_at = time.monotonic() + OUTAGE_SECONDS
        airflow.wait(lambda: "Jobs go on" in first.said(), what="the worker to tell of the outage")
        first.signal(signal.SIGKILL)
        first.process.wait()
        first.output.unlink()
        second = start()
        airflow.wait(lambda: "Jobs go on" in second.said(), what="the next worker to tell of the outage")
        time.sleep(max(0.0, back_at - time.monotonic()))
        line.mend()
        (after,) = airflow.wait_run("sleeps_pulled", task.run_id, timeout=240)
        assert (len(launched), after.try_number) == (1, 1)
        assert contained.log(after).count("has begun to sleep") == 1
        job = contained.job(after)
        assert (job["state"], job["reason"]) == ("succeeded", None)
        contained.wait_until_nothing_is_left()
        assert "Traceback" not in second.said()
        assert token not in second.said()


def _id_of(job: dict[str, Any]) -> str:
    return str(job["id"])
