# SPDX-License-Identifier: Apache-2.0
"""Airflow's components under a supervisor, as a service manager would be one, and who is who among processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from airflow_workpools.cli.local_airflow import API_SERVER, DAG_PROCESSOR
from airflow_workpools.infrastructure.process.proc import all_stats
from tests.airflow.harness import AirflowInstance

SCHEDULERS = ("scheduler-1", "scheduler-2")
COMMANDS = {
    API_SERVER: ["api-server"],
    DAG_PROCESSOR: ["dag-processor"],
    # One server for the tasks' logs is enough for a host; a second one would not get the port.
    **{name: ["scheduler", "--skip-serve-logs"] for name in SCHEDULERS},
}
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b")
"""The last line of a traceback."""
_WORKER_TITLE, _RUNNER_TITLE = b"embedded worker", b"process runner"


@dataclass
class Components:
    """Starts what has ended again, whoever ended it.

    :param note: takes a line for the timeline.
    """

    airflow: AirflowInstance
    note: Callable[[str], None]
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _down: dict[str, float] = field(default_factory=dict)
    """Until when (monotonic) a component that was killed stays down."""

    def supervise(self) -> None:
        """Start every component that does not run."""
        for name in COMMANDS:
            process = self._processes.get(name)
            if process is not None and process.poll() is None:
                continue
            if process is not None and name not in self._down:
                self.note(f"{name} ended by itself ({process.returncode}): {self._last_error(name)}")
                self._down[name] = time.monotonic() + 1
            if time.monotonic() >= self._down.get(name, 0):
                self._start(name)

    def _start(self, name: str) -> None:
        self._down.pop(name, None)
        self.airflow.local.start_command(name, COMMANDS[name])
        # That it ends is no failure here, so its end is not the local Airflow's business.
        self._processes[name] = self.airflow.local.release(name)
        self.note(f"{name} started, pid {self._processes[name].pid}")

    def _last_error(self, name: str) -> str:
        errors = [line for line in self.airflow.local.tail(name, 200).splitlines() if _ERROR.match(line)]
        return errors[-1][:200] if errors else "no error in its output"

    def runs(self, name: str) -> bool:
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def kill9(self, name: str, *, down_seconds: float) -> None:
        """Kill a component; its children, too, unless they are to find out for themselves."""
        process = self._processes[name]
        self._down[name] = time.monotonic() + down_seconds
        if name in SCHEDULERS:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def workers(self) -> list[int]:
        """Return the embedded workers of the schedulers that run."""
        schedulers = {self.pid(name) for name in SCHEDULERS if self.runs(name)}
        return _children(schedulers, _WORKER_TITLE)

    def runners(self) -> list[int]:
        """Return the process runners of the embedded workers that run."""
        return _children(set(self.workers()), _RUNNER_TITLE)


def _children(parents: set[int], title: bytes) -> list[int]:
    return [stat.pid for stat in all_stats() if stat.parent in parents and title in _command_line(stat.pid)]


def _command_line(pid: int) -> bytes:
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes()
    except OSError:
        return b""
