# SPDX-License-Identifier: Apache-2.0
"""Standalone workers with a real Airflow, each where nothing but the API server's port can be reached."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.infrastructure.process.files import JobDirectories
from airflow_workpools.infrastructure.process.proc import kill_family
from tests.airflow.harness import ROOT, AirflowInstance
from tests.namespace import Namespace, namespace
from tests.postgres import postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_workpools.cli.local_records import TaskTry

pytestmark = [pytest.mark.airflow, pytest.mark.worker, pytest.mark.postgres]

DAGS = ROOT / "tests/airflow/dags_elsewhere"
POOL = "elsewhere"


class RunningWorker:
    """A worker of the namespace, and what it writes."""

    def __init__(self, command: list[str], environment: dict[str, str], output: Path) -> None:
        self.output = output
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """Take it away, if it is there."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Elsewhere:
    """An Airflow with a pull pool, and a place from which only its API server can be reached."""

    def __init__(self, airflow: AirflowInstance, place: Namespace, home: Path) -> None:
        self.airflow = airflow
        self.place = place
        self.home = home
        self.token = airflow.workpools("token", "create", "--pool", POOL).strip()
        self._started: list[RunningWorker] = []

    def environment(self) -> dict[str, str]:
        """Return all that a worker has: no database that answers, and no secret of Airflow's."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {
            **kept,
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "airflow_workpools.WorkPoolExecutor",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://nobody:nothing@127.0.0.1:9/none",
            "AIRFLOW__WORKPOOLS__WORKER_HEARTBEAT_INTERVAL": "2",
            "AIRFLOW__WORKPOOLS__API_URL": f"http://127.0.0.1:{self.place.port}",
            "WORKPOOLS_TEST_TRACE": str(self.airflow.trace),
            "AIRFLOW_WORKPOOLS_TOKEN": self.token,
        }

    def command(self, *arguments: str, pool: str = POOL) -> list[str]:
        start = ["-m", "airflow", "workpools", "worker", "start", "--pool", pool, *arguments]
        return [*self.place.prefix, sys.executable, *start]

    def start(self, name: str, *arguments: str) -> RunningWorker:
        """Start a worker and wait until it is online."""
        before = self.online()
        output = self.home / f"{name}.log"
        worker = RunningWorker(self.command("--name", name, *arguments), self.environment(), output)
        self._started.append(worker)

        def is_online() -> bool:
            assert worker.process.poll() is None, worker.said()
            return bool(self.online() - before)

        self.airflow.wait(is_online, what=f"worker {name} to be online", timeout=90)
        return worker

    def run(self, *arguments: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        """Run a worker to its end."""
        environment = {**self.environment(), **changes.pop("environment", {})}
        return subprocess.run(
            self.command(*arguments, **changes),
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def online(self) -> set[str]:
        rows = self.airflow.rows(
            "select id from workpool_worker where kind = 'standalone' and state = 'online'"
        )
        return {str(row["id"]) for row in rows}

    def begin(self, dag_id: str) -> TaskTry:
        """Trigger a run of one task that holds on, and wait until it runs."""
        run_id = self.airflow.trigger(dag_id)

        def runs() -> bool:
            return any(one.event == "start" for one in self.airflow.executions(run_id))

        self.airflow.wait(runs, what=f"the task of {dag_id} to run")
        return self.airflow.running(dag_id, run_id)[0]

    def finish(self, task: TaskTry) -> str:
        """Let a task end, check that it ran once and well, and return its log."""
        self.airflow.release(task.dag_id)
        self.airflow.wait_run(task.dag_id, task.run_id)
        self.airflow.wait(lambda: self.job(task)["ended_at"], what="its job to end")
        counted = Counter(one.event for one in self.airflow.executions(task.run_id))
        assert counted == {"start": 1, "end": 1}
        assert self.job(task)["state"] == "succeeded"
        return self.airflow.log(task)

    def job(self, task: TaskTry) -> dict[str, Any]:
        (row,) = self.airflow.rows("select * from workpool_job where run_id = :run_id", run_id=task.run_id)
        return row

    def clean_up(self) -> None:
        """End the workers of a test, and let no process of a job live on."""
        self.place.mend()
        for worker in self._started:
            worker.end()
        self._started.clear()
        for path in self.home.glob("workpools/worker-*"):
            for _, directory in JobDirectories(path):
                process = directory.process()
                if process is not None and process.identity.stat() is not None:
                    with contextlib.suppress(ProcessLookupError):
                        kill_family(process.identity.pid)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    with ExitStack() as stack:
        url = stack.enter_context(postgres_server()).create_database("airflow")
        airflow = AirflowInstance(
            tmp_path_factory.mktemp("airflow"),
            database_url=url,
            dags_folder=DAGS,
            settings={"AIRFLOW__WORKPOOLS__WORKER_HEARTBEAT_INTERVAL": "2"},
        )
        airflow.local.migrate()
        stack.callback(airflow.stop)
        airflow.start()
        airflow.create_pool(POOL, delivery="pull", concurrency_limit=8)
        place = stack.enter_context(namespace(airflow.local.ports.api))
        yield Elsewhere(airflow, place, tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture
def elsewhere(shared: Elsewhere) -> Iterator[Elsewhere]:
    yield shared
    shared.clean_up()


def test_tasks_run_where_only_the_api_server_can_be_reached_and_their_logs_are_in_airflow(
    elsewhere: Elsewhere,
) -> None:
    worker = elsewhere.start("first", "--limit", "2")
    tasks = elsewhere.airflow.run("quick")
    for task in tasks:
        assert f"number {task.map_index} was here; secrets: []" in elsewhere.airflow.log(task)
    listed = json.loads(elsewhere.airflow.workpools("worker", "list", "--pool", POOL, "--output", "json"))
    assert [(one["name"], one["status"]) for one in listed] == [("first", "ONLINE")]
    said = worker.said()
    assert elsewhere.token not in said
    assert "Traceback" not in said
    left = [path for path in elsewhere.home.glob("workpools/worker-first/jobs/*") if path.is_dir()]
    assert left == []
    assert not list((elsewhere.home / "logs").rglob("attempt=*.log")), "a task's log stays nowhere"


def test_the_first_sigterm_lets_a_worker_finish_and_it_takes_nothing_more(elsewhere: Elsewhere) -> None:
    worker = elsewhere.start("drains", "--drain-timeout", "none")
    task = elsewhere.begin("drained")
    worker.signal(signal.SIGTERM)
    elsewhere.airflow.wait(lambda: "claims no more" in worker.said(), what="the worker to drain")
    later = elsewhere.airflow.trigger("quick")
    assert worker.process.poll() is None
    log = elsewhere.finish(task)
    assert "this task was released" in log
    assert worker.process.wait(60) == 0
    assert not elsewhere.airflow.executions(later)
    elsewhere.start("takes_the_rest")
    elsewhere.airflow.wait_run("quick", later)


def test_the_second_sigterm_ends_a_worker_whose_jobs_the_next_one_has(elsewhere: Elsewhere) -> None:
    worker = elsewhere.start("stops", "--drain-timeout", "none")
    task = elsewhere.begin("stopped")
    worker.signal(signal.SIGTERM)
    elsewhere.airflow.wait(lambda: "claims no more" in worker.said(), what="the worker to drain")
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(60) == 0
    assert elsewhere.job(task)["ended_at"] is None
    elsewhere.start("stops")
    assert "this task was released" in elsewhere.finish(task)


def test_a_worker_that_was_killed_goes_on_with_its_jobs(elsewhere: Elsewhere) -> None:
    worker = elsewhere.start("dies")
    task = elsewhere.begin("killed")
    worker.signal(signal.SIGKILL)
    worker.process.wait()
    elsewhere.start("dies")
    log = elsewhere.finish(task)
    assert log.count("this task runs in process") == 1
    assert log.count("this task was released") == 1


def test_while_the_api_server_is_away_jobs_go_on_and_all_is_told_afterwards(elsewhere: Elsewhere) -> None:
    worker = elsewhere.start("waits", "--with-healthcheck", "--healthcheck-address", "127.0.0.1:8974")
    task = elsewhere.begin("cut_off")
    elsewhere.place.cut()
    elsewhere.airflow.wait(lambda: "Jobs go on" in worker.said(), what="the worker to tell of the outage")
    elsewhere.airflow.wait(lambda: health(elsewhere) == "503", what="the health check to tell of it")
    assert worker.process.poll() is None
    elsewhere.place.mend()
    elsewhere.airflow.wait(lambda: "answers again" in worker.said(), what="the worker to be told")
    elsewhere.airflow.wait(lambda: health(elsewhere) == "200", what="the health check to be well")
    assert "this task was released" in elsewhere.finish(task)
    assert "Traceback" not in worker.said()


def health(elsewhere: Elsewhere) -> str:
    """Ask, from within, how the worker is."""
    program = (
        "import urllib.request, urllib.error\n"
        "try: print(urllib.request.urlopen('http://127.0.0.1:8974/health').status)\n"
        "except urllib.error.HTTPError as error: print(error.code)"
    )
    command = [*elsewhere.place.prefix, sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def test_a_worker_that_is_killed_and_started_while_the_api_server_is_away_loses_nothing(
    elsewhere: Elsewhere,
) -> None:
    worker = elsewhere.start("twice")
    task = elsewhere.begin("cut_off_and_killed")
    elsewhere.place.cut()
    worker.signal(signal.SIGKILL)
    worker.process.wait()
    again = RunningWorker(
        elsewhere.command("--name", "twice"), elsewhere.environment(), elsewhere.home / "again.log"
    )
    elsewhere._started.append(again)
    elsewhere.airflow.wait(lambda: "Jobs go on" in again.said(), what="the worker to tell of the outage")
    elsewhere.place.mend()
    assert "this task was released" in elsewhere.finish(task)


def test_once_means_what_there_is_now(elsewhere: Elsewhere) -> None:
    run_id = elsewhere.airflow.trigger("quick")
    done = elsewhere.run("--name", "once", "--run-once")
    assert done.returncode == 0, done.stderr + done.stdout
    assert len(elsewhere.airflow.wait_run("quick", run_id)) == 4


def test_what_cannot_be_served_ends_the_command(elsewhere: Elsewhere) -> None:
    wrong = elsewhere.run("--name", "wrong", environment={"AIRFLOW_WORKPOOLS_TOKEN": "wrong"})
    assert wrong.returncode == 1
    assert "Error: " in wrong.stderr
    other = elsewhere.run("--name", "wrong", "--create-pool-if-not-found", pool="no-such-pool")
    assert other.returncode == 1
    assert "no-such-pool" in other.stderr
    assert elsewhere.token not in other.stderr + other.stdout
