# SPDX-License-Identifier: Apache-2.0
"""Tasks in containers, in a real Airflow: a Docker Engine's, and a Kubernetes cluster's.

To start a container that runs a task costs seconds of a processor, so what several tests look at is started at once.
"""

from __future__ import annotations

import contextlib
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
from airflow_workpools.infrastructure.containers import LEAN_COMMAND
from tests.airflow.harness import ROOT, AirflowInstance, held_at_once
from tests.airflow.reading import events, parts, read
from tests.airflow.separate import RunningWorker, worker_command, worker_environment
from tests.namespace import line_to
from tests.postgres import postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_workpools.cli.local_records import TaskTry
    from tests.airflow.platforms import ContainerPlatform

pytestmark = pytest.mark.airflow

DAGS = ROOT / "tests/airflow/dags_containers"
LIMIT = 2
OUTAGE_SECONDS = 20
"""Longer than the task sleeps that ends meanwhile."""
GONE_SECONDS = 10
"""So long after Airflow was told that a task is not wanted any more, nothing is left of it."""


@dataclass(frozen=True)
class Contained:
    """An Airflow with pools of containers, and how to see those from outside."""

    airflow: AirflowInstance
    kind: str
    platform: ContainerPlatform

    def job(self, task: TaskTry) -> dict[str, Any]:
        rows = self.airflow.rows(
            "select * from workpool_job where run_id = :run_id and task_id = :task_id order by handed_over_at",
            run_id=task.run_id,
            task_id=task.task_id,
        )
        assert len(rows) == task.try_number
        return rows[-1]

    def log(self, task: TaskTry) -> str:
        """Return the whole log of a task: its last lines may come a moment after its end."""
        self.airflow.wait(lambda: self.job(task)["ended_at"], what="its job to end")
        return self.airflow.log(task)

    def start(self, *dag_ids: str) -> list[str]:
        """Trigger runs of one task each, and return their ids."""
        return [self.airflow.trigger(dag_id) for dag_id in dag_ids]

    def until_it_says(self, dag_id: str, run_id: str, words: str) -> TaskTry:
        """Return the task of a run as soon as its own code runs in its container."""
        task: TaskTry = self.airflow.wait(
            lambda: self.airflow.running(dag_id, run_id), what=f"{dag_id} to run"
        )[0]
        self.airflow.wait(lambda: words in self.airflow.log(task), what="the task's own code")
        return task

    def release(self, name: str) -> None:
        """Let the tasks go on that wait for this word."""
        self.airflow.api.create("variables", {"key": name, "value": "yes"})

    def what_runs(self, task: TaskTry) -> set[str]:
        """Return the names of what is there of a task."""
        name = f"wp-{_id_of(self.job(task))}"
        return {one for one in self.platform.names() if one.startswith(name)}

    def wait_until_it_is_gone(self, task: TaskTry, *, timeout: float = 60) -> None:
        self.airflow.wait(lambda: not self.what_runs(task), timeout=timeout, what="its container to go")

    def wait_for_another_worker(self, task: TaskTry, before: object) -> object:
        """Return who looks after a task, as soon as that is not the worker that did before."""

        def other() -> object:
            worker_id = self.job(task)["worker_id"]
            return worker_id if worker_id != before else None

        return self.airflow.wait(other, what="another worker to take it over")


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
        lean = {"command": list(LEAN_COMMAND)}
        for name, definition, variables in (
            ("there", {}, lean),
            ("narrow", {"concurrency_limit": LIMIT}, {}),  # by Airflow's own module
            ("pulled", {"delivery": "pull"}, lean),
        ):
            known = {**platform.job_variables, **variables, "env": {"WORKPOOLS_TEST_CONTAINER": "yes"}}
            instance.create_pool(
                name, type=request.param, job_variables=known, **definition, **platform.definition
            )
        yield Contained(instance, request.param, platform)


@pytest.fixture(scope="module")
def begun(contained: Contained) -> Mapping[str, str]:
    """Runs of DAGs that need nothing but to be looked at, begun together; by their DAGs."""
    dags = ("moved_here", "moved_there", "in_containers", "talks", "fails", "crashes", "no_image")
    return dict(zip(dags, contained.start(*dags), strict=True))


@pytest.fixture(scope="module")
def waiting(contained: Contained) -> dict[str, TaskTry]:
    """Tasks that wait in their containers until they are ended, one for each way."""
    ways = dict.fromkeys(("marked failed", "cleared", "run deleted"), "long_wait")
    ways |= {"DAG deleted": "long_wait_of_a_dag_that_goes", "killed": "stays"}
    runs = dict(zip(ways, contained.start(*ways.values()), strict=True))
    said = {"stays": "said early"}
    return {
        way: contained.until_it_says(dag_id, runs[way], said.get(dag_id, "has begun to wait"))
        for way, dag_id in ways.items()
    }


def test_another_work_queue_moves_a_task_into_a_container_and_nothing_else_changes(
    contained: Contained, begun: Mapping[str, str]
) -> None:
    said = {}
    for dag_id in ("moved_here", "moved_there"):
        (task,) = contained.airflow.wait_run(dag_id, begun[dag_id])
        said[dag_id] = contained.log(task)
    assert "runs in a container: no" in said["moved_here"]
    assert "runs in a container: yes" in said["moved_there"]


def test_a_log_is_there_while_the_task_runs_and_when_its_container_is_gone(
    contained: Contained, begun: Mapping[str, str]
) -> None:
    airflow = contained.airflow
    task = contained.until_it_says("talks", begun["talks"], "said early")
    assert "said late" not in airflow.log(task)
    contained.release("talks")
    (task,) = airflow.wait_run("talks", task.run_id)
    contained.wait_until_it_is_gone(task)
    sources, _ = parts(airflow, task)
    assert [source.partition(":")[0] for source in sources] == ["Metadata database"]
    log = airflow.log(task)
    assert log.count("said early") == 1
    assert log.count("said late") == 1
    assert "eyJ" not in log
    assert "Could not read served logs" not in log


def test_a_task_that_fails_has_its_own_reason_in_its_log(
    contained: Contained, begun: Mapping[str, str]
) -> None:
    (task,) = contained.airflow.wait_run("fails", begun["fails"], state="failed")
    assert "this task fails on purpose" in contained.log(task)


def test_a_container_that_dies_shows_what_it_wrote_and_why(
    contained: Contained, begun: Mapping[str, str]
) -> None:
    airflow = contained.airflow
    (task,) = airflow.wait_run("crashes", begun["crashes"], state="failed")
    log = airflow.wait(
        lambda: (log := read(airflow, task)) and "Work queue there" in str(log) and log, what="the reason"
    )
    assert events(log).count("going to crash") == 1
    assert log[-1]["level"] == "error"
    assert "SIGKILL, exit code 137" in log[-1]["event"]


def test_what_tasks_return_reaches_the_next_and_the_pools_limit_holds(
    contained: Contained, begun: Mapping[str, str]
) -> None:
    run_id = begun["in_containers"]
    tries = contained.airflow.wait_run("in_containers", run_id, timeout=240)
    (last,) = (task for task in tries if task.task_id == "add")
    assert "the sum is 12" in contained.log(last)
    assert held_at_once(contained.airflow, [run_id]).at_least[""] <= LIMIT


def test_an_image_that_is_nowhere_is_told_where_people_look(
    contained: Contained, begun: Mapping[str, str]
) -> None:
    airflow = contained.airflow
    (task,) = airflow.wait_run("no_image", begun["no_image"], state="failed", timeout=240)
    assert "127.0.0.1:9/workpools/no-such" in airflow.log(task)
    events = airflow.rows(
        "select extra from log where run_id = :run_id and extra is not null", run_id=task.run_id
    )
    assert any("127.0.0.1:9/workpools/no-such" in row["extra"] for row in events)
    job = json.loads(airflow.workpools("jobs", "inspect", _id_of(contained.job(task))))
    assert "127.0.0.1:9/workpools/no-such" in job["reason"]
    assert task.try_number == 1


@pytest.mark.parametrize("way", ["marked failed", "cleared", "run deleted", "DAG deleted"])
def test_a_container_goes_soon_when_its_task_is_not_wanted_any_more(
    contained: Contained, waiting: Mapping[str, TaskTry], way: str
) -> None:
    airflow, task = contained.airflow, waiting[way]
    job, run = contained.job(task), f"dags/{task.dag_id}/dagRuns/{task.run_id}"
    assert contained.what_runs(task)
    began = time.monotonic()
    if way == "marked failed":
        airflow.mark(task, "failed")
    elif way == "cleared":
        airflow.clear(task)
    else:
        airflow.api.call("PATCH", run, {"state": "failed"})  # Airflow refuses to delete what runs
        airflow.api.call("DELETE", run if way == "run deleted" else f"dags/{task.dag_id}")
    name = f"wp-{_id_of(job)}"
    airflow.wait(
        lambda: not any(one.startswith(name) for one in contained.platform.names()),
        timeout=GONE_SECONDS,
        what="its container to go",
    )
    print(f"{way}: its container was gone after {time.monotonic() - began:.1f} s")
    if way == "marked failed":
        # Airflow's own supervisor may have noticed first, and ended the task.
        assert contained.job(task)["state"] in ("cancelled", "succeeded")
        airflow.wait(lambda: "was asked to end" in airflow.log(task), what="what on_kill said")
    if way == "cleared":
        airflow.wait(lambda: airflow.running(task.dag_id, task.run_id), what="the task to run anew")
        airflow.api.call("PATCH", run, {"state": "failed"})


def test_what_is_killed_from_outside_is_a_reason_that_a_person_understands(
    contained: Contained, waiting: Mapping[str, TaskTry]
) -> None:
    task = waiting["killed"]
    contained.platform.kill(f"wp-{_id_of(contained.job(task))}")
    (task,) = contained.airflow.wait_run(task.dag_id, task.run_id, state="failed", timeout=240)
    assert contained.platform.killed in contained.log(task)


def test_a_container_goes_on_and_runs_once_when_who_started_it_is_killed(contained: Contained) -> None:
    airflow = contained.airflow
    (run_id,) = contained.start("lasts")
    task = contained.until_it_says("lasts", run_id, "said early")
    launched = contained.what_runs(task)
    for with_scheduler in (False, True):
        started_by, pid = contained.job(task)["worker_id"], airflow.worker_pid()
        if with_scheduler:
            airflow.local.kill9(SCHEDULER)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if with_scheduler:
            airflow.local.start(SCHEDULER)
        contained.wait_for_another_worker(task, started_by)
    assert contained.what_runs(task) == launched
    contained.release("lasts")
    (after,) = airflow.wait_run("lasts", run_id, timeout=240)
    assert after.try_number == 1
    log = contained.log(after)
    assert (log.count("said early"), log.count("said late")) == (1, 1)
    job = contained.job(after)
    assert (job["state"], job["reason"]) == ("succeeded", None)
    contained.wait_until_it_is_gone(after)


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

        moved, sleeps = contained.start("moved_pulled", "sleeps_pulled")
        first = start()
        (moved_task,) = airflow.wait_run("moved_pulled", moved, timeout=240)
        assert "runs in a container: yes" in contained.log(moved_task)
        contained.until_it_says("sleeps_pulled", sleeps, "has begun to sleep")
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
        (after,) = airflow.wait_run("sleeps_pulled", sleeps, timeout=240)
        assert after.try_number == 1
        assert contained.log(after).count("has begun to sleep") == 1
        job = contained.job(after)
        assert (job["state"], job["reason"]) == ("succeeded", None)
        contained.wait_until_it_is_gone(after)
        assert "Traceback" not in second.said()
        assert token not in second.said()


def test_nothing_is_left(contained: Contained) -> None:
    contained.airflow.wait(lambda: not contained.platform.names(), what="everything to be removed")


def _id_of(job: Mapping[str, Any]) -> str:
    return str(job["id"])
