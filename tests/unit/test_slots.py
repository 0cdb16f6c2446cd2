# SPDX-License-Identifier: Apache-2.0
"""Who gets a slot: the promises of the waterfall, for arbitrary pools, and the example of the reference."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import combinations
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.core.slots import (
    UNLIMITED_SLOTS,
    QueueLoad,
    WaitingJob,
    airflow_slots,
    allocate,
)
from airflow_workpools.core.slots import choose as choose_now

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
LONG_AGO = NOON - timedelta(days=9)
NO_LIMIT = 10**9

small = st.integers(0, 9)
limits = st.none() | small
pool_limits = st.none() | st.integers(0, 25)


@st.composite
def queue_loads(draw: st.DrawFn, *, most_next_slots: int = 1) -> list[QueueLoad]:
    priorities = draw(st.lists(st.integers(1, 30), min_size=1, max_size=5, unique=True))
    return [
        QueueLoad(
            name=f"queue-{priority}",
            priority=priority,
            limit=draw(limits),
            open=draw(st.booleans()),
            demand=draw(small),
            occupied=draw(small),
            next_slots=draw(st.integers(1, most_next_slots)),
            overdue_slots=draw(st.integers(0, most_next_slots)) if most_next_slots > 1 else 0,
        )
        for priority in priorities
    ]


@st.composite
def waiting_jobs(draw: st.DrawFn, queues: list[QueueLoad], *, most_slots: int) -> list[WaitingJob]:
    count = draw(st.integers(0, 15))
    return [
        WaitingJob(
            id=UUID(int=number),
            queue=draw(st.sampled_from(queues)).name,
            priority_weight=draw(st.integers(-2, 2)),
            slots=draw(st.integers(1, most_slots)),
            handed_over_at=NOON + timedelta(seconds=draw(st.integers(0, 3)) * 50),
        )
        for number in draw(st.permutations(range(count)))
    ]


def choose(
    waiting: list[WaitingJob], *, overdue_since: datetime = LONG_AGO, **given: Any
) -> list[WaitingJob]:
    """Choose jobs; where nothing else is said, none has waited for long."""
    return choose_now(waiting, overdue_since=overdue_since, **given)


def number(limit: int | None) -> int:
    return NO_LIMIT if limit is None else limit


def wanted(queue: QueueLoad) -> int:
    return min(number(queue.limit), queue.occupied + queue.demand) if queue.open else 0


def by_priority(queues: list[QueueLoad]) -> list[QueueLoad]:
    return sorted(queues, key=lambda queue: queue.priority)


def used(queues: list[QueueLoad], slots: dict[str, int]) -> int:
    return sum(max(slots[queue.name], queue.occupied) for queue in queues)


class TestAllocate:
    @given(pool_limits, queue_loads())
    def test_no_share_exceeds_the_queues_limit_or_what_it_wants_and_together_not_the_pools(
        self, limit, queues
    ):
        shares = allocate(limit, queues)
        assert all(0 <= shares[queue.name] <= wanted(queue) for queue in queues)
        assert sum(shares.values()) <= number(limit)

    @given(pool_limits, queue_loads())
    def test_a_queue_that_gets_less_than_it_wants_leaves_nothing_to_lower_ones(self, limit, queues):
        shares = allocate(limit, queues)
        short = False
        for queue in by_priority(queues):
            assert not (short and shares[queue.name])
            short = short or shares[queue.name] < wanted(queue)

    @given(pool_limits, queue_loads())
    def test_shares_come_in_priority_order_whatever_the_order_of_the_queues(self, limit, queues):
        shares = allocate(limit, queues)
        assert list(shares) == [queue.name for queue in by_priority(queues)]
        assert shares == allocate(limit, list(reversed(queues)))

    @given(queue_loads())
    def test_without_a_limit_of_the_pool_every_open_queue_gets_what_it_wants(self, queues):
        assert allocate(None, queues) == {queue.name: wanted(queue) for queue in by_priority(queues)}


class TestAirflowSlots:
    @given(st.integers(0, 40), queue_loads(most_next_slots=5))
    def test_slots_and_what_is_occupied_never_exceed_the_pools_limit(self, limit, queues):
        slots = airflow_slots(limit, queues)
        occupied = sum(queue.occupied for queue in queues)
        assert used(queues, slots) <= max(limit, occupied)

    @given(pool_limits, queue_loads(most_next_slots=5))
    def test_no_queue_grows_beyond_its_limit_and_closed_ones_get_nothing(self, limit, queues):
        slots = airflow_slots(limit, queues)
        for queue in queues:
            if not queue.open:
                assert slots[queue.name] == 0
            elif queue.limit is not None:
                assert 0 <= slots[queue.name] <= queue.limit

    @given(pool_limits, queue_loads(most_next_slots=5))
    def test_a_queue_that_holds_more_than_its_share_gets_its_share(self, limit, queues):
        slots, shares = airflow_slots(limit, queues), allocate(limit, queues)
        for queue in queues:
            if shares[queue.name] < queue.occupied:
                assert slots[queue.name] == shares[queue.name]

    @given(st.integers(0, 40), queue_loads())
    def test_a_free_slot_never_goes_to_a_lower_queue_while_a_higher_one_that_may_run_waits(
        self, limit, queues
    ):
        slots = airflow_slots(limit, queues)
        for higher, lower in combinations(by_priority(queues), 2):
            if slots[higher.name] < wanted(higher):
                assert slots[lower.name] <= lower.occupied

    @given(st.integers(0, 40), queue_loads(most_next_slots=5))
    def test_what_a_higher_queue_wants_is_out_of_reach_even_while_it_is_kept_together(self, limit, queues):
        slots = airflow_slots(limit, queues)
        reach = limit - sum(queue.occupied for queue in queues)
        for queue in by_priority(queues):
            assert slots[queue.name] - queue.occupied <= max(0, reach)
            reach -= max(0, wanted(queue) - queue.occupied)

    @given(st.integers(0, 40), queue_loads())
    def test_no_slot_stays_free_while_a_task_that_may_run_waits(self, limit, queues):
        slots = airflow_slots(limit, queues)
        if any(slots[queue.name] < wanted(queue) for queue in queues):
            assert used(queues, slots) >= limit

    @given(st.integers(0, 40), queue_loads())
    def test_all_that_nobody_wants_is_headroom(self, limit, queues):
        slots, shares = airflow_slots(limit, queues), allocate(limit, queues)
        takers = [queue for queue in queues if queue.open and shares[queue.name] >= queue.occupied]
        if used(queues, slots) < limit:
            assert all(slots[queue.name] == queue.limit for queue in takers)

    def test_headroom_is_a_slot_each_first_and_then_for_the_highest_that_may_take_more(self):
        first = load("first", 1, limit=3)
        second, third = load("second", 2), load("third", 3)
        assert airflow_slots(2, [first, second, third]) == {"first": 1, "second": 1, "third": 0}
        assert airflow_slots(4, [first, second, third]) == {"first": 2, "second": 1, "third": 1}
        assert airflow_slots(9, [first, second, third]) == {"first": 3, "second": 5, "third": 1}

    def test_unlimited_is_said_as_airflow_says_it_but_never_of_a_closed_queue(self):
        queues = [load("free", 1), load("limited", 2, limit=4), load("closed", 3, open=False, occupied=2)]
        assert airflow_slots(None, queues) == {"free": UNLIMITED_SLOTS, "limited": 4, "closed": 0}

    def test_an_unlimited_queue_in_a_limited_pool_is_not_unlimited(self):
        assert airflow_slots(7, [load("only", 1, demand=100)]) == {"only": 7}

    def test_a_limit_of_zero_delivers_nothing(self):
        assert airflow_slots(0, [load("a", 1, demand=5, occupied=2)]) == {"a": 0}
        assert airflow_slots(9, [load("a", 1, demand=5, limit=0)]) == {"a": 0}

    def test_nothing_grows_after_the_limit_was_lowered_below_what_runs(self):
        queues = [load("high", 1, demand=5, occupied=2), load("low", 2, demand=5, occupied=6)]
        assert airflow_slots(5, queues) == {"high": 2, "low": 0}

    def test_slots_are_kept_together_for_a_big_task_instead_of_starving_it(self):
        queues = [
            load("high", 1, demand=4, occupied=0, next_slots=4),
            load("low", 2, demand=9, occupied=7),
        ]
        assert airflow_slots(10, queues) == {"high": 0, "low": 6}
        queues[1] = replace(queues[1], occupied=6)
        assert airflow_slots(10, queues) == {"high": 4, "low": 6}

    def test_small_tasks_of_its_own_queue_do_not_starve_a_big_one_either(self):
        only = load("only", 1, demand=9, occupied=8, next_slots=4)
        assert airflow_slots(10, [only]) == {"only": 8}
        assert airflow_slots(None, [replace(only, limit=10)]) == {"only": 8}
        assert airflow_slots(10, [replace(only, occupied=6)]) == {"only": 10}

    def test_slots_are_kept_for_an_overdue_task_though_a_smaller_one_could_have_them(self):
        only = load("only", 1, demand=9, occupied=8, overdue_slots=4)
        assert airflow_slots(10, [only]) == {"only": 6}
        assert airflow_slots(10, [replace(only, overdue_slots=0)]) == {"only": 10}
        assert airflow_slots(10, [replace(only, occupied=6)]) == {"only": 10}

    def test_but_not_while_higher_queues_leave_no_share_that_could_hold_it(self):
        high = load("high", 1, occupied=7)
        low = load("low", 2, demand=9, occupied=2, overdue_slots=4)
        assert airflow_slots(10, [high, low]) == {"high": 7, "low": 3}
        assert airflow_slots(10, [replace(high, occupied=6), low]) == {"high": 6, "low": 0}

    @pytest.mark.parametrize("ends_at_a_time", [1, 2, 3])
    def test_a_stream_of_small_tasks_cannot_starve_an_overdue_one(self, ends_at_a_time):
        """Airflow fills what is open at once: also what came free since the slots were set."""
        small, slots = 4, 4
        for _ in range(10):
            slots = airflow_slots(4, [load("only", 1, demand=9, occupied=small, overdue_slots=3)])["only"]
            small -= min(small, ends_at_a_time)
            if slots - small >= 3:
                return
            small = max(small, slots)
        pytest.fail("the large task never started")

    def test_nor_for_one_that_is_bigger_than_a_limit(self):
        only = load("only", 1, demand=9, occupied=1, overdue_slots=4)
        assert airflow_slots(10, [replace(only, limit=3)]) == {"only": 3}
        assert airflow_slots(3, [only]) == {"only": 3}

    def test_a_task_too_big_to_run_ever_keeps_no_slots(self):
        assert airflow_slots(10, [load("only", 1, limit=3, demand=9, occupied=1, next_slots=4)]) == {
            "only": 3
        }


def load(name: str, priority: int, **changes: object) -> QueueLoad:
    plain = QueueLoad(name=name, priority=priority, limit=None, open=True, demand=0, occupied=0)
    return replace(plain, **changes)  # type: ignore[arg-type]


class Airflow:
    """As much of Airflow as gate 1 is about: pools with slots, waiting and running tasks of one slot each."""

    def __init__(self, limit: int | None, *queues: QueueLoad) -> None:
        self.limit = limit
        self.queues = {queue.name: queue for queue in queues}
        self.started: list[str] = []
        self.most: Counter[str] = Counter()

    @property
    def running(self) -> dict[str, int]:
        return {name: queue.occupied for name, queue in self.queues.items()}

    def change(self, name: str, **changes: object) -> None:
        self.queues[name] = replace(self.queues[name], **changes)  # type: ignore[arg-type]

    def schedule(self) -> None:
        """Allocate slots and start what has one; lowest priority first, for the order must not matter."""
        slots = airflow_slots(self.limit, list(self.queues.values()))
        for name, queue in sorted(self.queues.items(), key=lambda item: -item[1].priority):
            open_slots = queue.demand if slots[name] == UNLIMITED_SLOTS else slots[name] - queue.occupied
            starting = max(0, min(queue.demand, open_slots))
            self.change(name, demand=queue.demand - starting, occupied=queue.occupied + starting)
            self.started += [name] * starting
            self.most[name] = max(self.most[name], self.queues[name].occupied)
        self.most["all"] = max(self.most["all"], sum(self.running.values()))

    def end(self, name: str) -> None:
        self.change(name, occupied=self.queues[name].occupied - 1)

    @property
    def busy(self) -> bool:
        return any(queue.demand or queue.occupied for queue in self.queues.values())


def reference(**demand: int) -> Airflow:
    """The example of the reference: limit 10; low 10, high 5 limited to 3, critical 1 limited to 1."""
    return Airflow(
        10,
        load("low", 10, demand=demand.get("low", 0)),
        load("high", 5, limit=3, demand=demand.get("high", 0)),
        load("critical", 1, limit=1, demand=demand.get("critical", 0)),
    )


class TestTheExampleOfTheReference:
    def test_with_all_three_full_one_critical_three_high_and_six_low_run(self):
        airflow = reference(low=40, high=9, critical=3)
        airflow.schedule()
        assert airflow.running == {"critical": 1, "high": 3, "low": 6}

    @pytest.mark.parametrize("seed", range(20))
    def test_it_stays_so_until_the_work_is_done_in_whatever_order_tasks_end(self, seed):
        airflow, chance = reference(low=40, high=9, critical=3), random.Random(seed)
        while airflow.busy:
            airflow.schedule()
            airflow.end(chance.choice([name for name, count in airflow.running.items() if count]))
        assert airflow.most == {"all": 10, "high": 3, "critical": 1, "low": 10}

    def test_a_critical_task_that_arrives_when_all_slots_are_taken_gets_the_next_free_one(self):
        airflow = reference(low=40)
        airflow.schedule()
        assert airflow.running["low"] == 10
        airflow.change("critical", demand=1)
        airflow.schedule()
        assert airflow.running == {"critical": 0, "high": 0, "low": 10}
        airflow.end("low")
        airflow.schedule()
        assert airflow.running == {"critical": 1, "high": 0, "low": 9}

    def test_high_tasks_that_arrive_when_low_has_everything_take_over_slot_by_slot(self):
        airflow = reference(low=40)
        airflow.schedule()
        airflow.change("high", demand=5)
        for taken_over in (1, 2, 3):
            airflow.end("low")
            airflow.schedule()
            assert airflow.running == {"critical": 0, "high": taken_over, "low": 10 - taken_over}
        airflow.end("low")
        airflow.schedule()
        assert airflow.running == {"critical": 0, "high": 3, "low": 7}

    def test_pausing_high_lets_its_three_finish_starts_none_and_gives_its_share_to_low(self):
        airflow = reference(low=40, high=9, critical=3)
        airflow.schedule()
        airflow.change("high", open=False)
        for finished in (1, 2, 3):
            airflow.schedule()
            airflow.end("high")
            airflow.schedule()
            assert airflow.running == {"critical": 1, "high": 3 - finished, "low": 6 + finished}
        airflow.change("high", open=True)
        airflow.end("low")
        airflow.schedule()
        assert airflow.running == {"critical": 1, "high": 1, "low": 8}

    def test_if_everything_can_run_everything_runs(self):
        airflow = reference(low=2, high=2, critical=1)
        airflow.schedule()
        assert airflow.running == {"critical": 1, "high": 2, "low": 2}

    def test_an_idle_pool_has_a_slot_ready_for_each_queue(self):
        assert airflow_slots(10, list(reference().queues.values())) == {"critical": 1, "high": 3, "low": 6}


@given(
    st.integers(1, 20),
    queue_loads(),
    st.lists(st.tuples(st.sampled_from(["arrive", "end", "pause", "resume"]), small), max_size=60),
)
def test_whatever_happens_between_two_allocations_no_limit_is_ever_exceeded(limit, queues, events):
    airflow = Airflow(limit, *(replace(queue, occupied=0) for queue in queues))
    names = sorted(airflow.queues)
    for event, pick in events:
        name = names[pick % len(names)]
        queue = airflow.queues[name]
        if event == "arrive":
            airflow.change(name, demand=queue.demand + 1)
        elif event == "end" and queue.occupied:
            airflow.end(name)
        elif event in ("pause", "resume"):
            airflow.change(name, open=event == "resume")
        airflow.schedule()
        assert airflow.most["all"] <= limit
        assert all(airflow.running[name] <= number(airflow.queues[name].limit) for name in names)


@given(pool_limits, queue_loads())
def test_gate_1_and_gate_2_start_the_same_number_of_tasks_in_every_queue(limit, queues):
    """One rule: with the same load, either gate gives each queue the same."""
    airflow = Airflow(limit, *queues)
    airflow.schedule()
    jobs = [
        job(queue.name, id=index * 100 + n) for index, queue in enumerate(queues) for n in range(queue.demand)
    ]
    claimed = choose(jobs, pool_limit=limit, queues=queues, room=1000)
    assert Counter(job.queue for job in claimed) == Counter(airflow.started)


def job(queue: str = "only", **changes: object) -> WaitingJob:
    identity = UUID(int=changes.pop("id", 0))  # type: ignore[arg-type]
    plain = WaitingJob(id=identity, queue=queue, priority_weight=1, slots=1, handed_over_at=NOON)
    return replace(plain, **changes)  # type: ignore[arg-type]


@st.composite
def claims(
    draw: st.DrawFn, *, most_slots: int = 5
) -> tuple[list[WaitingJob], int | None, list[QueueLoad], int]:
    queues = draw(queue_loads())
    return (
        draw(waiting_jobs(queues, most_slots=most_slots)),
        draw(pool_limits),
        queues,
        draw(st.integers(0, 20)),
    )


def order(chosen: WaitingJob, queues: list[QueueLoad]) -> tuple[object, ...]:
    priority = {queue.name: queue.priority for queue in queues}
    return priority[chosen.queue], -chosen.priority_weight, chosen.handed_over_at, chosen.id


class TestChoose:
    @given(claims())
    def test_no_limit_is_exceeded_and_no_closed_queue_starts_anything(self, claim):
        waiting, limit, queues, room = claim
        chosen = choose(waiting, pool_limit=limit, queues=queues, room=room)
        taken = Counter({queue.name: 0 for queue in queues})
        for picked in chosen:
            taken[picked.queue] += picked.slots
        assert sum(taken.values()) <= room
        occupied = sum(queue.occupied for queue in queues)
        assert occupied + sum(taken.values()) <= max(number(limit), occupied)
        for queue in queues:
            if taken[queue.name]:
                assert queue.open
                assert queue.occupied + taken[queue.name] <= number(queue.limit)

    @given(claims())
    def test_jobs_are_taken_whole_once_and_in_order(self, claim):
        waiting, limit, queues, room = claim
        chosen = choose(waiting, pool_limit=limit, queues=queues, room=room)
        assert chosen == sorted(chosen, key=lambda picked: order(picked, queues))
        assert len({picked.id for picked in chosen}) == len(chosen)
        assert all(picked in waiting for picked in chosen)

    @given(claims(most_slots=1))
    def test_of_jobs_of_one_slot_none_that_would_fit_is_left_waiting(self, claim):
        waiting, limit, queues, room = claim
        chosen = choose(waiting, pool_limit=limit, queues=queues, room=room)
        taken = Counter(picked.queue for picked in chosen)
        full = room == len(chosen) or sum(queue.occupied for queue in queues) + len(chosen) >= number(limit)
        for left in [waiting_job for waiting_job in waiting if waiting_job not in chosen]:
            queue = next(queue for queue in queues if queue.name == left.queue)
            assert full or not queue.open or queue.occupied + taken[queue.name] >= number(queue.limit)

    @given(claims(most_slots=1))
    def test_of_jobs_of_one_slot_none_is_taken_while_a_better_one_that_may_run_is_left(self, claim):
        waiting, limit, queues, room = claim
        chosen = choose(waiting, pool_limit=limit, queues=queues, room=room)
        taken = Counter(picked.queue for picked in chosen)
        for left in [waiting_job for waiting_job in waiting if waiting_job not in chosen]:
            queue = next(queue for queue in queues if queue.name == left.queue)
            if queue.open and queue.occupied + taken[queue.name] < number(queue.limit):
                assert all(order(picked, queues) < order(left, queues) for picked in chosen)

    @given(claims())
    def test_what_is_left_does_not_fit_or_would_hold_up_a_bigger_one_or_a_higher_queue(self, claim):
        waiting, limit, queues, room = claim
        waiting = [replace(each, handed_over_at=NOON) for each in waiting]
        chosen = choose(waiting, pool_limit=limit, queues=queues, room=room)
        taken = Counter({queue.name: 0 for queue in queues})
        for picked in chosen:
            taken[picked.queue] += picked.slots
        free = number(limit) - sum(queue.occupied for queue in queues)
        for queue in by_priority(queues):
            able = [
                each
                for each in waiting
                if each.queue == queue.name and each.slots <= min(number(limit), number(queue.limit))
            ]
            left = [each for each in able if each not in chosen]
            headroom = min(free, number(queue.limit) - queue.occupied) if queue.open else 0
            room_left = room - sum(taken.values())
            assert all(each.slots > min(headroom - taken[queue.name], room_left) for each in left)
            wants = min(sum(each.slots for each in able), number(queue.limit) - queue.occupied)
            free -= max(0, min(wants, free)) if queue.open else 0

    @given(claims(), st.randoms(use_true_random=False))
    def test_the_order_in_which_jobs_and_queues_are_given_does_not_matter(self, claim, chance):
        waiting, limit, queues, room = claim
        expected = choose(waiting, pool_limit=limit, queues=queues, room=room)
        chance.shuffle(waiting)
        chance.shuffle(queues)
        assert choose(waiting, pool_limit=limit, queues=queues, room=room) == expected

    def test_the_order_is_queue_then_weight_then_age_then_id(self):
        queues = [load("low", 2), load("high", 1)]
        ordered = [
            job("high", id=9, priority_weight=5, handed_over_at=NOON + timedelta(seconds=1)),
            job("high", id=8, handed_over_at=NOON),
            job("high", id=3, handed_over_at=NOON + timedelta(seconds=1)),
            job("high", id=4, handed_over_at=NOON + timedelta(seconds=1)),
            job("low", id=1, priority_weight=99, handed_over_at=NOON - timedelta(days=1)),
        ]
        assert choose(ordered[::-1], pool_limit=None, queues=queues, room=99) == ordered
        assert choose(ordered[::-1], pool_limit=3, queues=queues, room=99) == ordered[:3]

    def test_a_job_that_does_not_fit_is_passed_by_a_smaller_one_of_its_queue(self):
        big, little = job(id=1, slots=3), job(id=2)
        queues = [load("only", 1, occupied=2)]
        assert choose([big, little], pool_limit=4, queues=queues, room=9) == [little]

    def test_but_not_once_it_is_overdue(self):
        big, little = job(id=1, slots=3), job(id=2)
        queues = [load("only", 1, occupied=2)]
        assert choose([big, little], pool_limit=4, queues=queues, room=9, overdue_since=NOON) == []
        assert choose([big, little], pool_limit=5, queues=queues, room=9, overdue_since=NOON) == [big]
        assert choose([big, little], pool_limit=6, queues=queues, room=9, overdue_since=NOON) == [big, little]

    def test_what_is_ahead_of_an_overdue_job_goes_first(self):
        ahead, big, behind = job(id=1, priority_weight=2), job(id=2, slots=3), job(id=3)
        queues = [load("only", 1, occupied=2)]
        assert choose([ahead, big, behind], pool_limit=5, queues=queues, room=9, overdue_since=NOON) == [
            ahead
        ]

    def test_slots_are_not_kept_for_what_higher_queues_leave_no_share_to(self):
        big, little = job("low", id=1, slots=4), job("low", id=2)
        queues = [load("high", 1, occupied=5), load("low", 2, occupied=3)]
        chosen = choose([big, little], pool_limit=9, queues=queues, room=9, overdue_since=NOON)
        assert chosen == []  # a share of 4: what low holds comes free for it
        queues[0] = replace(queues[0], occupied=6)
        queues[1] = replace(queues[1], occupied=2)
        assert choose([big, little], pool_limit=9, queues=queues, room=9, overdue_since=NOON) == [little]

    @given(claims())
    def test_an_overdue_job_that_does_not_fit_is_passed_by_nothing_that_is_behind_it(self, claim):
        waiting, limit, queues, room = claim
        chosen = choose(waiting, pool_limit=limit, queues=queues, room=room, overdue_since=NOON)
        loads = {queue.name: queue for queue in queues}
        held = sum(queue.occupied for queue in queues)
        above = 0
        for queue in by_priority(queues):
            mine = [each for each in chosen if each.queue == queue.name]
            largest = min(number(limit), number(queue.limit))
            line = sorted(
                (each for each in waiting if each.queue == queue.name and each.slots <= largest),
                key=lambda each: order(each, queues),
            )
            asked = sum(each.slots for each in line)
            share = min(number(queue.limit), queue.occupied + asked, number(limit) - above)
            above += max(0, share) if queue.open else 0
            for each in line:
                ahead = [one for one in mine if order(one, queues) < order(each, queues)]
                taken = sum(one.slots for one in ahead)
                free = min(number(limit) - held, number(queue.limit) - queue.occupied) - taken
                if each not in mine and each.handed_over_at <= NOON and free < each.slots <= share:
                    assert mine == ahead
        assert set(loads) >= {each.queue for each in chosen}

    @given(claims())
    def test_whatever_is_overdue_makes_no_other_difference(self, claim):
        waiting, limit, queues, room = claim
        chosen = choose(waiting, pool_limit=limit, queues=queues, room=room, overdue_since=NOON)
        eager = choose(waiting, pool_limit=limit, queues=queues, room=room)
        for queue in queues:
            mine = [each for each in chosen if each.queue == queue.name]
            theirs = [each for each in eager if each.queue == queue.name]
            assert room < sum(each.slots for each in waiting) or mine == theirs[: len(mine)]

    @pytest.mark.parametrize("reserve_after", [0, 60, 600])
    def test_a_stream_of_small_jobs_cannot_starve_a_big_one(self, reserve_after):
        running, now, next_id = [1] * 4, NOON, 100
        big = job(id=1, slots=4)
        small_jobs: list[WaitingJob] = []
        for _ in range(1000):
            now += timedelta(seconds=10)
            small_jobs.append(job(id=next_id, handed_over_at=now))
            next_id += 1
            running = running[1:]  # the oldest ends
            queues = [load("only", 1, occupied=sum(running))]
            overdue_since = now - timedelta(seconds=reserve_after)
            chosen = choose(
                [big, *small_jobs], pool_limit=4, queues=queues, room=4, overdue_since=overdue_since
            )
            if big in chosen:
                assert now - NOON <= timedelta(seconds=reserve_after + 50)
                return
            small_jobs = [each for each in small_jobs if each not in chosen]
            running += [each.slots for each in chosen]
        pytest.fail("the big job never started")

    def test_a_lower_queue_does_not_take_the_slots_that_a_big_job_of_a_higher_one_waits_for(self):
        queues = [load("high", 1), load("low", 2, occupied=8)]
        big, little = job("high", id=1, slots=4), job("low", id=2)
        assert choose([big, little], pool_limit=10, queues=queues, room=9) == []

    def test_a_job_bigger_than_a_limit_stands_in_nobodys_way(self):
        queues = [load("high", 1, limit=3), load("low", 2)]
        never = job("high", id=1, slots=4, handed_over_at=NOON - timedelta(days=1))
        others = [job("high", id=2), job("low", id=3)]
        assert choose([never, *others], pool_limit=10, queues=queues, room=9) == others
        assert choose([replace(never, slots=11), *others], pool_limit=10, queues=queues, room=9) == others

    def test_a_job_bigger_than_the_workers_room_is_left_to_another_worker(self):
        queues = [load("high", 1), load("low", 2)]
        big = job("high", id=1, slots=4, handed_over_at=NOON - timedelta(days=1))
        others = [job("high", id=2), job("low", id=3)]
        assert choose([big, *others], pool_limit=10, queues=queues, room=2) == others

    def test_the_workers_room_is_shared_by_all_queues(self):
        queues = [load("high", 1), load("low", 2)]
        waiting = [job("high", id=1, slots=2), job("low", id=2), job("low", id=3)]
        assert choose(waiting, pool_limit=None, queues=queues, room=3) == waiting[:2]

    def test_jobs_of_unknown_queues_stay_where_they_are(self):
        assert choose([job("gone"), job(id=1)], pool_limit=9, queues=[load("only", 1)], room=9) == [job(id=1)]

    def test_a_draining_queue_claims_nothing_until_a_higher_one_has_its_share(self):
        queues = [load("high", 1), load("low", 2, occupied=9)]
        waiting = [job("low", id=1), job("high", id=2), job("high", id=3)]
        assert choose(waiting, pool_limit=10, queues=queues, room=9) == [waiting[1]]
