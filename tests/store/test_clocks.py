# SPDX-License-Identifier: Apache-2.0
"""Clocks that jump: what schedulers and workers make of times that lie far ahead or behind."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.store import clock as clock_module
from airflow_workpools.store.clock import DatabaseClock, database_time
from airflow_workpools.store.records import WorkerState
from tests.store.rigs import NOW, Rig, later, new_job, work_pool
from tests.store.schedulers import Scheduler, scheduler

HOUR = 3600.0


@pytest.fixture
def stage(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    with scheduler(engine, tmp_path / "logs", monkeypatch) as made:
        made.pool("etl", concurrency_limit=10, start_timeout=60)
        yield made


def test_the_databases_time_is_told_with_its_zone(sql: Rig) -> None:
    with sql.airflow.session() as session:
        told = database_time(session)
    assert abs(told - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert told.utcoffset() == timedelta(0)


@pytest.mark.parametrize("hours", [1, -1], ids=["forwards", "backwards"])
def test_a_scheduler_whose_machine_is_an_hour_off_takes_nobody_for_dead_and_nothing_for_late(
    stage: Scheduler, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stage.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no clock but the machine's")
    real = clock_module.host_time
    monkeypatch.setattr(clock_module, "host_time", lambda: real() + timedelta(hours=hours))
    executor = stage.executor()
    now = real()
    worker = stage.rig.worker(last_heartbeat_at=now)
    workload = stage.workload()
    stage.hand_over(executor, workload)
    stage.rig.claim(worker, work_pool(), now=now)
    executor.sync()
    record = stage.rig.record(workload.ti.id)
    assert (record.state, record.desired_state) == (JobState.CLAIMED, None)
    assert abs(record.handed_over_at - now) < timedelta(minutes=1)
    assert executor._started()._current_run_state(executor._started().clock(), 1e9).workers_online("etl") == 1


def test_after_a_jump_of_the_databases_clock_no_job_is_late_until_its_timeout_has_passed_anew(
    stage: Scheduler,
) -> None:
    executor = stage.executor()
    duties = executor._started()
    told, monotonic = [NOW], [1000.0]
    duties.clock = DatabaseClock(lambda: told[0], monotonic=lambda: monotonic[0])
    duties.clock.refresh()
    workload = stage.workload()
    stage.hand_over(executor, workload)
    worker = stage.rig.worker(last_heartbeat_at=NOW)
    stage.rig.claim(worker, work_pool(), now=NOW)
    id_ = workload.ti.id

    def passes(seconds: float, jump: float = 0) -> None:
        told[0] += timedelta(seconds=seconds + jump)
        monotonic[0] += seconds
        duties._looked_at = float("-inf")
        executor.sync()

    passes(20, jump=HOUR)
    assert stage.rig.record(id_).desired_state is None
    passes(590)
    assert stage.rig.record(id_).desired_state is None
    passes(80)
    assert stage.rig.record(id_).desired_state is JobState.FAILED


def test_a_heartbeat_after_the_clock_was_set_back_is_seen(rig: Rig) -> None:
    worker = rig.worker(last_heartbeat_at=later(HOUR))
    assert rig.store.run_state(now=NOW).workers[0].online(NOW) is False
    assert rig.store.heartbeat(worker, now=NOW) is WorkerState.ONLINE
    assert rig.store.run_state(now=NOW).workers[0].online(NOW)


def test_a_worker_that_died_before_the_clock_was_set_back_is_not_alive_for_another_hour(rig: Rig) -> None:
    dead, heir = rig.worker(last_heartbeat_at=later(HOUR)), rig.worker()
    (id_,) = rig.claimed(new_job(), worker=dead)
    assert [job.id for job in rig.store.take_over(heir, "here", now=NOW)] == [id_]


def test_a_wish_is_carried_out_also_if_the_worker_died_before_the_clock_was_set_back(rig: Rig) -> None:
    dead = rig.worker(last_heartbeat_at=later(HOUR))
    (id_,) = rig.claimed(new_job(), worker=dead)
    rig.store.request_cancel(job_ids=[id_], reason="cleared", now=NOW)
    assert rig.store.reconcile(now=NOW, grace_seconds=30).worker_lost == 1


def test_a_poll_after_the_clock_was_set_back_is_written_down(rig: Rig) -> None:
    ref = WorkQueueRef("etl")
    rig.store.poll([ref], now=later(HOUR))
    rig.store.poll([ref], now=NOW)
    assert rig.store.run_state(now=NOW).queue(ref).last_polled_at == NOW


def test_while_times_cannot_be_compared_only_what_needs_none_is_done(rig: Rig) -> None:
    worker = rig.worker()
    late, wished = rig.claimed(new_job(start_timeout_seconds=1), new_job(), worker=worker)
    rig.store.request_cancel(job_ids=[wished], reason="cleared", now=NOW)
    stale = new_job()
    (waiting,) = rig.hand_over(stale, state="success")
    done = rig.store.reconcile(now=later(HOUR), grace_seconds=30, by_time=False)
    assert (done.stale, done.total) == (1, 1)
    assert [rig.state(id_) for id_ in (late, wished, waiting)] == [
        JobState.CLAIMED,
        JobState.CLAIMED,
        JobState.CANCELLED,
    ]


# -- what comes twice, or late --------------------------------------------------------------------------------


def test_a_requeue_that_comes_twice_leaves_the_next_claim_alone(rig: Rig) -> None:
    """The answer to the first was lost, so it is said again; meanwhile the same worker has claimed the job anew."""
    worker = rig.worker()
    (id_,) = rig.claimed(new_job(), worker=worker)
    said = {"reason": "not launched", "start_attempts": {id_: 0}}
    assert rig.store.requeue(worker, [id_], **said, now=later(1)) == 1
    (again,) = rig.claim(worker, now=later(2))
    assert (again.id, again.start_attempts) == (id_, 1)
    assert rig.store.requeue(worker, [id_], **said, now=later(3)) == 0
    assert rig.state(id_) is JobState.CLAIMED
    assert rig.store.requeue(worker, [id_], "not launched", start_attempts={id_: 1}, now=later(4)) == 1


def test_a_requeue_that_comes_twice_ends_no_job_that_shall_be_stopped(rig: Rig) -> None:
    worker = rig.worker()
    (id_,) = rig.claimed(new_job(), worker=worker)
    rig.store.requeue(worker, [id_], "x", start_attempts={id_: 0}, now=later(1))
    rig.claim(worker, now=later(2))
    rig.store.request_cancel(job_ids=[id_], reason="cleared", now=later(2))
    assert rig.store.requeue(worker, [id_], "x", start_attempts={id_: 0}, now=later(3)) == 0
    assert rig.state(id_) is JobState.CLAIMED


@pytest.mark.parametrize("state", [JobState.SUBMITTED, JobState.RUNNING, JobState.FAILED, JobState.SUCCEEDED])
def test_a_report_of_an_earlier_claim_says_nothing_of_this_one(rig: Rig, state: JobState) -> None:
    from airflow_workpools.store.records import Report

    worker = rig.worker()
    (id_, other) = rig.claimed(new_job(), new_job(), worker=worker)
    rig.store.requeue(worker, [id_], "x", now=later(1))
    rig.claim(worker, now=later(2))
    late = Report(job_id=id_, state=state, start_attempts=0)
    now = Report(job_id=other, state=state, start_attempts=0)
    rig.store.report(worker, [late, now], now=later(3))
    assert (rig.state(id_), rig.state(other)) == (JobState.CLAIMED, state)
    rig.store.report(worker, [Report(job_id=id_, state=state, start_attempts=1)], now=later(4))
    assert rig.state(id_) is state


def test_an_unknown_job_in_a_requeue_is_no_error(rig: Rig) -> None:
    assert rig.store.requeue(rig.worker(), [uuid.uuid4()], "x", start_attempts={}, now=NOW) == 0
