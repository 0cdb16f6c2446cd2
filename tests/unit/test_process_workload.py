# SPDX-License-Identifier: Apache-2.0
"""Airflow's own workloads, run as processes against a stand-in for the Execution API.

What fails here after an upgrade has most likely changed in Airflow: see ``airflow_private``.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.infrastructure.base import LaunchSpec, Observation
from airflow_workpools.infrastructure.process import ProcessInfrastructure
from tests.unit.fake_execution_api import (
    HEARTBEAT_SECONDS,
    FakeExecutionApi,
    fake_execution_api,
    workload_home,
)
from tests.unit.infrastructure_contract import launch, wait_for_end
from tests.unit.process_platform import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from airflow_workpools.infrastructure.base import Handle

DAG_FILE = """
import os, time
from pathlib import Path
from airflow.sdk import DAG, BaseOperator, task

class Waits(BaseOperator):
    def execute(self, context):
        Path(os.environ["NOTE"]).write_text("waiting")
        self.waits = True
        while self.waits:
            time.sleep(0.01)

    def on_kill(self):
        Path(os.environ["NOTE"]).write_text("killed kindly")
        self.waits = False

with DAG("d", schedule=None):
    @task
    def hello():
        print("hello", os.environ.get("WHOM"))

    @task
    def fails():
        raise ValueError("as it should")

    @task
    def dies():
        os.kill(os.getpid(), 9)

    @task
    def facts():
        import gc, threading
        note = Path(os.environ["NOTE"])
        frozen = gc.get_freeze_count()
        note.write_text(f"{threading.active_count()} {gc.isenabled()} {gc.get_threshold()[0]} {frozen}")

    @task
    def closes_its_sockets_before_it_ends():
        Path(os.environ["NOTE"]).write_text(str(os.getpid()))
        os.closerange(0, 100)
        time.sleep(0.3)
        os._exit(0)

    hello(), fails(), dies(), facts(), closes_its_sockets_before_it_ends()
    Waits(task_id="waits")
"""
TOKEN = "t0k3n-of-the-workload"


class Rig:
    """A home of Airflow, an Execution API, and a way to run tasks of the DAG file above."""

    def __init__(self, path: Path, api: FakeExecutionApi) -> None:
        self.path = path
        self.api = api
        self.note = path / "note"
        self.loop = asyncio.new_event_loop()
        self.infrastructure = ProcessInfrastructure(home=path / "home", api_url=api.url)
        path.joinpath("dags").mkdir()
        path.joinpath("dags/d.py").write_text(DAG_FILE)

    def spec(self, task_id: str, **configuration: Any) -> LaunchSpec:
        job_id = uuid.uuid4()
        workload = {
            "type": "ExecuteTask",
            "token": TOKEN,
            "dag_rel_path": "d.py",
            "bundle_info": {"name": "dags-folder", "version": None},
            "log_path": f"dag_id=d/{task_id}.log",
            "ti": {
                "id": str(job_id),
                "dag_version_id": str(uuid.uuid4()),
                "task_id": task_id,
                "dag_id": "d",
                "run_id": "r",
                "try_number": 1,
                "map_index": -1,
                "pool_slots": 1,
                "queue": "default",
                "priority_weight": 1,
            },
        }
        env = {"NOTE": str(self.note), **configuration.pop("env", {})}
        return LaunchSpec(
            job_id=job_id, configuration={"env": env, **configuration}, workload=json.dumps(workload)
        )

    def run(
        self,
        spec: LaunchSpec,
        *,
        meanwhile: Callable[[ProcessInfrastructure, Handle], Awaitable[None]] | None = None,
    ) -> Observation:
        """Run a job to its end, doing something once it has been launched."""

        async def scenario() -> Observation:
            handle = await launch(self.infrastructure, spec)
            if meanwhile is not None:
                await meanwhile(self.infrastructure, handle)
            return await wait_for_end(self.infrastructure, handle)

        return self.loop.run_until_complete(scenario())

    def log(self, task_id: str) -> str:
        return self.path.joinpath(f"logs/dag_id=d/{task_id}.log").read_text()

    def output(self, spec: LaunchSpec) -> str:
        return self.path.joinpath(f"home/jobs/{spec.job_id}/output.log").read_text()


@pytest.fixture(scope="module")
def shared_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One rig for all tests: its runner takes seconds to warm up."""
    path = tmp_path_factory.mktemp("rig")
    with workload_home(path), fake_execution_api() as api:
        rig = Rig(path, api)
        rig.loop.run_until_complete(rig.infrastructure.open())
        yield rig
        rig.loop.run_until_complete(rig.infrastructure.close())
        rig.loop.close()


@pytest.fixture
def rig(shared_rig: Rig) -> Rig:
    shared_rig.api.requests.clear()
    shared_rig.api.tokens.clear()
    shared_rig.note.unlink(missing_ok=True)
    return shared_rig


def test_a_task_runs_and_its_log_is_where_airflow_looks_for_it(rig: Rig) -> None:
    spec = rig.spec("hello", env={"WHOM": "world"})
    seen = rig.run(spec)
    assert seen.exit_code == 0, rig.output(spec)
    assert "hello world" in rig.log("hello")
    assert [body["state"] for body in rig.api.asked("/state")] == ["success"]


def test_a_task_that_is_quick_sends_no_heartbeat(rig: Rig) -> None:
    rig.run(rig.spec("hello"))
    assert rig.api.asked("/heartbeat") == []
    assert len(rig.api.asked("/run")) == 1


def test_a_task_that_fails_is_no_failure_of_its_job(rig: Rig) -> None:
    assert rig.run(rig.spec("fails")).exit_code == 0
    assert [body["state"] for body in rig.api.asked("/state")] == ["failed"]
    assert "as it should" in rig.log("fails")


def test_a_task_whose_process_is_killed_has_failed_and_its_job_has_not(rig: Rig) -> None:
    assert rig.run(rig.spec("dies")).exit_code == 0
    assert [body["state"] for body in rig.api.asked("/state")] == ["failed"]
    assert "SIGKILL" in rig.log("dies")


def test_the_end_of_a_task_is_noticed_though_its_sockets_were_closed_before(rig: Rig) -> None:
    started = time.monotonic()
    rig.run(rig.spec("closes_its_sockets_before_it_ends"))
    # Without the pidfd the supervisor would sleep on.
    assert time.monotonic() - started < HEARTBEAT_SECONDS


def test_stopping_a_task_calls_its_on_kill(rig: Rig) -> None:
    async def stop(infrastructure: ProcessInfrastructure, handle: Handle) -> None:
        await asyncio.to_thread(eventually, lambda: rig.note.exists() and rig.note.read_text() == "waiting")
        await infrastructure.stop(handle, grace_seconds=60)

    rig.run(rig.spec("waits"), meanwhile=stop)
    assert rig.note.read_text() == "killed kindly"


def test_a_task_that_cannot_reach_the_api_says_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.infrastructure, "_api_url", "http://127.0.0.1:1/execution/")
    seen = rig.run(rig.spec("hello"))
    assert seen.exit_code == 1
    assert "ConnectError" in str(seen.reason)


def test_a_task_finds_one_thread_and_the_garbage_collector_as_python_has_it(rig: Rig) -> None:
    rig.run(rig.spec("facts"))
    threads, enabled, threshold, frozen = rig.note.read_text().split()
    assert (threads, enabled) == ("1", "True")
    assert int(threshold) >= 700
    # What was imported before is nothing for it to look at: its pages stay shared.
    assert int(frozen) > 50_000


def test_the_token_is_used_and_left_nowhere(rig: Rig) -> None:
    rig.run(rig.spec("hello"))
    assert rig.api.tokens == {f"Bearer {TOKEN}"}
    for file in rig.path.rglob("*"):
        if file.is_file():
            assert TOKEN not in file.read_text(errors="replace"), file


def test_warming_up_does_all_that_it_is_meant_to(tmp_path: Path) -> None:
    """Each step is one that may fail, and costs only time when it does; here it must not."""
    program = """
import logging, sys
from airflow_workpools.airflow_private import workloads as private
problems = []
private.log.warning = lambda *what, **_: problems.append(what)
private.warm_up_for_workloads()
missing = [name for name in private._NEEDED_BY_WORKLOADS if name not in sys.modules]
if [name.rpartition(".")[2] for name in missing] != ["python_importer"]:  # one of the two places where it may be
    problems += missing
from airflow.sdk.execution_time import comms, supervisor
problems += [name for name in ("_last_heartbeat_attempt", "_last_successful_heartbeat", "selector", "pid")
    if name not in {field.name for field in supervisor.ActivitySubprocess.__attrs_attrs__}]
if comms.CommsDecoder(socket=None).body_decoder is not comms.CommsDecoder(socket=None).body_decoder:
    problems.append("message decoders are not shared")
from airflow.sdk.execution_time import task_runner
from pydantic import JsonValue
if task_runner.TypeAdapter(JsonValue) is not task_runner.TypeAdapter(JsonValue):
    problems.append("type adapters are not shared")
print(problems)
"""
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    said = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert said.stdout.splitlines()[-1:] == ["[]"], said.stdout + said.stderr


@pytest.fixture
def logs_to_output(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have tasks write as a standalone worker's do."""
    monkeypatch.setattr(rig.infrastructure, "logs_to_output", True, raising=False)


@pytest.mark.usefixtures("logs_to_output")
def test_what_a_task_writes_elsewhere_is_in_its_job_and_not_in_the_log_folder(rig: Rig) -> None:
    before = rig.log("hello") if rig.path.joinpath("logs/dag_id=d/hello.log").exists() else ""
    spec = rig.spec("hello", env={"WHOM": "elsewhere"})
    rig.run(spec)
    lines = [json.loads(line) for line in rig.output(spec).splitlines()]
    assert [line["event"] for line in lines].count("hello elsewhere") == 1
    assert all("timestamp" in line and "level" in line for line in lines)
    after = rig.log("hello") if rig.path.joinpath("logs/dag_id=d/hello.log").exists() else ""
    assert after == before


@pytest.mark.usefixtures("logs_to_output")
def test_the_traceback_of_a_task_elsewhere_is_in_its_log(rig: Rig) -> None:
    spec = rig.spec("fails")
    rig.run(spec)
    (line,) = [one for one in map(json.loads, rig.output(spec).splitlines()) if "error_detail" in one]
    assert line["error_detail"][0]["exc_value"] == "as it should"


@pytest.mark.usefixtures("logs_to_output")
def test_the_end_of_a_task_elsewhere_is_told_when_the_api_server_is_back(rig: Rig) -> None:
    """Airflow was told to try once here."""

    async def outage(infrastructure: ProcessInfrastructure, handle: Handle) -> None:
        await asyncio.to_thread(eventually, rig.note.exists)
        rig.api.away = True
        await infrastructure.stop(handle, grace_seconds=60)
        await asyncio.to_thread(eventually, lambda: rig.note.read_text() == "killed kindly")
        await asyncio.sleep(1)
        assert not (await infrastructure.observe([handle]))[handle.job_id].ended
        assert not rig.api.asked("/state")
        rig.api.away = False

    seen = rig.run(rig.spec("waits"), meanwhile=outage)
    assert seen.exit_code == 0
    assert rig.api.asked("/state")


def test_a_task_elsewhere_goes_on_without_the_api_server_as_long_as_airflow_waits_for_it(
    tmp_path: Path,
) -> None:
    program = """
import sys, time, uuid
from types import SimpleNamespace
import httpx
from airflow.sdk.api.client import Client
from airflow.sdk.execution_time import supervisor
from airflow_workpools.airflow_private import workloads as private

asked, killed = [], []
private._supervise_promptly()
private._wait_for_api_server()
supervisor.MIN_HEARTBEAT_INTERVAL = 0

def away(request):
    asked.append(request)
    raise httpx.ConnectError("away", request=request)

made = object.__new__(supervisor.ActivitySubprocess)
made.id, made._process = uuid.uuid4(), SimpleNamespace(pid=1)
made._terminal_state, made._last_heartbeat_attempt, made.failed_heartbeats = None, 0.0, 0
made.client = Client(base_url="http://x", token="", transport=httpx.MockTransport(away))
supervisor.ActivitySubprocess.kill = lambda self, *_, **__: killed.append(1)
made._last_successful_heartbeat = time.monotonic() - 0.8 * supervisor.HEARTBEAT_TIMEOUT
began = time.monotonic()
for _ in range(9):
    made._send_heartbeat_if_needed()
said = [len(asked), len(killed), time.monotonic() - began < 5]
made._last_successful_heartbeat = time.monotonic() - 0.95 * supervisor.HEARTBEAT_TIMEOUT
made._send_heartbeat_if_needed()
said += [len(asked), len(killed)]

stop = Client.request.retry.stop
state = lambda attempt, seconds: SimpleNamespace(attempt_number=attempt, seconds_since_start=seconds)
print(*said, stop(state(1000, 260)), stop(state(1, 280)), stop(state(1000, 280)))
"""
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    environment.pop("AIRFLOW__WORKERS__EXECUTION_API_RETRIES", None)
    said = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert said.stdout.splitlines()[-1:] == ["9 0 True 10 1 False False True"], said.stdout + said.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_job_of_another_user_may_write_its_log(rig: Rig) -> None:
    spec = rig.spec("hello", user="nobody")
    folder = rig.path
    while folder != folder.parent and folder.stat().st_uid == os.geteuid() and str(folder) != "/tmp":
        folder.chmod(folder.stat().st_mode | 0o055)
        folder = folder.parent
    assert rig.run(spec).exit_code == 0, rig.output(spec)
    assert "hello None" in rig.log("hello")
