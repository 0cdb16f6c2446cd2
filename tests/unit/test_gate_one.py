# SPDX-License-Identifier: Apache-2.0
"""Gate 1 without a database: counts in, slots out."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from airflow_workpools.core.names import WorkQueueRef, airflow_pool_description
from airflow_workpools.core.pools import InvalidPool, PoolSource, WorkPool, parse_work_pool
from airflow_workpools.core.templates import BaseJobTemplate
from airflow_workpools.core.untaken import Offer
from airflow_workpools.store import loads
from airflow_workpools.store.loads import Layout, Load, TaskGroup, lines_of, without_held_back
from airflow_workpools.store.records import QueueRunState, RunState
from airflow_workpools.store.slot_plan import AirflowPool, closed_queues, offers_of, plan_slots, within

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
TEMPLATES = {"process": BaseJobTemplate.parse({"variables": {"type": "object"}, "job_configuration": {}})}
ETL = parse_work_pool(
    "etl",
    {
        "type": "process",
        "concurrency_limit": 10,
        "queues": {
            "critical": {"priority": 1, "concurrency_limit": 1},
            "high": {"priority": 5, "concurrency_limit": 3},
            "low": {"priority": 10},
            "default": {"priority": 20},
        },
    },
    templates=TEMPLATES,
    source=PoolSource.DATABASE,
)
NAMES = ["etl", "etl.critical", "etl.high", "etl.low"]


def ours(**slots: int) -> dict[str, AirflowPool]:
    """Airflow pools of the queues, all with the given slots (by queue) or none."""
    result = {}
    for queue in ("default", "critical", "high", "low"):
        ref = WorkQueueRef("etl", queue)
        result[ref.airflow_pool] = AirflowPool(slots.get(queue, 0), airflow_pool_description(ref))
    return result


def plan(pools=None, run_state=None, *, served=True, current=None, loads=None):
    pools = {"etl": ETL} if pools is None else pools
    layout = Layout.of(pools)
    return plan_slots(
        pools,
        layout,
        closed_queues(layout, run_state or RunState(as_of=NOW), dict.fromkeys(pools, served)),
        current=ours() if current is None else current,
        loads=loads or {},
    )


def test_missing_airflow_pools_are_added_with_their_slots():
    assert set(plan(current={}).add) == set(NAMES)
    assert sum(plan(current={}).add.values()) == 10


def test_a_heartbeat_that_changes_nothing_has_an_empty_plan():
    first = plan(current={})
    settled = ours(**{queue_of(name): slots for name, slots in first.add.items()})
    assert not plan(current=settled)


def queue_of(airflow_pool: str) -> str:
    return airflow_pool.partition(".")[2] or "default"


def test_the_reference_example_shares_the_slots():
    loads = {"etl.critical": Load(0, 3), "etl.high": Load(0, 9), "etl.low": Load(0, 40)}
    assert plan(loads=loads).change == {"etl.critical": 1, "etl.high": 3, "etl.low": 6}


def test_a_pool_that_nobody_serves_gets_no_slots():
    loads = {"etl.low": Load(0, 40)}
    assert plan(served=False, current=ours(low=5), loads=loads).change == {"etl.low": 0}


def test_a_paused_queue_gives_its_share_to_the_next():
    loads = {"etl.high": Load(3, 6), "etl.low": Load(6, 40)}
    paused = RunState(as_of=NOW, queues={WorkQueueRef("etl", "high"): QueueRunState(paused=True)})
    # 3 of high still run, so low may not take their slots yet.
    assert plan(run_state=paused, current=ours(high=3, low=6), loads=loads).change == {
        "etl.high": 0,
        "etl.low": 7,
    }


def test_what_a_paused_queue_was_handed_before_keeps_no_slot_from_the_others():
    # 3 of high were handed over just before the pause and wait in the store; 7 of low run.
    loads = {"etl.high": Load(3, 6), "etl.low": Load(7, 40)}
    paused = RunState(as_of=NOW, queues={WorkQueueRef("etl", "high"): QueueRunState(paused=True)})
    seen = without_held_back(loads, {WorkQueueRef("etl", "high"): 3, WorkQueueRef("etl", "critical"): 1})
    assert plan(run_state=paused, current=ours(high=3, low=7), loads=seen).change == {
        "etl.high": 0,
        "etl.low": 10,
    }


def test_a_paused_pool_starts_nothing():
    loads = {"etl.low": Load(6, 40)}
    assert plan(
        run_state=RunState(as_of=NOW, pools={"etl": True}), current=ours(low=6), loads=loads
    ).change == {"etl.low": 0}


def test_an_airflow_pool_that_is_not_ours_is_left_alone_and_named():
    current = ours() | {"etl.high": AirflowPool(128, "the night shift's")}
    result = plan(current=current)
    assert result.taken == {"etl"}
    assert "etl.high" not in result.change
    assert "etl.high" not in result.remove


def test_airflow_pools_of_pools_that_are_gone_are_removed():
    assert plan(pools={}).remove == set(NAMES)


def test_tasks_of_a_pool_that_became_invalid_wait():
    broken = InvalidPool(name="etl", reason="malformed", source=PoolSource.DATABASE)
    result = plan(pools={"etl": broken}, current=ours(low=6))
    assert result.change == {"etl.low": 0}
    assert not result.remove


def loads_of(waiting: list[TaskGroup], holding: list[TaskGroup]) -> dict[str, Load]:
    return loads.loads_of(Layout.of({"etl": ETL}), lines_of(waiting), holding)


def group(pool: str, tasks: int, *, run: str = "r", limit: int = 16, slots: int | None = None) -> TaskGroup:
    return TaskGroup(pool, "dag", run, tasks, tasks if slots is None else slots, limit)


def test_a_run_demands_no_more_than_its_dag_allows():
    found = loads_of([group("etl.high", 100, limit=4)], [group("etl.low", 3)])
    assert found == {"etl.high": Load(0, 1), "etl.low": Load(3, 0)}


def test_within_a_run_the_queue_of_higher_priority_demands_first():
    waiting = [group("etl.low", 5, limit=4), group("etl.critical", 3, limit=4)]
    found = loads_of(waiting, [])
    assert found["etl.critical"].demand == 3
    assert found["etl.low"].demand == 1


@pytest.mark.parametrize(("tasks", "slots", "limit", "expected"), [(4, 8, 16, 8), (4, 8, 2, 4), (3, 7, 2, 5)])
def test_tasks_of_several_slots_demand_their_slots(tasks, slots, limit, expected):
    found = loads_of([group("etl.low", tasks, slots=slots, limit=limit)], [])
    assert found["etl.low"].demand == expected


def test_pools_have_a_type():
    assert isinstance(ETL, WorkPool)


def line(run: str, weight: int, day: int | None, *, overdue: tuple[int, int] | None = None) -> TaskGroup:
    """Tasks of one run; ``overdue`` is weight and slots of the large ones that have waited for long."""
    return TaskGroup(
        "etl.low",
        "dag",
        run,
        tasks=4,
        slots=9,
        max_active_tasks=99,
        weight=weight,
        logical_date=day and NOW + timedelta(days=day),
        overdue_weight=overdue and overdue[0],
        overdue_slots=overdue and overdue[1],
    )


@pytest.mark.parametrize(
    ("groups", "overdue"),
    [
        ([line("a", 1, 1)], 0),
        ([line("a", 1, 1, overdue=(1, 6))], 6),
        ([line("a", 2, 1, overdue=(1, 6))], 0),  # small ones of its run go first
        ([line("a", 1, 1, overdue=(1, 6)), line("b", 2, 2)], 0),  # greater weight
        ([line("a", 1, 2, overdue=(1, 6)), line("b", 1, 1)], 0),  # earlier run
        ([line("a", 1, 1, overdue=(1, 6)), line("b", 1, 2), line("c", 0, 0)], 6),
        ([line("a", 1, None, overdue=(1, 6)), line("b", 1, 2)], 6),  # nobody knows: it may be first
        ([line("a", 1, 1, overdue=(1, 6)), line("b", 1, 1, overdue=(1, 7))], 7),
    ],
)
def test_a_large_task_is_overdue_only_when_it_is_first_in_line(groups, overdue):
    assert loads_of(groups, []).pop("etl.low").overdue == overdue


def test_a_large_task_that_its_dag_keeps_from_starting_is_not_overdue():
    blocked = line("a", 1, 1, overdue=(1, 6))._replace(max_active_tasks=0)
    assert loads_of([blocked, line("b", 1, 2)], [])["etl.low"].overdue == 0


def test_what_is_offered_to_tasks_that_wait():
    foreign = AirflowPool(3, "somebody else's")
    unlimited = AirflowPool(-1, airflow_pool_description(WorkQueueRef("free")))
    current = ours(high=3, low=4) | {"default_pool": foreign, "free": unlimited}
    found = {
        "etl.high": Load(1, 9, smallest=2),
        "etl.low": Load(4, 0),
        "etl.gone": Load(0, 5),
        "default_pool": Load(0, 5),
        "free": Load(0, 5),
    }
    assert offers_of(current, found) == {"etl.high": Offer(slots=3, occupied=1, demand=9, next_slots=2)}


def test_what_a_queue_can_not_use_goes_to_those_behind_it():
    found = {"etl.high": Load(0, 9), "etl.low": Load(0, 40)}
    slots = plan(current=ours(), loads=within({"etl.high": 1}, found)).change
    assert slots["etl.high"] == 1
    assert slots["etl.low"] == 9
