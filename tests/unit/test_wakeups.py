# SPDX-License-Identifier: Apache-2.0
"""Who of the workers that wait is woken."""

from __future__ import annotations

import uuid

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.wakeups import Waiter, Wakeups

ETL, HIGH = WorkQueueRef("etl"), WorkQueueRef("etl", "high")


def waiters(count: int, *, most: int = 1, queues: frozenset[str] | None = None) -> list[Waiter]:
    return [
        Waiter(worker_id=uuid.uuid4(), pools=frozenset({"etl"}), queues=queues, most=most)
        for _ in range(count)
    ]


def test_for_new_work_as_many_are_woken_as_can_take_it_the_longest_waiting_first() -> None:
    wakeups, some = Wakeups(), waiters(5, most=2)
    assert wakeups.choose({ETL: 3}, some, 0) == some[:2]
    assert wakeups.choose({ETL: 3}, some[2:], 0.01) == []
    assert wakeups.choose({ETL: 4}, some[2:], 0.02) == [some[2]]


def test_work_that_nobody_takes_is_tried_by_one_at_growing_intervals() -> None:
    wakeups, some = Wakeups(), waiters(100)
    wakeups.choose({ETL: 50}, some, 0)
    woken = [len(wakeups.choose({ETL: 50}, some, step / 4)) for step in range(1, 41)]
    assert set(woken) <= {0, 1}
    assert 10 <= sum(woken) <= 14


def test_when_some_was_taken_somebody_tries_at_once() -> None:
    wakeups, some = Wakeups(), waiters(3)
    wakeups.choose({ETL: 9}, some, 0)
    for now in (0.25, 0.5, 1.0):
        wakeups.choose({ETL: 9}, some, now)
    assert wakeups.choose({ETL: 9}, some, 1.1) == []
    assert wakeups.choose({ETL: 8}, some, 1.2) == [some[0]]


def test_who_wants_nothing_of_it_is_not_woken_and_it_is_kept_for_who_does() -> None:
    wakeups, others = Wakeups(), waiters(1, queues=frozenset({"etl/high"}))
    assert wakeups.choose({ETL: 1}, others, 0) == []
    assert wakeups.choose({ETL: 1}, waiters(1, most=0), 0) == []
    some = waiters(1)
    assert wakeups.choose({ETL: 1}, some, 0.1) == some
    assert wakeups.choose({ETL: 1, HIGH: 1}, others, 0.2) == others


def test_work_that_comes_again_after_there_was_none_is_new() -> None:
    wakeups, some = Wakeups(), waiters(1)
    assert wakeups.choose({ETL: 1}, some, 0) == some
    assert wakeups.choose({}, some, 0.1) == []
    assert wakeups.choose({ETL: 1}, some, 0.2) == some
