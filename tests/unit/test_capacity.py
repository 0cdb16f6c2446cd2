# SPDX-License-Identifier: Apache-2.0
"""What workers can take, and what that makes of the slots of queues."""

from __future__ import annotations

import uuid
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.core.slots import UNLIMITED_SLOTS, QueueLoad, airflow_slots
from airflow_workpools.store.capacity import Capacity, capacity_of
from airflow_workpools.store.records import RunState, WorkerKind, WorkerRecord, WorkerState
from tests.store.rigs import NOW, later, new_worker, pull_pool, work_pool

POOL = pull_pool(limit=10, high=(1, 3), low=(2, None))


def worker(**values: Any) -> WorkerRecord:
    return new_worker(**{"kind": WorkerKind.STANDALONE, "pools": ("etl",), **values})


def capacity(*workers: WorkerRecord, held: dict[str, int] | None = None, holds: Any = None) -> Capacity:
    run_state = RunState(as_of=NOW, workers=workers)
    return capacity_of(POOL, run_state, held=held or {}, holds=holds or {})


def test_slots_of_workers_add_up_and_one_without_a_limit_has_none():
    assert capacity(worker(slots=3), worker(slots=4)).total == 7
    assert capacity(worker(slots=3), worker()).total is None


def test_who_cannot_take_anything_does_not_count():
    gone = (
        worker(slots=1, state=WorkerState.DRAINING),
        worker(slots=1, state=WorkerState.STOPPED),
        worker(slots=1, last_heartbeat_at=later(-31)),
        worker(slots=1, hindered={"etl": "no engine"}),
        worker(slots=1, pools=("ml",)),
        new_worker(slots=1),
    )
    assert capacity(*gone) == Capacity()
    assert capacity(*gone, worker(slots=2)).total == 2


def test_what_is_held_by_others_keeps_no_room_from_those_that_are_there():
    """The pool's jobs hold 4 slots, of which this worker has 1."""
    one = worker(slots=3)
    found = capacity(one, held={"low": 4}, holds={one.id: 1})
    assert (found.free, found.total) == (2, 6)


def test_a_worker_that_holds_more_than_its_slots_has_none_free():
    one = worker(slots=1)
    assert capacity(one, held={"low": 3}, holds={one.id: 3}).free == 0


def test_queues_are_bounded_by_the_workers_that_take_from_them():
    found = capacity(worker(slots=2, queues=("etl/high",)), worker(slots=4, queues=("etl/high", "etl/low")))
    assert (found.free, dict(found.free_of_queues)) == (6, {"high": 6, "low": 4})
    limited = found.limit(POOL)
    assert limited.concurrency_limit == 6
    assert {queue.name: queue.concurrency_limit for queue in limited.queues} == {
        "high": 3,
        "low": 4,
        "default": 0,
    }


def test_embedded_workers_leave_the_limits_of_a_push_pool_as_they_are():
    pool = work_pool(limit=10, high=(1, 3))
    found = capacity_of(pool, RunState(as_of=NOW, workers=(new_worker(),)), held={}, holds={})
    assert found.limit(pool) == pool


numbers = st.integers(0, 6)


@given(
    workers=st.lists(
        st.tuples(st.one_of(st.none(), numbers), st.sets(st.sampled_from(["high", "low", "default"]))),
        min_size=1,
        max_size=4,
    ),
    demand=st.tuples(numbers, numbers, numbers),
    occupied=st.tuples(numbers, numbers, numbers),
)
def test_no_more_is_handed_over_than_workers_and_limits_allow(
    workers: list[tuple[int | None, set[str]]],
    demand: tuple[int, int, int],
    occupied: tuple[int, int, int],
) -> None:
    records = [
        worker(id=uuid.UUID(int=n), slots=slots, queues=tuple(f"etl/{queue}" for queue in queues))
        for n, (slots, queues) in enumerate(workers)
    ]
    names = ("high", "low", "default")
    held = dict(zip(names, occupied, strict=True))
    found = capacity(*records, held=held)
    limited = found.limit(POOL)
    loads = [
        QueueLoad(
            name=queue.name,
            priority=queue.priority,
            limit=queue.concurrency_limit,
            open=True,
            demand=dict(zip(names, demand, strict=True))[queue.name],
            occupied=held[queue.name],
        )
        for queue in limited.queues
    ]
    slots = airflow_slots(limited.concurrency_limit, loads)
    assert UNLIMITED_SLOTS not in slots.values()
    total = sum(held.values())
    most = min(10, 10**9 if found.total is None else found.total)
    assert sum(max(slots[name], held[name]) for name in names) <= max(total, most)
    for name in names:
        free = found.free_of_queues.get(name, 0)
        assert free is None or slots[name] <= held[name] + free
