# SPDX-License-Identifier: Apache-2.0
"""What operators and machines do wrong: the scheduler goes on, says what is wrong, and no task is lost."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from airflow_workpools.cli.local_airflow import API_SERVER, SCHEDULER
from airflow_workpools.core.weights import RANK_STEP, combined_weight
from tests.airflow.harness import assert_each_ran_once

if TYPE_CHECKING:
    from tests.airflow.harness import AirflowInstance

pytestmark = pytest.mark.airflow

REPLACED = "doomed-now-otherwise"


def _begun(airflow: AirflowInstance, run_id: str) -> int:
    return sum(execution.event == "start" for execution in airflow.executions(run_id))


def _schedulers_output(airflow: AirflowInstance) -> str:
    return airflow.local.tail(SCHEDULER, 100_000)


def _execute(airflow: AirflowInstance, *statements: str) -> None:
    """Change the database by hand."""
    engine = sa.create_engine(airflow.local.database_url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()


# -- work pools that are gone ---------------------------------------------------------------------------------


@pytest.mark.parametrize("renamed", [False, True], ids=["deleted", "renamed"])
def test_tasks_that_wait_for_a_pool_that_is_gone_fail_with_the_reason_and_can_be_cleared(
    airflow: AirflowInstance, renamed: bool
) -> None:
    """What runs goes on. Who waits in Airflow and who waits in the store hears of it."""
    airflow.create_pool("doomed", concurrency_limit=1)
    run_id = airflow.trigger("doomed")
    airflow.wait(lambda: _begun(airflow, run_id) == 1, what="a task to be in its code")
    stored = airflow.trigger("doomed_in_store")
    airflow.wait(
        lambda: airflow.rows(
            "select 1 from workpool_job where run_id = :id and state = 'pending'", id=stored
        ),
        what="jobs to wait in the store",
    )
    before = airflow.worker_pid()
    if renamed:
        airflow.create_pool(REPLACED, concurrency_limit=1)
    airflow.api.call("DELETE", "connections/doomed")
    try:
        tries = airflow.wait_run("doomed", run_id, state="failed")
        succeeded = {task.map_index for task in tries if task.state == "success"}
        assert {execution.map_index for execution in airflow.executions(run_id)} == succeeded
        assert succeeded
        for task in tries:
            if task.state != "success":
                assert task.state == "failed"
                log = airflow.log(task)
                assert "Work pool 'doomed'" in log
                if "does not exist" in log:
                    assert "airflow workpools create doomed" in log
                    assert (REPLACED in log) is renamed
        waited = airflow.wait_run("doomed_in_store", stored, state="failed")
        assert all("Work pool 'doomed'" in airflow.log(task) for task in waited if task.state == "failed")
        assert airflow.worker_pid() == before

        airflow.create_pool("doomed", concurrency_limit=4)
        airflow.clear(next(task for task in tries if task.state == "failed"))
        airflow.wait(
            lambda: any(t.try_number == 2 and t.state == "success" for t in airflow.tries("doomed", run_id)),
            what="the cleared task to succeed in the pool that is there again",
        )
    finally:
        for name in ("doomed", REPLACED):
            with contextlib.suppress(Exception):
                airflow.api.call("DELETE", f"connections/{name}")
        airflow.wait(
            lambda: not airflow.rows("select 1 from slot_pool where pool = 'doomed'"),
            what="the scheduler to know that the pool is gone",
        )


# -- rows changed by hand -------------------------------------------------------------------------------------


def test_rows_that_are_changed_by_hand_while_jobs_run_cost_no_task(airflow: AirflowInstance) -> None:
    run_id = airflow.trigger("by_hand")
    airflow.wait(lambda: _begun(airflow, run_id) == 4, what="all tasks to be in their code")
    jobs = airflow.rows("select map_index from workpool_job where run_id = :id order by map_index", id=run_id)
    assert [job["map_index"] for job in jobs] == [0, 1, 2, 3]
    of_run = f"where run_id = '{run_id}' and map_index ="
    _execute(
        airflow,
        f"update workpool_job set state = 'rubbish' {of_run} 0",
        f"update workpool_job set state = 'pending' {of_run} 1",
        f"delete from workpool_job {of_run} 2",
        "delete from workpool_worker",
    )
    tries = airflow.wait_run("by_hand", run_id)
    assert_each_ran_once(airflow.executions(run_id), tries)
    output = _schedulers_output(airflow)
    assert "its row in workpool_job was changed by hand: state is 'rubbish'" in output.replace("\n", " ")
    airflow.wait(
        lambda: (
            [
                job["state"]
                for job in airflow.rows("select state from workpool_job where run_id = :id", id=run_id)
            ]
            == ["succeeded"] * 3
        ),
        what="the jobs to end",
    )


# -- no write access to AIRFLOW_HOME --------------------------------------------------------------------------


@pytest.fixture
def read_only(airflow: AirflowInstance) -> Iterator[list[Path]]:
    """Folders that nobody can write to, not even root, as long as they are in this list."""
    folders: list[Path] = []
    yield folders
    for folder in folders:
        _chattr("-i", folder)


def _chattr(flag: str, folder: Path) -> None:
    done = subprocess.run(["chattr", flag, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"folders can't be made immutable here: {done.stderr.strip()}")


def _lock(read_only: list[Path], *folders: Path) -> None:
    for folder in folders:
        read_only.append(folder)
        _chattr("+i", folder)


def _unlock(read_only: list[Path]) -> None:
    while read_only:
        _chattr("-i", read_only.pop())


@pytest.mark.skipif(shutil.which("chattr") is None, reason="needs chattr (e2fsprogs)")
@pytest.mark.parametrize("restarted", [False, True], ids=["while it runs", "at the start"])
def test_tasks_wait_while_the_home_cannot_be_written_to(
    airflow: AirflowInstance, read_only: list[Path], restarted: bool
) -> None:
    workpools = airflow.local.home / "workpools"
    if restarted:
        airflow.local.kill9(SCHEDULER)
        _lock(read_only, workpools / "jobs", workpools / "workers", workpools)
        airflow.local.start(SCHEDULER)
    else:
        _lock(read_only, workpools / "jobs", workpools / "workers", workpools)
    run_id = airflow.trigger("unwritable")
    message = "Jobs can't be started without it" if restarted else "claims no job of work pool"
    airflow.wait(lambda: message in _schedulers_output(airflow), what="the message")
    assert "set [workpools] home" in _schedulers_output(airflow)
    airflow.wait(
        lambda: "can't be written to" in str(airflow.workpools("inspect", "crash")), what="the pool to say so"
    )
    assert not airflow.executions(run_id)
    _unlock(read_only)
    tries = airflow.wait_run("unwritable", run_id)
    assert {task.try_number for task in tries} == {1}
    assert_each_ran_once(airflow.executions(run_id), tries)


# -- a priority strategy without its database -----------------------------------------------------------------


def test_tasks_whose_priority_could_not_be_told_get_it_later(airflow: AirflowInstance) -> None:
    """An API server that has never seen the work pools makes the tasks; the pools' table is away meanwhile."""
    airflow.wait(lambda: airflow.api.has_dag("unranked"), what="the DAG to be parsed")
    airflow.workpools("queue", "pause", "etl/critical")
    airflow.local.kill9(API_SERVER)
    _execute(airflow, "alter table connection rename to connection_away")
    try:
        airflow.local.start(API_SERVER)
        airflow.local.wait_ready()
        run_id = airflow.trigger("unranked")
        weights = "select distinct priority_weight from task_instance where run_id = :id"
        (made,) = airflow.rows(weights, id=run_id)
        assert made["priority_weight"] < RANK_STEP
    finally:
        _execute(airflow, "alter table connection_away rename to connection")
    expected = combined_weight(1, made["priority_weight"])
    airflow.wait(
        lambda: [row["priority_weight"] for row in airflow.rows(weights, id=run_id)] == [expected],
        timeout=90,
        what="the waiting tasks to get the priority of their queue",
    )
    airflow.workpools("queue", "resume", "etl/critical")
    airflow.wait_run("unranked", run_id)
    assert "The priority of work queue 'etl/critical' cannot be told" in airflow.local.tail(
        API_SERVER, 100_000
    )
