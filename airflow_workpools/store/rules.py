# SPDX-License-Identifier: Apache-2.0
"""What every store decides in the same way, without I/O."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.jobs import ENDED, JobState
from airflow_workpools.core.json_values import JsonError, plain_json
from airflow_workpools.core.pools import Delivery
from airflow_workpools.core.wording import counted
from airflow_workpools.errors import InvalidInput, InvalidJobVariables
from airflow_workpools.store.records import MISSED_HEARTBEATS, Report, ReportOutcome, WorkerKind, WorkerState

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.store.records import ClaimedJob, NewJob, WorkerRecord

POLL_WRITTEN_EVERY = timedelta(seconds=10)
"""A queue's poll is written down at most so often, however many workers poll it."""
SUPERSEDED_AFTER = timedelta(seconds=30)
"""A job may keep a newer hand-over of the same try waiting for so long."""
TOLD_FOR = timedelta(seconds=30)
"""An end is told again if its task is still queued after so long: Airflow passes over task instances that
another transaction has locked, and forgets what it was told."""
WORKER_LOST_AFTER = timedelta(minutes=5)
"""A job that should be stopped is given up when its worker has been silent for so long."""

NOTHING_ROAMS: Mapping[str, str] = MappingProxyType({})
"""No work pool has jobs that workers of several hosts can look after."""

MAX_TEXT = 10_000
"""Longest reason that is kept, in characters."""

WANTED = ("queued", "running")
"""States of a task instance in which a started job is what Airflow wants."""
WAITED_FOR = (*WANTED, "restarting")
"""States of a task instance in which a waiting job is what Airflow wants: it may still be started."""
STOP_AT_ONCE = ("restarting", "removed")
"""States of a task instance in which what runs must stop at once: it was cleared, or is no more."""
OVER = ("success", "failed", "skipped", "upstream_failed", "removed")
"""States of a task instance in which its try is not handed over again."""

TASK_INSTANCE_IS_NOW = "the task instance is now "
TASK_INSTANCE_RESTARTS = f"{TASK_INSTANCE_IS_NOW}restarting"
CLEARED_OR_GONE = "cleared or gone"
HANDED_OVER_AGAIN = "handed over again"
SUPERSEDED = "the same try was handed over again and waits for this job to end"
WORKER_LOST = "worker lost; the job was to be stopped, and nobody knows whether it still runs"


def start_timeout_reason(pool: str, seconds: float) -> str:
    """Say why a job that did not start in time had to end."""
    return f"did not start within {seconds:g} s (start timeout of work pool '{pool}')"


def unknown_job(*job_ids: uuid.UUID) -> str:
    """Say that jobs do not exist, and why that may be."""
    ids = ", ".join(map(str, job_ids))
    return f"there is no job {ids}: it was mistyped, or it ended so long ago that it was purged"


def has_active_jobs(what: str, active: int) -> str:
    """Say why a work pool or queue can't be deleted, and the way out."""
    has, it = ("has", "it") if active == 1 else ("have", "they")
    them = "it" if active == 1 else "them"
    return (
        f"{what} has {counted(active, 'job')} that {has} not ended; cancel {them} (`airflow workpools jobs cancel`), "
        f"or wait until {it} {has} ended"
    )


# -- hand-over -----------------------------------------------------------------------------------------------


def checked_variables(job: NewJob) -> dict[str, Any]:
    """Return a job's variables as plain JSON.

    :raises InvalidJobVariables: if they are anything else.
    """
    try:
        return dict(plain_json(job.job_variables))
    except JsonError as error:
        raise InvalidJobVariables(f"the job variables {error}") from error


def log_path(workload: str) -> str | None:
    """Return where a workload wants its log."""
    path = _object(workload).get("log_path")
    return path if isinstance(path, str) else None


def context_carrier(workload: str) -> dict[str, str] | None:
    """Return the trace context of a workload's task, if it has one."""
    ti = _object(workload).get("ti")
    carrier = ti.get("context_carrier") if isinstance(ti, dict) else None
    return carrier if isinstance(carrier, dict) else None


def _object(workload: str) -> dict[str, Any]:
    """Read a workload; one that was changed by hand has nothing in it."""
    try:
        found = json.loads(workload)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def with_token(job: ClaimedJob, mint_token: Callable[[uuid.UUID, float], str]) -> ClaimedJob:
    """Put a fresh token into a job's workload: it has to last from now until the task has started, no longer.

    :param mint_token: makes a token for a task instance, valid so many seconds.
    """
    if job.problem is not None:  # it will never be launched, and must not keep the others from being so
        return job
    workload = json.loads(job.workload)
    workload["token"] = mint_token(job.task_instance_id, job.start_timeout_seconds)
    return replace(job, workload=json.dumps(workload))


def fit_text(text: str) -> str:
    """Make a text fit for every database: no NUL, no half characters, and not without end."""
    return text.replace("\x00", "")[:MAX_TEXT].encode(errors="replace").decode()


# -- workers ----------------------------------------------------------------------------------------------------


def serves(worker: WorkerRecord, pool: WorkPool) -> bool:
    """Say whether a worker serves a work pool, whether it is online or not."""
    return worker.serves(pool.name, push=pool.delivery is Delivery.PUSH, team_name=pool.team_name)


def may_judge(worker: WorkerRecord, now: datetime) -> bool:
    """Say whether a worker may take others for dead that are silent.

    The heartbeats of standalone workers pass through the API server. After an outage of it all seem to be silent, and
    who comes back first would take the jobs of those who come a moment later. So it waits until its own heartbeats have
    come without a gap for as long as theirs must have been missing.
    """
    if worker.kind is WorkerKind.EMBEDDED:
        return True
    return worker.steady_for(MISSED_HEARTBEATS * worker.heartbeat_seconds, now)


def lost_workers(
    workers: Iterable[WorkerRecord], *, grace_seconds: float, now: datetime
) -> list[WorkerRecord]:
    """Return standalone workers that have been gone for longer than the grace; see ``core.lost``."""
    known = [worker for worker in workers if worker.kind is WorkerKind.STANDALONE]
    witnessed = any(worker.steady_for(grace_seconds, now) for worker in known if _says_so(worker))
    gone_before = now - timedelta(seconds=grace_seconds)
    return [
        worker
        for worker in known
        if worker.last_heartbeat_at < gone_before
        and (worker.state is WorkerState.STOPPED or (witnessed and worker.silent(now)))
    ]


def _says_so(worker: WorkerRecord) -> bool:
    return worker.state is not WorkerState.STOPPED


def starts_again(state: str, handle: object, start_attempts: int, most: int) -> bool:
    """Say whether a lost worker's job waits again, for another to launch it: it was never launched.

    :param most: how often it is launched at most.
    """
    return state == JobState.CLAIMED.value and handle is None and start_attempts + 1 < most


def pools_of_jobs(worker: WorkerRecord) -> tuple[str, ...] | None:
    """Return the pools whose jobs a worker may be given that another has left; None: all."""
    return (worker.pools or ()) if worker.kind is WorkerKind.STANDALONE else None


def revoked(claims: Mapping[uuid.UUID, int], held: Mapping[uuid.UUID, int]) -> list[uuid.UUID]:
    """Return those of a worker's claims whose job must not go on for it: it has ended, waits again or was claimed anew.

    One that another worker has taken over goes on as it is.

    :param claims: which claim of each job it is, by its ``start_attempts``.
    :param held: the claims that workers have now.
    """
    return [id_ for id_, attempts in claims.items() if held.get(id_) != attempts]


def roams(handle: object, kind: str) -> bool:
    """Say whether a job is on this kind of infrastructure, as far as its stored handle says where it is.

    One without a handle may not have been launched; it is looked for on its pool's infrastructure.
    """
    if handle is None:
        return True
    if not isinstance(handle, dict) or handle.get("kind") != kind:
        return False
    data = handle.get("data")
    return not (isinstance(data, dict) and data.get("bound_to_host"))


def poll_is_due(last_polled_at: datetime | None, now: datetime) -> bool:
    """Say whether a queue's poll is worth writing down."""
    # One that lies ahead was written before the clock was set back.
    return last_polled_at is None or abs(now - last_polled_at) >= POLL_WRITTEN_EVERY


# -- reports -------------------------------------------------------------------------------------------------


def last_reports(reports: Iterable[Report]) -> dict[uuid.UUID, Report]:
    """Keep what was said last of each job.

    :raises InvalidInput: if a report says that a job waits: that is for ``requeue`` to do.
    """
    last = {report.job_id: report for report in reports}
    wrong = [
        f"job {id_} can't be reported as pending; requeue it"
        for id_, report in last.items()
        if report.state is JobState.PENDING
    ]
    if wrong:
        raise InvalidInput(wrong)
    return last


def outcome(report: Report, state: JobState | None, desired_state: JobState | None) -> ReportOutcome:
    """Say what became of a report, from what the job is afterwards.

    :param state: None if the worker has no such job.
    """
    as_wished = report.state is JobState.CANCELLED and state in ENDED and state is desired_state
    return ReportOutcome(report.job_id, state is report.state or as_wished, state)
