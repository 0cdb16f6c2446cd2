# SPDX-License-Identifier: Apache-2.0
"""The documents of the APIs are those of their code, and the reference pages name every call."""

from __future__ import annotations

import json
import re

import pytest

from airflow_workpools.api.app import openapi_document
from airflow_workpools.api.wire import MOUNT, PATH, ProblemCode
from tests.unit.test_docs import ROOT
from tools.openapi import DOCUMENTS, FOLDER

PAGE = (ROOT / "docs/reference/worker-api.md").read_text()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_committed_document_is_that_of_the_code(name: str) -> None:
    # Otherwise: make openapi, and look at the difference: an older worker, or the UI, has to understand it.
    assert json.loads((FOLDER / name).read_text()) == json.loads(json.dumps(DOCUMENTS[name]()))


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
