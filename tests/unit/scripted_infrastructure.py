# SPDX-License-Identifier: Apache-2.0
"""An infrastructure whose jobs do what a test tells them to, for tests of the worker's loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar
from uuid import UUID

from pydantic import BaseModel

from airflow_workpools.infrastructure.base import Handle, LaunchSpec, Observation, Phase


class NoVariables(BaseModel):
    pass


class ScriptedInfrastructure:
    """Remembers what it was asked, and fails where it is told to.

    :param platform: what runs, by job; shared by the infrastructures of several workers, like a cluster.
    """

    kind: ClassVar[str] = "process"
    runs_at_launch: ClassVar[bool] = False
    variables: ClassVar[type[BaseModel]] = NoVariables

    def __init__(self, platform: dict[UUID, Observation] | None = None) -> None:
        self.platform = {} if platform is None else platform
        self.launched: list[LaunchSpec] = []
        self.stopped: list[UUID] = []
        self.cleaned: list[UUID] = []
        self.launch_errors: list[Exception] = []
        """Raised by the next launches, before anything runs."""
        self.fail_after_launch: list[Exception] = []
        """Raised by the next launches, when something runs already but nobody has heard of it."""
        self.asked: list[UUID] = []
        """Jobs whose launch was begun."""
        self.holds: Callable[[UUID], bool] = lambda _: False
        """Says of a job that its launch does not come to an end."""
        self.open_errors: list[Exception] = []
        """Raised by every attempt to open it while there is one."""
        self.stop_errors: list[Exception] = []
        """Raised by the next stops, which stop nothing."""
        self.outage: Exception | None = None
        """Raised by whatever it is asked."""
        self.renewed: list[tuple[UUID, str]] = []
        self.launches_in_flight = 16
        self.opened = self.closed = False
        self._changed = asyncio.Event()

    @classmethod
    def default_job_configuration(cls) -> Mapping[str, Any]:
        return {}

    async def open(self) -> None:
        if self.open_errors:
            raise self.open_errors[0]
        self.opened = True

    async def close(self) -> None:
        self.opened = False
        self.closed = True

    def ends(self, job_id: UUID, code: int | None = 0, reason: str | None = None) -> None:
        """Let a job end; without a code nobody knows how."""
        phase = Phase.GONE if code is None else Phase.EXITED
        self.platform[job_id] = Observation(phase=phase, exit_code=code, reason=reason)
        self._changed.set()

    def holds_back(self, job_id: UUID, reason: str) -> None:
        """Let a job wait in the platform's own queue."""
        self.sees(job_id, Observation(phase=Phase.QUEUED, reason=reason))

    def fails_to_start(self, job_id: UUID, reason: str) -> None:
        """Let a job end before anything of its task ran."""
        self.sees(job_id, Observation(phase=Phase.EXITED, exit_code=125, reason=reason, never_started=True))

    def sees(self, job_id: UUID, observation: Observation) -> None:
        """Let this be what is seen of a job."""
        self.platform[job_id] = observation
        self._changed.set()

    def runs(self, job_id: UUID) -> None:
        """Let a job that waits run."""
        self.platform[job_id] = Observation(phase=Phase.RUNNING)
        self._changed.set()

    async def launch(self, spec: LaunchSpec) -> AsyncIterator[Handle]:
        self.asked.append(spec.job_id)
        while self.holds(spec.job_id):
            await asyncio.sleep(0.002)
        self._answer()
        if self.launch_errors:
            raise self.launch_errors.pop(0)
        if spec.job_id not in self.platform:
            self.launched.append(spec)
            self.platform[spec.job_id] = Observation(phase=Phase.WAITING)
        if self.fail_after_launch:
            raise self.fail_after_launch.pop(0)
        yield self._handle(spec.job_id)

    def _handle(self, job_id: UUID) -> Handle:
        return Handle(job_id=job_id, kind=self.kind, data={"stop_grace_seconds": 1})

    async def observe(self, handles: Sequence[Handle]) -> Mapping[UUID, Observation]:
        self._answer()
        gone = Observation(phase=Phase.GONE, reason="nothing is there")
        return {handle.job_id: self.platform.get(handle.job_id, gone) for handle in handles}

    async def find(self, job_ids: Collection[UUID]) -> Mapping[UUID, Handle]:
        self._answer()
        return {job_id: self._handle(job_id) for job_id in job_ids if job_id in self.platform}

    async def wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def stop(self, handle: Handle, *, grace_seconds: float) -> None:
        self._answer()
        if self.stop_errors:
            raise self.stop_errors.pop(0)
        self.stopped.append(handle.job_id)
        self.ends(handle.job_id, 143, "terminated")

    async def cleanup(self, handle: Handle) -> None:
        self._answer()
        self.cleaned.append(handle.job_id)
        self.platform.pop(handle.job_id, None)

    async def renew(self, handle: Handle, workload: str) -> None:
        self._answer()
        self.renewed.append((handle.job_id, workload))

    def _answer(self) -> None:
        if self.outage is not None:
            raise self.outage
