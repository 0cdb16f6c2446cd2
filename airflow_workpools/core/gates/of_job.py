# SPDX-License-Identifier: Apache-2.0
"""What a task waits for after its hand-over, until its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_workpools.core.exits import explain_exit
from airflow_workpools.core.gates.finding import Finding, age, at
from airflow_workpools.core.jobs import HELD_BY_PLATFORM, JobState
from airflow_workpools.core.wording import duration

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_workpools.core.task_facts import JobFacts, TaskFacts


def claim(facts: TaskFacts) -> Finding:
    """A worker has claimed the job."""
    job = facts.job
    if job is None or job.state is not JobState.PENDING:
        return Finding()
    waited = age(job.handed_over_at, facts.now)
    return Finding(
        text=f"handed over {duration(waited)} ago, {job.ahead} of its queue go first",
        numbers={"ahead": job.ahead, "waiting_seconds": round(waited, 1)},
        way_out="the next look of a worker that has room, within seconds",
    )


def start(facts: TaskFacts) -> Finding:
    """The task runs: its infrastructure has started it."""
    job = facts.job
    if job is None or job.claimed_at is None or facts.task.state != "queued":
        return Finding()
    spent = age(job.claimed_at, facts.now)
    left = job.start_timeout_seconds - age(job.starting_since or job.claimed_at, facts.now)
    said = f"; the infrastructure says: {job.reason}" if job.reason else ""
    if job.cancelling:
        text = f"it is being stopped{f': {job.reason}' if job.reason else ''}"
        way_out = "the end of its infrastructure"
    elif job.reason and job.reason.startswith(HELD_BY_PLATFORM):
        text = f"worker {job.worker or 'unknown'} launched it, and it is {job.reason}"
        way_out = "that queue lets it go; its start timeout does not run until then"
    else:
        text = (
            f"{job.state}: worker {job.worker or 'unknown'} claimed it {duration(spent)} ago ({at(job.claimed_at)})"
            f", start timeout {duration(job.start_timeout_seconds)}{said}{_nobody_watches(job, facts.now)}"
        )
        way_out = f"its start; if it does not run in {duration(left)}, the try fails with this reason"
    return Finding(
        text=text,
        numbers={
            "job_state": str(job.state),
            "claimed_at": job.claimed_at.isoformat(),
            "starting_seconds": round(spent, 1),
            "start_timeout_seconds": job.start_timeout_seconds,
        },
        way_out=way_out,
    )


def running(facts: TaskFacts) -> Finding:
    """The task's code runs."""
    task, job = facts.task, facts.job
    if task.started_at is None or task.state not in ("running", "restarting"):
        return Finding()
    ran = age(task.started_at, facts.now)
    text = (
        f"running for {duration(ran)} (started {at(task.started_at)}) on {task.hostname or 'an unknown host'}"
    )
    if task.state == "restarting" or (job is not None and job.cancelling):
        why = f": {job.reason}" if job is not None and job.reason else ""
        text += f", being stopped{why}"
    if job is not None:
        text += _nobody_watches(job, facts.now)
    return Finding(
        text=text, numbers={"started_at": task.started_at.isoformat(), "running_seconds": round(ran, 1)}
    )


def _nobody_watches(job: JobFacts, now: datetime) -> str:
    """Say that nobody looks after a job, if its worker is gone."""
    if job.worker_gone_since is None:
        return ""
    silent = duration(age(job.worker_gone_since, now))
    return (
        f"; its worker {job.worker} was last heard of {silent} ago, and nobody looks after it until another that can "
        "see it takes it over"
    )


def end(facts: TaskFacts) -> Finding:
    """The try has ended, or its job has and Airflow is about to hear of it."""
    task, job = facts.task, facts.job
    ended_at = task.ended_at or (job.ended_at if job else None)
    said = None if job is None else job.reason or (explain_exit(job.exit_code) if job.exit_code else None)
    reason = f": {said}" if said else ""
    when = f" {at(ended_at)}" if ended_at else ""
    if task.state == "queued" and job is not None:
        text, way_out = (
            f"its job has ended as {job.state}{when}{reason}",
            "the scheduler's next heartbeat tells Airflow",
        )
    else:
        text, way_out = f"ended as {task.state}{when}{reason}", None
        if task.state in ("failed", "upstream_failed"):
            way_out = "clear the task to run it again"
    return Finding(
        text=text,
        numbers={
            "state": task.state,
            "reason": job.reason if job else None,
            "exit_code": job.exit_code if job else None,
        },
        way_out=way_out,
    )
