# SPDX-License-Identifier: Apache-2.0
"""Slots that are offered and not taken: simulated schedulers, round by round."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.core.slots import QueueLoad, airflow_slots
from airflow_workpools.core.untaken import Offer, Offers


@dataclass
class Queue:
    """A queue whose tasks Airflow lets run only so many at a time."""

    priority: int
    waiting: int
    may_run: int
    task_seconds: int = 1_000_000
    running: list[int] = field(default_factory=list)
    """When each ends."""
    slots: int = 0
    started: int = 0

    def step(self, now: int) -> None:
        self.running = [end for end in self.running if end > now]
        new = max(0, min(self.waiting, self.slots - len(self.running), self.may_run - len(self.running)))
        self.running += [now + self.task_seconds] * new
        self.waiting -= new
        self.started += new


class Simulation:
    """Allocates and hands over in turns, once a second."""

    def __init__(self, limit: int, **queues: Queue) -> None:
        self.limit = limit
        self.queues = queues
        self.offers = Offers()
        self.now = 0

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.allocate()
            for queue in self.queues.values():
                queue.step(self.now)
            assert sum(len(queue.running) for queue in self.queues.values()) <= self.limit
            self.now += 1

    def allocate(self) -> None:
        rooms = self.offers.rooms(
            {
                name: Offer(slots=queue.slots, occupied=len(queue.running), demand=queue.waiting)
                for name, queue in self.queues.items()
                if queue.waiting
            },
            monotonic=self.now,
        )
        loads = [
            QueueLoad(
                name=name,
                priority=queue.priority,
                limit=None,
                open=True,
                demand=min(queue.waiting, rooms.get(name, queue.waiting)),
                occupied=len(queue.running),
            )
            for name, queue in self.queues.items()
        ]
        for name, slots in airflow_slots(self.limit, loads).items():
            self.queues[name].slots = slots


def test_slots_that_a_queue_can_not_use_go_to_the_one_behind_it() -> None:
    simulation = Simulation(10, high=Queue(1, waiting=100, may_run=1), low=Queue(2, waiting=100, may_run=100))
    simulation.run(5)
    assert len(simulation.queues["low"].running) == 0, "at first the higher queue is believed"
    simulation.run(25)
    assert len(simulation.queues["high"].running) == 1
    assert len(simulation.queues["low"].running) == 9


def test_even_the_only_slot_of_a_pool_goes_on() -> None:
    simulation = Simulation(
        1, high=Queue(1, waiting=5, may_run=0), low=Queue(2, waiting=1000, may_run=1, task_seconds=1)
    )
    simulation.run(100)
    assert simulation.queues["low"].started >= 65


def test_a_queue_keeps_what_it_uses() -> None:
    high = Queue(1, waiting=100, may_run=3, task_seconds=4)
    simulation = Simulation(10, high=high, low=Queue(2, waiting=500, may_run=100, task_seconds=3))
    simulation.run(40)
    before = high.started
    simulation.run(40)
    assert high.started - before >= 3 * 40 // 4 - 3, "three at a time, as fast as they end"


def test_a_queue_that_can_use_more_again_gets_it_before_those_behind_it() -> None:
    high = Queue(1, waiting=100, may_run=1)
    simulation = Simulation(10, high=high, low=Queue(2, waiting=1000, may_run=100, task_seconds=2))
    simulation.run(40)
    assert len(high.running) == 1
    high.may_run = 100
    simulation.run(30)
    assert len(high.running) == 10


def test_a_new_task_of_a_doubted_queue_gets_the_next_slot() -> None:
    high = Queue(1, waiting=100, may_run=1)
    simulation = Simulation(10, high=high, low=Queue(2, waiting=1000, may_run=100, task_seconds=2))
    simulation.run(31)
    assert len(high.running) == 1
    high.waiting += 1
    high.may_run += 1
    simulation.run(4)
    assert len(high.running) == 2


@given(
    limit=st.integers(1, 6),
    may_run=st.integers(0, 6),
    seconds=st.integers(1, 5),
)
def test_the_pool_is_never_left_idle_for_long(limit: int, may_run: int, seconds: int) -> None:
    high = Queue(1, waiting=10_000, may_run=may_run)
    low = Queue(2, waiting=10_000, may_run=100, task_seconds=seconds)
    simulation = Simulation(limit, high=high, low=low)
    simulation.run(30)
    used = 0
    for _ in range(60):
        simulation.run(1)
        used += len(high.running) + len(low.running)
    # Every twenty seconds one slot is offered in vain, for three looks and those before it is seen to be open.
    assert used >= 60 * limit - 3 * 6


@pytest.mark.parametrize("seconds", [4, 40])
def test_a_scheduler_that_was_busy_says_nothing_about_a_queue(seconds: int) -> None:
    offers = Offers(span_seconds=5, looks=3)
    offer = {"high": Offer(slots=5, occupied=0, demand=9)}
    for number in range(5 if seconds == 4 else 50):
        assert offers.rooms(offer, monotonic=1000.0 + seconds * number) == {}


def test_a_task_too_big_for_what_is_open_was_never_offered_anything() -> None:
    offers = Offers()
    for second in range(100):
        assert (
            offers.rooms({"high": Offer(slots=3, occupied=0, demand=9, next_slots=4)}, monotonic=second) == {}
        )


def test_a_queue_without_waiting_tasks_is_forgotten() -> None:
    offers = Offers()
    offer = {"high": Offer(slots=3, occupied=0, demand=9, next_slots=1)}
    for second in range(20):
        offers.rooms(offer, monotonic=second)
    assert offers.rooms(offer, monotonic=20) != {}
    offers.rooms({}, monotonic=21)
    assert offers.rooms(offer, monotonic=22) == {}
