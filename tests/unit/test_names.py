# SPDX-License-Identifier: Apache-2.0
"""Names of work pools and work queues, and the Airflow pools that stand for them."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.core.names import (
    DEFAULT_QUEUE,
    MAX_NAME_LENGTH,
    WorkQueueRef,
    airflow_pool_description,
    is_managed_description,
    name_problem,
)
from airflow_workpools.errors import InvalidInput

names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,20}[A-Za-z0-9])?", fullmatch=True)
refs = st.builds(WorkQueueRef, names, names)


@given(refs)
def test_what_a_reference_says_is_read_back_as_the_same_reference(ref):
    assert WorkQueueRef.parse(str(ref)) == ref


@given(names)
def test_a_pool_alone_means_its_default_queue(pool):
    assert WorkQueueRef.parse(pool) == WorkQueueRef(pool, DEFAULT_QUEUE)


@given(refs, refs)
def test_two_queues_never_share_an_airflow_pool(one, other):
    assert (one.airflow_pool == other.airflow_pool) == (one == other)


def test_the_default_queues_airflow_pool_is_named_like_the_work_pool():
    assert WorkQueueRef("etl").airflow_pool == "etl"
    assert WorkQueueRef("etl", "critical").airflow_pool == "etl.critical"


@given(st.text(alphabet=string.printable, max_size=12))
def test_a_name_is_either_fit_for_labels_and_references_or_its_problem_is_told(text):
    problem = name_problem(text, what="work pool")
    if problem is None:
        assert WorkQueueRef.parse(f"{text}/{text}") == WorkQueueRef(text, text)
        assert text.isascii()
        assert text.replace("-", "").replace("_", "").isalnum()
    else:
        assert problem.startswith("work pool")


@pytest.mark.parametrize("wrong", ["a/b", "a.b", "-a", "a-", "_a", "a b", "ä", "a\n", "{{x}}"])
def test_a_name_that_is_not_allowed_is_quoted_with_what_is(wrong):
    problem = name_problem(wrong, what="work queue")
    assert repr(wrong) in problem
    assert "letters, digits, '-' and '_'" in problem


@pytest.mark.parametrize("missing", ["", None, 3, ["a"]])
def test_no_text_is_no_name(missing):
    assert name_problem(missing, what="work pool") == "work pool has no name"


def test_a_name_may_be_as_long_as_a_label_and_no_longer():
    assert name_problem("x" * MAX_NAME_LENGTH, what="work pool") is None
    problem = name_problem("x" * (MAX_NAME_LENGTH + 1), what="work pool")
    assert f"has {MAX_NAME_LENGTH + 1} characters; at most {MAX_NAME_LENGTH}" in problem


def test_a_reference_with_two_wrong_names_tells_both():
    with pytest.raises(InvalidInput) as caught:
        WorkQueueRef.parse("a b/c d")
    assert len(caught.value.problems) == 2
    assert all("'a b/c d'" in problem for problem in caught.value.problems)


@pytest.mark.parametrize("wrong", ["", "/", "etl/", "/critical", "a/b/c", None, 5])
def test_what_is_no_reference_is_refused(wrong):
    with pytest.raises(InvalidInput, match="work queue"):
        WorkQueueRef.parse(wrong)


def test_references_sort_by_pool_and_queue_and_serve_as_keys():
    one, other = WorkQueueRef("a", "z"), WorkQueueRef("b", "a")
    assert sorted([other, one]) == [one, other]
    assert {one: 1}[WorkQueueRef("a", "z")] == 1


@given(refs)
def test_an_airflow_pool_made_for_a_queue_is_known_by_its_description(ref):
    assert is_managed_description(airflow_pool_description(ref))


@pytest.mark.parametrize("theirs", [None, "", "Database connections", "Work queue of the night shift"])
def test_an_airflow_pool_described_by_a_person_is_not_taken_for_ours(theirs):
    assert not is_managed_description(theirs)
