# SPDX-License-Identifier: Apache-2.0
"""What people do to jobs, on every store."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.errors import NotFound, StateConflict
from airflow_workpools.store.job_edits import cancel_jobs
from airflow_workpools.store.records import Report
from tests.store.rigs import NOW, Rig, later, new_job


def test_waiting_jobs_end_at_once_and_started_ones_are_wished_to(rig: Rig) -> None:
    (started,) = rig.claimed(new_job())
    (waits,) = rig.hand_over(new_job("ml"))

    after = cancel_jobs(rig.store, [started, waits, started], reason="no more", now=later(1))

    assert [(job.id, job.state, job.desired_state, job.reason) for job in after] == [
        (started, JobState.CLAIMED, JobState.CANCELLED, "no more"),
        (waits, JobState.CANCELLED, None, "no more"),
    ]


def test_all_are_cancelled_or_none(rig: Rig) -> None:
    worker = rig.worker()
    done, failed = rig.claimed(new_job(), new_job(), worker=worker)
    rig.store.report(worker, [Report(job_id=done, state=JobState.SUCCEEDED)], now=NOW)
    rig.store.report(worker, [Report(job_id=failed, state=JobState.FAILED)], now=NOW)
    (waits,) = rig.hand_over(new_job())

    with pytest.raises(StateConflict, match=rf"job {done} \(succeeded\), job {failed} \(failed\); leave out"):
        cancel_jobs(rig.store, [done, waits, failed], reason="x", now=NOW)
    with pytest.raises(NotFound, match=f"no job {uuid.UUID(int=7)}"):
        cancel_jobs(rig.store, [waits, uuid.UUID(int=7)], reason="x", now=NOW)
    assert rig.state(waits) is JobState.PENDING


def test_a_job_that_ends_at_the_same_moment_has_ended_as_it_did(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = rig.worker()
    (job,) = rig.claimed(new_job(), worker=worker)
    request_cancel = rig.store.request_cancel

    def too_late(**values: Any) -> int:
        rig.store.report(worker, [Report(job_id=job, state=JobState.SUCCEEDED)], now=NOW)
        return request_cancel(**values)

    monkeypatch.setattr(rig.store, "request_cancel", too_late)

    (after,) = cancel_jobs(rig.store, [job], reason="x", now=NOW)

    assert (after.state, after.reason) == (JobState.SUCCEEDED, None)
