# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools worker start``: what it is told, and what it says when it can't begin."""

from __future__ import annotations

import asyncio
import http.server
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_workpools.cli.arguments import address, patience
from airflow_workpools.cli.worker_start import TOKEN, options
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import Conflict, InvalidInput
from airflow_workpools.settings import Settings
from airflow_workpools.worker import standalone
from airflow_workpools.worker.healthcheck import Healthcheck
from airflow_workpools.worker.standalone import QueueCheck, check_pools
from airflow_workpools.worker.standalone_home import StandaloneHome
from tests.unit.test_worker_loop import etl

ARGUMENTS: dict[str, Any] = {
    "pool": ["etl"],
    "work_queue": None,
    "name": None,
    "limit": None,
    "type": None,
    "url": "https://airflow.example.com",
    "token_file": None,
    "run_once": False,
    "with_healthcheck": False,
    "healthcheck_address": ("127.0.0.1", 8974),
    "drain_timeout": None,
    "create_pool_if_not_found": False,
}


def read(tmp_path: Path, *, api_url: str | None = None, **arguments: Any) -> Any:
    settings = Settings(home=tmp_path, api_url=api_url)
    return options(Namespace(**{**ARGUMENTS, **arguments}), settings)


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(TOKEN, "t0k3n")
    return "t0k3n"


# -- what it is told ----------------------------------------------------------------------------------------


def test_the_token_of_the_environment_is_taken_out_of_it_and_shown_nowhere(tmp_path: Path, token: str):
    told = read(tmp_path)
    assert told.token == token
    assert TOKEN not in os.environ
    assert token not in repr(told)


def test_a_token_in_a_file_goes_first(tmp_path: Path, token: str):
    (tmp_path / "token").write_text("of-the-file\n")
    assert read(tmp_path, token_file=str(tmp_path / "token")).token == "of-the-file"


@pytest.mark.parametrize(("text", "words"), [("", "there is no token in"), ("two words", "is no token")])
def test_a_file_that_has_no_token_is_named(tmp_path: Path, text: str, words: str):
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=f"(?s){words}.*"):
        read(tmp_path, token_file=str(path))


def test_without_a_token_it_is_said_where_one_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(InvalidInput, match="airflow workpools token create"):
        read(tmp_path)


@pytest.mark.usefixtures("token")
def test_the_address_of_the_configuration_is_taken_when_none_is_given(tmp_path: Path):
    assert read(tmp_path, url=None, api_url="http://here:8080").url == "http://here:8080"


@pytest.mark.usefixtures("token")
def test_without_an_address_it_is_said_how_to_give_one(tmp_path: Path):
    with pytest.raises(InvalidInput, match="--url"):
        read(tmp_path, url=None)


@pytest.mark.usefixtures("token")
def test_a_queue_without_its_pool_is_one_of_each(tmp_path: Path):
    told = read(tmp_path, pool=["etl", "ml", "etl"], work_queue=["critical", "ml/gpu"])
    assert told.pools == ("etl", "ml")
    expected = (WorkQueueRef("etl", "critical"), WorkQueueRef("ml", "critical"), WorkQueueRef("ml", "gpu"))
    assert told.queues == expected


@pytest.mark.usefixtures("token")
def test_a_queue_of_another_pool_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInput, match="add --pool ml"):
        read(tmp_path, work_queue=["ml/gpu"])


@pytest.mark.parametrize(("text", "seconds"), [("none", None), ("0", 0.0), ("2.5", 2.5)])
def test_a_drain_timeout_may_be_without_end(text: str, seconds: float | None):
    assert patience(text).seconds == seconds


@pytest.mark.parametrize("text", ["-1", "soon", "nan", "inf", ""])
def test_a_drain_timeout_that_is_none_is_refused(text: str):
    with pytest.raises(ArgumentTypeError):
        patience(text)


def test_a_port_alone_is_one_of_this_machine():
    assert address("80") == ("127.0.0.1", 80)
    assert address("0.0.0.0:8080") == ("0.0.0.0", 8080)
    assert address("[::1]:8080") == ("::1", 8080)
    for text in ("", "host", "host:", "70000"):
        with pytest.raises(ArgumentTypeError):
            address(text)


# -- pools and queues ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("token")
def test_every_pool_that_cannot_be_served_is_named(tmp_path: Path):
    told = read(tmp_path, pool=["etl", "gone", "other"], type="docker")
    with pytest.raises(InvalidInput) as refused:
        check_pools(told, {"etl": etl()}, {"other": "it is a push pool"})
    text = str(refused.value)
    assert "'etl' is of type 'process', not 'docker'" in text
    assert "'gone' can't be served: there is no such work pool" in text
    assert "'other' can't be served: it is a push pool" in text


@pytest.mark.usefixtures("token")
def test_a_type_that_cannot_be_used_here_is_told_of_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hint = 'Install what it needs: pip install "airflow-provider-workpools[docker]"'
    monkeypatch.setattr(standalone, "unusable_kinds", lambda: {"docker": hint})
    problem = "it is of type 'docker', which this worker can't use"
    with pytest.raises(InvalidInput) as refused:
        check_pools(read(tmp_path), {}, {"etl": problem})
    assert f"work pool 'etl' can't be served: {problem}: {hint}" in str(refused.value)


@pytest.mark.usefixtures("token")
def test_a_worker_that_may_not_create_a_pool_says_who_may_and_how(tmp_path: Path):
    told = read(tmp_path, create_pool_if_not_found=True, type="docker")
    with pytest.raises(InvalidInput, match="airflow workpools create etl --type docker --delivery pull"):
        check_pools(told, {}, {})


def test_a_queue_that_does_not_exist_is_told_of_once_and_again_when_it_does(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="airflow_workpools.worker.standalone")
    check = QueueCheck((WorkQueueRef("etl", "critical"), WorkQueueRef("etl")))
    check({"etl": etl()})
    check({"etl": etl()})
    check({"etl": etl(queues={"critical": {}})})
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "Worker: there is no work queue 'etl/critical' (work pool 'etl' has: default); it goes on looking",
        "Worker: there is a work queue 'etl/critical' now",
    ]


# -- its home -----------------------------------------------------------------------------------------------


def test_a_name_is_used_by_one_worker_at_a_time(tmp_path: Path):
    first, second = StandaloneHome(tmp_path, "one"), StandaloneHome(tmp_path, "one")
    with first.locked(), pytest.raises(Conflict, match="runs already"), second.locked():
        pass
    with second.locked():
        pass


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "x" * 129])
def test_a_name_that_can_be_no_folder_is_refused(tmp_path: Path, name: str):
    with pytest.raises(InvalidInput, match="name of a worker"):
        StandaloneHome(tmp_path, name)


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InvalidInput, match="make it writable"),
        StandaloneHome(tmp_path / "file", "w").locked(),
    ):
        pass


# -- its health ---------------------------------------------------------------------------------------------


def ask(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_is_well_while_heartbeats_are_taken():
    async def scenario() -> None:
        now = 0.0
        health = Healthcheck("127.0.0.1", 0, 10.0, monotonic=lambda: now)
        url = await health.open()
        assert (await asyncio.to_thread(ask, url))[0] == 503
        health.beat()
        now = 30.0
        assert await asyncio.to_thread(ask, url) == (200, '{"status": "ok", "seconds_since_heartbeat": 30.0}')
        now = 30.1
        assert (await asyncio.to_thread(ask, url))[0] == 503
        with pytest.raises(InvalidInput, match="can't listen"):
            await Healthcheck("127.0.0.1", int(url.split(":")[2].split("/")[0]), 10.0).open()
        health.close()

    asyncio.run(scenario())


# -- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """No database that answers, and no secrets."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return {
        **clean,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://nobody:nothing@127.0.0.1:9/none",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        TOKEN: "t0k3n-of-this-worker",
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "airflow", "workpools", "worker", "start", "--pool", "etl", *arguments]


def start(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def not_airflow() -> Iterator[str]:
    """An HTTP server that is no API server of Airflow's."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_is_no_api_server_ends_the_command_with_one_line(environment: dict[str, str], not_airflow: str):
    said = start(environment, "--url", f"http://{not_airflow}")
    assert said.returncode == 1
    assert "there is no worker API at http://127.0.0.1" in said.stderr
    assert "Traceback" not in said.stderr
    assert "t0k3n" not in said.stdout + said.stderr


def test_a_failure_of_tls_ends_the_command_with_one_line(environment: dict[str, str], not_airflow: str):
    said = start(environment, "--url", f"https://{not_airflow}")
    assert said.returncode == 1
    assert "can't be trusted" in said.stderr


def test_an_api_server_that_is_not_there_yet_is_waited_for_without_a_database(environment: dict[str, str]):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        # Whoever runs the tests in the background has them, and so their children, ignore Ctrl-C.
        ["env", "--default-signal=INT", *command("--url", f"http://127.0.0.1:{port}")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    said = ""
    for line in process.stdout:
        said += line
        if "can't be reached" in line:
            break
    process.send_signal(signal.SIGINT)
    said += process.stdout.read()
    watchdog.cancel()
    assert process.wait(60) == 130, said
    assert "Jobs go on" in said
    assert "Traceback" not in said
    assert "t0k3n" not in said


def test_log_lines_are_json_where_airflow_says_so(environment: dict[str, str]):
    environment["AIRFLOW__LOGGING__JSON_LOGS"] = "True"
    with subprocess.Popen(
        command("--url", "http://127.0.0.1:9"), env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = (json.loads(line) for line in process.stdout if line.startswith("{"))
        line = next(one for one in lines if "can't be reached" in one["event"])
        process.kill()
    assert line["level"] == "warning"


def program(environment: dict[str, str], text: str) -> list[str]:
    """Run a program and return the lines that it wrote."""
    done = subprocess.run(
        [sys.executable, "-c", text],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_database_is_out_of_reach_and_the_environment_is_as_it_was(environment: dict[str, str]):
    said = program(
        environment,
        """
import os
from airflow_workpools.airflow_private.no_database import forbid_database
import airflow.settings
forbid_database()
from airflow.utils.session import create_session
try:
    with create_session() as session:
        session.connection()
except Exception as error:
    print(type(error).__name__)
print(os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
""",
    )
    assert said[-1] == environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert len(said) >= 2, "the database could be asked"
    assert "OperationalError" not in said, "the database was asked"


def test_jobs_find_the_execution_api_where_their_worker_finds_the_api_server(environment: dict[str, str]):
    said = program(
        environment,
        """
import os
from airflow_workpools.worker.execution_api import use_execution_api_under
from airflow.executors.base_executor import get_execution_api_server_url
use_execution_api_under("https://airflow.example.com/prefix/")
print(get_execution_api_server_url())
os.environ["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] = "http://elsewhere/execution/"
use_execution_api_under("https://airflow.example.com/prefix/")
print(get_execution_api_server_url())
""",
    )
    assert said[-2:] == ["https://airflow.example.com/prefix/execution/", "http://elsewhere/execution/"]


def test_containers_wait_for_the_api_server_as_long_as_airflow_waits_for_them_if_nobody_has_set_it(
    environment: dict[str, str],
):
    said = program(
        environment,
        """
import os
from airflow_workpools.worker.execution_api import wait_for_execution_api
from airflow_workpools.infrastructure.containers import runtime_environment
def tell():
    wait_for_execution_api()
    print({k: v for k, v in sorted(runtime_environment().items()) if "__WORKERS__" in k})
os.environ["AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS"] = "9"
tell()
del os.environ["AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS"]
tell()
""",
    )
    ours = {
        "EXECUTION_API_RETRIES": "28",
        "EXECUTION_API_RETRY_WAIT_MAX": "10.0",
        "MAX_FAILED_HEARTBEATS": "1",
    }
    told = [{"MAX_FAILED_HEARTBEATS": "9"}, ours]
    assert said[-2:] == [str({f"AIRFLOW__WORKERS__{k}": v for k, v in one.items()}) for one in told]


def test_connections_are_found_without_a_database(environment: dict[str, str]):
    environment["AIRFLOW_CONN_K8S"] = '{"conn_type": "kubernetes", "host": "h", "extra": {"namespace": "n"}}'
    said = program(
        environment,
        """
from airflow_workpools.airflow_private.no_database import forbid_database
forbid_database()
from airflow_workpools.errors import NotFound
from airflow_workpools.store.airflow_connections import *
found = infrastructure_connection("k8s", backends=backends_without_database)
print(found["conn_type"], found["host"], found["extra"])
print(airflow_connections(["k8s", "none"], backends=backends_without_database).keys())
try:
    infrastructure_connection("none", backends=backends_without_database)
except NotFound as error:
    print(error)
""",
    )
    assert said[-3:-1] == ["kubernetes h {'namespace': 'n'}", "dict_keys(['k8s'])"]
    assert said[-1].startswith("there is no Airflow connection 'none'")
