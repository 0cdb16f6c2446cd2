# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import uuid
from datetime import datetime, timezone

import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.errors import InvalidInput
from airflow_workpools.store import rules
from airflow_workpools.store.records import Report

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)
JOB = uuid.uuid4()


# -- reports -------------------------------------------------------------------------------------------------


def test_the_last_of_several_reports_counts() -> None:
    first, last = Report(job_id=JOB, state=JobState.RUNNING), Report(job_id=JOB, state=JobState.FAILED)
    assert rules.last_reports([first, last]) == {JOB: last}


def test_all_reports_of_waiting_are_refused_together() -> None:
    reports = [Report(job_id=uuid.uuid4(), state=JobState.PENDING) for _ in range(2)]
    with pytest.raises(InvalidInput) as caught:
        rules.last_reports(reports)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("reported", "state", "desired", "accepted"),
    [
        (JobState.RUNNING, JobState.RUNNING, None, True),
        (JobState.RUNNING, JobState.SUCCEEDED, None, False),
        (JobState.CANCELLED, JobState.CANCELLED, JobState.CANCELLED, True),
        (JobState.CANCELLED, JobState.FAILED, JobState.FAILED, True),
        (JobState.CANCELLED, JobState.FAILED, JobState.CANCELLED, False),
        (JobState.CANCELLED, JobState.FAILED, None, False),
        (JobState.CANCELLED, JobState.RUNNING, JobState.FAILED, False),
        (JobState.FAILED, None, None, False),
    ],
)
def test_a_report_is_accepted_if_the_job_is_what_was_reported_or_what_was_wished(
    reported: JobState, state: JobState | None, desired: JobState | None, accepted: bool
) -> None:
    assert rules.outcome(Report(job_id=JOB, state=reported), state, desired) == (JOB, accepted, state)


def test_a_start_timeout_reads_well() -> None:
    assert (
        rules.start_timeout_reason("gpu", 600.0)
        == "did not start within 600 s (start timeout of work pool 'gpu')"
    )
    assert rules.start_timeout_reason("gpu", 0.5).startswith("did not start within 0.5 s")
