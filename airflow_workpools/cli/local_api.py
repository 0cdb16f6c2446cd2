# SPDX-License-Identifier: Apache-2.0
"""The few calls of Airflow's REST API that the demo, the benchmarks and the tests make."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from airflow_workpools.errors import WorkpoolsError

# Without proxies: it is this machine's own port.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


CREATE_ATTEMPTS = 10
"""How often something is asked for on a database that is busy."""


class ApiError(WorkpoolsError):
    """The API answered with an error."""

    def __init__(self, status: int, what: str, answer: str) -> None:
        super().__init__(f"{what} was answered with {status}: {answer[:1000]}")
        self.status = status


@dataclass(frozen=True)
class LocalApi:
    """Airflow's REST API on this machine, where everyone is an admin."""

    url: str
    timeout_seconds: float = 60

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Make one call below ``/api/v2`` and return the answer's JSON.

        :raises ApiError: for an answer that is an error.
        """
        request = urllib.request.Request(
            f"{self.url}/api/v2/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Accept": "application/json", "Content-Type": "application/json"},
        )
        try:
            with _OPENER.open(request, timeout=self.timeout_seconds) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, f"{method} {path}", error.read().decode(errors="replace")) from None
        return json.loads(text) if text else None

    def health(self) -> dict[str, Any] | None:
        """Return the health report, or None while nothing answers."""
        try:
            report: dict[str, Any] = self.call("GET", "monitor/health")
        except (OSError, ApiError):
            return None
        return report

    def has_dag(self, dag_id: str) -> bool:
        """Say whether the DAG has been parsed and stored, so that it can be triggered."""
        try:
            # Its code and its row are stored one after the other; the row is stale until both are.
            self.call("GET", f"dags/{quote(dag_id)}/details")
            stale = self.call("GET", f"dags/{quote(dag_id)}")["is_stale"]
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return not stale

    def import_errors(self) -> list[str]:
        """Return why DAG files could not be read."""
        answer = self.call("GET", "importErrors")
        return [f"{item['filename']}: {item['stack_trace']}" for item in answer["import_errors"]]

    def create(self, path: str, body: Any) -> None:
        """Make something, and make sure that it is made once.

        On SQLite Airflow may answer "database is locked" when it is busy: then it is asked again, and that it is there
        by now is good news.

        :raises ApiError: if it is refused, or was there before.
        """
        for attempt in range(CREATE_ATTEMPTS):
            try:
                self.call("POST", path, body)
            except ApiError as error:
                if error.status == HTTPStatus.CONFLICT and attempt:
                    return
                if error.status < HTTPStatus.INTERNAL_SERVER_ERROR or attempt + 1 == CREATE_ATTEMPTS:
                    raise
                time.sleep(0.3)
            else:
                return

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run of a DAG and return its run id."""
        run_id = f"manual__{datetime.now(timezone.utc).isoformat()}"
        body = {"logical_date": None, "conf": conf or {}, "dag_run_id": run_id}
        self.create(f"dags/{quote(dag_id)}/dagRuns", body)
        return run_id

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run."""
        state: str = self.call("GET", f"dags/{quote(dag_id)}/dagRuns/{quote(run_id)}")["state"]
        return state

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1
    ) -> str:
        """Return the log of one try of a task as text, one event a line."""
        path = (
            f"dags/{quote(dag_id)}/dagRuns/{quote(run_id)}/taskInstances/{quote(task_id)}/logs/{try_number}"
            f"?map_index={map_index}&full_content=true"
        )
        content = self.call("GET", path)["content"]
        if isinstance(content, str):
            return content
        return "\n".join(_log_line(event) for event in content)


def _log_line(event: Any) -> str:
    if not isinstance(event, dict):
        return str(event)
    details = {key: value for key, value in event.items() if key not in ("event", "timestamp")}
    return f"{event.get('event', '')} {json.dumps(details, default=str) if details else ''}".rstrip()
