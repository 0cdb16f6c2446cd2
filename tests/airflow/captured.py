# SPDX-License-Identifier: Apache-2.0
"""A kind of infrastructure for tests of logs: processes that are to Airflow what containers are.

A job has an Airflow home of its own, knows neither the metadata database nor Airflow's log folder, runs on a host that
nobody can reach, and all that it leaves is what it wrote to standard output, until that is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from airflow_workpools.core.exits import explain_exit
from airflow_workpools.errors import LaunchRejected
from airflow_workpools.infrastructure.base import Handle, LaunchSpec, Observation, Phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence
    from uuid import UUID

ENTRY_POINTS = f"[airflow_workpools.infrastructure]\ncaptured = {__name__}:CapturedInfrastructure\n"
FIRST_LINE = "the container's shell says hello"
"""What no logger wrote."""


def hostname() -> str:
    """Return the name of a host that does not exist: containers have such."""
    return "no-such-container.invalid"


def install(folder: Path) -> Path:
    """Make a folder which, when Python looks for packages there, brings this kind."""
    info = folder / "workpools_captured-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: workpools-captured\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


class CapturedVariables(BaseModel):
    rejected: str | None = None


class CapturedInfrastructure:
    """Runs jobs as processes whose output goes to a file."""

    kind: ClassVar[str] = "captured"
    runs_at_launch: ClassVar[bool] = True
    variables: ClassVar[type[BaseModel]] = CapturedVariables

    def __init__(self, *, home: Path, connection: Mapping[str, Any] | None = None) -> None:
        self._home = home / "captured"
        self._processes: dict[UUID, asyncio.subprocess.Process] = {}

    @classmethod
    def default_job_configuration(cls) -> Mapping[str, Any]:
        return {"rejected": "{{ rejected }}"}

    async def open(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)

    async def close(self) -> None:
        pass

    async def launch(self, spec: LaunchSpec) -> AsyncIterator[Handle]:
        if reason := spec.configuration.get("rejected"):
            raise LaunchRejected(reason)
        home = self._home / str(spec.job_id)
        home.mkdir()
        (home / "workload.json").write_text(spec.workload)
        run = f"{sys.executable} -m airflow.sdk.execution_time.execute_workload --json-path {home}/workload.json"
        with (home / "output").open("wb") as output:
            self._processes[spec.job_id] = await asyncio.create_subprocess_shell(
                f"echo {json.dumps(FIRST_LINE)}; exec {run}",
                env=_environment(home),
                cwd=home,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        yield Handle(job_id=spec.job_id, kind=self.kind, data={"stop_grace_seconds": 5})

    async def observe(self, handles: Sequence[Handle]) -> Mapping[UUID, Observation]:
        return {handle.job_id: self._seen(handle.job_id) for handle in handles}

    def _seen(self, job_id: UUID) -> Observation:
        process = self._processes.get(job_id)
        if process is None:
            return Observation(phase=Phase.GONE, reason="nothing is left of it")
        code = process.returncode
        if code is None:
            return Observation(phase=Phase.RUNNING)
        return Observation(phase=Phase.EXITED, exit_code=code, reason=explain_exit(code))

    async def find(self, job_ids: Collection[UUID]) -> Mapping[UUID, Handle]:
        return {}

    async def wait_for_change(self) -> None:
        await asyncio.sleep(0.1)

    async def stop(self, handle: Handle, *, grace_seconds: float) -> None:
        process = self._processes.get(handle.job_id)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)

    async def cleanup(self, handle: Handle) -> None:
        shutil.rmtree(self._home / str(handle.job_id), ignore_errors=True)

    async def follow_log(self, handle: Handle, *, offset: int) -> AsyncIterator[bytes]:
        path = self._home / str(handle.job_id) / "output"
        while path.exists():
            ended = self._seen(handle.job_id).ended
            with path.open("rb") as file:
                file.seek(offset)
                part = file.read(10_000)
            if part:
                offset += len(part)
                yield part
            elif ended:
                return
            else:
                await asyncio.sleep(0.1)


def _environment(home: Path) -> dict[str, str]:
    """Return what a container's environment would be."""
    kept = (
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
        "AIRFLOW__CORE__DAGS_FOLDER",
        "AIRFLOW__CORE__EXECUTOR",
    )
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))},
        **{name: os.environ[name] for name in kept},
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": f"{__name__}.hostname",
    }
