# SPDX-License-Identifier: Apache-2.0
"""A collector for metrics and traces in OpenTelemetry's protocol, as Airflow sends them, on 127.0.0.1."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Point:
    """The last that one process has told of one metric: a value, or how often it was timed."""

    name: str
    tags: tuple[tuple[str, str], ...]
    kind: str
    value: float


@dataclass(frozen=True)
class Span:
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    begin: int
    end: int
    attributes: dict[str, Any] = field(hash=False)


@dataclass
class Collector:
    """What was received."""

    port: int = 0
    points: dict[tuple[str, tuple[tuple[str, str], ...]], Point] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    told: dict[str, list[float]] = field(default_factory=dict)
    """All that was told of a metric, in the order in which it came, whatever its tags."""

    @property
    def environment(self) -> dict[str, str]:
        """What an Airflow needs to send everything here, within a second."""
        return {
            "AIRFLOW__METRICS__OTEL_ON": "True",
            "AIRFLOW__TRACES__OTEL_ON": "True",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_TRACES_EXPORTER": "otlp_proto_http",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }

    def value(self, name: str, **tags: str) -> float | None:
        point = self.points.get((f"airflow.{name}", tuple(sorted(tags.items()))))
        return None if point is None else point.value

    def kinds(self) -> dict[str, str]:
        """Return the kind of each metric of ours."""
        ours = [point for point in list(self.points.values()) if point.name.startswith("airflow.workpools.")]
        return {point.name.removeprefix("airflow."): point.kind for point in ours}

    def receive(self, path: str, body: bytes) -> None:
        if path == "/v1/metrics":
            request = ExportMetricsServiceRequest.FromString(body)
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        self._note(metric)
        elif path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(body)
            for resource in traces.resource_spans:
                self.spans += [_span(span) for scope in resource.scope_spans for span in scope.spans]

    def _note(self, metric: Any) -> None:
        kind = metric.WhichOneof("data")
        for point in getattr(metric, kind).data_points:
            tags = tuple(sorted((a.key, a.value.string_value) for a in point.attributes))
            if kind == "exponential_histogram":
                value = float(point.count)
            else:
                value = point.as_double if point.WhichOneof("value") == "as_double" else float(point.as_int)
            self.told.setdefault(metric.name, []).append(value)
            self.points[metric.name, tags] = Point(metric.name, tags, kind, value)


def _span(span: Any) -> Span:
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        begin=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes={a.key: a.value.string_value or a.value.int_value for a in span.attributes},
    )


@contextmanager
def collector() -> Iterator[Collector]:
    """Listen while in the block."""
    collected = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collected.receive(self.path, body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collected.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collected
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
