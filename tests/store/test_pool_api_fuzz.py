# SPDX-License-Identifier: Apache-2.0
"""Whatever is said to the pool API, by its document or against it, is answered or refused: never a 5xx."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_workpools.api.pools import wire
from airflow_workpools.api.pools.app import openapi_document
from tests.store.made_requests import Maker, Schema, anything
from tests.store.pool_api import BASE, PoolApi, pool_api
from tests.store.rigs import NOW, new_job, new_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa

DOCUMENT = openapi_document()
OPERATIONS = {
    operation["operationId"]: (method, path.removeprefix(wire.PATH), operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
ROUND = 25
LIKELY = ["etl", "high", "default", "process", "dag", "run", "x"]

text = st.sampled_from(LIKELY) | st.text(st.characters(), max_size=300)


def likely(name: str, ids: list[str]) -> st.SearchStrategy[str]:
    """Make texts, most of which are what stands under this name."""
    known = {
        "pool": "etl",
        "queue": "high",
        "worker": ids[0],
        "token_id": ids[1],
        "type": "process",
        "name": "new",
    }.get(name)
    return st.integers(0, 3).flatmap(
        lambda luck: st.just(known) if known and luck else text | st.sampled_from(ids)
    )


def maker(ids: list[str]) -> Maker:
    """Make what people say, with ids of what there is."""

    def free(_schema: Schema, _making: Maker) -> st.SearchStrategy[Any]:
        templates = {"variables": {}, "job_configuration": {"a": "{{ b }}"}}
        return st.just(templates) | st.dictionaries(
            st.text(st.characters(), max_size=5), anything, max_size=3
        )

    return Maker(
        document=DOCUMENT,
        ids=ids,
        texts=lambda schema: likely(schema.get("title", "").lower(), ids),
        free=free,
    )


def requests(operation: dict[str, Any], ids: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Make what a request says: in its path, after the question mark, and in its body."""
    making = maker(ids)
    body = operation.get("requestBody")
    schema = body["content"]["application/json"]["schema"] if body else None
    parameters = {one["name"]: one for one in operation.get("parameters", ()) if one["in"] != "cookie"}
    return st.fixed_dictionaries(
        {
            "path": st.fixed_dictionaries(
                {name: likely(name, ids) for name, one in parameters.items() if one["in"] == "path"}
            ),
            "query": st.fixed_dictionaries(
                {},
                optional={
                    name: making.values(one["schema"])
                    for name, one in parameters.items()
                    if one["in"] == "query"
                },
            ),
            "body": st.none() if schema is None else making.values(schema),
        }
    )


class Line:
    """Says things as they are, as an admin, to an Airflow with a pool that has jobs."""

    def __init__(self, api: PoolApi) -> None:
        api.stage.pool("etl", queues={"high": {"priority": 1}})
        worker = new_worker()
        api.store.register_worker(worker, now=NOW)
        jobs = api.stage.rig.hand_over(*(new_job("etl/high") for _ in range(3)))
        token = api.ok("POST", "/pools/etl/tokens", {}, role="admin")["id"]
        self.ids = [str(worker.id), token, *map(str, jobs)]
        self._api = api
        self._login = {"Authorization": f"Bearer {api.token('admin')}", "Content-Type": "application/json"}

    def say(self, method: str, path: str, request: dict[str, Any]) -> Any:
        for name, value in request["path"].items():
            path = path.replace(f"{{{name}}}", quote(value.encode("utf-8", "replace"), safe="") or "x")
        query = "&".join(
            f"{name}={quote(str(one).encode('utf-8', 'replace'))}"
            for name, value in request["query"].items()
            for one in (value if isinstance(value, list) else [value])
        )
        return self._api.client.request(
            method,
            f"{BASE}{path}?{query}",
            headers=self._login,
            content=None if request["body"] is None else json.dumps(request["body"]).encode(),
        )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("sqlite", id="sqlite"),
        pytest.param("postgres", id="postgres", marks=pytest.mark.postgres),
    ],
)
def line(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    engine: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        pool_api(engine, tmp_path_factory.mktemp("logs"), monkeypatch) as api,
    ):
        yield Line(api)


@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_that_is_said_breaks_it(line: Line, name: str) -> None:
    method, path, operation = OPERATIONS[name]
    statuses = set()

    @settings(
        max_examples=ROUND,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests(operation, line.ids))
    def say(request: dict[str, Any]) -> None:
        answer = line.say(method, path, request)
        statuses.add(answer.status_code)
        assert answer.status_code < 500, (answer.status_code, request, answer.text)
        assert answer.status_code == 200 or str(answer.status_code) in {*operation["responses"], "307", "405"}
        if answer.status_code >= 400:
            problem = wire.Problem.model_validate_json(answer.content)
            assert problem.detail

    say()
    assert len(statuses) > 1 or not (operation.get("parameters") or operation.get("requestBody"))


@pytest.mark.parametrize(
    "probe", ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "\u202e\u0000x"]
)
def test_free_text_comes_back_as_json_and_nothing_else(line: Line, probe: str) -> None:
    body = {"path": {"pool": "etl"}, "query": {}, "body": {"description": probe}}
    answer = line.say("patch", "/pools/{pool}", body)
    assert answer.headers["content-type"] == "application/json"
    if "\u0000" in probe:
        assert answer.status_code == 422
    else:
        assert answer.json()["description"] == probe
