# SPDX-License-Identifier: Apache-2.0
"""What the tests' tasks do: note that they run, and take their time. No DAG in here."""

from __future__ import annotations

import os
import time
from pathlib import Path

TRACE_VARIABLE = "WORKPOOLS_TEST_TRACE"


def note(event: str) -> None:
    """Append one line to the trace; a write this short is never torn."""
    from airflow.sdk import get_current_context

    ti = get_current_context()["ti"]
    fields = (event, ti.run_id, ti.task_id, ti.map_index, ti.try_number, os.getpid(), time.time())
    handle = os.open(os.environ[TRACE_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, (" ".join(map(str, fields)) + "\n").encode())
    finally:
        os.close(handle)


def work(seconds: float) -> None:
    """Run for a while, with a note before and after."""
    note("start")
    time.sleep(seconds)
    note("end")


def work_until(name: str) -> None:
    """Run until a test says so, with a note before and after."""
    note("start")
    told = Path(f"{os.environ[TRACE_VARIABLE]}.{name}")
    while not told.exists():
        time.sleep(0.1)
    note("end")
