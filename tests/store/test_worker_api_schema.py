# SPDX-License-Identifier: Apache-2.0
"""schemathesis over the committed document of the worker API: no 5xx, and no answer that the document does not have.

Beside our own attack (``test_worker_api_fuzz``), which knows what a worker has and so gets further in: this one knows
what goes wrong with APIs in general.
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

from airflow_workpools import __version__
from airflow_workpools.api import wire
from tests.store.rigs import sql_rig
from tests.store.worker_api import Api, pull_pool, serving

DOCUMENT = json.loads(files("airflow_workpools.api").joinpath("openapi/worker-v1.json").read_text())
CALLS = sorted(path.removeprefix(f"{wire.PATH}/") for path in DOCUMENT["paths"])
EXAMPLES = 25
LONGEST_WAIT_SECONDS = 0.05


@pytest.fixture(scope="module")
def api(sqlite_engine: sa.Engine) -> Iterator[Api]:
    rig = sql_rig(sqlite_engine)
    with serving(rig, rig.airflow.session, etl=pull_pool()) as api:
        yield api


@pytest.fixture(scope="module")
def headers(api: Api) -> dict[str, str]:
    return {"Authorization": f"Bearer {api.token('etl')}", wire.VERSION_HEADER: __version__}


@pytest.mark.parametrize("call", CALLS)
def test_no_request_that_the_document_allows_or_forbids_breaks_it(
    api: Api, headers: dict[str, str], call: str
) -> None:
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    operation = schema[f"{wire.PATH}/{call}"]["POST"]
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=st.one_of([operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode])
    )
    def say(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("seconds"), int | float):
            case.body["seconds"] = min(case.body["seconds"], LONGEST_WAIT_SECONDS)
        response = case.call(base_url=f"{api.url}{wire.MOUNT}", headers=headers)
        statuses[response.status_code] += 1
        case.validate_response(
            response, checks=[checks.not_a_server_error, checks.response_schema_conformance]
        )

    say()
    assert sum(statuses.values()) >= EXAMPLES
