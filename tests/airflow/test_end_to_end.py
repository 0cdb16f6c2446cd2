# SPDX-License-Identifier: Apache-2.0
"""The whole way of a task, in a real Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.airflow.conftest import QUEUED_TIMEOUT_SECONDS
from tests.airflow.harness import (
    assert_each_ran_once,
    assert_limits_held_and_reached,
    held_at_once,
    most_at_once,
    seconds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_workpools.cli.local_records import TaskTry
    from tests.airflow.harness import AirflowInstance

pytestmark = pytest.mark.airflow

on_sqlite = pytest.mark.parametrize("airflow", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize(
    "airflow", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)
on_every_database = pytest.mark.parametrize(
    "airflow",
    [
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mysql),
    ],
    indirect=True,
)

HAND_OVER_SECONDS = 5.0
"""What Airflow may need, on a busy machine, from making a task `scheduled` to the next look at free slots."""


@on_every_database
def test_the_designs_example(airflow: AirflowInstance) -> None:
    low = airflow.trigger("low")
    airflow.wait(lambda: _has_held(airflow, low) >= 10, what="low to fill the pool")
    high, critical = airflow.trigger("high"), airflow.trigger("critical")
    runs = {"low": low, "high": high, "critical": critical}
    tries = [task for dag_id, run_id in runs.items() for task in airflow.wait_run(dag_id, run_id)]

    assert len(tries) == 52
    assert {task.try_number for task in tries} == {1}
    assert_each_ran_once(airflow.executions(*runs.values()), tries)
    # How many are in their code at once depends on the machine, too; how many hold slots does not.
    limits = {"": 10, "critical": 1, "high": 3, "low": 10}
    assert_limits_held_and_reached(airflow, runs.values(), limits)
    assert most_at_once(tries) <= 10
    assert most_at_once(tries, "etl/high") <= 3
    assert most_at_once(tries, "etl/critical") == 1
    assert overtakers(airflow, tries, critical) == []


def overtakers(airflow: AirflowInstance, tries: list[TaskTry], urgent_run: str) -> list[TaskTry]:
    """Return tasks that were queued and started while the urgent run's first task was already waiting."""
    scheduled = airflow.rows(
        "select min(scheduled_dttm) as first from task_instance where run_id = :run_id", run_id=urgent_run
    )[0]["first"]
    waiting_since = seconds(scheduled)
    first_start = min(task.started_at or 0 for task in tries if task.run_id == urgent_run)
    return [
        task
        for task in tries
        if task.run_id != urgent_run
        and (task.queued_at or 0) > waiting_since + HAND_OVER_SECONDS
        and (task.started_at or 0) < first_start
    ]


@pytest.fixture
def paused_high(airflow: AirflowInstance) -> Iterator[tuple[str, str]]:
    """Runs of both queues, and `high` paused while three of its tasks run; returns their run ids."""
    high = airflow.trigger("held_high")
    # Before the other has any: its tasks may have the slots that were left over, and don't end here.
    airflow.wait(lambda: len(airflow.running("held_high", high)) == 3, what="high to be full")
    low = airflow.trigger("held_low")
    airflow.workpools("queue", "pause", "etl/high")
    yield high, low
    for dag_id in ("held_high", "held_low"):
        airflow.release(dag_id)
    airflow.workpools("queue", "resume", "etl/high")


def test_a_paused_queue_starts_nothing_and_its_share_goes_to_others(
    airflow: AirflowInstance, paused_high: tuple[str, str]
) -> None:
    high, low = paused_high
    assert len(airflow.running("held_high", high)) == 3
    airflow.release("held_high")
    airflow.wait(lambda: not airflow.running("held_high", high), what="the paused queue's tasks to finish")
    airflow.wait(lambda: len(airflow.running("held_low", low)) == 10, what="low to take the whole pool")
    assert len(airflow.executions(high)) == 2 * 3
    airflow.workpools("queue", "resume", "etl/high")
    airflow.release("held_low")
    tries = airflow.wait_run("held_high", high) + airflow.wait_run("held_low", low)
    assert_limits_held_and_reached(airflow, (high, low), {"": 10, "high": 3, "low": 10})
    assert most_at_once(tries) <= 10
    assert most_at_once(tries, "etl/high") <= 3
    assert_each_ran_once(airflow.executions(high, low), tries)


def _has_held(airflow: AirflowInstance, run_id: str) -> int:
    """Return the most slots that jobs of a run have held at once: a moment is easily missed on a busy machine."""
    return held_at_once(airflow, [run_id]).at_most[""]


@on_postgres
def test_an_airflow_pool_of_its_authors_counts_too_and_a_large_task_is_not_starved_by_small_ones(
    airflow: AirflowInstance,
) -> None:
    run_id = airflow.trigger("two_limits")
    tries = airflow.wait_run("two_limits", run_id)
    assert_each_ran_once(airflow.executions(run_id), tries)
    # The work pool's limit counts them all, in slots; that of the Airflow pool those that are in it.
    assert most_at_once(tries) <= 4
    assert_limits_held_and_reached(airflow, [run_id], {"": 4, "default": 4})
    assert most_at_once(task for task in tries if task.pool == "db") == 2
    (large,) = (task for task in tries if task.task_id == "large")
    assert large.pool_slots == 3
    behind = [task for task in tries if (task.started_at or 0) > (large.started_at or 0)]
    assert len(behind) >= 5


def test_a_backlog_waits_for_any_time_without_failing_or_being_queued_again(airflow: AirflowInstance) -> None:
    runs = {dag_id: airflow.trigger(dag_id) for dag_id in ("backlog", "queued_backlog")}
    for dag_id, run_id in runs.items():
        tries = airflow.wait_run(dag_id, run_id)
        starts = [task.started_at or 0 for task in tries]
        assert max(starts) - min(starts) > 1.5 * QUEUED_TIMEOUT_SECONDS, (
            "Airflow's own timeout could not strike"
        )
        assert most_at_once(tries) == 1
        assert {(task.state, task.try_number) for task in tries} == {("success", 1)}
        assert_each_ran_once(airflow.executions(run_id), tries)
        assert not airflow.records.earlier_tries(dag_id, run_id)
        events = airflow.rows("select event from log where run_id = :run_id", run_id=run_id)
        assert not [row for row in events if "stuck" in row["event"]]


def test_work_pools_and_local_executor_run_side_by_side(airflow: AirflowInstance) -> None:
    run_id = airflow.trigger("beside")
    tries = airflow.wait_run("beside", run_id)
    jobs = airflow.rows("select task_id, pool, queue from workpool_job where run_id = :run_id", run_id=run_id)
    assert [(job["task_id"], job["pool"], job["queue"]) for job in jobs] == [("ours", "etl", "high")]
    assert_each_ran_once(airflow.executions(run_id), tries)


@on_sqlite
def test_a_task_without_a_work_queue_runs_as_ever(airflow: AirflowInstance) -> None:
    (task,) = airflow.run("no_work_queue")
    assert (task.pool, task.queue) == ("default_pool", "default")
    assert "said without a work queue" in airflow.log(task)


@on_sqlite
@pytest.mark.parametrize(
    ("dag_id", "reasons"),
    [
        ("unknown_pool", ["'nowhere'", "does not exist", "airflow workpools create nowhere"]),
        ("unknown_queue", ["'lwo'", "critical", "high", "low"]),
        ("unknown_variable", ["imgae", "etl"]),
    ],
)
def test_a_task_that_can_never_start_fails_and_says_why_in_its_log(
    airflow: AirflowInstance, dag_id: str, reasons: list[str]
) -> None:
    (task,) = airflow.run(dag_id, state="failed", timeout=60)
    log = airflow.log(task)
    for reason in reasons:
        assert reason in log
    assert not airflow.executions(task.run_id)


@on_sqlite
def test_a_work_pool_can_be_used_as_soon_as_it_is_there(airflow: AirflowInstance) -> None:
    airflow.wait(lambda: airflow.api.has_dag("new_pool"), what="the DAG")
    airflow.create_pool("brand-new")
    (task,) = airflow.run("new_pool", timeout=60)
    assert task.queue == "brand-new/default"


@on_sqlite
def test_a_job_gets_what_its_template_takes_from_a_connection(airflow: AirflowInstance) -> None:
    airflow.api.create("connections", {"connection_id": "hall", "conn_type": "generic", "host": "welcome"})
    template = {
        "variables": {"type": "object", "properties": {}},
        "job_configuration": {"env": {"GREETING": "{{ conn.hall.host }} in {{ ctx.work_pool }}"}},
    }
    airflow.create_pool("greeting", base_job_template=template)
    airflow.wait(lambda: airflow.rows("select 1 from slot_pool where pool = 'greeting'"), what="gate 1")
    (task,) = airflow.run("greeted")
    assert "the job was told welcome in greeting" in airflow.log(task)


@on_sqlite
def test_the_log_can_be_read_while_a_task_runs_and_afterwards(airflow: AirflowInstance) -> None:
    run_id = airflow.trigger("long_talk")
    task = airflow.wait(lambda: airflow.running("long_talk", run_id), what="the task to run")[0]
    airflow.wait(lambda: "said early" in airflow.log(task), timeout=60, what="its log")
    assert "said late" not in airflow.log(task)
    (task,) = airflow.wait_run("long_talk", run_id)
    log = airflow.log(task)
    assert "said early" in log
    assert "said late" in log
