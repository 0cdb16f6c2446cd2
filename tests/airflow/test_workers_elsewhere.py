# SPDX-License-Identifier: Apache-2.0
"""Standalone workers with a real Airflow, each where nothing but the API server's port can be reached."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.infrastructure.process.files import JobDirectories
from airflow_workpools.infrastructure.process.proc import kill_family
from tests.airflow.harness import ROOT, AirflowInstance
from tests.airflow.separate import RunningWorker, over_tls, worker_command, worker_environment
from tests.engines import Certificates
from tests.namespace import Namespace, namespace
from tests.postgres import postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_workpools.cli.local_records import TaskTry

pytestmark = [pytest.mark.airflow, pytest.mark.worker, pytest.mark.postgres]

DAGS = ROOT / "tests/airflow/dags_elsewhere"
POOL = "elsewhere"
OUTAGE_SECONDS = 120


class Elsewhere:
    """An Airflow with a pull pool, and a place from which only its API server can be reached."""

    def __init__(
        self, airflow: AirflowInstance, place: Namespace, home: Path, *, scheme: str = "http"
    ) -> None:
        self.airflow = airflow
        self.place = place
        self.home = home
        self.url = f"{scheme}://127.0.0.1:{place.port}"
        self.token = airflow.workpools("token", "create", "--pool", POOL).strip()
        self._started: list[RunningWorker] = []

    def environment(self) -> dict[str, str]:
        made = worker_environment(self.home, dags=DAGS, url=self.url, trace=self.airflow.trace)
        return {**made, "AIRFLOW_WORKPOOLS_TOKEN": self.token}

    def command(self, *arguments: str, pool: str = POOL) -> list[str]:
        return [*self.place.prefix, *worker_command(pool, *arguments)]

    def start(self, name: str, *arguments: str, **environment: str) -> RunningWorker:
        """Start a worker and wait until it is online."""
        before = self.online()
        worker = self.begin_to_start(name, *arguments, **environment)

        def is_online() -> bool:
            assert worker.process.poll() is None, worker.said()
            return bool(self.online() - before)

        self.airflow.wait(is_online, what=f"worker {name} to be online", timeout=90)
        return worker

    def begin_to_start(self, name: str, *arguments: str, **environment: str) -> RunningWorker:
        command = self.command("--name", name, *arguments)
        worker = RunningWorker(command, {**self.environment(), **environment}, self.home / f"{name}.log")
        self._started.append(worker)
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

    def close(self) -> None:
        """End the workers of a test, and let no process of a job live on."""
        self.place.line.mend()
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
        airflow.migrate()
        stack.callback(airflow.stop)
        airflow.start()
        airflow.create_pool(POOL, delivery="pull", concurrency_limit=8)
        place = stack.enter_context(namespace(airflow.local.ports.api))
        yield Elsewhere(airflow, place, tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture
def elsewhere(shared: Elsewhere) -> Iterator[Elsewhere]:
    yield shared
    shared.close()


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


def test_the_first_sigterm_lets_a_worker_drain_and_the_second_ends_it_and_the_next_one_has_its_jobs(
    elsewhere: Elsewhere,
) -> None:
    worker = elsewhere.start("stops", "--drain-timeout", "none")
    task = elsewhere.begin("stopped")
    worker.signal(signal.SIGTERM)
    elsewhere.airflow.wait(lambda: "claims no more" in worker.said(), what="the worker to drain")
    later = elsewhere.airflow.trigger("quick")
    elsewhere.airflow.wait(lambda: elsewhere.airflow.tries("quick", later), what="more work to be there")
    assert worker.process.poll() is None
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(60) == 0
    assert elsewhere.job(task)["ended_at"] is None
    assert not elsewhere.airflow.executions(later)
    heir = elsewhere.start("stops", "--drain-timeout", "none")
    elsewhere.airflow.wait_run("quick", later)
    heir.signal(signal.SIGTERM)
    elsewhere.airflow.wait(lambda: "claims no more" in heir.said(), what="the next worker to drain")
    assert heir.process.poll() is None
    assert "this task was released" in elsewhere.finish(task)
    assert heir.process.wait(60) == 0


def test_a_worker_that_was_killed_goes_on_with_its_jobs(elsewhere: Elsewhere) -> None:
    worker = elsewhere.start("dies")
    task = elsewhere.begin("killed")
    worker.signal(signal.SIGKILL)
    worker.process.wait()
    elsewhere.start("dies")
    log = elsewhere.finish(task)
    assert log.count("this task runs in process") == 1
    assert log.count("this task was released") == 1


def health(elsewhere: Elsewhere) -> str:
    """Ask, from within, how the worker is."""
    program = (
        "import urllib.request, urllib.error\n"
        "try: print(urllib.request.urlopen('http://127.0.0.1:8974/health').status)\n"
        "except urllib.error.HTTPError as error: print(error.code)"
    )
    command = [*elsewhere.place.prefix, sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def test_while_the_api_server_is_away_for_long_jobs_go_on_and_end_and_each_task_succeeds_once(
    elsewhere: Elsewhere,
) -> None:
    """By itself Airflow ends a task half a minute after its API server has gone.

    Of two workers, one is killed and started anew meanwhile.
    """
    airflow, line = elsewhere.airflow, elsewhere.place.line
    check = ("--with-healthcheck", "--healthcheck-address", "127.0.0.1:8974")
    worker = elsewhere.start("outlasts", "--limit", "3", *check)
    goes_on, ends, dies = (
        elsewhere.begin(dag_id) for dag_id in ("goes_on", "ends_meanwhile", "dies_meanwhile")
    )
    other = elsewhere.start("twice")
    orphan = elsewhere.begin("cut_off_and_killed")
    tasks, reports = (goes_on, ends, dies, orphan), elsewhere.home / "workpools/worker-outlasts/reports"

    def states() -> list[str]:
        return [elsewhere.job(task)["state"] for task in tasks]

    airflow.wait(lambda: states() == ["running"] * 4, what="all to be told")
    line.cut()
    back_at = time.monotonic() + OUTAGE_SECONDS
    other.signal(signal.SIGKILL)
    other.process.wait()
    other.output.unlink()
    other = elsewhere.begin_to_start("twice")
    airflow.release("ends_meanwhile")
    process = JobDirectories(reports.parent).of(uuid.UUID(str(elsewhere.job(dies)["id"]))).process()
    assert process is not None
    kill_family(process.identity.pid)
    airflow.wait(lambda: "Jobs go on" in worker.said(), what="the worker to tell of the outage")
    airflow.wait(lambda: "Jobs go on" in other.said(), what="the worker that starts to tell of it")
    airflow.wait(lambda: health(elsewhere) == "503", what="the health check to tell of it")
    airflow.wait(lambda: list(reports.glob("*.json")), what="what can't be told to be kept")
    airflow.wait(
        lambda: [one for one in airflow.executions(ends.run_id) if one.event == "end"],
        what="a task to end meanwhile",
    )
    time.sleep(max(0.0, back_at - time.monotonic()))
    assert worker.process.poll() is None
    assert states() == ["running"] * 4
    line.mend()
    airflow.wait(lambda: "answers again" in worker.said(), what="the worker to be told")
    airflow.wait(lambda: health(elsewhere) == "200", what="the health check to be well")
    for task in (goes_on, ends, orphan):
        assert "this task was released" in elsewhere.finish(task)
    airflow.wait_run("dies_meanwhile", dies.run_id, state="failed")
    airflow.wait(lambda: elsewhere.job(dies)["ended_at"], what="its job to end")
    assert "SIGKILL" in elsewhere.job(dies)["reason"]
    airflow.wait(lambda: not list(reports.glob("*.json")), what="what was kept to be forgotten")
    assert worker.said().count("Jobs go on") == 1
    assert "Traceback" not in worker.said() + other.said()


def test_a_token_is_changed_while_a_worker_works_and_no_job_is_lost(elsewhere: Elsewhere) -> None:
    file = elsewhere.home / "rotated.token"

    def make() -> str:
        made = json.loads(elsewhere.airflow.workpools("token", "create", "--pool", POOL, "-o", "json"))
        file.write_text(made["token"] + "\n")
        return str(made["id"])

    old = make()
    worker = elsewhere.start("rotates", "--token-file", str(file))
    task = elsewhere.begin("rotated")
    make()
    elsewhere.airflow.workpools("token", "revoke", old)
    elsewhere.airflow.wait(lambda: f"another token in {file}" in worker.said(), what="it to read the file")
    assert "this task was released" in elsewhere.finish(task)
    assert "Traceback" not in worker.said()


def test_over_tls_a_worker_and_its_tasks_trust_whom_they_are_told_to(
    elsewhere: Elsewhere, tmp_path: Path
) -> None:
    certificates = Certificates(tmp_path)
    certificates.make()
    airflow = elsewhere.airflow
    with (
        over_tls(airflow.local.ports.api, certificates) as port,
        namespace(port) as place,
        contextlib.closing(Elsewhere(airflow, place, tmp_path / "home", scheme="https")) as safe,
    ):
        safe.home.mkdir()
        refused = safe.run("--name", "wary")
        assert refused.returncode == 1
        (line,) = [one for one in refused.stderr.splitlines() if one.startswith("Error: ")]
        assert f"the API server at https://127.0.0.1:{port} can't be trusted" in line
        assert "[api] ssl_cert" in line
        worker = safe.start("trusts", AIRFLOW__API__SSL_CERT=str(tmp_path / "ca.pem"))
        task = safe.begin("encrypted")
        assert "this task was released" in safe.finish(task)
        assert "Traceback" not in worker.said()


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
