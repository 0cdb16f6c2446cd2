# SPDX-License-Identifier: Apache-2.0
"""Whatever is said to the worker API, by its document or against it, is answered or refused: never a 5xx."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_workpools import __version__
from airflow_workpools.api import wire
from airflow_workpools.api.app import openapi_document
from airflow_workpools.store.records import Report
from tests.store.made_requests import Maker, Schema, anything
from tests.store.rigs import NOW, new_job, sql_rig
from tests.store.worker_api import pull_pool, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa

DOCUMENT = openapi_document()
CALLS = sorted(path.removeprefix(f"{wire.PATH}/") for path in DOCUMENT["paths"])
WORKER, ROUND = uuid.UUID(int=7), 40


def maker(ids: list[str]) -> Maker:
    """Make what a worker says, with ids of its own."""

    def texts(schema: Schema) -> st.SearchStrategy[str]:
        likely = st.just("etl/default" if "queue" in schema.get("title", "").lower() else "etl")
        rare = st.sampled_from(["etl/default", "eA==", ""]) | st.text(st.characters(), max_size=300)
        return likely | likely | rare

    def free(schema: Schema, making: Maker) -> st.SearchStrategy[Any]:
        keys = st.sampled_from([*ids, "etl"]) | st.text(max_size=5)
        of = schema.get("additionalProperties")
        return st.dictionaries(keys, making.values(of) if isinstance(of, dict) else anything, max_size=3)

    limits = {wire.MAX_WAIT_SECONDS: 0.3}  # not longer than a moment
    return Maker(document=DOCUMENT, ids=ids, texts=texts, free=free, one_in=40, limits=limits)


class Line:
    """Says things as they are to a server with a worker that has some jobs."""

    def __init__(self, url: str, token: str, ids: list[str]) -> None:
        self.ids = ids
        self._http = httpx.Client(
            base_url=f"{url}{wire.MOUNT}{wire.PATH}/",
            headers={"Authorization": f"Bearer {token}", wire.VERSION_HEADER: __version__},
            timeout=60,
        )

    def say(self, call: str, body: bytes) -> httpx.Response:
        return self._http.post(call, content=body, headers={"Content-Type": "application/json"})


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("sqlite", id="sqlite"),
        pytest.param("postgres", id="postgres", marks=pytest.mark.postgres),
    ],
)
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    engine: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    rig = sql_rig(engine)
    with serving(rig, rig.airflow.session, etl=pull_pool()) as api:
        token = api.token("etl")
        client = api.client(token=token)
        api.online(client, id=WORKER)
        jobs = rig.hand_over(*(new_job() for _ in range(5)))
        client.claim(WORKER, most=3, now=NOW)
        client.report(WORKER, [Report(job_id=jobs[0], state="running")], now=NOW)  # type: ignore[arg-type]
        yield Line(api.url, token, [str(WORKER), *map(str, jobs)])


@pytest.mark.parametrize("call", CALLS)
def test_nothing_that_is_said_breaks_it(line: Line, call: str) -> None:
    content = DOCUMENT["paths"][f"{wire.PATH}/{call}"]["post"]["requestBody"]["content"]
    schema = content["application/json"]["schema"]
    statuses = set()

    @settings(
        max_examples=ROUND,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(maker(line.ids).values(schema))
    def say(value: Any) -> None:
        answer = line.say(call, json.dumps(value).encode())
        statuses.add(answer.status_code)
        assert answer.status_code < 500, (answer.status_code, value)
        if answer.status_code != 200:
            problem = wire.Problem.model_validate_json(answer.content)
            assert problem.detail

    say()
    assert 422 in statuses
    assert call == "register" or len(statuses) > 1
