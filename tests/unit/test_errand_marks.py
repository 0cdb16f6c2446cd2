# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import uuid

import pytest

from airflow_workpools.core.errands import HANDED_OVER, mark_of, worker_of

WORKER = uuid.UUID("3f2a0000-0000-4000-8000-000000000001")


@pytest.mark.parametrize("name", ["embedded@host:12", "with (brackets)", "on\ntwo lines", ""])
def test_a_mark_names_its_worker(name: str) -> None:
    mark = mark_of(WORKER, name)
    assert worker_of(mark) == WORKER
    assert name in mark


@pytest.mark.parametrize(
    "text", ["", HANDED_OVER, "LookupError: nobody", f"With worker x ({'-' * 36})", f"{WORKER}"]
)
def test_other_texts_name_no_worker(text: str) -> None:
    assert worker_of(text) is None
