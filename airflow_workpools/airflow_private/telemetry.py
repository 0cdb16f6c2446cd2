# SPDX-License-Identifier: Apache-2.0
"""What OpenTelemetry, as Airflow sets it up in the scheduler, does in the processes that are forked from it.

Every fork starts its threads again. Those that send metrics would go on telling the numbers that the parent had at the
fork, as if they were the child's, and under the parent's name: counters would jump back and forth. And a process that
forks others should have one thread. OpenTelemetry offers no way to leave that be.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

_METRICS_THREAD = "OtelPeriodicExportingMetricReader"
_SPANS_THREAD = "OtelBatchSpanRecordProcessor"
_JOIN_SECONDS = 1.0


def end_inherited_telemetry() -> None:
    """End these threads in a process that was just forked; it tells nothing itself.

    In what is forked from it in turn, the task's process above all, spans are sent again; what Airflow's tasks count
    goes another way.
    """
    for thread in threading.enumerate():
        owner = getattr(getattr(thread, "_target", None), "__self__", None)
        with contextlib.suppress(
            AttributeError
        ):  # it is another OpenTelemetry than the one that is known here
            if thread.name == _METRICS_THREAD:
                _end_metrics(owner)
                thread.join(_JOIN_SECONDS)
            elif thread.name == _SPANS_THREAD:
                _end_spans(owner, thread)


def _end_metrics(reader: Any) -> None:
    event = reader._shutdown_event
    reader.collect = _do_nothing  # the thread's last deed
    reader._ticker = _do_nothing  # what the thread does after the next fork
    event.set()


def _end_spans(processor: Any, thread: threading.Thread) -> None:
    processor._shutdown = True
    processor._worker_awaken.set()
    thread.join(_JOIN_SECONDS)
    processor._shutdown = False


def _do_nothing(*_: Any, **__: Any) -> None:
    """Stand where something was done."""
