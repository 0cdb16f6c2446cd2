# SPDX-License-Identifier: Apache-2.0
"""What OpenTelemetry leaves running in forked processes. What fails here has changed in OpenTelemetry."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, os, threading
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from airflow_workpools.airflow_private.telemetry import end_inherited_telemetry

exported = []

class Exporter(MetricExporter):
    def export(self, data, **_):
        exported.append(os.getpid())
        return MetricExportResult.SUCCESS
    def shutdown(self, **_): pass
    def force_flush(self, **_): return True

readers = [PeriodicExportingMetricReader(Exporter(), export_interval_millis=20) for _ in range(2)]
for reader in readers:
    MeterProvider(metric_readers=[reader]).get_meter("x").create_counter("c").add(1)
spans, tracers = InMemorySpanExporter(), TracerProvider()
tracers.add_span_processor(BatchSpanProcessor(spans, schedule_delay_millis=20))

def forked(work):
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, json.dumps(work()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        return json.loads(answer.read())

def names():
    return sorted(thread.name for thread in threading.enumerate())

def worker():
    said = {"at first": len(names())}
    end_inherited_telemetry()
    return said | {"then": names(), "in a job": forked(job)}

def job():
    tracers.get_tracer("x").start_span("seen").end()
    threading.Event().wait(0.2)
    return {
        "metrics": os.getpid() in exported,
        "spans": [span.name for span in spans.get_finished_spans()],
        "flushed": tracers.force_flush(),
    }

print(json.dumps(forked(worker)))
"""


def test_nothing_of_the_parents_is_told_again_and_one_thread_is_left() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == {
        "at first": 4,
        "then": ["MainThread"],
        "in a job": {"metrics": False, "spans": ["seen"], "flushed": True},
    }
