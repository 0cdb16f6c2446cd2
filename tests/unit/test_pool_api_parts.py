# SPDX-License-Identifier: Apache-2.0
"""The parts of the pool API that need no database: cursors, audit rows, what is kept, percentiles."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from airflow_workpools.api.pools.audit import audit_row
from airflow_workpools.api.pools.job_views import infrastructure_id
from airflow_workpools.api.pools.paging import page_of
from airflow_workpools.api.pools.sparklines import Kept
from airflow_workpools.core.dry_run import fields_of, variables_in
from airflow_workpools.core.templates import BaseJobTemplate
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store.usage import Buckets, percentile

# -- pages ---------------------------------------------------------------------------------------------------


def test_pages_go_on_where_the_last_one_ended_whatever_comes_and_goes() -> None:
    first = page_of(["b", "d", "a", "c"], lambda name: [name], None, 2)
    assert (first.items, first.total) == (["a", "b"], 4)
    second = page_of(["aa", "c", "d", "e"], lambda name: [name], first.next_cursor, 2)
    assert second.items == ["c", "d"]
    third = page_of(["e"], lambda name: [name], second.next_cursor, 2)
    assert (third.items, third.next_cursor) == (["e"], None)


# -- audit rows ----------------------------------------------------------------------------------------------


def test_an_audit_row_has_what_was_said_but_no_values_of_job_variables() -> None:
    body: dict[str, Any] = {
        "concurrency_limit": 3,
        "set_job_variables": {"env": {"A": "geheim"}},
        "base_job_template": {"variables": {"x": "geheim"}},
        "queues": [{"name": "high", "job_variables": {"env": "geheim"}}],
        "description": "x" * 1000,
    }
    row = audit_row("workpools_update", "me", {"pool": "etl"}, body)
    said = json.loads(row.extra)
    assert (row.event, row.owner, said["pool"], said["concurrency_limit"]) == (
        "workpools_update",
        "me",
        "etl",
        3,
    )
    assert said["set_job_variables"] == {"env": "***"}
    assert said["queues"] == [{"name": "high", "job_variables": {"env": "***"}}]
    assert len(said["description"]) == 200
    assert "geheim" not in row.extra


@pytest.mark.parametrize("body", [None, [], "x", 3, {"pool": "other", "a": {"b": {"c": [1]}}}])
def test_whatever_was_said_the_path_says_which_pool(body: Any) -> None:
    assert json.loads(audit_row("e", "me", {"pool": "etl"}, body).extra)["pool"] == "etl"


def test_an_audit_row_is_short() -> None:
    body = {f"key{n}" * 100: "x" * 10_000 for n in range(1000)}
    assert len(audit_row("e", "me", {}, body).extra) < 50 * 500


# -- what is kept --------------------------------------------------------------------------------------------


def test_an_answer_is_asked_for_again_when_it_is_too_old() -> None:
    now = 0.0
    kept: Kept[int] = Kept(10.0, most=2, monotonic=lambda: now)
    asked = iter(range(100))
    assert kept.get("a", lambda: next(asked)) == 0
    now = 9.9
    assert kept.get("a", lambda: next(asked)) == 0
    now = 10.0
    assert kept.get("a", lambda: next(asked)) == 1
    # No more are kept than may be: the oldest goes.
    kept.get("b", lambda: next(asked))
    kept.get("c", lambda: next(asked))
    assert kept.get("a", lambda: next(asked)) == 4
    now = 25.0
    assert kept.get("a", lambda: next(asked), times=2) == 4
    assert kept.get("a", lambda: next(asked)) == 5


def test_one_asks_and_the_others_take_the_old_answer() -> None:
    now = 0.0
    kept: Kept[str] = Kept(10.0, monotonic=lambda: now)
    kept.get("a", lambda: "old")
    now = 20.0
    asking, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        asking.set()
        assert go_on.wait(30)
        return "new"

    thread = threading.Thread(target=lambda: kept.get("a", slow))
    thread.start()
    assert asking.wait(30)
    assert kept.get("a", lambda: "not asked") == "old"
    go_on.set()
    thread.join(30)
    assert kept.get("a", lambda: "not asked") == "new"


def test_a_question_that_fails_is_asked_again() -> None:
    kept: Kept[int] = Kept(10.0)

    def fails() -> int:
        raise LookupError

    with pytest.raises(LookupError):
        kept.get("a", fails)
    assert kept.get("a", lambda: 1) == 1


# -- what is shown -------------------------------------------------------------------------------------------


def test_percentiles_are_values_that_there_are() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0], 0.95) == 3
    assert percentile(range(1, 101), 0.5) == 50
    assert percentile(range(1, 101), 0.95) == 95


def test_buckets_end_now() -> None:
    now = datetime(2026, 3, 4, tzinfo=timezone.utc)
    buckets = Buckets.until_now(now, timedelta(hours=1), 60)
    assert (buckets.since, buckets.until, buckets.seconds) == (now - timedelta(hours=1), now, 60)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ({"process": {"pid": 17}, "directory": "/x"}, "17"),
        ({"container_id": "abc", "name": "n"}, "abc"),
        ({"namespace": "jobs", "name": "n", "uid": "u"}, "jobs/n"),
        ({"arn": "a"}, "a"),
        ({"process": "changed by hand"}, None),
        ({}, None),
    ],
)
def test_an_infrastructure_knows_a_job_by_something(data: dict[str, Any], shown: str | None) -> None:
    assert infrastructure_id(Handle(job_id=UUID(int=1), kind="x", data=data)) == shown


def test_a_field_is_open_to_the_variables_in_it() -> None:
    template = BaseJobTemplate.parse(
        {
            "variables": {"type": "object", "properties": {"a": {}, "b": {}}},
            "job_configuration": {"x": ["{{ a }}-{{ b.c }}-{{ a }}", 1], "y": {}, "z": "{{ $HOME }}"},
        }
    )
    fields = {field.path: field.variables for field in fields_of(template)}
    assert fields == {("x", 0): ("a", "b"), ("x", 1): (), ("y",): (), ("z",): ()}
    assert variables_in(template.job_configuration) == ["a", "b"]
