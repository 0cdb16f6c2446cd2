# SPDX-License-Identifier: Apache-2.0
"""An engine that answers, but fails now and then: Podman's does, while a container ends."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.base import Handle, Observation, Phase
from airflow_workpools.infrastructure.docker import DockerInfrastructure

if TYPE_CHECKING:
    from collections.abc import Iterator

RACE = "read /proc/13952/cgroup: no such process"
"""What Podman 4.3 says when a container of its list ends before it has read its cgroup."""


class FailingEngine:
    """Has one job's container, which runs; fails the next ``failures`` questions for it."""

    def __init__(self) -> None:
        self.failures = 0
        self.asked = 0
        self.handle = Handle(
            job_id=uuid.uuid4(), kind="docker", data={"container_id": "c1", "name": "airflow-job"}
        )
        engine = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, answer = engine.answer(self.path)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.server.daemon_threads = True

    def answer(self, path: str) -> tuple[int, Any]:
        if "/containers/json" in path:
            self.asked += 1
            if self.failures:
                self.failures -= 1
                return 500, {"message": RACE}
            labels = {"airflow.workpools/job_id": str(self.handle.job_id)}
            return 200, [{"Id": "c1", "State": "running", "Labels": labels, "Names": ["/airflow-job"]}]
        if path.endswith("/version"):
            return 200, {"ApiVersion": "1.41"}
        return 200, {}

    def seen(self) -> Observation:
        """Return what a worker sees of the job."""
        port = self.server.server_address[1]
        connection = {
            "conn_id": "engine",
            "conn_type": "docker",
            "extra": {"base_url": f"tcp://127.0.0.1:{port}"},
        }

        async def scenario() -> Observation:
            infrastructure = DockerInfrastructure(home=Path("/nowhere"), connection=connection)
            await infrastructure.open()
            try:
                return (await infrastructure.observe([self.handle]))[self.handle.job_id]
            finally:
                await infrastructure.close()

        return asyncio.run(scenario())


@pytest.fixture
def engine() -> Iterator[FailingEngine]:
    engine = FailingEngine()
    serving = threading.Thread(target=engine.server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    yield engine
    engine.server.shutdown()
    serving.join()
    engine.server.server_close()


def test_a_list_that_fails_is_asked_for_again(engine: FailingEngine) -> None:
    engine.failures = 2
    assert engine.seen().phase is Phase.RUNNING
    assert engine.asked == 3


def test_an_engine_that_goes_on_failing_is_named_with_what_it_says(engine: FailingEngine) -> None:
    engine.failures = 1000
    with pytest.raises(InfrastructureUnavailable) as failure:
        engine.seen()
    port = engine.server.server_address[1]
    assert str(failure.value) == f"the Docker Engine at tcp://127.0.0.1:{port} fails: {RACE}"
    assert engine.asked == 5
