# SPDX-License-Identifier: Apache-2.0
"""Who may do what with the pool API, and what the audit log remembers. Every route is tried."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.routing import APIRoute

from airflow_workpools.api.pools.access import COOKIE
from airflow_workpools.api.pools.app import openapi_document
from airflow_workpools.api.pools.wire import PATH
from tests.store.pool_api import BASE, PoolApi, pool_api
from tests.store.rigs import NOW, new_job, new_worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import sqlalchemy as sa

ROUTES = sorted(
    (method.upper(), path.removeprefix(PATH))
    for path, methods in openapi_document()["paths"].items()
    for method in methods
)
READING_POSTS = {("POST", "/templates/validate"), ("POST", "/pools/{pool}/preview")}
WRITES = [route for route in ROUTES if route[0] != "GET" and route not in READING_POSTS]
READS = [route for route in ROUTES if route not in WRITES]

TEMPLATE: dict[str, Any] = {"variables": {"type": "object", "properties": {}}, "job_configuration": {}}
SECRET = "not-for-the-log"
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/pools"): {"name": "new", "type": "process", "job_variables": {"env": {"A": SECRET}}},
    ("PATCH", "/pools/{pool}"): {"set_job_variables": {"env": {"A": SECRET}}},
    ("POST", "/pools/{pool}/queues"): {"name": "new", "job_variables": {"env": {"A": SECRET}}},
    ("PATCH", "/pools/{pool}/queues/{queue}"): {"set_job_variables": {"env": {"A": SECRET}}},
    ("PUT", "/pools/{pool}/template"): {"base_job_template": None},
    ("POST", "/pools/{pool}/tokens"): {},
    ("POST", "/jobs/{job_id}/cancel"): {"reason": "wrong file"},
    ("POST", "/templates/validate"): {"type": "process", "base_job_template": TEMPLATE},
    ("POST", "/pools/{pool}/preview"): {},
}
EVENTS = {
    ("POST", "/pools"): "workpools_create",
    ("PATCH", "/pools/{pool}"): "workpools_update",
    ("DELETE", "/pools/{pool}"): "workpools_delete",
    ("POST", "/pools/{pool}/pause"): "workpools_pause",
    ("POST", "/pools/{pool}/resume"): "workpools_resume",
    ("POST", "/pools/{pool}/queues"): "workpools_queue_create",
    ("PATCH", "/pools/{pool}/queues/{queue}"): "workpools_queue_update",
    ("DELETE", "/pools/{pool}/queues/{queue}"): "workpools_queue_delete",
    ("POST", "/pools/{pool}/queues/{queue}/pause"): "workpools_queue_pause",
    ("POST", "/pools/{pool}/queues/{queue}/resume"): "workpools_queue_resume",
    ("POST", "/pools/{pool}/workers/{worker}/drain"): "workpools_worker_drain",
    ("POST", "/pools/{pool}/workers/{worker}/resume"): "workpools_worker_resume",
    ("POST", "/pools/{pool}/tokens"): "workpools_token_create",
    ("DELETE", "/pools/{pool}/tokens/{token_id}"): "workpools_token_revoke",
    ("PUT", "/pools/{pool}/template"): "workpools_template_update",
    ("POST", "/jobs/{job_id}/cancel"): "workpools_jobs_cancel",
}


@pytest.fixture
def api(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PoolApi]:
    with pool_api(engine, tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def sqlite_api(
    sqlite_engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PoolApi]:
    with pool_api(sqlite_engine, tmp_path, monkeypatch) as made:
        yield made


class Scene:
    """Something of each kind for the routes to name."""

    def __init__(self, api: PoolApi, name: str = "etl") -> None:
        api.stage.pool(name, queues={"high": {"priority": 1}})
        self.worker = new_worker(name=f"worker of {name}")
        api.store.register_worker(self.worker, now=NOW)
        task = api.stage.task(f"{name}/default", "queued", task_id=f"task of {name}")
        self.task = task
        with api.stage.rig.airflow.session() as session:
            job = new_job(
                name,
                task_instance_id=task["id"],
                **{key: task[key] for key in ("dag_id", "run_id", "task_id")},
            )
            self.job: uuid.UUID = api.store.hand_over(job, now=NOW, session=session)
        self.token = api.ok("POST", f"/pools/{name}/tokens", {}, role="admin")["id"]
        self.pool = name

    def path(self, path: str) -> str:
        named = {
            "pool": self.pool,
            "queue": "high",
            "worker": str(self.worker.id),
            "job_id": str(self.job),
            "token_id": self.token,
        }
        found = re.sub(r"{(\w+)}", lambda match: named[match[1]], path)
        if path == "/explain":
            found += (
                f"?dag_id={self.task['dag_id']}&run_id={self.task['run_id']}&task_id={self.task['task_id']}"
            )
        return found


def test_every_route_asks_who_is_there(sqlite_api: PoolApi) -> None:
    routes = [
        (method, route.path.removeprefix(PATH))
        for route in sqlite_api.app.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    ]
    # FastAPI may wrap included routers; the document has them all in any case.
    assert not routes or sorted(routes) == ROUTES
    for method, path in ROUTES:
        problem = sqlite_api.refused(
            401, method, re.sub(r"{\w+}", "x", path), BODIES.get((method, path)), role=None
        )
        assert problem.code == "not_logged_in"
        headers = {"Authorization": "Bearer nonsense"}
        sqlite_api.refused(403, method, re.sub(r"{\w+}", "x", path), role=None, headers=headers)


def test_a_viewer_reads_everything_and_changes_nothing(sqlite_api: PoolApi) -> None:
    scene = Scene(sqlite_api)
    for method, path in READS:
        body = BODIES.get((method, path))
        assert sqlite_api.ok(method, scene.path(path), body, role="viewer") is not None, path
    before = sqlite_api.audited()
    for role in ("viewer", "user"):
        for method, path in WRITES:
            problem = sqlite_api.refused(403, method, scene.path(path), BODIES.get((method, path)), role=role)
            assert problem.code == "forbidden", path
    assert sqlite_api.audited() == before
    assert sqlite_api.ok("GET", "/pools/etl")["paused"] is False


def test_every_change_of_an_op_is_written_down_without_secrets(api: PoolApi) -> None:
    scene = Scene(api)
    assert EVENTS.keys() == set(WRITES)
    last = [("DELETE", "/pools/{pool}/queues/{queue}"), ("DELETE", "/pools/{pool}")]
    first = [route for route in WRITES if route not in last]
    for method, path in [*first, *last]:
        before = len(api.audited())
        api.ok(method, scene.path(path), BODIES.get((method, path)), role="op")
        ((event, owner, extra),) = api.audited()[before:]
        assert (event, owner) == (EVENTS[method, path], "the op")
        if "{pool}" in path:
            assert extra["pool"] == "etl"
        if "{queue}" in path:
            assert extra["queue"] == "high"
    assert SECRET not in str(api.audited())


def test_what_was_tried_and_refused_is_written_down(sqlite_api: PoolApi) -> None:
    sqlite_api.refused(404, "PATCH", "/pools/nosuch", {"concurrency_limit": 3})
    (row,) = sqlite_api.audited()
    assert row == ("workpools_update", "the op", {"pool": "nosuch", "concurrency_limit": 3})


def test_the_login_of_a_browser_is_as_good_as_a_token(sqlite_api: PoolApi) -> None:
    cookie = {"Cookie": f"{COOKIE}={sqlite_api.token('viewer')}"}
    assert sqlite_api.ok("GET", "/pools", role=None, headers=cookie)["total"] == 1
    sqlite_api.refused(403, "POST", "/pools/default/pause", role=None, headers=cookie)
    sqlite_api.refused(403, "GET", "/pools", role=None, headers={"Cookie": f"{COOKIE}=x"})


def test_secrets_are_shown_to_those_only_who_may_change_them(sqlite_api: PoolApi) -> None:
    template: dict[str, Any] = {
        "variables": {
            "type": "object",
            "properties": {"password": {"type": "string", "default": "geheim"}, "env": {"type": "object"}},
        },
        "job_configuration": {"env": "{{ env }}", "api_key": "klar", "password": "{{ password }}"},
    }
    env = {"DB_PASSWORD": "geheim", "URL": "postgres://me:geheim@db/x", "PLAIN": "plain"}
    sqlite_api.stage.pool("etl", base_job_template=template, job_variables={"env": env})
    for path, body in (
        ("/pools/etl", None),
        ("/pools/etl/template", None),
        ("/pools/etl/preview", {"job_variables": {}}),
    ):
        method = "GET" if body is None else "POST"
        seen = sqlite_api.ask(method, path, body, role="viewer").text
        assert "geheim" not in seen
        assert '"klar"' not in seen
        assert "***" in seen
        seen = sqlite_api.ask(method, path, body, role="op").text
        assert "geheim" in seen
    shown = sqlite_api.ok("GET", "/pools/etl/template", role="viewer")["base_job_template"]
    assert shown["variables"]["properties"]["password"] == {"type": "string", "default": "***"}
    assert shown["job_configuration"]["password"] == "{{ password }}"


def test_a_request_that_is_too_long_is_refused(sqlite_api: PoolApi) -> None:
    long = {"description": "x" * 2**20}
    assert sqlite_api.refused(413, "PATCH", "/pools/default", long).code == "too_large"
    many = sqlite_api.client.patch(f"{BASE}/pools/default", content=iter([b"x" * 2**19] * 3))
    assert many.status_code == 413


def test_a_body_that_is_no_text_is_refused(sqlite_api: PoolApi) -> None:
    options = {"content": b"{\xff", "headers": {"Content-Type": "application/json"}}
    assert "body" in sqlite_api.refused(422, "POST", "/pools", **options).detail


def test_teams_see_and_change_their_own(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    with pool_api(engine, tmp_path, monkeypatch) as api:
        for team in ("red", "blue"):
            api.stage.team(team)
            api.stage.pool(team, team_name=team)
        red: dict[str, Any] = {"teams": ["red"]}
        listed = api.ok("GET", "/pools", **red)
        assert [pool["name"] for pool in listed["pools"]] == ["default", "red"]
        assert listed["teams"] == ["blue", "red"]
        assert api.ok("GET", "/pools", role="admin")["total"] == 3
        api.refused(403, "GET", "/pools/blue", **red)
        api.refused(403, "POST", "/pools/blue/pause", **red)
        api.refused(403, "POST", "/pools", {"name": "x", "type": "process", "team_name": "blue"}, **red)
        api.refused(403, "PATCH", "/pools/red", {"team_name": "blue"}, **red)
        assert api.ok("PATCH", "/pools/red", {"concurrency_limit": 3}, **red)["team_name"] == "red"
        assert api.ok("PATCH", "/pools/red", {"team_name": None}, **red)["team_name"] is None
        job = api.stage.rig.hand_over(new_job("blue"))[0]
        api.refused(404, "GET", f"/jobs/{job}", **red)
        api.refused(404, "POST", f"/jobs/{job}/cancel", {}, **red)
        assert api.ok("GET", f"/jobs/{job}", role="admin")["pool"] == "blue"
