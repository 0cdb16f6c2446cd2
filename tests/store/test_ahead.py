# SPDX-License-Identifier: Apache-2.0
"""Handing over a little ahead, on real databases: what ended lately, what waits in the store, slots."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from airflow.models.pool import Pool

from airflow_workpools.core.explain import Gate
from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.pools import WorkPool
from airflow_workpools.core.task_facts import TaskRef
from airflow_workpools.settings import PoolSettings, Settings
from airflow_workpools.store import airflow_pools
from airflow_workpools.store.ahead import look_ahead
from airflow_workpools.store.explain import explain_task
from airflow_workpools.store.records import Report, RunState
from tests.store.rigs import NOW, later, new_job, work_pool
from tests.store.schedulers import Scheduler, scheduler, statements_of

ETL = work_pool("etl", limit=10, critical=(1, 1), high=(5, 3), low=(10, None))


@pytest.fixture
def stage(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    with scheduler(engine, tmp_path / "logs", monkeypatch) as made:
        yield made


def slots(
    stage: Scheduler, *, seconds: float = 10.0, parallelism: int | None = None, pool: WorkPool = ETL
) -> dict[str, int]:
    """Allocate at a time, and return the slots of the Airflow pools."""
    pools = {"etl": pool}
    with stage.rig.airflow.session() as session:
        airflow_pools.allocate_slots(
            session,
            pools,
            RunState(as_of=NOW),
            {"etl": True},
            overdue_since=NOW - timedelta(days=1),
            ahead=partial(look_ahead, pools=pools, now=later(seconds)),
            parallelism=parallelism,
        )
    return {row.pool: row.slots for row in stage.rows(Pool) if row.pool != "default_pool"}


def end(stage: Scheduler, queue: str, number: int, *, claimed: float = 8.5, ended: float = 9.5) -> None:
    """Let jobs end whose tasks hold nothing any more."""
    worker = stage.rig.worker()
    ids = stage.rig.claimed(
        *(new_job(queue, run_id="ended") for _ in range(number)), worker=worker, now=later(claimed)
    )
    reports = [Report(job_id=id_, state=JobState.SUCCEEDED) for id_ in ids]
    stage.rig.store.report(worker, reports, now=later(ended))


def tasks(stage: Scheduler, queue: str, state: str, number: int) -> None:
    for _ in range(number):
        stage.task(queue, state)


def handed_over(stage: Scheduler, queue: str, number: int) -> None:
    """Have tasks wait in the store."""
    for _ in range(number):
        task = stage.task(queue, "queued")
        stage.rig.hand_over(new_job(queue, task_instance_id=task["id"]))


def test_a_pool_of_short_tasks_gets_more_slots_than_it_has_and_one_of_long_ones_does_not(
    stage: Scheduler,
) -> None:
    tasks(stage, "etl/low", "running", 10)
    tasks(stage, "etl/low", "scheduled", 20)
    assert slots(stage)["etl.low"] == 10
    end(stage, "etl/low", 4, claimed=-1, ended=9.5)
    assert slots(stage)["etl.low"] == 10
    end(stage, "etl/low", 4)
    assert slots(stage)["etl.low"] == 14
    assert slots(stage, seconds=12)["etl.low"] == 10  # nothing has ended since


def test_what_waits_in_the_store_keeps_nothing_from_a_queue_of_higher_priority(stage: Scheduler) -> None:
    end(stage, "etl/low", 4)
    tasks(stage, "etl/low", "running", 10)
    tasks(stage, "etl/low", "scheduled", 20)
    handed_over(stage, "etl/low", 4)
    full = {"etl": 0, "etl.critical": 0, "etl.high": 0, "etl.low": 14}
    assert slots(stage) == full
    tasks(stage, "etl/critical", "scheduled", 3)
    assert slots(stage) == {**full, "etl.critical": 1, "etl.low": 13}


def test_what_was_handed_over_before_tasks_became_long_keeps_nothing_from_a_queue_of_higher_priority(
    stage: Scheduler,
) -> None:
    tasks(stage, "etl/low", "running", 10)
    handed_over(stage, "etl/low", 10)
    tasks(stage, "etl/low", "scheduled", 20)
    assert slots(stage)["etl.low"] == 20  # no more than there are already
    tasks(stage, "etl/critical", "scheduled", 3)
    assert slots(stage) == {"etl": 0, "etl.critical": 1, "etl.high": 0, "etl.low": 19}


def test_many_tasks_of_higher_priority_come_in_up_to_twice_the_limit(stage: Scheduler) -> None:
    pool = work_pool("etl", limit=10, urgent=(1, None), low=(10, None))
    tasks(stage, "etl/low", "running", 10)
    handed_over(stage, "etl/low", 10)
    tasks(stage, "etl/urgent", "scheduled", 50)
    assert slots(stage, pool=pool)["etl.urgent"] == 10
    handed_over(stage, "etl/urgent", 10)
    assert slots(stage, pool=pool)["etl.urgent"] == 10


def test_a_task_that_is_larger_than_the_limit_is_not_let_in_by_slots_given_out_ahead(
    stage: Scheduler,
) -> None:
    end(stage, "etl/low", 4)
    tasks(stage, "etl/low", "running", 10)
    tasks(stage, "etl/low", "scheduled", 1)
    assert slots(stage)["etl.low"] > 10
    stage.task("etl/low", "scheduled", pool_slots=12)
    assert slots(stage)["etl.low"] == 10


def test_nothing_is_handed_over_ahead_where_the_executor_has_no_room_for_it(stage: Scheduler) -> None:
    end(stage, "etl/low", 4)
    tasks(stage, "etl/low", "running", 10)
    tasks(stage, "etl/low", "scheduled", 20)
    assert slots(stage, parallelism=14)["etl.low"] == 14
    assert slots(stage, parallelism=13)["etl.low"] == 10


def test_ends_of_the_future_say_nothing(stage: Scheduler) -> None:
    end(stage, "etl/low", 4)
    tasks(stage, "etl/low", "running", 10)
    tasks(stage, "etl/low", "scheduled", 20)
    assert slots(stage, seconds=9.2)["etl.low"] == 10  # the clock was set back


def test_a_queue_with_a_limit_of_its_own_stays_busy_too(stage: Scheduler) -> None:
    end(stage, "etl/high", 3)
    tasks(stage, "etl/high", "running", 3)
    tasks(stage, "etl/high", "scheduled", 9)
    assert slots(stage)["etl.high"] == 3 + 3


def test_looking_ahead_takes_one_statement_more_and_another_where_something_is_handed_over_ahead(
    stage: Scheduler,
) -> None:
    slots(stage)
    numbers = []
    for step in (
        lambda: None,
        lambda: tasks(stage, "etl/low", "scheduled", 1),
        lambda: end(stage, "etl/low", 4),
    ):
        step()
        slots(stage)
        with statements_of(stage.engine) as sent:
            slots(stage)
        numbers.append(len([one for one in sent if "workpool_job" in one]))
    assert numbers == [0, 1, 2]


def test_explain_takes_what_was_handed_over_ahead_for_waiting(stage: Scheduler) -> None:
    end(stage, "etl/low", 4)
    tasks(stage, "etl/low", "running", 10)
    handed_over(stage, "etl/low", 4)
    waiting = stage.task("etl/low", "scheduled")
    ref = TaskRef(dag_id=waiting["dag_id"], run_id=waiting["run_id"], task_id=waiting["task_id"])
    settings = Settings(home=Path("/nowhere"), pools=PoolSettings(builtin_limit=None))

    found = explain_task(
        ref, pools={"etl": ETL}, store=stage.rig.store, settings=settings, now=later(10)
    ).holding

    assert found is not None
    assert found.gate is Gate.POOL_LIMIT
    assert (found.numbers["held"], found.numbers["waiting"]) == (10, 5)
