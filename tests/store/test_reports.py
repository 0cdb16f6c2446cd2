# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import uuid
from itertools import product

import pytest

from airflow_workpools.core.jobs import ENDED, OCCUPYING, TRANSITIONS, JobState
from airflow_workpools.errors import InvalidInput
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store.records import Report, ReportOutcome
from tests.store.rigs import NOW, SCHEDULER, Rig, later, new_job

REPORTABLE = [state for state in JobState if state is not JobState.PENDING]


def handle(job_id: uuid.UUID, pid: int = 1) -> Handle:
    return Handle(job_id=job_id, kind="process", data={"pid": pid})


def report(
    rig: Rig, worker: uuid.UUID, id_: uuid.UUID, state: JobState, at: float = 1, **more: object
) -> bool:
    (outcome,) = rig.store.report(worker, [Report(job_id=id_, state=state, **more)], now=later(at))  # type: ignore[arg-type]
    return outcome.accepted


@pytest.fixture
def worker(rig: Rig) -> uuid.UUID:
    return rig.worker()


def test_a_job_goes_its_way_from_claim_to_end(rig: Rig, worker: uuid.UUID) -> None:
    (id_,) = rig.claimed(new_job(), worker=worker)
    assert report(rig, worker, id_, JobState.SUBMITTED, at=1, handle=handle(id_))
    assert report(rig, worker, id_, JobState.RUNNING, at=2)
    assert rig.record(id_).started_at == later(2)
    assert report(rig, worker, id_, JobState.SUCCEEDED, at=3, exit_code=0)

    record = rig.record(id_)
    assert record.state is JobState.SUCCEEDED
    assert record.exit_code == 0
    assert (record.started_at, record.ended_at) == (later(2), later(3))
    assert record.handle == handle(id_)
    assert rig.store.mine(worker) == []


@pytest.mark.parametrize(("now", "then"), list(product(sorted(OCCUPYING | ENDED), REPORTABLE)), ids=str)
def test_a_state_is_stored_where_it_may_follow_and_nowhere_else(
    rig: Rig, worker: uuid.UUID, now: JobState, then: JobState
) -> None:
    (id_,) = rig.claimed(new_job(), worker=worker)
    if now is not JobState.CLAIMED:
        assert report(rig, worker, id_, now)
    before = rig.record(id_)

    accepted = report(rig, worker, id_, then, at=9, exit_code=5, reason="later")
    if then in TRANSITIONS[now]:
        assert accepted
        assert rig.state(id_) is then
    elif then is now:
        assert accepted
        assert rig.state(id_) is now
    else:
        assert not accepted
        assert rig.record(id_) == before
    if now in ENDED:
        assert rig.record(id_) == before


def test_a_repeated_end_is_welcome_and_changes_nothing(rig: Rig, worker: uuid.UUID) -> None:
    (id_,) = rig.claimed(new_job(), worker=worker)
    assert report(rig, worker, id_, JobState.FAILED, at=1, reason="out of memory", exit_code=137)
    before = rig.record(id_)
    assert report(rig, worker, id_, JobState.FAILED, at=50, reason="something else", exit_code=1)
    assert rig.record(id_) == before


def test_a_repeated_report_brings_a_newer_handle_and_reason(rig: Rig, worker: uuid.UUID) -> None:
    (id_,) = rig.claimed(new_job(), worker=worker)
    assert report(rig, worker, id_, JobState.CLAIMED, handle=handle(id_, 1))
    assert report(rig, worker, id_, JobState.CLAIMED, handle=handle(id_, 2))
    assert report(rig, worker, id_, JobState.SUBMITTED, reason="pulling the image")
    assert rig.record(id_).handle == handle(id_, 2)
    assert rig.record(id_).reason == "pulling the image"
    assert report(rig, worker, id_, JobState.RUNNING)
    assert rig.record(id_).reason is None


def test_running_again_keeps_the_time_of_the_first_start(rig: Rig, worker: uuid.UUID) -> None:
    (id_,) = rig.claimed(new_job(), worker=worker)
    report(rig, worker, id_, JobState.RUNNING, at=1)
    report(rig, worker, id_, JobState.RUNNING, at=2)
    assert rig.record(id_).started_at == later(1)


def test_when_a_job_started_may_be_told_with_its_end(rig: Rig, worker: uuid.UUID) -> None:
    ids = rig.claimed(*(new_job() for _ in range(4)), worker=worker)
    assert report(rig, worker, ids[0], JobState.SUCCEEDED, at=9, started_at=later(1))
    assert report(rig, worker, ids[1], JobState.RUNNING, at=9, started_at=later(2))
    assert report(rig, worker, ids[1], JobState.FAILED, at=10, started_at=later(3))
    assert report(rig, worker, ids[2], JobState.FAILED, at=9)
    assert report(rig, worker, ids[3], JobState.CANCELLED, at=9, started_at=later(4))
    assert [rig.record(id_).started_at for id_ in ids] == [later(1), later(2), None, later(4)]


def test_a_start_is_between_the_claim_and_now_whatever_a_clock_says(rig: Rig, worker: uuid.UUID) -> None:
    ids = rig.claimed(*(new_job() for _ in range(3)), worker=worker, now=later(5))
    assert report(rig, worker, ids[0], JobState.RUNNING, at=9, started_at=later(1))
    assert report(rig, worker, ids[1], JobState.SUCCEEDED, at=9, started_at=later(99))
    assert report(rig, worker, ids[2], JobState.FAILED, at=9, started_at=later(1))
    assert [rig.record(id_).started_at for id_ in ids] == [later(5), later(9), later(5)]


def test_many_reports_of_all_kinds_are_one_call(rig: Rig, worker: uuid.UUID) -> None:
    ids = rig.claimed(*(new_job() for _ in range(6)), worker=worker)
    stranger = uuid.uuid4()
    outcomes = rig.store.report(
        worker,
        [
            Report(job_id=ids[0], state=JobState.SUCCEEDED, exit_code=0),
            Report(job_id=ids[1], state=JobState.FAILED, reason="a", exit_code=1),
            Report(job_id=ids[2], state=JobState.FAILED, reason="b", exit_code=2),
            Report(job_id=ids[3], state=JobState.RUNNING, handle=handle(ids[3], 3)),
            Report(job_id=ids[4], state=JobState.RUNNING, handle=handle(ids[4], 4)),
            Report(job_id=stranger, state=JobState.RUNNING),
        ],
        now=later(1),
    )
    assert [outcome.accepted for outcome in outcomes] == [True] * 5 + [False]
    assert outcomes[-1] == ReportOutcome(stranger, accepted=False, state=None)
    records = [rig.record(id_) for id_ in ids]
    assert [record.exit_code for record in records] == [0, 1, 2, None, None, None]
    assert [record.reason for record in records] == [None, "a", "b", None, None, None]
    assert [record.handle for record in records[3:]] == [handle(ids[3], 3), handle(ids[4], 4), None]
    assert records[5].state is JobState.CLAIMED


def test_of_several_reports_of_one_job_the_last_counts(rig: Rig, worker: uuid.UUID) -> None:
    (id_,) = rig.claimed(new_job(), worker=worker)
    outcomes = rig.store.report(
        worker,
        [Report(job_id=id_, state=JobState.RUNNING), Report(job_id=id_, state=JobState.SUCCEEDED)],
        now=NOW,
    )
    assert rig.state(id_) is JobState.SUCCEEDED
    assert outcomes == [ReportOutcome(id_, accepted=True, state=JobState.SUCCEEDED)] * 2


def test_a_batch_of_reports_is_large_or_empty(rig: Rig, worker: uuid.UUID) -> None:
    ids = rig.hand_over(*(new_job() for _ in range(1200)))
    rig.claim(worker, room=5000)
    outcomes = rig.store.report(
        worker, [Report(job_id=id_, state=JobState.SUCCEEDED, reason=str(id_)) for id_ in ids], now=NOW
    )
    assert all(outcome.accepted for outcome in outcomes)
    assert rig.record(ids[-1]).reason == str(ids[-1])
    assert rig.store.report(worker, [], now=NOW) == []


def test_another_worker_has_no_say(rig: Rig, worker: uuid.UUID) -> None:
    (id_,) = rig.claimed(new_job(), worker=worker)
    (outcome,) = rig.store.report(rig.worker(), [Report(job_id=id_, state=JobState.FAILED)], now=NOW)
    assert outcome == ReportOutcome(id_, accepted=False, state=None)
    assert rig.state(id_) is JobState.CLAIMED


def test_a_job_cannot_be_reported_back_into_the_line(rig: Rig, worker: uuid.UUID) -> None:
    (id_,) = rig.claimed(new_job(), worker=worker)
    with pytest.raises(InvalidInput, match="requeue it"):
        report(rig, worker, id_, JobState.PENDING)


# -- ends of jobs that should be stopped ----------------------------------------------------------------------


@pytest.fixture
def wished(rig: Rig, worker: uuid.UUID) -> uuid.UUID:
    """A running job that should be stopped."""
    (id_,) = rig.claimed(new_job(), worker=worker)
    report(rig, worker, id_, JobState.RUNNING)
    rig.store.request_cancel(job_ids=[id_], reason="marked as failed", now=later(2))
    return id_


def test_a_stopped_job_is_cancelled_for_the_reason_of_the_wish(
    rig: Rig, worker: uuid.UUID, wished: uuid.UUID
) -> None:
    assert report(rig, worker, wished, JobState.CANCELLED, reason="terminated", exit_code=143)
    record = rig.record(wished)
    assert (record.state, record.reason, record.exit_code) == (JobState.CANCELLED, "marked as failed", 143)


def test_what_ended_by_itself_before_it_could_be_stopped_is_stored_as_it_was(
    rig: Rig, worker: uuid.UUID, wished: uuid.UUID
) -> None:
    assert report(rig, worker, wished, JobState.SUCCEEDED, exit_code=0)
    record = rig.record(wished)
    assert (record.state, record.reason) == (JobState.SUCCEEDED, None)


def test_a_job_that_failed_by_itself_keeps_its_own_reason_if_it_has_one(
    rig: Rig, worker: uuid.UUID, wished: uuid.UUID
) -> None:
    assert report(rig, worker, wished, JobState.FAILED, reason="out of memory")
    assert rig.record(wished).reason == "out of memory"


def test_a_failure_without_a_reason_is_explained_by_the_wish(
    rig: Rig, worker: uuid.UUID, wished: uuid.UUID
) -> None:
    assert report(rig, worker, wished, JobState.FAILED)
    assert rig.record(wished).reason == "marked as failed"


def test_what_a_job_waits_for_does_not_hide_why_it_should_be_stopped(
    rig: Rig, worker: uuid.UUID, wished: uuid.UUID
) -> None:
    assert report(rig, worker, wished, JobState.RUNNING, reason="still going")
    assert rig.record(wished).reason == "marked as failed"


def test_a_late_report_does_not_bring_a_cancelled_job_back(
    rig: Rig, worker: uuid.UUID, wished: uuid.UUID
) -> None:
    report(rig, worker, wished, JobState.CANCELLED)
    before = rig.record(wished)
    for state in (JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED):
        (outcome,) = rig.store.report(worker, [Report(job_id=wished, state=state)], now=later(9))
        assert outcome == ReportOutcome(wished, accepted=False, state=JobState.CANCELLED)
    assert rig.record(wished) == before


# -- requeue --------------------------------------------------------------------------------------------------


def test_a_requeued_job_waits_as_if_nothing_had_been(rig: Rig, worker: uuid.UUID) -> None:
    (id_,) = rig.claimed(new_job(), worker=worker)
    report(rig, worker, id_, JobState.SUBMITTED, handle=handle(id_))
    assert rig.store.requeue(worker, [id_], "no connection", now=later(2)) == 1

    record = rig.record(id_)
    assert record.state is JobState.PENDING
    assert (record.worker_id, record.claimed_at, record.handle) == (None, None, None)
    assert (record.start_attempts, record.reason) == (1, "no connection")
    assert record.handed_over_at == NOW
    (again,) = rig.claim(rig.worker())
    assert (again.id, again.start_attempts) == (id_, 1)


def test_what_runs_or_has_ended_or_is_anothers_is_not_requeued(rig: Rig, worker: uuid.UUID) -> None:
    running, ended, anothers = rig.claimed(new_job(), new_job(), new_job(), worker=worker)
    report(rig, worker, running, JobState.RUNNING)
    report(rig, worker, ended, JobState.SUCCEEDED)
    assert rig.store.requeue(worker, [running, ended, uuid.uuid4()], "why", now=NOW) == 0
    assert rig.store.requeue(rig.worker(), [anothers], "why", now=NOW) == 0
    assert [rig.state(id_) for id_ in (running, ended, anothers)] == [
        JobState.RUNNING,
        JobState.SUCCEEDED,
        JobState.CLAIMED,
    ]


def test_a_job_that_should_be_stopped_ends_instead_of_waiting_again(rig: Rig, worker: uuid.UUID) -> None:
    (id_,) = rig.claimed(new_job(), worker=worker)
    rig.store.request_cancel(job_ids=[id_], reason="cleared", now=later(1))
    assert rig.store.requeue(worker, [id_], "no connection", now=later(2)) == 1
    record = rig.record(id_)
    assert (record.state, record.reason, record.ended_at) == (JobState.CANCELLED, "cleared", later(2))
    assert [job.id for job in rig.store.ended(SCHEDULER, limit=9)] == [id_]


def test_a_report_of_a_job_that_was_requeued_comes_too_late(rig: Rig, worker: uuid.UUID) -> None:
    (id_,) = rig.claimed(new_job(), worker=worker)
    rig.store.requeue(worker, [id_], "why", now=NOW)
    assert not report(rig, worker, id_, JobState.RUNNING)
    rig.claim(rig.worker())
    assert not report(rig, worker, id_, JobState.FAILED)
    assert rig.state(id_) is JobState.CLAIMED
