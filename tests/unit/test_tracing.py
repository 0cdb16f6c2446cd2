# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from airflow_workpools import tracing
from airflow_workpools.core.jobs import JobState
from airflow_workpools.store.records import EndedJob
from tests.unit.test_metrics import NOW, at, ended_job

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CARRIER = {"traceparent": f"00-{TRACE}-{SPAN}-01"}


def spans_of(*jobs: EndedJob) -> dict[str, ReadableSpan]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.emit(jobs, provider)
    return {span.name: span for span in exporter.get_finished_spans()}


def times(span: ReadableSpan) -> tuple[float, float]:
    assert span.start_time is not None
    assert span.end_time is not None
    begin = NOW.timestamp()
    return span.start_time / 1e9 - begin, span.end_time / 1e9 - begin


def test_a_jobs_life_continues_the_trace_of_its_task() -> None:
    spans = spans_of(ended_job(context_carrier=CARRIER, map_index=3))
    assert set(spans) == {
        "workpool.task[3]",
        "workpool.pending",
        "workpool.starting",
        "workpool.running",
    }
    whole = spans["workpool.task[3]"]
    assert whole.parent is not None
    assert (f"{whole.parent.trace_id:032x}", f"{whole.parent.span_id:016x}") == (TRACE, SPAN)
    assert times(whole) == pytest.approx((0, 65))
    for name, expected in {"pending": (0, 2), "starting": (2, 5), "running": (5, 65)}.items():
        span = spans[f"workpool.{name}"]
        assert span.parent == whole.context
        assert times(span) == pytest.approx(expected)
    assert dict(whole.attributes or {})["workpools.queue"] == "high"
    assert dict(whole.attributes or {})["airflow.task_id"] == "task"
    assert whole.status.is_ok


def test_the_part_in_which_a_job_failed_says_why() -> None:
    job = ended_job(
        JobState.FAILED, started_at=None, ended_at=at(9), reason="no such image", context_carrier=CARRIER
    )
    spans = spans_of(job)
    assert set(spans) == {"workpool.task", "workpool.pending", "workpool.starting"}
    assert spans["workpool.pending"].status.status_code is trace.StatusCode.UNSET
    for name in ("workpool.task", "workpool.starting"):
        assert spans[name].status.status_code is trace.StatusCode.ERROR
        assert spans[name].status.description == "no such image"
    assert dict(spans["workpool.task"].attributes or {})["workpools.cause"] == "could_not_start"


@pytest.mark.parametrize(
    "carrier", [None, {}, {"traceparent": "nonsense"}, {"traceparent": f"00-{TRACE}-{SPAN}-00"}]
)
def test_a_task_without_a_trace_or_whose_run_was_sampled_out_has_no_spans(carrier: Any) -> None:
    assert spans_of(ended_job(context_carrier=carrier)) == {}


def test_while_airflows_tracing_is_off_there_is_nothing_to_make_spans_with() -> None:
    assert tracing.provider() is None


def test_when_it_is_on_airflows_own_provider_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    assert tracing.provider() is provider
