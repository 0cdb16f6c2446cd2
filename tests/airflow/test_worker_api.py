# SPDX-License-Identifier: Apache-2.0
"""A real API server has the worker API: a worker that reaches nothing else gets a real task's job.

And the pool API, with Airflow's logins.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import uuid
from datetime import datetime, timezone

import httpx
import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.errors import ApiRefused
from airflow_workpools.store.records import Report, WorkerKind, WorkerRecord, WorkerState
from airflow_workpools.worker.http_client import HttpClient
from tests.airflow.harness import AirflowInstance

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.worker,
    pytest.mark.parametrize("airflow", ["sqlite"], indirect=True),
]


def test_a_worker_gets_a_tasks_job_with_a_token_that_only_starts_it(airflow: AirflowInstance) -> None:
    made = json.loads(airflow.workpools("token", "create", "--pool", "far", "-o", "json"))
    client = HttpClient(airflow.api.url, made["token"], kinds=frozenset({"process"}), pools=("far",))
    now = datetime.now(timezone.utc)
    worker = WorkerRecord(
        id=uuid.uuid4(),
        name="elsewhere",
        hostname=socket.gethostname(),
        kind=WorkerKind.STANDALONE,
        pools=("far",),
        started_at=now,
        last_heartbeat_at=now,
        heartbeat_seconds=600,
        version="0.1.0",
    )
    client.register(worker, now=now)
    run_id = airflow.trigger("far")
    assert airflow.wait(
        lambda: client.wait_for_work(worker.id, most=1, seconds=20).work, what="work for the worker"
    )
    (job, *_) = airflow.wait(lambda: client.claim(worker.id, most=1, now=now), what="a claim")
    assert (job.dag_id, job.run_id, job.task_id) == ("far", run_id, "sleep")
    assert json.loads(job.workload)["token"].startswith("eyJ")
    (outcome,) = client.report(
        worker.id, [Report(job_id=job.id, state=JobState.FAILED, reason="no room here")], now=now
    )
    assert outcome.accepted

    def failed() -> bool:
        return any(one.state == "failed" for one in airflow.tries("far", run_id))

    airflow.wait(failed, what="the try to fail")
    assert client.heartbeat(worker.id, hindered={}, now=now) is WorkerState.ONLINE

    client.stop(worker.id, now=now)
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


# -- the pool API, which people ask, is beside it ---------------------------------------------------------------

MINT = """
import sys
from airflow.api_fastapi.app import create_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
for role in sys.argv[1:]:
    print("token", create_auth_manager().generate_jwt(SimpleAuthManagerUser(username=role, role=role, teams=None)))
"""


@pytest.fixture
def logins(airflow: AirflowInstance) -> dict[str, dict[str, str]]:
    """Headers with logins of Airflow's own, by role."""
    roles = ("viewer", "op")
    done = subprocess.run(
        [sys.executable, "-c", MINT, *roles],
        env=airflow.local.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    tokens = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("token ")]
    return {role: {"Authorization": f"Bearer {token}"} for role, token in zip(roles, tokens, strict=True)}


def test_a_viewer_looks_and_an_op_changes_and_is_written_down(
    airflow: AirflowInstance, logins: dict[str, dict[str, str]]
) -> None:
    base = f"{airflow.api.url}/workpools/api/v1"
    viewer, op = logins["viewer"], logins["op"]
    listed = httpx.get(f"{base}/pools", headers=viewer, timeout=60).json()
    pools = {pool["name"]: pool for pool in listed["pools"]}
    assert pools.keys() >= {"far", "default"}
    assert (pools["default"]["status"], pools["default"]["workers_online"]) == ("READY", 1)
    assert not listed["may_create"]
    (job, *_) = httpx.get(f"{base}/pools/far/jobs?state=failed", headers=viewer, timeout=60).json()["jobs"]
    assert job["dag_id"] == "far"
    where = {name: job[name] for name in ("dag_id", "run_id", "task_id", "map_index")}
    told = httpx.get(f"{base}/explain", params=where, headers=viewer, timeout=60).json()
    assert told["job"] is None or told["job"]["dag_id"] == "far"
    assert (
        httpx.get(f"{base}/jobs/{job['id']}", headers=viewer, timeout=60).json()["reason"] == "no room here"
    )

    assert httpx.post(f"{base}/pools/far/pause", headers=viewer, timeout=60).status_code == 403
    assert httpx.post(f"{base}/pools/far/pause", headers=op, timeout=60).json()["status"] == "PAUSED"
    made = httpx.post(f"{base}/pools", json={"name": "made", "type": "process"}, headers=op, timeout=60)
    assert made.status_code == 201
    assert "made" in airflow.workpools("list", "-o", "json")
    assert httpx.delete(f"{base}/pools/made", headers=op, timeout=60).status_code == 204
    rows = airflow.rows(
        "select event, owner from log where event like 'workpools%' and owner = 'op' order by id"
    )
    assert [(row["event"], row["owner"]) for row in rows] == [
        ("workpools_pause", "op"),
        ("workpools_create", "op"),
        ("workpools_delete", "op"),
    ]
    # A login that is shown counts, and not that here everybody else is an admin.
    nonsense = {"Authorization": "Bearer nonsense"}
    assert httpx.get(f"{base}/pools", headers=nonsense, timeout=60).status_code == 403
