# SPDX-License-Identifier: Apache-2.0
"""What would start next, in which order, and what the rest waits for; without a database."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.store.preview import ANY_ROOM, Conditions, Waiting, order
from tests.store.rigs import NOW, work_pool

ETL = work_pool("etl", limit=10, critical=(1, 1), high=(5, 3), low=(10, None))
FREE = Conditions(held={}, pending={})


def waiting(queue: str, name: str, *, is_job: bool = True, **values: Any) -> Waiting:
    """Make something that waits; those made later wait for a shorter time."""
    waiting.made += 1  # type: ignore[attr-defined]
    defaults: dict[str, Any] = {
        "dag_id": "dag",
        "task_id": name,
        "run_id": "run",
        "map_index": -1,
        "slots": 1,
        "priority_weight": 1,
        "id": uuid.uuid4(),
        "is_job": is_job,
        "since": NOW + timedelta(microseconds=waiting.made),  # type: ignore[attr-defined]
    }
    return Waiting(ref=WorkQueueRef("etl", queue), **{**defaults, **values})


waiting.made = 0  # type: ignore[attr-defined]


def task(queue: str, name: str, **values: Any) -> Waiting:
    return waiting(queue, name, is_job=False, **values)


def now(items: list[Waiting]) -> list[str]:
    return [item.task_id for item in items if item.waits_for is None]


def rest(items: list[Waiting]) -> dict[str, str | None]:
    return {item.task_id: item.waits_for for item in items if item.waits_for is not None}


def test_higher_queues_go_first_each_up_to_its_limit_all_up_to_the_pools() -> None:
    jobs = [waiting(queue, f"{queue}{n}") for queue in ("low", "high", "critical") for n in range(9)]

    items = order(ETL, jobs, [], FREE)

    assert now(items) == ["critical0", "high0", "high1", "high2", *(f"low{n}" for n in range(6))]
    assert [item.task_id for item in items][10:] == [
        *(f"critical{n}" for n in range(1, 9)),
        *(f"high{n}" for n in range(3, 9)),
        *(f"low{n}" for n in range(6, 9)),
    ]
    assert rest(items)["critical1"] == "slots of work queue 'etl/critical', which has 1"
    assert rest(items)["low6"] == "slots of work pool 'etl', which has 10"
    assert all(item.can_start for item in items)


def test_within_a_queue_weight_goes_before_age() -> None:
    jobs = [waiting("low", "old"), waiting("low", "new"), waiting("low", "heavy", priority_weight=5)]

    assert now(order(ETL, jobs, [], FREE)) == ["heavy", "old", "new"]


def test_jobs_in_the_store_go_before_tasks_in_airflow_whatever_their_queue() -> None:
    jobs = [waiting("low", f"job{n}") for n in range(9)]
    tasks = [task("critical", "urgent"), task("high", "task0"), task("high", "task1")]

    items = order(ETL, jobs, tasks, Conditions(held={}, pending={"low": 9}))

    assert now(items) == [*(f"job{n}" for n in range(9)), "urgent"]
    assert list(rest(items)) == ["task0", "task1"]


def test_jobs_that_wait_in_the_store_keep_their_slots_from_tasks() -> None:
    full = Conditions(held={"low": 9}, pending={"low": 5})
    jobs = [waiting("low", f"job{n}") for n in range(5)]

    items = order(ETL, jobs, [task("critical", "urgent")], full)

    assert now(items) == ["job0"]
    assert list(rest(items)) == ["job1", "job2", "job3", "job4", "urgent"]


def test_a_paused_queue_comes_last_and_leaves_its_slots_to_the_others() -> None:
    paused = Conditions(held={"low": 5}, pending={"high": 3}, paused={"high"})
    jobs = [waiting("high", f"job{n}") for n in range(3)]
    tasks = [task("low", f"task{n}") for n in range(6)] + [task("high", "more")]

    items = order(ETL, jobs, tasks, paused)

    assert now(items) == [f"task{n}" for n in range(5)]
    assert list(rest(items)) == ["task5", "job0", "job1", "job2", "more"]
    assert rest(items)["more"] == "work queue 'etl/high' to be resumed"
    assert not items[-1].can_start


def test_what_is_bigger_than_a_limit_never_starts() -> None:
    jobs = [
        waiting("low", "pool", slots=11),
        waiting("high", "queue", slots=4),
        waiting("low", "fits", slots=10),
    ]

    items = order(ETL, jobs, [], FREE)

    assert now(items) == ["fits"]
    assert rest(items) == {
        "pool": "nothing: 11 slots are more than the limit of work pool 'etl'",
        "queue": "nothing: 4 slots are more than the limit of work queue 'etl/high'",
    }


def test_nothing_starts_in_a_paused_pool_or_without_a_worker() -> None:
    jobs, tasks = [waiting("low", "job")], [task("low", "task")]

    paused = order(ETL, jobs, tasks, replace(FREE, pool_paused=True))
    unserved = order(ETL, jobs, tasks, replace(FREE, room=None))

    assert rest(paused) == dict.fromkeys(("job", "task"), "work pool 'etl' to be resumed")
    assert rest(unserved) == dict.fromkeys(
        ("job", "task"), "a worker that serves work pool 'etl' to come online"
    )


def test_a_task_of_a_full_run_waits_for_its_run() -> None:
    items = order(ETL, [], [task("low", "full", run_is_full=4), task("low", "other")], FREE)

    assert now(items) == ["other"]
    assert rest(items) == {"full": "tasks of its run to end: max_active_tasks of the DAG is 4"}


def test_workers_without_room_let_jobs_wait() -> None:
    pool = work_pool("etl")
    items = order(pool, [waiting("default", "a"), waiting("default", "b")], [], replace(FREE, room=1))

    assert now(items) == ["a"]
    assert rest(items) == {"b": "a worker with room for it"}


def test_without_limits_everything_starts() -> None:
    items = order(work_pool("etl"), [waiting("default", "a", slots=500)], [task("default", "b")], FREE)

    assert now(items) == ["a", "b"]
    assert FREE.room == ANY_ROOM
