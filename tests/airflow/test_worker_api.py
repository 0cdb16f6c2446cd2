# SPDX-License-Identifier: Apache-2.0
"""A real API server has the worker API: a worker that reaches nothing else gets a real task's job."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone

import httpx
import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.errors import ApiRefused
from airflow_workpools.store.records import Report, WorkerKind, WorkerRecord, WorkerState
from airflow_workpools.worker.http_client import HttpClient
from tests.airflow.harness import ROOT, AirflowInstance

pytestmark = [pytest.mark.airflow, pytest.mark.worker]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowInstance]:
    instance = AirflowInstance(tmp_path_factory.mktemp("worker_api"), dags_folder=ROOT / "tests/airflow/dags")
    instance.local.migrate()
    try:
        instance.start()
        instance.create_pool("crash", delivery="pull")
        yield instance
    finally:
        instance.stop()


def test_a_worker_gets_a_tasks_job_with_a_token_that_only_starts_it(airflow: AirflowInstance) -> None:
    made = json.loads(airflow.workpools("token", "create", "--pool", "crash", "-o", "json"))
    client = HttpClient(airflow.api.url, made["token"], kinds=frozenset({"process"}), pools=("crash",))
    now = datetime.now(timezone.utc)
    worker = WorkerRecord(
        id=uuid.uuid4(),
        name="elsewhere",
        hostname=socket.gethostname(),
        kind=WorkerKind.STANDALONE,
        pools=("crash",),
        started_at=now,
        last_heartbeat_at=now,
        heartbeat_seconds=600,
        version="0.1.0",
    )
    client.register(worker, now=now)
    run_id = airflow.trigger("survivors")
    assert airflow.wait(
        lambda: client.wait_for_work(worker.id, most=1, seconds=20).work, what="work for the worker"
    )
    (job, *_) = airflow.wait(lambda: client.claim(worker.id, most=1, now=now), what="a claim")
    assert (job.dag_id, job.run_id, job.task_id) == ("survivors", run_id, "sleep")
    assert json.loads(job.workload)["token"].startswith("eyJ")
    (outcome,) = client.report(
        worker.id, [Report(job_id=job.id, state=JobState.FAILED, reason="no room here")], now=now
    )
    assert outcome.accepted

    def failed() -> bool:
        return any(one.state == "failed" for one in airflow.tries("survivors", run_id))

    airflow.wait(failed, what="the try to fail")
    assert client.heartbeat(worker.id, hindered={}, now=now) is WorkerState.ONLINE

    airflow.workpools("token", "revoke", made["id"])
    with pytest.raises(ApiRefused, match="was revoked"):
        client.mine(worker.id)
    client.close()


def test_nothing_of_it_is_open_without_a_token(airflow: AirflowInstance) -> None:
    for call in ("pools", "claim", "register"):
        answer = httpx.post(f"{airflow.api.url}/workpools/worker/v1/{call}", json={})
        assert answer.status_code in (401, 422)
        assert answer.json()["code"] in ("token", "invalid")
    assert httpx.get(f"{airflow.api.url}/workpools/openapi.json").status_code == 404
