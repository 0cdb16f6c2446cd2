# SPDX-License-Identifier: Apache-2.0
"""Processes as a platform: real forks that do what :mod:`tests.unit.process_tasks` knows."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_workpools.infrastructure.base import LaunchSpec
from airflow_workpools.infrastructure.process import (
    ElsewhereProcessInfrastructure,
    ProcessInfrastructure,
    ProcessRunner,
)
from airflow_workpools.infrastructure.process.files import JobDirectories, JobDirectory
from airflow_workpools.infrastructure.process.proc import ProcessIdentity, kill_family
from tests.unit.process_tasks import ScriptedTask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Self


class ProcessPlatform:
    """A home with jobs; on leaving it, whatever still runs is killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.home = path / "home"
        self.runners: list[ProcessIdentity] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for runner in self.runners:
            if runner.stat() is not None:
                with suppress(ProcessLookupError):
                    os.kill(runner.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(runner.pid, 0)
        for _, directory in JobDirectories(self.home):
            process = directory.process()
            if process is not None and process.identity.stat() is not None:
                kill_family(process.identity.pid)

    # -- Platform -------------------------------------------------------------------------------------------

    def worker(self) -> ProcessInfrastructure:
        return ProcessInfrastructure(home=self.home, runner=self.fork_runner(), start_runner=self.fork_runner)

    def exits_with(self, code: int) -> LaunchSpec:
        return self.spec("exit", code=code)

    def waits(self) -> LaunchSpec:
        return self.spec("wait")

    def cannot_start(self) -> LaunchSpec:
        return self.spec("exit", code=0, configuration={"working_dir": "/nowhere/at/all"})

    def times_run(self, spec: LaunchSpec) -> int:
        return self.diary(spec).count("begun")

    # -- more -----------------------------------------------------------------------------------------------

    def fork_runner(self) -> ProcessRunner:
        runner = ProcessRunner.fork(ScriptedTask)
        identity = ProcessIdentity.of(runner.pid)
        assert identity is not None
        self.runners.append(identity)
        return runner

    def spec(self, do: str, *, configuration: Mapping[str, Any] | None = None, **script: Any) -> LaunchSpec:
        """Return a job that does this."""
        job_id = uuid.uuid4()
        self.path.joinpath("diaries").mkdir(exist_ok=True, mode=0o777)
        pipe = self.path / f"{job_id}.pipe"
        os.mkfifo(pipe)
        workload = {
            "do": do,
            "diary": str(self._diary(job_id)),
            "pipe": str(pipe),
            "token": "s3cr3t",
            **script,
        }
        return LaunchSpec(
            job_id=job_id,
            configuration=configuration or {},
            workload=json.dumps(workload),
            labels={"job_id": str(job_id), "task_id": "t"},
        )

    def altered(self, spec: LaunchSpec, **script: Any) -> LaunchSpec:
        """Return the same job with another script."""
        return replace(spec, workload=json.dumps({**json.loads(spec.workload), **script}))

    def release(self, spec: LaunchSpec) -> None:
        """Let a job end that waits."""
        self.path.joinpath(f"{spec.job_id}.pipe").write_bytes(b"go")

    def diary(self, spec: LaunchSpec) -> list[str]:
        """Return what a job has written down."""
        diary = self._diary(spec.job_id)
        return diary.read_text().splitlines() if diary.exists() else []

    def directory(self, spec: LaunchSpec) -> JobDirectory:
        return JobDirectories(self.home).of(spec.job_id)

    def _diary(self, job_id: uuid.UUID) -> Path:
        return self.path / "diaries" / str(job_id)


class ElsewhereProcessPlatform(ProcessPlatform):
    """The same, with a worker that reads what its jobs write."""

    def worker(self) -> ElsewhereProcessInfrastructure:
        return ElsewhereProcessInfrastructure(
            home=self.home, runner=self.fork_runner(), start_runner=self.fork_runner
        )

    def writes(self, *lines: str, goes_on: bool = False) -> LaunchSpec:
        return self.spec("write", lines=lines, goes_on=goes_on)


def eventually(condition: Callable[[], object], *, seconds: float = 30.0) -> None:
    """Return when the condition holds; fail when it does not within this time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)
