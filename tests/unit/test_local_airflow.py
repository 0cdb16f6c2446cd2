# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from airflow_workpools.cli.local_airflow import (
    API_SERVER,
    MARK,
    SCHEDULER,
    LocalAirflow,
    LocalAirflowError,
    Ports,
    free_port,
    marked_pids,
    sweep,
    wait_until,
)
from airflow_workpools.cli.local_sqlite import API_SERVER_BUSY_SECONDS, BUSY_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
)


@pytest.fixture
def airflow(tmp_path: Path) -> LocalAirflow:
    return LocalAirflow(home=tmp_path / "home", dags_folder=tmp_path, executor="LocalExecutor")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_port_that_somebody_listens_on_is_not_chosen(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {address}")
    with listener:
        taken = listener.getsockname()[1]
        assert free_port(taken) != taken
    assert free_port(taken) == taken


def test_the_ports_of_one_airflow_differ() -> None:
    ports = Ports.choose()
    assert len({ports.api, ports.worker_log, ports.trigger_log}) == 3


def test_nothing_of_the_callers_airflow_reaches_the_local_one(
    airflow: LocalAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW_CONN_ETL", "from outside")
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    monkeypatch.setenv("UNRELATED", "stays")
    environment = airflow.environment()
    assert environment["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert environment["UNRELATED"] == "stays"
    assert not {"AIRFLOW_CONN_ETL", "_AIRFLOW_PROCESS_CONTEXT"} & environment.keys()


def test_the_addresses_in_the_configuration_follow_the_port(airflow: LocalAirflow) -> None:
    environment, port = airflow.environment(), airflow.ports.api
    assert environment["AIRFLOW__API__BASE_URL"] == f"http://127.0.0.1:{port}/"
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == f"http://127.0.0.1:{port}/execution/"


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("component", "seconds"), [(API_SERVER, API_SERVER_BUSY_SECONDS), (SCHEDULER, BUSY_SECONDS)]
)
def test_its_processes_wait_for_a_busy_sqlite_and_its_api_server_not_for_long(
    airflow: LocalAirflow, component: str, seconds: float, kind: str
) -> None:
    program = f"from airflow import settings; print(settings._get_connect_args({kind!r})['timeout'])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=airflow.environment(component),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == str(seconds)


def test_sweeping_ends_marked_processes_in_any_session_and_no_others(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STUBBORN]
    marked = {**os.environ, MARK: str(tmp_path)}
    other = {**os.environ, MARK: f"{tmp_path}-other"}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True)
        for environment in (marked, marked, other)
    ]
    try:
        for process in processes:
            assert process.stdout
            process.stdout.readline()
        assert sorted(marked_pids(tmp_path)) == sorted(process.pid for process in processes[:2])
        assert sweep(tmp_path, grace_seconds=0.2) == 2
        assert [process.wait(10) for process in processes[:2]] == [-signal.SIGKILL] * 2
        assert processes[2].poll() is None
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_component_that_ends_by_itself_is_told_with_what_it_wrote(airflow: LocalAirflow) -> None:
    airflow.start_command("scheduler", ["no-such-command"])
    with (
        airflow,
        pytest.raises(LocalAirflowError, match=r"(?s)the scheduler ended by itself.*no-such-command"),
    ):
        airflow.wait_for(lambda: False, timeout=60, what="nothing")
    assert marked_pids(airflow.home) == []


def test_waiting_in_vain_says_for_what() -> None:
    with pytest.raises(LocalAirflowError, match=r"waited 0\.05 s in vain for rain"):
        wait_until(lambda: False, timeout=0.05, what="rain", interval=0.01)
