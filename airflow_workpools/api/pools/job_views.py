# SPDX-License-Identifier: Apache-2.0
"""From what the store knows of jobs to what the pool API answers. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow_workpools.api.pools import wire_jobs
from airflow_workpools.core.ends import end_cause, phases
from airflow_workpools.core.jobs import ENDED, JobState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.api.pools.wire import Fault
    from airflow_workpools.core.explain import Explanation
    from airflow_workpools.infrastructure.base import Handle
    from airflow_workpools.store.records import JobRecord

_PHASES: Mapping[str, Literal["waiting", "starting", "running"]] = {
    "pending": "waiting",
    "starting": "starting",
    "running": "running",
}
_IDS = ("container_id", "name", "arn", "id")
"""Keys of handles by which an infrastructure knows a job, the first that is there."""


def job_summary(job: JobRecord, *, worker_names: Mapping[UUID, str], now: datetime) -> wire_jobs.JobSummary:
    return wire_jobs.JobSummary(**_summary(job, worker_names, now))


def job_detail(
    job: JobRecord,
    *,
    worker_names: Mapping[UUID, str],
    now: datetime,
    job_variables: dict[str, Any],
    job_configuration: Any,
    faults: list[Fault],
    may_cancel: bool,
) -> wire_jobs.JobDetail:
    over = job.state in ENDED
    starting = job.starting_since if job.state in (JobState.CLAIMED, JobState.SUBMITTED) else None
    return wire_jobs.JobDetail(
        **_summary(job, worker_names, now),
        task_instance_id=job.task_instance_id,
        round=job.round,
        priority_weight=job.priority_weight,
        team_name=job.team_name,
        start_attempts=job.start_attempts,
        start_timeout_seconds=job.start_timeout_seconds,
        start_timeout_at=starting and starting + timedelta(seconds=job.start_timeout_seconds),
        reported_at=job.reported_at,
        timeline=_timeline(job),
        phases=_phases(job, now),
        infrastructure=None if job.handle is None else {"kind": job.handle.kind, **job.handle.data},
        job_variables=job_variables,
        job_configuration=job_configuration,
        job_configuration_faults=faults,
        may_cancel=may_cancel and not over,
    )


def _summary(job: JobRecord, worker_names: Mapping[UUID, str], now: datetime) -> dict[str, Any]:
    seconds = {phase.name: phase.seconds for phase in _phases(job, now)}
    return {
        "id": job.id,
        "pool": job.ref.pool,
        "queue": job.ref.queue,
        "state": job.state,
        "desired_state": job.desired_state,
        "reason": job.reason,
        "cause": None if job.state not in ENDED else _cause(job),
        "exit_code": job.exit_code,
        "dag_id": job.dag_id,
        "run_id": job.run_id,
        "task_id": job.task_id,
        "map_index": job.map_index,
        "try_number": job.try_number,
        "slots": job.pool_slots,
        # Of a worker that has been purged only the id is known.
        "worker": None if job.worker_id is None else worker_names.get(job.worker_id, str(job.worker_id)),
        "worker_id": job.worker_id,
        "infrastructure_kind": None if job.handle is None else job.handle.kind,
        "infrastructure_id": None if job.handle is None else infrastructure_id(job.handle),
        "handed_over_at": job.handed_over_at,
        "claimed_at": job.claimed_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "waiting_seconds": seconds.get("waiting", 0.0),
        "starting_seconds": seconds.get("starting"),
        "running_seconds": seconds.get("running"),
    }


def _cause(job: JobRecord) -> Any:
    return end_cause(
        job.state,
        desired_state=job.desired_state,
        exit_code=job.exit_code,
        claimed_at=job.claimed_at,
        started_at=job.started_at,
    )


def _phases(job: JobRecord, now: datetime) -> list[wire_jobs.JobPhase]:
    """Cut the life of a job into its parts; the last one of a job that goes on has not ended."""
    found = phases(
        handed_over_at=job.handed_over_at,
        claimed_at=job.claimed_at,
        started_at=job.started_at,
        ended_at=job.ended_at or now,
    )
    goes_on = job.ended_at is None
    return [
        wire_jobs.JobPhase(
            name=_PHASES[phase.name],
            began_at=phase.began_at,
            ended_at=None if goes_on and phase is found[-1] else phase.ended_at,
            seconds=round((phase.ended_at - phase.began_at).total_seconds(), 3),
        )
        for phase in found
    ]


def _timeline(job: JobRecord) -> list[wire_jobs.TimelineEntry]:
    event = wire_jobs.JobEvent
    moments = [
        (event.HANDED_OVER, job.handed_over_at),
        (event.CLAIMED, job.claimed_at),
        (event.START_TIMEOUT_RENEWED, job.renewed_at),
        (event.STARTED, job.started_at),
        (event.ENDED, job.ended_at),
        (event.REPORTED, job.reported_at),
    ]
    return [wire_jobs.TimelineEntry(event=what, at=at) for what, at in moments if at is not None]


def infrastructure_id(handle: Handle) -> str | None:
    """Return by what the infrastructure knows a job: a container, a Job with its namespace, a process."""
    data = handle.data
    process = data.get("process")
    if isinstance(process, dict) and "pid" in process:
        return str(process["pid"])
    found = next((str(data[key]) for key in _IDS if data.get(key)), None)
    return f"{data['namespace']}/{found}" if found and data.get("namespace") else found


def explain_answer(
    found: Explanation, *, job: wire_jobs.JobDetail | None, now: datetime
) -> wire_jobs.ExplainAnswer:
    here = found.holding
    return wire_jobs.ExplainAnswer(
        dag_id=found.ref.dag_id,
        run_id=found.ref.run_id,
        task_id=found.ref.task_id,
        map_index=found.ref.map_index,
        try_number=found.try_number,
        state=found.state,
        stage=found.stage,
        holding=here.gate,
        explanation=here.text,
        way_out=here.way_out,
        gates=[
            wire_jobs.GateAnswer(
                gate=view.gate,
                status=view.status,
                explanation=view.text,
                way_out=view.way_out,
                numbers=dict(view.numbers),
            )
            for view in found.gates
        ],
        job=job,
        as_of=now,
    )
