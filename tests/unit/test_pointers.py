# SPDX-License-Identifier: Apache-2.0
"""JSON pointers: the same places as the paths that people read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.core.json_values import json_path
from airflow_workpools.core.pointers import place_in, pointer

steps = st.lists(st.text(max_size=8) | st.integers(0, 10**6), max_size=5)


@given(steps, st.sampled_from([" is missing", ": {{ x }} is not declared", ""]))
def test_the_place_at_the_beginning_of_a_problem_is_found(path: list[str | int], rest: str) -> None:
    problem = json_path(path) + (rest or " must be text")
    assert place_in(problem) == (pointer(path), problem)
    assert place_in(f"base_job_template: {problem}")[0] == pointer(path)


def test_a_problem_without_a_place_has_none() -> None:
    for problem in ("job variable 'a' is required", "", "$", "$HOME is no place", "costs $.5"):
        assert place_in(problem) == (None, problem)


def test_what_separates_steps_is_escaped() -> None:
    assert pointer(["a/b", "m~n", 0]) == "/a~1b/m~0n/0"
    assert pointer([]) == ""
