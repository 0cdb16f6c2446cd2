# SPDX-License-Identifier: Apache-2.0
"""schemathesis over the committed document of the pool API: no 5xx, and no answer that the document does not have.

Beside our own attack (``test_pool_api_fuzz``), which knows what is there and so gets further in: this one knows what
goes wrong with APIs in general.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
import schemathesis
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import checks

from airflow_workpools.api.pools import wire
from tests.store.pool_api import PoolApi, pool_api
from tests.store.rigs import NOW, new_job, new_worker

DOCUMENT = json.loads(files("airflow_workpools.api").joinpath("openapi/pool-v1.json").read_text())
OPERATIONS = {
    operation["operationId"]: (method.upper(), path)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
EXAMPLES = 12
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
OF_THE_SERVER = (307, 405)
"""Refusals of the server itself, which no path of the document can name: an empty name in a path leads elsewhere."""


class Line:
    """A pool API with a pool that has something of each kind, and an admin's login."""

    def __init__(self, api: PoolApi) -> None:
        api.stage.pool("etl", queues={"high": {"priority": 1}})
        worker = new_worker()
        api.store.register_worker(worker, now=NOW)
        (job,) = api.stage.rig.hand_over(new_job("etl/high"))
        token = api.ok("POST", "/pools/etl/tokens", {}, role="admin")["id"]
        self.there = {
            "pool": "etl",
            "queue": "high",
            "worker": str(worker.id),
            "token_id": token,
            "job_id": str(job),
        }
        self.client = api.client
        self.login = {"Authorization": f"Bearer {api.token('admin')}"}


@pytest.fixture(scope="module")
def line(sqlite_engine: sa.Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        pool_api(sqlite_engine, tmp_path_factory.mktemp("logs"), monkeypatch) as api,
    ):
        yield Line(api)


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_request_that_the_document_allows_or_forbids_breaks_it(line: Line, name: str) -> None:
    method, path = OPERATIONS[name]
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method]
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=st.one_of([operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]),
        named=st.booleans(),
    )
    def say(case: Any, named: bool) -> None:
        if named:
            case.path_parameters = {key: line.there[key] for key in case.path_parameters or ()}
        sent = case.as_transport_kwargs(base_url=f"http://testserver{wire.MOUNT}", headers=line.login)
        answer = line.client.request(**_of_httpx(sent))
        statuses[answer.status_code] += 1
        if answer.status_code not in OF_THE_SERVER:
            case.validate_response(answer, checks=CHECKS)

    say()
    assert sum(statuses.values()) >= EXAMPLES or not (operation.body or list(operation.iter_parameters()))


def _of_httpx(sent: dict[str, Any]) -> dict[str, Any]:
    """Return what httpx takes of what is made for requests."""
    kept = {key: sent[key] for key in ("method", "url", "params", "headers", "json") if key in sent}
    if sent.get("data") is not None:
        data = sent["data"]
        kept["content" if isinstance(data, str | bytes) else "data"] = data
    return kept
