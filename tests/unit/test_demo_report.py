# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.cli.demo_report import (
    Interval,
    Limits,
    max_concurrency,
    order_of_starts,
    problems,
    summarise,
)

TIMES = st.integers(0, 50)
INTERVALS = st.lists(
    st.builds(
        lambda start, length, queue, slots: Interval(start, start + length, queue, slots),
        TIMES,
        st.integers(1, 20),
        st.sampled_from("abc"),
        st.integers(1, 3),
    )
)


@given(INTERVALS)
def test_the_highest_concurrency_is_the_highest_count_at_any_moment(intervals: list[Interval]) -> None:
    at_each_start = [
        sum(other.slots for other in intervals if other.start <= moment.start < other.end)
        for moment in intervals
    ]
    assert max_concurrency(intervals) == max(at_each_start, default=0)


def test_a_slot_given_back_and_taken_in_the_same_instant_counts_once() -> None:
    assert max_concurrency([Interval(0, 1, "a"), Interval(1, 2, "a"), Interval(0, 1, "a")]) == 2


def test_a_task_that_takes_two_slots_counts_twice() -> None:
    assert max_concurrency([Interval(0, 2, "a", 2), Interval(1, 3, "b")]) == 3


def test_the_report_has_exactly_the_agreed_form() -> None:
    intervals = [Interval(10, 13, "low"), Interval(10.5, 13.25, "low"), Interval(11, 12, "critical")]
    report = summarise(intervals, tasks=3, succeeded=3, limits=Limits(3, {"critical": 1, "high": 3}))
    assert report.to_json() == {
        "tasks": 3,
        "succeeded": 3,
        "wall_seconds": 3.25,
        "limits": {"pool": 3, "queues": {"critical": 1, "high": 3}},
        "max_running": {"pool": 3, "queues": {"critical": 1, "high": 0, "low": 2}},
    }
    assert problems(report, expected_tasks=3) == []


@pytest.mark.parametrize(
    ("intervals", "succeeded", "said"),
    [
        ([Interval(0, 1, "low")] * 2, 1, "2 tasks should have succeeded, 1 of 2 did"),
        ([Interval(0, 1, "low")] * 3, 2, "the pool ran 3 tasks at once, its limit is 2"),
        ([Interval(0, 1, "critical")] * 2, 2, "queue 'critical' ran 2 tasks at once, its limit is 1"),
        ([Interval(0, 1, "low"), Interval(1, 2, "low")], 2, "never full: at most 1 of 2"),
        ([], 2, "never full: at most 0 of 2"),
    ],
)
def test_what_went_wrong_is_said(intervals: list[Interval], succeeded: int, said: str) -> None:
    report = summarise(intervals, tasks=2, succeeded=succeeded, limits=Limits(2, {"critical": 1}))
    assert said in "; ".join(problems(report, expected_tasks=2))


def test_a_lost_task_is_a_problem_even_if_all_that_are_left_succeeded() -> None:
    report = summarise([Interval(0, 1, "low")], tasks=1, succeeded=1, limits=Limits(1, {}))
    assert problems(report, expected_tasks=2) == ["2 tasks should have succeeded, 1 of 1 did"]


def test_the_order_of_starts_is_told_in_runs_of_one_queue() -> None:
    intervals = [
        Interval(3, 4, "low"),
        Interval(1, 9, "low"),
        Interval(2, 3, "critical"),
        Interval(1.5, 2, "low"),
    ]
    assert order_of_starts(intervals) == "2 low, 1 critical, 1 low"
