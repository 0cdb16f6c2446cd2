# SPDX-License-Identifier: Apache-2.0
"""What a worker says of a job."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone

import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.infrastructure.base import Handle, Observation, Phase
from airflow_workpools.store.records import Report
from airflow_workpools.worker.reports import launched, merge, not_started, report_of

JOB = uuid.uuid4()
HANDLE = Handle(job_id=JOB, kind="process", data={"pid": 1})


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.RUNNING])
def test_there_is_nothing_to_tell_of_a_job_that_goes_on(phase):
    assert report_of(JOB, Observation(phase=phase), cancel_reason="x") is None


@pytest.mark.parametrize("wish", [None, "cleared"])
def test_exit_code_0_is_success_even_when_cancelling_was_wished(wish):
    report = report_of(JOB, Observation(phase=Phase.EXITED, exit_code=0), handle=HANDLE, cancel_reason=wish)
    assert report == Report(job_id=JOB, state=JobState.SUCCEEDED, handle=HANDLE, exit_code=0)


def test_another_exit_code_is_failure_with_the_reason_of_the_infrastructure():
    report = report_of(
        JOB, Observation(phase=Phase.EXITED, exit_code=137, reason="killed"), cancel_reason=None
    )
    assert report is not None
    assert (report.state, report.exit_code, report.reason) == (JobState.FAILED, 137, "killed")


def test_a_job_that_vanished_failed_and_says_something():
    report = report_of(JOB, Observation(phase=Phase.GONE), cancel_reason=None)
    assert report is not None
    assert report.state is JobState.FAILED
    assert report.reason


def test_the_end_of_a_job_that_should_be_cancelled_carries_the_reason_of_the_wish():
    report = report_of(JOB, Observation(phase=Phase.EXITED, exit_code=143), cancel_reason="cleared")
    assert report is not None
    assert (report.state, report.reason) == (JobState.CANCELLED, "cleared")


def test_of_several_reports_of_a_job_the_last_is_told_with_the_handle_of_the_first():
    other = Report(job_id=uuid.uuid4(), state=JobState.RUNNING)
    told = merge(
        [
            Report(job_id=JOB, state=JobState.RUNNING, handle=HANDLE),
            other,
            Report(job_id=JOB, state=JobState.SUCCEEDED, exit_code=0),
        ]
    )
    assert told == [Report(job_id=JOB, state=JobState.SUCCEEDED, handle=HANDLE, exit_code=0), other]


def test_a_job_that_never_started_says_so():
    assert "could not be started: no such user" in (not_started(JOB, "no such user").reason or "")


def test_a_start_that_was_not_told_yet_is_told_with_the_end():
    first, second = datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 2, tzinfo=timezone.utc)
    running = [launched(HANDLE, running=True, now=when) for when in (first, second)]
    [report] = merge([*running, Report(job_id=JOB, state=JobState.SUCCEEDED)])
    assert report == Report(job_id=JOB, state=JobState.SUCCEEDED, handle=HANDLE, started_at=first)
    assert launched(HANDLE, running=False, now=first).started_at is None
