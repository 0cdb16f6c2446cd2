# SPDX-License-Identifier: Apache-2.0
"""Rows that somebody has changed by hand: nothing is thrown, the row is named, the other jobs go on."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance

from airflow_workpools.airflow_private.tries import key_of_workload
from airflow_workpools.core.jobs import OCCUPYING, JobState
from airflow_workpools.core.pools import Delivery, WorkPool
from airflow_workpools.executor import WorkPoolExecutor
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store import rows
from airflow_workpools.store.records import Report, WorkerState
from airflow_workpools.store.tables import jobs as jobs_table
from airflow_workpools.store.tables import workers as workers_table
from airflow_workpools.worker.client import SqlClient
from tests.store.rigs import NOW, SCHEDULER, Rig, later, new_job, work_pool
from tests.store.schedulers import Scheduler, scheduler


@pytest.fixture(autouse=True)
def _complaints_are_new() -> None:
    rows._complain.cache_clear()


def by_hand(rig: Rig, job_id: uuid.UUID, **values: str) -> None:
    """Write into a job's row what a person types: SQL."""
    write(rig, "workpool_job", job_id, **values)


def write(rig: Rig, table: str, id_: uuid.UUID, **values: str) -> None:
    engine: sa.Engine = rig.airflow.engine  # type: ignore[attr-defined]
    key = sa.bindparam("id", id_, sa.Uuid())
    assignments = ", ".join(f"{column} = {value}" for column, value in values.items())
    with engine.begin() as connection:
        done = connection.execute(sa.text(f"UPDATE {table} SET {assignments} WHERE id = :id").bindparams(key))
    assert done.rowcount == 1


def reconcile(rig: Rig, seconds: float = 1) -> int:
    return rig.store.reconcile(now=later(seconds), grace_seconds=30).mended


def report(rig: Rig, worker: uuid.UUID, id_: uuid.UUID, state: JobState, **values: Any) -> None:
    rig.store.report(worker, [Report(job_id=id_, state=state, **values)], now=later(1))


@pytest.mark.parametrize("come", [JobState.PENDING, JobState.CLAIMED, JobState.SUBMITTED, JobState.RUNNING])
def test_a_job_whose_state_is_garbage_goes_on_from_where_it_was(
    sql: Rig, come: JobState, caplog: pytest.LogCaptureFixture
) -> None:
    worker = sql.worker()
    if come is JobState.PENDING:
        (id_,) = sql.hand_over(new_job())
    else:
        (id_,) = sql.claimed(new_job(), worker=worker)
    handle = Handle(job_id=id_, kind="process", data={})
    if come in (JobState.SUBMITTED, JobState.RUNNING):
        report(sql, worker, id_, come, handle=handle)
    (other,) = sql.claimed(new_job("ml"), worker=worker)
    by_hand(sql, id_, state="'rubbish'")

    # Everybody who looks meanwhile sees the others, and no exception.
    assert {job.id for job in sql.store.jobs()} == {id_, other}
    assert sum(count.jobs for states in sql.store.counts().values() for count in states.values()) == 2
    assert {job.id for job in sql.store.active(SCHEDULER)} == {id_, other}
    assert other in {job.id for job in sql.store.mine(worker)}

    assert reconcile(sql) == 1
    assert sql.state(id_) is come
    assert f"Job {id_} of dag.task-" in caplog.text
    assert "state is 'rubbish'" in caplog.text
    assert f"airflow workpools jobs cancel {id_}" in caplog.text
    assert reconcile(sql) == 0


def test_a_job_that_was_set_to_failed_by_hand_is_stopped_and_ends_so(sql: Rig) -> None:
    worker = sql.worker()
    (id_,) = sql.claimed(new_job(), worker=worker)
    report(sql, worker, id_, JobState.RUNNING)
    by_hand(sql, id_, state="'failed'")
    assert reconcile(sql) == 1
    assert [wish.job_id for wish in sql.store.wishes(worker)] == [id_]
    report(sql, worker, id_, JobState.CANCELLED)
    (ended,) = sql.store.ended(SCHEDULER, limit=9)
    assert (ended.id, ended.state) == (id_, JobState.FAILED)
    assert "by hand" in (ended.reason or "")


def test_a_waiting_job_that_was_set_to_cancelled_by_hand_is_told(sql: Rig) -> None:
    (id_,) = sql.hand_over(new_job())
    by_hand(sql, id_, state="'cancelled'")
    reconcile(sql)
    assert [(job.id, job.state) for job in sql.store.ended(SCHEDULER, limit=9)] == [(id_, JobState.CANCELLED)]


def test_an_end_without_an_end_state_is_not_told_as_success(sql: Rig) -> None:
    worker = sql.worker()
    running, garbage = sql.claimed(new_job(), new_job(), worker=worker)
    report(sql, worker, garbage, JobState.FAILED, reason="boom", exit_code=1)
    by_hand(sql, running, ended_at="handed_over_at")
    by_hand(sql, garbage, state="'?'")
    assert sql.store.ended(SCHEDULER, limit=9) == []
    assert reconcile(sql) == 2
    assert sql.state(running) is JobState.CLAIMED
    assert [(job.id, job.state) for job in sql.store.ended(SCHEDULER, limit=9)] == [
        (garbage, JobState.FAILED)
    ]


def test_a_job_that_was_set_back_to_pending_while_it_runs_is_not_claimed_twice(sql: Rig) -> None:
    worker = sql.worker()
    (id_,) = sql.claimed(new_job(), worker=worker)
    report(sql, worker, id_, JobState.RUNNING)
    by_hand(sql, id_, state="'pending'")
    assert sql.claim(sql.worker()) == []
    reconcile(sql)
    assert sql.state(id_) is JobState.RUNNING


def test_empty_columns_and_impossible_numbers_are_mended(sql: Rig, caplog: pytest.LogCaptureFixture) -> None:
    worker = sql.worker()
    (id_,) = sql.claimed(new_job(), worker=worker)
    by_hand(sql, id_, claimed_at="NULL", desired_state="'canceled'", pool_slots="-7")
    assert reconcile(sql) == 1
    record = sql.record(id_)
    assert (record.claimed_at, record.desired_state, record.pool_slots) == (later(1), None, 1)
    assert all(word in caplog.text for word in ("claimed_at is empty", "'canceled'", "pool_slots is -7"))


def test_a_claim_in_the_future_does_not_put_the_start_timeout_off(sql: Rig) -> None:
    (id_,) = sql.claimed(new_job(start_timeout_seconds=60), now=later(3600))
    reconcile(sql, 0)
    assert sql.record(id_).claimed_at == NOW
    sql.store.reconcile(now=later(61), grace_seconds=30)
    assert sql.record(id_).desired_state is JobState.FAILED


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("job_variables", "'[1]'"),
        ("job_variables", "'{nonsense'"),
        ("workload", "'{nonsense'"),
        ("workload", "'3'"),
    ],
)
def test_a_job_that_cannot_be_read_is_claimed_with_that_reason_and_the_others_with_it(
    sql: Rig, column: str, value: str
) -> None:
    bad, good = sql.hand_over(new_job(), new_job())
    if column == "job_variables" and "nonsense" in value and "postgres" in sql.airflow.engine.dialect.name:  # type: ignore[attr-defined]
        value = "'\"text\"'"  # PostgreSQL takes nothing that is no JSON
    by_hand(sql, bad, **{column: value})
    pool = work_pool()
    client = SqlClient(
        store=sql.store,
        all_pools=lambda: {"etl": pool},
        mint_token=lambda _id, _seconds: "fresh",
        kinds=frozenset({"process"}),
    )
    assert isinstance(pool, WorkPool)
    assert pool.delivery is Delivery.PUSH
    worker = sql.worker()
    claimed = {job.id: job for job in client.claim(worker, most=10, now=NOW)}
    assert claimed[good].problem is None
    assert '"fresh"' in claimed[good].workload
    assert f"{column} of job {bad} in table workpool_job was changed by hand" in (claimed[bad].problem or "")
    assert {job.id for job in sql.store.mine(worker)} == {bad, good}
    assert {job.id for job in sql.store.jobs()} == {bad, good}


def test_an_end_whose_workload_cannot_be_read_is_told(sql: Rig) -> None:
    worker = sql.worker()
    (id_,) = sql.claimed(new_job(), worker=worker)
    by_hand(sql, id_, workload="'{nonsense'")
    report(sql, worker, id_, JobState.FAILED, reason="boom")
    (ended,) = sql.store.ended(SCHEDULER, limit=9, traced=True)
    assert (ended.log_path, ended.reason) == (None, "boom")


def test_a_handle_that_cannot_be_read_is_looked_for_by_the_jobs_id(sql: Rig) -> None:
    worker = sql.worker()
    (id_,) = sql.claimed(new_job(), worker=worker)
    for handle in ("'[]'", "'{\"kind\": 3}'", '\'{"kind": "process", "data": 7}\''):
        by_hand(sql, id_, handle=handle)
        (job,) = sql.store.mine(worker)
        assert (job.id, job.handle) == (id_, None)
        assert sql.record(id_).handle is None


# -- workers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"kind": "'robot'"}, {"state": "'rubbish'"}, {"pools": "'7'"}])
def test_a_worker_that_cannot_be_read_hides_no_other_and_is_told_to_come_online_again(
    sql: Rig, change: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    from airflow_workpools.errors import NotFound

    good, bad = sql.worker(), sql.worker()
    write(sql, "workpool_worker", bad, **change)
    assert [worker.id for worker in sql.store.run_state(now=NOW).workers] == [good]
    assert f"Worker {bad}: its row in workpool_worker can't be read" in caplog.text
    assert sql.store.take_over(good, "here", now=NOW) == []
    with pytest.raises(NotFound):
        sql.store.heartbeat(bad, now=NOW)


def test_a_worker_whose_row_was_deleted_keeps_its_jobs_when_it_comes_online_again(sql: Rig) -> None:
    from airflow_workpools.errors import NotFound
    from tests.store.rigs import new_worker

    me = new_worker()
    sql.store.register_worker(me, now=NOW)
    (id_,) = sql.claimed(new_job(), worker=me.id)
    delete(sql, workers_table, me.id)
    with pytest.raises(NotFound):
        sql.store.heartbeat(me.id, now=NOW)
    sql.store.register_worker(me, now=later(1))
    assert sql.store.heartbeat(me.id, now=later(2)) is WorkerState.ONLINE
    assert [job.id for job in sql.store.mine(me.id)] == [id_]


def test_a_job_that_should_be_stopped_ends_also_if_its_workers_row_was_deleted(sql: Rig) -> None:
    worker = sql.worker()
    (id_,) = sql.claimed(new_job(), worker=worker)
    delete(sql, workers_table, worker)
    sql.store.request_cancel(job_ids=[id_], reason="cleared", now=NOW)
    sql.store.reconcile(now=later(1), grace_seconds=30)
    assert sql.state(id_) is JobState.FAILED


def delete(rig: Rig, table: sa.Table, id_: uuid.UUID) -> None:
    with rig.airflow.engine.begin() as connection:  # type: ignore[attr-defined]
        connection.execute(sa.delete(table).where(table.c.id == id_))


# -- the executor ---------------------------------------------------------------------------------------------


@pytest.fixture
def stage(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    with scheduler(engine, tmp_path / "logs", monkeypatch) as made:
        made.pool("etl", concurrency_limit=10)
        yield made


def next_round(executor: WorkPoolExecutor) -> None:
    """Sync as after some seconds: what is done now and then is due."""
    duties = executor._started()
    duties._looked_at = duties._counted_at = duties._run_state_at = duties._allocated_at = float("-inf")
    duties._settled = None
    executor.sync()


def test_no_duty_of_the_scheduler_fails_whatever_stands_in_the_rows(stage: Scheduler) -> None:
    executor = stage.executor()
    workloads = [stage.workload() for _ in range(6)]
    stage.hand_over(executor, *workloads)
    bad, alien, moved, _, good, deleted = (workload.ti.id for workload in workloads)
    now = datetime.now(timezone.utc)
    worker = stage.rig.worker(last_heartbeat_at=now)
    broken = stage.rig.worker(last_heartbeat_at=now)
    stage.rig.claim(worker, work_pool(), now=now)
    stage.rig.store.report(worker, [Report(job_id=good, state=JobState.FAILED, reason="its own")], now=now)
    by_hand(stage.rig, bad, state="'rubbish'", desired_state="'?'", handle="'[]'")
    by_hand(stage.rig, alien, pool="'nobody''s pool'", queue="'a.b/c'", dag_id="'alien'")
    by_hand(stage.rig, moved, pool="'default'", queue="'default'")
    write(stage.rig, "workpool_worker", broken, kind="'robot'", state="''")
    delete(stage.rig, jobs_table, deleted)

    next_round(executor)
    next_round(executor)

    assert not executor._failures
    assert stage.rig.state(bad) in OCCUPYING
    assert executor.event_buffer[key_of_workload(workloads[4])][0] == "failed"
    (pool,) = stage.rows(Pool, pool="etl")
    assert pool.slots > 0


def test_slots_that_were_changed_by_hand_are_set_again(stage: Scheduler) -> None:
    executor = stage.executor()
    stage.rig.worker(last_heartbeat_at=datetime.now(timezone.utc))
    stage.task("etl/default", "scheduled")
    next_round(executor)
    (before,) = stage.rows(Pool, pool="etl")
    with stage.engine.begin() as connection:
        connection.execute(sa.update(Pool.__table__).where(Pool.__table__.c.pool == "etl").values(slots=999))
    next_round(executor)
    (after,) = stage.rows(Pool, pool="etl")
    assert after.slots == before.slots != 999


def test_a_queued_task_whose_job_was_deleted_is_handed_over_again(
    stage: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    executor = stage.executor()
    lost, fresh, started = stage.workload(), stage.workload(), stage.workload(state="running")
    stage.hand_over(executor, lost, fresh, started)
    now = datetime.now(timezone.utc)
    stage.change_task(lost.ti.id, queued_dttm=NOW)
    stage.change_task(started.ti.id, queued_dttm=NOW)
    stage.change_task(fresh.ti.id, queued_dttm=now)
    for workload in (lost, fresh, started):
        delete(stage.rig, jobs_table, workload.ti.id)
    next_round(executor)
    states = {row.id: row.state for row in stage.rows(TaskInstance)}
    assert states == {lost.ti.id: "scheduled", fresh.ti.id: "queued", started.ti.id: "running"}
    assert "1 queued task has no job any more" in caplog.text
    assert key_of_workload(lost) not in executor.running
    stage.change_task(lost.ti.id, state="queued")
    stage.hand_over(executor, lost)
    assert stage.rig.state(lost.ti.id) is JobState.PENDING
