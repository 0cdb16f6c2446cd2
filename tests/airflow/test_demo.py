# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools demo`` as a person runs it: it shows, reports, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.cli.local_airflow import marked_pids, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.airflow


class RunningDemo:
    """A demo in a process group of its own, as a shell would start it."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        self.output_file = home.with_suffix(".out")
        command = [sys.executable, "-m", "airflow", "workpools", "demo", "--home", str(home), *arguments]
        with self.output_file.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "AIRFLOW_HOME": str(home)},
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.output_file.read_text(errors="replace")

    def wait_for(self, text: str, *, timeout: float = 180) -> None:
        def seen_or_over() -> bool:
            return text in self.output or self.process.poll() is not None

        wait_until(seen_or_over, timeout=timeout, what=f"{text!r} in the demo's output")
        assert text in self.output, self.output

    def signal_group(self, number: signal.Signals) -> int:
        """Send a signal as a terminal does, and return the exit code."""
        os.killpg(self.process.pid, number)
        return self.process.wait(60)


@contextmanager
def demo(home: Path, *arguments: str) -> Iterator[RunningDemo]:
    running = RunningDemo(home, *arguments)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.signal_group(signal.SIGTERM)


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Take a port, unless somebody else has it already."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
        except OSError:
            pass
        yield


def expected_report(report: dict[str, Any]) -> dict[str, Any]:
    return {
        "tasks": 52,
        "succeeded": 52,
        "wall_seconds": report["wall_seconds"],
        "limits": {"pool": 10, "queues": {"critical": 1, "high": 3}},
        "max_running": {
            "pool": 10,
            "queues": {"critical": 1, "high": 3, "low": report["max_running"]["queues"]["low"]},
        },
    }


def test_the_demo_reports_though_its_port_is_taken_serves_and_stops_without_a_trace(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    with taken(8080), demo(home, "--serve") as running:
        running.wait_for("Airflow is up at")
        report = json.loads((home / "report.json").read_text())
        assert report == expected_report(report)
        assert report["wall_seconds"] > 15, "52 tasks of 3 s in 10 slots take longer"
        assert report["max_running"]["queues"]["low"] >= 6
        assert "Port 8080 is taken" in running.output
        assert "WRONG" not in running.output
        assert running.signal_group(signal.SIGINT) == 0
    assert marked_pids(home) == []


def test_a_demo_that_is_told_to_stop_stops_its_running_tasks_too_and_the_next_one_begins_anew(
    tmp_path: Path,
) -> None:
    home = tmp_path / "demo"
    with demo(home) as first:
        first.wait_for("etl 10/10 run")
        with demo(home) as second:
            assert second.process.wait(60) == 1
            assert "another demo is running" in second.output
        assert first.signal_group(signal.SIGINT) == 130
    assert marked_pids(home) == []
    with demo(home) as again:
        again.wait_for("Creating Airflow's tables …")
        wait_until(lambda: marked_pids(home), timeout=60, what="the first of Airflow's processes")
        again.process.terminate()
        assert again.process.wait(60) == 143
    assert marked_pids(home) == []
