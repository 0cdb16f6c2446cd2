# SPDX-License-Identifier: Apache-2.0
"""Gate 1 on real databases: task instances in, slots of Airflow pools out."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from airflow_workpools.core.names import WorkQueueRef, airflow_pool_description
from airflow_workpools.core.pools import InvalidPool, PoolSource, WorkPool
from airflow_workpools.core.weights import combined_weight
from airflow_workpools.duties import ranks_of
from airflow_workpools.store import airflow_pools, blocked_tasks
from airflow_workpools.store.airflow_pools import Memory
from airflow_workpools.store.records import RunState
from airflow_workpools.store.slot_plan import Plan
from tests.store.conftest import SQL
from tests.store.rigs import NOW, work_pool
from tests.store.schedulers import Scheduler, scheduler, statements_of, writes

ETL = work_pool("etl", limit=10, critical=(1, 1), high=(5, 3), low=(10, None))
BROKEN = InvalidPool(name="etl", reason="malformed", source=PoolSource.DATABASE)
OURS = ["WorkPoolExecutor"]

_pools: Any = Pool.__table__
_tasks: Any = TaskInstance.__table__


@pytest.fixture
def stage(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    with scheduler(engine, tmp_path / "logs", monkeypatch) as made:
        yield made


@pytest.fixture(params=[database for database in SQL if database.id != "sqlite"])
def locking(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scheduler]:
    """On a database that locks rows, so that several schedulers may be at work."""
    engine = request.getfixturevalue(f"{request.param}_engine")
    with scheduler(engine, tmp_path / "logs", monkeypatch) as made:
        yield made


def allocate(
    stage: Scheduler,
    *pools: WorkPool | InvalidPool,
    served: bool = True,
    paused: bool = False,
    memory: Memory | None = None,
) -> Plan:
    by_name = {pool.name: pool for pool in pools}
    with stage.rig.airflow.session() as session:
        return airflow_pools.allocate_slots(
            session,
            by_name,
            RunState(as_of=NOW, pools=dict.fromkeys(by_name, paused)),
            dict.fromkeys(by_name, served),
            overdue_since=NOW,
            memory=memory,
        )


def slots(stage: Scheduler) -> dict[str, int]:
    return {row.pool: row.slots for row in stage.rows(Pool) if row.pool != "default_pool"}


def foreign(stage: Scheduler, name: str, number: int = 128) -> None:
    with stage.engine.begin() as connection:
        row = {"pool": name, "slots": number, "description": "ours for years", "include_deferred": False}
        connection.execute(sa.insert(_pools), [row])


# -- slots ----------------------------------------------------------------------------------------------------


def test_airflow_pools_are_made_changed_and_removed(stage: Scheduler) -> None:
    allocate(stage, ETL)
    assert slots(stage) == {"etl.critical": 1, "etl.high": 3, "etl.low": 5, "etl": 1}
    descriptions = {row.pool: row.description for row in stage.rows(Pool)}
    assert descriptions["etl.low"] == airflow_pool_description(WorkQueueRef("etl", "low"))
    for _ in range(20):
        stage.task("etl/low", "scheduled")
    allocate(stage, ETL)
    assert slots(stage) == {"etl.critical": 0, "etl.high": 0, "etl.low": 10, "etl": 0}
    allocate(stage, work_pool("etl", limit=4, low=(10, None)))
    assert slots(stage) == {"etl.low": 4, "etl": 0}
    allocate(stage)
    assert slots(stage) == {}


def test_the_reference_example(stage: Scheduler) -> None:
    for queue, number in (("low", 40), ("high", 9), ("critical", 3)):
        for _ in range(number):
            stage.task(f"etl/{queue}", "scheduled")
    allocate(stage, ETL)
    assert slots(stage) == {"etl.critical": 1, "etl.high": 3, "etl.low": 6, "etl": 0}


def test_a_heartbeat_without_a_change_locks_and_writes_nothing(stage: Scheduler) -> None:
    stage.task("etl/low", "scheduled")
    stage.task("etl/high", "running")
    allocate(stage, ETL)
    with statements_of(stage.engine) as sent:
        assert not allocate(stage, ETL)
    assert writes(sent) == []
    assert not any("FOR UPDATE" in one for one in sent)
    assert len(sent) == 3


def test_slots_are_kept_for_a_large_task_that_has_waited_for_long_and_is_first_in_line(
    stage: Scheduler,
) -> None:
    for _ in range(3):
        stage.task("etl/low", "running")
    stage.task("etl/low", "scheduled", scheduled_dttm=NOW)
    large = stage.task("etl/low", "scheduled", pool_slots=8, scheduled_dttm=NOW + timedelta(seconds=1))
    pool = work_pool("etl", limit=10, low=(1, None))
    allocate(stage, pool)
    assert slots(stage)["etl.low"] == 10  # it has not waited for long

    stage.change_task(large["id"], scheduled_dttm=NOW)
    allocate(stage, pool)
    assert slots(stage)["etl.low"] == 2  # what ends until the next allocation is open to nobody

    stage.task("etl/low", "scheduled", priority_weight=2, scheduled_dttm=NOW)
    allocate(stage, pool)
    assert slots(stage)["etl.low"] == 10  # another is ahead of it


def test_airflow_pools_of_others_are_left_alone(stage: Scheduler) -> None:
    foreign(stage, "db")
    foreign(stage, "etl.high", 5)
    foreign(stage, "Work queue of the night shift")
    assert allocate(stage, ETL, work_pool("other")).taken == {"etl"}
    assert slots(stage) == {"db": 128, "etl.high": 5, "Work queue of the night shift": 128, "other": -1}
    allocate(stage)
    assert slots(stage) == {"db": 128, "etl.high": 5, "Work queue of the night shift": 128}


def test_tasks_wait_while_an_airflow_pool_of_their_work_pool_belongs_to_somebody_else(
    stage: Scheduler,
) -> None:
    allocate(stage, ETL)
    with stage.engine.begin() as connection:
        connection.execute(sa.update(_pools).where(_pools.c.pool == "etl.high").values(description="mine"))
    allocate(stage, ETL)
    assert slots(stage) == {"etl.critical": 0, "etl.high": 3, "etl.low": 0, "etl": 0}


def test_tasks_wait_while_their_work_pool_is_invalid_or_nobody_serves_it(stage: Scheduler) -> None:
    allocate(stage, ETL)
    allocate(stage, BROKEN)
    assert set(slots(stage).values()) == {0}
    allocate(stage, ETL)
    assert sum(slots(stage).values()) == 10
    allocate(stage, ETL, served=False)
    assert set(slots(stage).values()) == {0}
    assert len(slots(stage)) == 4


def test_tasks_that_cannot_start_anyway_demand_no_slot(stage: Scheduler) -> None:
    pool = work_pool("etl", limit=6, high=(1, None), low=(2, None))
    stage.dag("paused", paused=True)
    stage.run("queued", state="queued")
    stage.dag("narrow", max_active_tasks=2)
    stage.task("etl/high", "running", dag_id="narrow")
    for dag_id in ("paused", "queued", "narrow"):
        for _ in range(8):
            stage.task("etl/high", "scheduled", dag_id=dag_id)
    for _ in range(8):
        stage.task("etl/low", "scheduled")
    allocate(stage, pool)
    assert slots(stage) == {"etl.high": 2, "etl.low": 4, "etl": 0}


def test_a_queue_that_holds_too_much_drains(stage: Scheduler) -> None:
    for _ in range(10):
        stage.task("etl/low", "running")
    stage.task("etl/critical", "scheduled")
    allocate(stage, ETL)
    assert slots(stage) == {"etl.critical": 0, "etl.high": 0, "etl.low": 9, "etl": 0}


def test_what_is_known_from_earlier_allocations_hides_no_change(stage: Scheduler) -> None:
    memory = Memory()
    running = [stage.task("etl/low", "running")["id"] for _ in range(10)]
    stage.task("etl/critical", "scheduled")
    allocate(stage, ETL, memory=memory)
    stage.change_task(running[0], state="success")
    assert allocate(stage, ETL, memory=memory).change == {"etl.critical": 1}
    assert not allocate(stage, ETL, memory=memory)
    with stage.engine.begin() as connection:
        connection.execute(sa.update(_pools).where(_pools.c.pool == "etl.low").values(slots=99))
    assert allocate(stage, ETL, memory=memory).change == {"etl.low": 9}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["critical", "high", "low", "default"]),
        st.sampled_from(["add", "end", "allocate", "hand over", "pause"]),
        st.integers(1, 3),
    ),
    max_size=25,
)


@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS, limit=st.integers(0, 8))
def test_whatever_happens_no_more_is_open_or_held_than_the_pool_allows(
    sqlite_engine: sa.Engine, tmp_path: Path, steps: list[tuple[str, str, int]], limit: int
) -> None:
    """Airflow hands over as long as a pool has open slots; ``slots`` and what is held add up.

    And what is known from earlier allocations changes no later one.
    """
    with pytest.MonkeyPatch.context() as patch, scheduler(sqlite_engine, tmp_path, patch) as stage:
        pool = work_pool("etl", limit=limit, critical=(1, 1), high=(5, 3), low=(10, None))
        memory, paused = Memory(), False
        allocate(stage, pool, memory=memory)
        for queue, step, size in steps:
            name = WorkQueueRef("etl", queue).airflow_pool
            if step == "add":
                stage.task(f"etl/{queue}", "scheduled", pool=name, pool_slots=size)
            elif step == "pause":
                paused = not paused
            elif step == "allocate":
                allocate(stage, pool, paused=paused, memory=memory)
                assert not allocate(stage, pool, paused=paused)
            elif step == "end":
                for row in stage.rows(TaskInstance, pool=name, state="queued")[:1]:
                    stage.change_task(row.id, state="success")
            else:
                _hand_over(stage, name)
            given_out, held = slots(stage), _held(stage)
            assert sum(max(given_out[name], held.get(name, 0)) for name in given_out) <= limit


def _held(stage: Scheduler) -> dict[str, int]:
    held: dict[str, int] = {}
    for row in stage.rows(TaskInstance, state="queued"):
        held[row.pool] = held.get(row.pool, 0) + row.pool_slots
    return held


def _hand_over(stage: Scheduler, name: str) -> None:
    """Queue what fits, as Airflow does."""
    left = slots(stage)[name] - _held(stage).get(name, 0)
    for row in stage.rows(TaskInstance, pool=name, state="scheduled"):
        if row.pool_slots <= left:
            left -= row.pool_slots
            stage.change_task(row.id, state="queued")


# -- several schedulers ---------------------------------------------------------------------------------------


def test_rows_that_somebody_holds_are_not_waited_for_and_their_work_pool_stays_as_it_is(
    locking: Scheduler,
) -> None:
    stage, other = locking, work_pool("other", limit=5)
    allocate(stage, ETL, other)
    before = slots(stage)
    for _ in range(20):
        stage.task("etl/low", "scheduled")
    with stage.engine.begin() as connection:
        connection.execute(sa.select(_pools).where(_pools.c.pool == "etl.high").with_for_update())
        started = time.monotonic()
        allocate(stage, ETL, work_pool("other", limit=3))
        assert time.monotonic() - started < 5
        assert slots(stage) == {**before, "other": 3}
        allocate(stage)
        assert slots(stage) == {name: before[name] for name in before if name != "other"}
    allocate(stage, ETL)
    assert slots(stage)["etl.low"] == 10


def test_schedulers_that_allocate_at_the_same_time_never_break_the_limit(locking: Scheduler) -> None:
    stage, stop = locking, threading.Event()
    failures: list[BaseException] = []
    limit = 10

    def allocate_for_ever() -> None:
        try:
            while not stop.is_set():
                allocate(stage, ETL)
        except BaseException as error:
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=allocate_for_ever) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(60):
            queue = ("low", "high", "critical", "default")[turn % 4]
            for _ in range(turn % 7):
                stage.task(f"etl/{queue}", "scheduled")
            _hand_over_under_lock(stage)
            with stage.engine.connect() as connection:
                total = _most(connection)
            assert total <= limit
            for row in stage.rows(TaskInstance, state="queued")[: turn % 4]:
                stage.change_task(row.id, state="success")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def _most(connection: sa.Connection) -> int:
    """Add up, in one statement, what is open or held in each Airflow pool of ours."""
    held = sa.select(sa.func.coalesce(sa.func.sum(_tasks.c.pool_slots), 0))
    held = held.where(_tasks.c.pool == _pools.c.pool, _tasks.c.state == "queued")
    most = sa.func.greatest(_pools.c.slots, held.scalar_subquery())
    of_etl = sa.select(sa.func.coalesce(sa.func.sum(most), 0)).where(_pools.c.pool.startswith("etl"))
    return int(connection.scalar(of_etl) or 0)


def _hand_over_under_lock(stage: Scheduler) -> None:
    """Queue what fits, with the Airflow pools' rows locked as in the scheduler's critical section."""
    with stage.engine.begin() as connection:
        rows = connection.execute(sa.select(_pools.c.pool, _pools.c.slots).with_for_update()).all()
        for name, number in rows:
            tasks = sa.select(_tasks.c.id, _tasks.c.state).where(_tasks.c.pool == name)
            here = connection.execute(tasks).all()
            left = number - sum(row.state == "queued" for row in here)
            for row in [row for row in here if row.state == "scheduled"][: max(0, left)]:
                connection.execute(sa.update(_tasks).where(_tasks.c.id == row.id).values(state="queued"))


# -- priorities -----------------------------------------------------------------------------------------------


def weight_of(stage: Scheduler, id_: uuid.UUID) -> int:
    (row,) = stage.rows(TaskInstance, id=id_)
    return int(row.priority_weight)


def test_waiting_tasks_move_with_their_queue_and_keep_their_own_weight(stage: Scheduler) -> None:
    old = {"priority_weight": combined_weight(50, 7)}
    waiting = [stage.task("etl/high", state, **old)["id"] for state in ("scheduled", None)]
    elsewhere = [stage.task("etl/high", state, **old)["id"] for state in ("queued", "running", "success")]
    elsewhere += [stage.task("other/high", "scheduled", **old)["id"]]
    negative = stage.task("etl/low", "scheduled", priority_weight=-5)["id"]
    for moved in (3, 0):
        with stage.rig.airflow.session() as session:
            assert airflow_pools.reprioritise(session, ranks_of({"etl": ETL})) == moved
    assert [weight_of(stage, id_) for id_ in waiting] == [combined_weight(5, 7)] * 2
    assert {weight_of(stage, id_) for id_ in elsewhere} == {combined_weight(50, 7)}
    assert weight_of(stage, negative) == combined_weight(10, 0)


def test_without_pools_nothing_moves(stage: Scheduler) -> None:
    with stage.rig.airflow.session() as session, statements_of(stage.engine) as sent:
        assert airflow_pools.reprioritise(session, {}) == 0
    assert sent == []


# -- tasks of queues that do not exist ------------------------------------------------------------------------


def unblock(stage: Scheduler, *, ours_is_default: bool = True) -> set[uuid.UUID]:
    """Let tasks of unknown queues go on; return which are in the default pool now."""
    with stage.rig.airflow.session() as session:
        blocked_tasks.unblock_unmapped(
            session,
            OURS,
            ours_is_default=ours_is_default,
            queues=sorted(ranks_of({"etl": ETL})),
            waiting_pools=["broken"],
        )
    return {row.id for row in stage.rows(TaskInstance, pool="default_pool")}


def test_only_tasks_of_unknown_queues_of_our_executor_go_on(stage: Scheduler) -> None:
    allocate(stage, ETL)
    named = {"executor": "WorkPoolExecutor"}
    unknown = {
        stage.task(queue, "scheduled", **values)["id"]
        for queue in ("nowhere/x", "etl/nowhere", "brokenn/x", "etl/High")
        for values in ({}, named)
    }
    stage.task("nowhere/x", "scheduled", executor="CeleryExecutor")
    stage.task("broken/x", "scheduled")  # its pool is there, but not valid: it waits
    stage.task("broken/default", "scheduled", **named)
    stage.task("celery", "scheduled", pool="gone")  # no work queue
    stage.task("etl/high", "scheduled")
    stage.task("etl/high", "scheduled", pool="to be made by its author")
    stage.task("nowhere/x", "scheduled", pool="etl.low")  # its author's Airflow pool is there
    stage.task("nowhere/x", "queued")
    stage.task("nowhere/x", None)
    assert unblock(stage) == unknown
    assert unblock(stage) == unknown


def test_tasks_that_name_no_executor_go_on_only_if_ours_is_the_default(stage: Scheduler) -> None:
    stage.task("nowhere/x", "scheduled")
    named = stage.task("nowhere/x", "scheduled", executor="WorkPoolExecutor")["id"]
    assert unblock(stage, ours_is_default=False) == {named}
