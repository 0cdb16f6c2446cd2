# SPDX-License-Identifier: Apache-2.0
"""What a worker says of a job, decided from what it saw and what was wished. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.wording import counted
from airflow_workpools.infrastructure.base import Observation, Phase
from airflow_workpools.store.records import Report

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.infrastructure.base import Handle
    from airflow_workpools.store.records import ClaimedJob


def report_of(
    job_id: UUID, observation: Observation, *, handle: Handle | None = None, cancel_reason: str | None
) -> Report | None:
    """Turn an observation into a report, or None if there is nothing to tell yet.

    A job that ended well before the wish to cancel it could be carried out has succeeded. Any other end of
    a job whose cancelling was wished is a cancellation, with the reason of the wish.

    :param cancel_reason: why the job shall be cancelled; None if nobody wishes that.
    """
    if not observation.ended:
        return None
    if observation.phase is Phase.EXITED and observation.exit_code == 0:
        return Report(job_id=job_id, state=JobState.SUCCEEDED, handle=handle, exit_code=0)
    if cancel_reason is not None:
        return Report(
            job_id=job_id,
            state=JobState.CANCELLED,
            handle=handle,
            exit_code=observation.exit_code,
            reason=cancel_reason,
        )
    return Report(
        job_id=job_id,
        state=JobState.FAILED,
        handle=handle,
        exit_code=observation.exit_code,
        reason=observation.reason or "ended without saying why",
    )


def launched(handle: Handle, *, running: bool, now: datetime) -> Report:
    """Report a job that the infrastructure has accepted, or has brought to run."""
    if running:
        return Report(job_id=handle.job_id, state=JobState.RUNNING, handle=handle, started_at=now)
    return Report(job_id=handle.job_id, state=JobState.SUBMITTED, handle=handle)


def waits(handle: Handle, reason: str | None) -> Report:
    """Report why a job that the infrastructure has accepted does not run yet."""
    return Report(job_id=handle.job_id, state=JobState.SUBMITTED, handle=handle, reason=reason)


def start_failed(handle: Handle, reason: str) -> Report:
    """Report a job that ended before anything of its task ran, and is to be launched again."""
    return Report(
        job_id=handle.job_id,
        state=JobState.SUBMITTED,
        handle=replace(handle, failed_start=reason),
        reason=reason,
    )


def too_often(job: ClaimedJob, reason: str) -> str:
    """Say that a job did not start as often as it was allowed to try, and why not the last time."""
    return f"{reason} ({counted(job.start_attempts + 1, 'attempt')})"


def not_started(job_id: UUID, reason: str) -> Report:
    """Report a job that will never start."""
    return Report(job_id=job_id, state=JobState.FAILED, reason=f"The job could not be started: {reason}")


def of_claim(job: ClaimedJob, report: Report) -> Report:
    """Say of which claim of its job a report is, so that one which comes late or twice harms no later claim."""
    return replace(report, start_attempts=job.start_attempts)


def bare(report: Report, problem: str) -> Report:
    """Return what can be told of a job in any case, where the store does not take what there is to tell.

    :param problem: why not.
    """
    reason = None if report.reason is None else f"the reason was not taken: {problem}"
    return replace(report, handle=None, exit_code=None, started_at=None, reason=reason)


def merge(reports: list[Report]) -> list[Report]:
    """Keep the last report of each job, with the handle and the start that an earlier one may have carried."""
    latest: dict[UUID, Report] = {}
    for report in reports:
        before = latest.get(report.job_id)
        if before is not None:
            report = replace(
                report,
                handle=report.handle or before.handle,
                started_at=before.started_at or report.started_at,
            )
        latest[report.job_id] = report
    return list(latest.values())
