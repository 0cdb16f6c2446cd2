# SPDX-License-Identifier: Apache-2.0
"""Every way in which jobs and task instances come apart, one by one. The SQL stores see real Airflow tables."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from airflow_workpools.core.jobs import OCCUPYING, JobState
from airflow_workpools.store.records import Reconciled, Report
from tests.store.rigs import NOW, SCHEDULER, Rig, later, new_job

if TYPE_CHECKING:
    from airflow_workpools.store.records import NewJob

GRACE = 30.0
NOTHING = Reconciled()

OVER = ("success", "failed", "skipped", "upstream_failed", "up_for_retry", "up_for_reschedule", "deferred")
"""States in which a task's process may still be finishing."""
PARKED = ("awaiting_input", "scheduled")


def reconcile(rig: Rig, at: float = 1) -> Reconciled:
    return rig.store.reconcile(now=later(at), grace_seconds=GRACE)


@pytest.fixture
def worker(rig: Rig) -> uuid.UUID:
    return rig.worker(heartbeat_seconds=1000.0)


def started(rig: Rig, worker: uuid.UUID, state: JobState = JobState.RUNNING, **values: object) -> NewJob:
    """Make a job that its worker has started."""
    job = new_job(**values)
    rig.claimed(job, worker=worker)
    rig.store.report(worker, [Report(job_id=job.task_instance_id, state=state)], now=NOW)
    return job


# -- waiting jobs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["queued", "running", "restarting"])
def test_a_waiting_job_goes_on_waiting_while_its_task_may_start(rig: Rig, state: str) -> None:
    job = new_job()
    rig.hand_over(job)
    rig.airflow.put(state, NOW, job)
    assert reconcile(rig, at=9999) == NOTHING
    assert rig.state(job.task_instance_id) is JobState.PENDING


@pytest.mark.parametrize("state", [None, "removed", *OVER, *PARKED])
def test_a_waiting_job_whose_task_waits_no_more_is_cancelled_at_once(rig: Rig, state: str | None) -> None:
    job = new_job()
    rig.hand_over(job)
    rig.airflow.put(state, NOW, job)
    assert reconcile(rig) == Reconciled(stale=1)
    record = rig.record(job.task_instance_id)
    assert record.state is JobState.CANCELLED
    assert record.reason == f"the task instance is now {state or 'cleared or gone'}"
    assert record.ended_at == later(1)
    assert [ended.id for ended in rig.store.ended(SCHEDULER, limit=9)] == [job.task_instance_id]


@pytest.mark.parametrize("ended_at", [None, later(1)])
def test_a_waiting_job_whose_task_instance_is_gone_is_cancelled_at_once(rig: Rig, ended_at: object) -> None:
    job = new_job()
    rig.hand_over(job)
    rig.airflow.remove(job, ended_at)  # type: ignore[arg-type]
    assert reconcile(rig) == Reconciled(stale=1)
    assert rig.record(job.task_instance_id).reason == "the task instance is now cleared or gone"


# -- started jobs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ti_state", ["queued", "running"])
@pytest.mark.parametrize("state", sorted(OCCUPYING), ids=str)
def test_a_started_job_goes_on_while_its_task_does(
    rig: Rig, worker: uuid.UUID, state: JobState, ti_state: str
) -> None:
    job = started(rig, worker, state)
    rig.airflow.put(ti_state, NOW, job)
    assert reconcile(rig, at=300) == NOTHING
    assert rig.store.wishes(worker) == []


@pytest.mark.parametrize("ti_state", [None, "restarting", "removed"])
@pytest.mark.parametrize("state", sorted(OCCUPYING), ids=str)
def test_a_started_job_whose_task_was_cleared_or_removed_is_stopped_at_once(
    rig: Rig, worker: uuid.UUID, state: JobState, ti_state: str | None
) -> None:
    job = started(rig, worker, state)
    rig.airflow.put(ti_state, later(1), job)
    assert reconcile(rig) == Reconciled(moved_on=1)
    reason = f"the task instance is now {ti_state or 'cleared or gone'}"
    assert rig.store.wishes(worker) == [(job.task_instance_id, reason)]
    assert rig.state(job.task_instance_id) is state


def test_a_look_at_what_was_cleared_stops_nothing_else(rig: Rig, worker: uuid.UUID) -> None:
    cleared, again = started(rig, worker), started(rig, worker)
    for ti_state in (None, "queued", "running", "removed", *OVER, *PARKED):
        rig.airflow.put(ti_state, later(1), started(rig, worker))
    rig.airflow.put("restarting", later(1), cleared)
    waiting = new_job()
    rig.hand_over(waiting, state="restarting")
    assert rig.store.stop_cleared() == 1
    assert rig.store.stop_cleared() == 0
    assert rig.store.wishes(worker) == [(cleared.task_instance_id, "the task instance is now restarting")]
    rig.airflow.put("restarting", later(2), again)
    assert rig.store.stop_cleared() == 1
    assert rig.state(waiting.task_instance_id) is JobState.PENDING


@pytest.mark.parametrize("ti_state", [*OVER, *PARKED])
def test_a_process_whose_task_has_come_to_an_end_may_finish_for_the_time_of_the_grace(
    rig: Rig, worker: uuid.UUID, ti_state: str
) -> None:
    job = started(rig, worker)
    rig.airflow.put(ti_state, later(100), job)
    assert reconcile(rig, at=100 + GRACE - 1) == NOTHING
    assert reconcile(rig, at=100 + GRACE) == Reconciled(moved_on=1)
    assert rig.record(job.task_instance_id).desired_state is JobState.CANCELLED


def test_a_process_that_ended_before_its_report_did_is_not_hurried(rig: Rig, worker: uuid.UUID) -> None:
    job = started(rig, worker, JobState.CLAIMED)  # the worker has not come to say that it runs
    rig.airflow.put("success", later(1), job)
    assert reconcile(rig, at=2) == NOTHING


def test_a_started_job_whose_task_instance_is_gone_is_stopped_at_once(rig: Rig, worker: uuid.UUID) -> None:
    job = started(rig, worker)
    rig.airflow.remove(job, None)
    assert reconcile(rig) == Reconciled(moved_on=1)


def test_a_process_whose_try_went_to_the_history_may_finish_for_the_time_of_the_grace(
    rig: Rig, worker: uuid.UUID
) -> None:
    """A task that fails and has retries left gets its new id while its process is still there."""
    job = started(rig, worker)
    rig.airflow.remove(job, later(100))
    assert reconcile(rig, at=100 + GRACE - 1) == NOTHING
    assert reconcile(rig, at=100 + GRACE) == Reconciled(moved_on=1)


def test_a_wish_is_not_repeated(rig: Rig, worker: uuid.UUID) -> None:
    job = started(rig, worker)
    rig.airflow.put(None, NOW, job)
    assert reconcile(rig) == Reconciled(moved_on=1)
    assert reconcile(rig) == NOTHING


def test_jobs_that_have_ended_are_of_no_interest(rig: Rig, worker: uuid.UUID) -> None:
    job = started(rig, worker, JobState.SUCCEEDED)
    rig.airflow.put(None, NOW, job)
    before = rig.record(job.task_instance_id)
    assert reconcile(rig, at=9999) == NOTHING
    assert rig.record(job.task_instance_id) == before


# -- start timeout --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(OCCUPYING), ids=str)
def test_a_job_whose_task_does_not_start_in_time_is_stopped(
    rig: Rig, worker: uuid.UUID, state: JobState
) -> None:
    job = started(rig, worker, state, start_timeout_seconds=90.0)
    assert reconcile(rig, at=90) == NOTHING
    assert reconcile(rig, at=91) == Reconciled(not_started=1)
    reason = "did not start within 90 s (start timeout of work pool 'etl')"
    assert rig.store.wishes(worker) == [(job.task_instance_id, reason)]
    assert rig.record(job.task_instance_id).desired_state is JobState.FAILED


def test_a_job_that_did_not_start_in_time_ends_as_failed_with_that_reason(
    rig: Rig, worker: uuid.UUID
) -> None:
    job = started(rig, worker, start_timeout_seconds=90.0)
    reconcile(rig, at=91)
    (outcome,) = rig.store.report(
        worker,
        [Report(job_id=job.task_instance_id, state=JobState.CANCELLED, reason="terminated")],
        now=later(92),
    )
    assert outcome == (job.task_instance_id, True, JobState.FAILED)
    (ended,) = rig.store.ended(SCHEDULER, limit=9)
    assert ended.state is JobState.FAILED
    assert ended.reason == "did not start within 90 s (start timeout of work pool 'etl')"


def test_what_the_infrastructure_said_last_explains_why_a_job_did_not_start(
    rig: Rig, worker: uuid.UUID
) -> None:
    job = started(rig, worker, start_timeout_seconds=0.5)
    report = Report(job_id=job.task_instance_id, state=JobState.RUNNING, reason="image 'x' not found")
    rig.store.report(worker, [report], now=NOW)
    reconcile(rig, at=1)
    assert rig.record(job.task_instance_id).reason == (
        "did not start within 0.5 s (start timeout of work pool 'etl'): image 'x' not found"
    )


def test_every_pool_has_its_own_start_timeout(rig: Rig, worker: uuid.UUID) -> None:
    quick = started(rig, worker, queue="quick", start_timeout_seconds=10.0)
    started(rig, worker, queue="slow", start_timeout_seconds=100.0)
    slow_once = started(rig, worker, queue="quick", start_timeout_seconds=100.0)
    assert reconcile(rig, at=50) == Reconciled(not_started=1)
    assert rig.store.wishes(worker)[0].job_id == quick.task_instance_id
    assert rig.record(slow_once.task_instance_id).desired_state is None


def test_a_task_that_has_started_has_no_start_timeout(rig: Rig, worker: uuid.UUID) -> None:
    job = started(rig, worker, start_timeout_seconds=90.0)
    rig.airflow.put("running", NOW, job)
    assert reconcile(rig, at=300) == NOTHING


def test_a_process_that_is_finishing_when_its_task_waits_anew_has_no_start_timeout(
    rig: Rig, worker: uuid.UUID
) -> None:
    job = started(rig, worker, start_timeout_seconds=90.0)
    rig.airflow.put("deferred", later(500), job)
    rig.hand_over(job, now=later(501))
    assert reconcile(rig, at=510) == NOTHING


def test_waiting_in_line_is_no_part_of_the_start_timeout(rig: Rig, worker: uuid.UUID) -> None:
    rig.hand_over(new_job(start_timeout_seconds=90.0))
    assert reconcile(rig, at=5000) == NOTHING
    rig.claim(worker, now=later(5000))
    assert reconcile(rig, at=5090) == NOTHING
    assert reconcile(rig, at=5091) == Reconciled(not_started=1)


# -- rounds ---------------------------------------------------------------------------------------------------


def test_an_older_round_that_keeps_a_newer_one_waiting_is_stopped_after_a_while(
    rig: Rig, worker: uuid.UUID
) -> None:
    job = started(rig, worker)
    (second,) = rig.hand_over(job, now=later(100))
    assert reconcile(rig, at=130) == NOTHING
    assert reconcile(rig, at=131) == Reconciled(superseded=1)
    ((id_, reason),) = rig.store.wishes(worker)
    assert id_ == job.task_instance_id
    assert reason == "the same try was handed over again and waits for this job to end"
    assert rig.state(second) is JobState.PENDING


def test_only_the_older_round_is_stopped_for_the_sake_of_a_newer_one(rig: Rig, worker: uuid.UUID) -> None:
    job = started(rig, worker)
    started(rig, worker)
    rig.hand_over(job, now=later(1))
    rig.hand_over(job, now=later(2))
    assert reconcile(rig, at=100) == Reconciled(superseded=1)


# -- lost workers ---------------------------------------------------------------------------------------------


def test_a_job_that_should_be_stopped_fails_when_its_worker_is_silent_for_minutes(rig: Rig) -> None:
    worker = rig.worker(hostname="far away")
    job = started(rig, worker)
    rig.store.request_cancel(job_ids=[job.task_instance_id], reason="cleared", now=NOW)
    assert reconcile(rig, at=300) == NOTHING
    assert reconcile(rig, at=301) == Reconciled(worker_lost=1)
    record = rig.record(job.task_instance_id)
    assert (record.state, record.ended_at) == (JobState.FAILED, later(301))
    assert record.reason is not None
    assert record.reason.startswith("worker lost")
    assert record.reason.endswith(": cleared")


def test_what_nobody_wishes_to_stop_is_not_given_up_with_its_worker(rig: Rig) -> None:
    job = started(rig, rig.worker())
    rig.airflow.put("running", NOW, job)
    assert reconcile(rig, at=99_999) == NOTHING


def test_a_wish_made_now_leaves_another_worker_one_round_to_take_over(rig: Rig) -> None:
    job = started(rig, rig.worker())
    rig.airflow.put(None, NOW, job)
    assert reconcile(rig, at=9000) == Reconciled(moved_on=1)
    heir = rig.worker(last_heartbeat_at=later(9000))
    assert len(rig.store.take_over(heir, "here", now=later(9000))) == 1
    assert reconcile(rig, at=9001) == NOTHING
    assert len(rig.store.wishes(heir)) == 1


# -- ends that nobody acted on --------------------------------------------------------------------------------


def told(rig: Rig, worker: uuid.UUID, at: float = 10) -> NewJob:
    """Make a job whose end Airflow has heard of."""
    job = started(rig, worker, JobState.FAILED)
    rig.store.mark_reported([job.task_instance_id], now=later(at))
    return job


def test_an_end_that_airflow_heard_of_but_did_not_act_on_is_told_again(rig: Rig, worker: uuid.UUID) -> None:
    """Airflow passes over task instances that another transaction has locked, and forgets what it was told."""
    job = told(rig, worker)
    assert reconcile(rig, at=40) == NOTHING
    assert rig.store.ended(SCHEDULER, limit=9) == []
    assert reconcile(rig, at=41) == Reconciled(untold=1)
    assert [ended.id for ended in rig.store.ended(SCHEDULER, limit=9)] == [job.task_instance_id]
    assert reconcile(rig, at=42) == NOTHING


@pytest.mark.parametrize("state", ["running", "success", "scheduled", "up_for_retry", None])
def test_an_end_that_airflow_has_acted_on_is_not_told_again(
    rig: Rig, worker: uuid.UUID, state: str | None
) -> None:
    job = told(rig, worker)
    rig.airflow.put(state, NOW, job)
    assert reconcile(rig, at=100) == NOTHING


def test_the_end_of_an_earlier_round_is_not_told_again(rig: Rig, worker: uuid.UUID) -> None:
    job = told(rig, worker)
    rig.hand_over(job, now=later(20))
    assert reconcile(rig, at=45) == NOTHING
    assert rig.store.ended(SCHEDULER, limit=9) == []


# -- all together ---------------------------------------------------------------------------------------------


def test_many_jobs_of_all_kinds_are_reconciled_at_once(rig: Rig) -> None:
    worker = rig.worker(heartbeat_seconds=1000.0, last_heartbeat_at=later(80))
    rig.worker(hostname="far away")
    stale = [new_job("idle") for _ in range(3)]
    rig.hand_over(*stale)
    rig.airflow.put("failed", NOW, *stale)
    moved_on = [started(rig, worker) for _ in range(2)]
    rig.airflow.put(None, NOW, *moved_on)
    for _ in range(4):
        started(rig, worker, start_timeout_seconds=10.0)
    again = started(rig, worker)
    rig.hand_over(again, now=later(1))
    fine = started(rig, worker)
    rig.airflow.put("running", NOW, fine)
    assert reconcile(rig, at=100) == Reconciled(stale=3, moved_on=2, not_started=4, superseded=1)
    assert reconcile(rig, at=100) == NOTHING
    assert reconcile(rig, at=100).total == 0
