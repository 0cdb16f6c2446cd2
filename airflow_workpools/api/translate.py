# SPDX-License-Identifier: Apache-2.0
"""Between what goes over the wire and what worker and store work with. Pure, and both ways side by side."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_workpools.api import wire
from airflow_workpools.core.logs import LogChunk, LogEnd
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import Delivery, PoolSource, WorkPool, WorkQueue
from airflow_workpools.core.templates import BaseJobTemplate
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store import rules
from airflow_workpools.store.records import ClaimedJob, Report, ReportOutcome

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


def ago(time: datetime, now: datetime) -> float:
    """Return how long ago a time is, in seconds; what lies ahead is now."""
    return max(0.0, (now - time).total_seconds())


def before(seconds_ago: float, now: datetime) -> datetime:
    """Return the time that was so many seconds ago."""
    return now - timedelta(seconds=seconds_ago)


# -- work pools ----------------------------------------------------------------------------------------------


def pool_to_wire(pool: WorkPool) -> wire.Pool:
    """Say of a work pool what a worker has to know."""
    return wire.Pool(
        name=pool.name,
        type=pool.type,
        description=pool.description,
        concurrency_limit=pool.concurrency_limit,
        start_timeout_seconds=pool.start_timeout_seconds,
        start_attempts=pool.start_attempts,
        infrastructure_conn_id=pool.infrastructure_conn_id,
        queues=[
            wire.Queue(
                name=queue.name,
                priority=queue.priority,
                concurrency_limit=queue.concurrency_limit,
                description=queue.description,
                job_variables=dict(queue.job_variables),
            )
            for queue in pool.queues
        ],
        base_job_template=pool.base_job_template.to_json(),
        job_variables=dict(pool.job_variables),
        team_name=pool.team_name,
    )


def pool_from_wire(pool: wire.Pool, *, source: PoolSource = PoolSource.DATABASE) -> WorkPool:
    """Return the work pool.

    :raises InvalidTemplate: if its base job template is one of a version that is not understood here.
    """
    return WorkPool(
        name=pool.name,
        type=pool.type,
        description=pool.description,
        concurrency_limit=pool.concurrency_limit,
        delivery=Delivery.PULL,
        start_timeout_seconds=pool.start_timeout_seconds,
        start_attempts=pool.start_attempts,
        infrastructure_conn_id=pool.infrastructure_conn_id,
        queues=tuple(WorkQueue(**dict(queue)) for queue in pool.queues),
        base_job_template=BaseJobTemplate.parse(pool.base_job_template),
        job_variables=pool.job_variables,
        source=source,
        team_name=pool.team_name,
    )


# -- jobs ----------------------------------------------------------------------------------------------------


def handle_to_wire(handle: Handle | None) -> wire.JobHandle | None:
    if handle is None:
        return None
    return wire.JobHandle(
        kind=handle.kind,
        data=dict(handle.data),
        conn_id=handle.conn_id,
        failed_start=None if handle.failed_start is None else rules.fit_text(handle.failed_start),
    )


def handle_from_wire(job_id: UUID, handle: wire.JobHandle | None) -> Handle | None:
    return None if handle is None else Handle(job_id=job_id, **dict(handle))


def job_to_wire(job: ClaimedJob) -> wire.Job:
    return wire.Job(
        id=job.id,
        task_instance_id=job.task_instance_id,
        queue=str(job.ref),
        dag_id=job.dag_id,
        task_id=job.task_id,
        run_id=job.run_id,
        map_index=job.map_index,
        try_number=job.try_number,
        workload=job.workload,
        job_variables=dict(job.job_variables),
        handle=handle_to_wire(job.handle),
        state=job.state,
        desired_state=job.desired_state,
        start_timeout_seconds=job.start_timeout_seconds,
        start_attempts=job.start_attempts,
        reason=job.reason,
        problem=job.problem,
    )


def job_from_wire(job: wire.Job) -> ClaimedJob:
    values = dict(job)
    return ClaimedJob(
        ref=WorkQueueRef.parse(values.pop("queue")),
        handle=handle_from_wire(job.id, values.pop("handle")),
        **values,
    )


def report_to_wire(report: Report, *, now: datetime) -> wire.JobReport:
    """Say it with times as this clock has measured them, which may be wrong by any amount."""
    return wire.JobReport(
        job_id=report.job_id,
        state=report.state,
        handle=handle_to_wire(report.handle),
        exit_code=report.exit_code,
        reason=None if report.reason is None else rules.fit_text(report.reason),
        started_seconds_ago=None if report.started_at is None else ago(report.started_at, now),
        start_attempts=report.start_attempts,
    )


def report_from_wire(report: wire.JobReport, *, now: datetime) -> Report:
    """Return the report with times as the clock of ``now`` has them."""
    started = report.started_seconds_ago
    return Report(
        job_id=report.job_id,
        state=report.state,
        handle=handle_from_wire(report.job_id, report.handle),
        exit_code=report.exit_code,
        reason=report.reason,
        started_at=None if started is None else before(started, now),
        start_attempts=report.start_attempts,
    )


def outcome_to_wire(outcome: ReportOutcome) -> wire.Outcome:
    return wire.Outcome(job_id=outcome.job_id, accepted=outcome.accepted, state=outcome.state)


def outcome_from_wire(outcome: wire.Outcome) -> ReportOutcome:
    return ReportOutcome(outcome.job_id, outcome.accepted, outcome.state)


# -- logs ----------------------------------------------------------------------------------------------------


def chunk_to_wire(chunk: LogChunk) -> wire.Chunk:
    return wire.Chunk(
        job_id=chunk.job_id,
        attempt=chunk.attempt,
        position=chunk.position,
        data=base64.b64encode(chunk.data),
    )


def chunk_from_wire(chunk: wire.Chunk) -> LogChunk:
    return LogChunk(job_id=chunk.job_id, attempt=chunk.attempt, position=chunk.position, data=chunk.data)


def end_to_wire(end: LogEnd) -> wire.End:
    return wire.End(position=end.position, full=end.full)


def end_from_wire(end: wire.End) -> LogEnd:
    return LogEnd(end.position, full=end.full)
