# SPDX-License-Identifier: Apache-2.0
"""A small stand-in for Airflow's Execution API: enough for a task to run, and it remembers what it was asked."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


HEARTBEAT_SECONDS = 40
"""How long a supervisor of Airflow's sleeps if nothing wakes it: longer than any of these tests takes."""


class FakeExecutionApi(ThreadingHTTPServer):
    """Answers every request of a task that needs no connection, variable or XCom of another."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.requests: list[tuple[str, str, Any]] = []
        """Method, path and body of each request, in order."""
        self.tokens: set[str | None] = set()
        self.away = False
        """Whether it hangs up on whoever asks."""
        self.connection: dict[str, Any] = {}
        """What a connection test has to test."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/execution/"

    def asked(self, path_end: str) -> list[Any]:
        """Return the bodies of the requests whose path ends so."""
        return [body for _, path, body in self.requests if path.endswith(path_end)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeExecutionApi

    def _answer(self) -> None:
        if self.server.away:
            self.close_connection = True
            return
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"null")
        path = self.path.partition("?")[0]
        self.server.requests.append((self.command, path, body))
        self.server.tokens.add(self.headers.get("Authorization"))
        answer = json.dumps(self._answer_to(path)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _answer_to(self, path: str) -> Any:
        if path.endswith("/run"):
            return _RUN
        return self.server.connection if path.endswith("/connection") else {"message": "fine"}

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


_RUN = {
    "dag_run": {
        "dag_id": "d",
        "run_id": "r",
        "logical_date": "2025-01-01T00:00:00Z",
        "start_date": "2025-01-01T00:00:00Z",
        "run_type": "manual",
        "run_after": "2025-01-01T00:00:00Z",
        "consumed_asset_events": [],
        "conf": {},
        "state": "running",
        "data_interval_start": None,
        "data_interval_end": None,
        "end_date": None,
        "clear_number": 0,
        "partition_key": None,
    },
    "max_tries": 0,
    "should_retry": False,
    "task_reschedule_count": 0,
    "upstream_map_indexes": {},
    "variables": [],
    "connections": [],
    "xcom_keys_to_clear": [],
}


@contextmanager
def fake_execution_api(port: int = 0) -> Iterator[FakeExecutionApi]:
    """Serve the API for a while, in a thread."""
    with FakeExecutionApi(port) as api:
        thread = threading.Thread(target=api.serve_forever, daemon=True)
        thread.start()
        try:
            yield api
        finally:
            api.shutdown()
            thread.join()


@contextmanager
def workload_home(path: Path) -> Iterator[None]:
    """Configure Airflow as it is where workloads run: a home with ``dags`` and ``logs``, and no database."""
    environment = {
        "AIRFLOW_HOME": str(path),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{path}/none.db",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(path / "dags"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(path / "logs"),
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "1",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": str(HEARTBEAT_SECONDS),
        "_AIRFLOW_PROCESS_CONTEXT": "server",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield
