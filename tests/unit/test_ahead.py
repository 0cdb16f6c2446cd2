# SPDX-License-Identifier: Apache-2.0
"""Handing over a little ahead: how much, and that it changes neither limits nor who goes first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.core.ahead import looking_ahead, slots_ahead
from airflow_workpools.core.slots import QueueLoad, airflow_slots
from tests.unit.test_slots import queue_loads


@pytest.mark.parametrize(
    ("ended", "limit", "expected"),
    [(0, 10, 0), (1, 10, 1), (4, 10, 4), (8, 10, 8), (10, 10, 8), (11, 10, 10), (99, 10, 10), (9, 0, 0)],
)
def test_as_much_is_handed_over_ahead_as_will_end_until_the_next_look(
    ended: int, limit: int, expected: int
) -> None:
    assert slots_ahead(ended, idle_seconds=1.0, limit=limit) == expected


def test_a_scheduler_that_looks_more_often_hands_less_over_ahead() -> None:
    assert [slots_ahead(16, idle_seconds=seconds, limit=99) for seconds in (0.0, 1.0, 5.0)] == [4, 16, 64]


def load(name: str, priority: int, occupied: int, demand: int, limit: int | None = None) -> QueueLoad:
    return QueueLoad(name=name, priority=priority, limit=limit, open=True, demand=demand, occupied=occupied)


def test_what_was_handed_over_ahead_keeps_no_slot_from_a_queue_of_higher_priority() -> None:
    low = looking_ahead(load("low", 10, occupied=18, demand=40), ahead=0, unclaimed=8)
    assert airflow_slots(10 + 8, [load("critical", 1, 0, 0), low]) == {"critical": 0, "low": 18}
    assert airflow_slots(10 + 8, [load("critical", 1, 0, 1), low]) == {"critical": 1, "low": 17}


def test_a_queue_with_a_limit_of_its_own_goes_beyond_it_by_what_ends_in_it() -> None:
    high = looking_ahead(load("high", 5, occupied=3, demand=9, limit=3), ahead=2, unclaimed=0)
    assert airflow_slots(10 + 4, [high, load("low", 10, 7, 9)]) == {"high": 5, "low": 9}


def test_slots_are_kept_for_an_overdue_task_beside_those_of_what_was_handed_over_ahead() -> None:
    waiting = replace(load("low", 1, occupied=6, demand=9), overdue_slots=3)
    seen = looking_ahead(waiting, ahead=0, unclaimed=2)
    assert airflow_slots(6 + 3, [seen]) == {"low": 9}
    assert airflow_slots(6 + 2, [seen])["low"] <= 6  # two are not enough, and stay closed to smaller tasks


def test_a_queue_that_is_closed_gets_nothing() -> None:
    closed = replace(load("low", 1, occupied=6, demand=9), open=False)
    assert airflow_slots(9, [looking_ahead(closed, ahead=3, unclaimed=2)]) == {"low": 0}


@given(st.integers(0, 20), st.integers(0, 20), queue_loads(most_next_slots=4), st.data())
def test_beyond_what_runs_no_more_is_open_than_the_pool_allows_and_what_may_be_handed_over_ahead(
    limit: int, ahead: int, queues: list[QueueLoad], data: st.DataObject
) -> None:
    seen = [
        looking_ahead(
            queue, ahead=data.draw(st.integers(0, 5)), unclaimed=data.draw(st.integers(0, queue.occupied))
        )
        for queue in queues
    ]
    running = {queue.name: queue.occupied for queue in seen}
    slots = airflow_slots(limit + ahead, seen)
    most = max(limit + ahead, sum(running.values()))
    assert sum(max(slots[name], running[name]) for name in running) <= most
