# SPDX-License-Identifier: Apache-2.0
"""A job's life as spans of its task's trace: told when the job has ended, from the times in its row.

The task's own trace context came with its workload, so these spans stand beside the ones that Airflow makes: under
``task_run.<task>``, next to the ``worker.<task>`` of the process that ran it. What a trace of a task that was slow
to start does not show otherwise, is here: how long it waited for a slot of its work pool, and how long the
infrastructure took to start it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.core.ends import EndCause

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer, TracerProvider

    from airflow_workpools.store.records import EndedJob


def provider() -> TracerProvider | None:
    """Return what Airflow has set up to make spans with, or None if its tracing is off."""
    from opentelemetry import trace

    found = trace.get_tracer_provider()
    # Without tracing this is a stand-in that samples nothing.
    return found if getattr(found, "sampler", None) is not None else None


def emit(jobs: Iterable[EndedJob], tracer_provider: TracerProvider) -> None:
    """Make the spans of jobs that have ended, as far as their traces are recorded."""
    tracer = tracer_provider.get_tracer(__name__)
    for job in jobs:
        context = _recorded_trace(job)
        if context is not None:
            _emit(job, tracer, context)


def _recorded_trace(job: EndedJob) -> Context | None:
    """Return the trace of a job's task, or None if it has none, or if its run was sampled out."""
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if not job.context_carrier:
        return None
    context = TraceContextTextMapPropagator().extract(dict(job.context_carrier))
    span = trace.get_current_span(context).get_span_context()
    return context if span.is_valid and span.trace_flags.sampled else None


def _emit(job: EndedJob, tracer: Tracer, task: Context) -> None:
    from opentelemetry.trace import Status, StatusCode, set_span_in_context

    name = job.task_id if job.map_index < 0 else f"{job.task_id}[{job.map_index}]"
    whole = tracer.start_span(
        f"workpool.{name}",
        context=task,
        start_time=_nanoseconds(job.handed_over_at),
        attributes=_attributes(job),
    )
    inside = set_span_in_context(whole, task)
    ended_well = job.cause is EndCause.SUCCEEDED
    status = Status(StatusCode.OK) if ended_well else Status(StatusCode.ERROR, job.reason or str(job.cause))
    last = job.phases[-1]
    for phase in job.phases:
        span = tracer.start_span(
            f"workpool.{phase.name}", context=inside, start_time=_nanoseconds(phase.began_at)
        )
        if phase is last:
            span.set_status(status)
        span.end(_nanoseconds(phase.ended_at))
    whole.set_status(status)
    whole.end(_nanoseconds(last.ended_at))


def _attributes(job: EndedJob) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        # By these names Airflow's own spans are found, too.
        "airflow.dag_id": job.dag_id,
        "airflow.task_id": job.task_id,
        "airflow.dag_run.run_id": job.run_id,
        "airflow.task_instance.try_number": job.try_number,
        "airflow.task_instance.map_index": job.map_index,
        "workpools.pool": job.ref.pool,
        "workpools.queue": job.ref.queue,
        "workpools.job_id": str(job.id),
        "workpools.cause": str(job.cause),
    }
    if job.exit_code is not None:
        attributes["workpools.exit_code"] = job.exit_code
    return attributes


def _nanoseconds(time: datetime) -> int:
    return int(time.timestamp() * 1_000_000) * 1000
