# SPDX-License-Identifier: Apache-2.0
"""The document of the worker API is that of its code, and its reference page names every call."""

from __future__ import annotations

import json
import re

from airflow_workpools.api.app import openapi_document
from airflow_workpools.api.wire import MOUNT, PATH, ProblemCode
from tests.unit.test_docs import ROOT

COMMITTED = ROOT / "airflow_workpools/api/openapi/worker-v1.json"
PAGE = (ROOT / "docs/reference/worker-api.md").read_text()


def test_the_committed_document_is_that_of_the_code() -> None:
    # Otherwise: make openapi, and look at the difference: an older worker has to understand it.
    assert json.loads(COMMITTED.read_text()) == json.loads(json.dumps(openapi_document()))


def test_the_reference_page_has_every_call_and_every_refusal() -> None:
    calls = {path.removeprefix(f"{PATH}/") for path in openapi_document()["paths"]}
    listed = PAGE.split("## Every request")[0]
    assert f"{MOUNT}{PATH}/" in listed
    rows = [row.split("|")[1] for row in listed.splitlines() if row.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == calls
    refusals = re.findall(r"^\| (\d+) \| `(\w+)`", PAGE, re.MULTILINE)
    assert {code for _, code in refusals} == {code.value for code in ProblemCode}
    some = next(iter(openapi_document()["paths"].values()))["post"]["responses"]
    assert {status for status, _ in refusals} == set(some) - {"200"}
