# SPDX-License-Identifier: Apache-2.0
"""An infrastructure without anything behind it, for tests of what stands in front of one.

Its jobs live in a :class:`FakePlatform`, as containers live in an engine: several workers may share one, and
a worker that starts later finds what an earlier one launched.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from airflow_workpools.core.exits import explain_exit
from airflow_workpools.errors import InfrastructureUnavailable, LaunchRejected
from airflow_workpools.infrastructure.base import Handle, LaunchSpec, Observation, Phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
    from pathlib import Path
    from uuid import UUID


PART_BYTES = 1000
"""Most that is told of a log at a time."""


class FakeVariables(BaseModel):
    """What a job of the fake kind does."""

    model_config = ConfigDict(extra="forbid")

    exit_code: int | None = Field(default=None, description="Ends at once with this exit code.")
    rejected: str | None = Field(default=None, description="Can never start, for this reason.")


class Step(str, Enum):
    """Where an infrastructure may fail."""

    OPEN = "open"
    BEFORE_LAUNCH = "before launch"
    """Nothing exists yet."""
    AFTER_LAUNCH = "after launch"
    """The job exists, but its handle has not been told."""
    AFTER_HANDLE = "after handle"
    """The handle has been told."""
    OBSERVE = "observe"
    FIND = "find"
    LEFT_BEHIND = "left behind"
    STOP = "stop"
    CLEANUP = "cleanup"
    RENEW = "renew"
    BEGIN_LOG = "begin log"
    FOLLOW_LOG = "follow log"
    """Each time when a part of it has been told."""


@dataclass
class FakeJob:
    """A job as its platform has it."""

    spec: LaunchSpec
    observation: Observation
    made_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


@dataclass
class FakePlatform:
    """Where fake jobs live."""

    jobs: dict[UUID, FakeJob] = field(default_factory=dict)
    launches: list[LaunchSpec] = field(default_factory=list)
    """Every launch that made a job, in order; an adoption is none."""
    watchers: list[asyncio.Event] = field(default_factory=list)
    logs: dict[UUID, bytearray] = field(default_factory=dict)

    def write(self, job_id: UUID, text: str) -> None:
        """Let a job write something."""
        self.logs.setdefault(job_id, bytearray()).extend(text.encode())
        self._tell_watchers()

    def end(self, job_id: UUID, exit_code: int | None = 0, reason: str | None = None) -> None:
        """Let a job end; without an exit code it is gone, and nobody knows how."""
        if exit_code is None:
            self.see(job_id, Observation(phase=Phase.GONE, reason=reason or "it disappeared"))
        else:
            reason = reason or explain_exit(exit_code)
            self.see(job_id, Observation(phase=Phase.EXITED, exit_code=exit_code, reason=reason))

    def hold(self, job_id: UUID, reason: str) -> None:
        """Let the platform's own queue hold a job."""
        self.see(job_id, Observation(phase=Phase.QUEUED, reason=reason))

    def fail_to_start(self, job_id: UUID, reason: str, exit_code: int = 125) -> None:
        """Let a job end before anything of its task has run."""
        ended = Observation(phase=Phase.EXITED, exit_code=exit_code, reason=reason, never_started=True)
        self.see(job_id, ended)

    def observe(self, job_id: UUID) -> Observation:
        """Return what is seen of a job."""
        job = self.jobs.get(job_id)
        return (
            Observation(phase=Phase.GONE, reason="there is no such job") if job is None else job.observation
        )

    def see(self, job_id: UUID, observation: Observation) -> None:
        """Let this be what is seen of a job from now on, unless it has ended."""
        job = self.jobs.get(job_id)
        if job is not None and not job.observation.ended:
            job.observation = observation
            self._tell_watchers()

    def _tell_watchers(self) -> None:
        for watcher in self.watchers:
            watcher.set()


class FakeInfrastructure:
    """Runs jobs on a fake platform, and fails where it is told to.

    :param platform: where the jobs live; None: a platform of its own.
    :param fail_at: the steps that fail, each once, in any order; name one twice to let it fail twice.
    :param error: what they fail with.
    """

    kind: ClassVar[str] = "fake"
    runs_at_launch: ClassVar[bool] = False
    variables: ClassVar[type[BaseModel]] = FakeVariables

    def __init__(
        self,
        platform: FakePlatform | None = None,
        *,
        home: Path | None = None,
        connection: Mapping[str, Any] | None = None,
        fail_at: Iterable[Step | str] = (),
        error: Exception | None = None,
    ) -> None:
        self.platform = platform or FakePlatform()
        self.home = home
        self.connection = connection
        self.failures = [Step(step) for step in fail_at]
        """The steps that are still to fail."""
        self.stops: list[tuple[Handle, float]] = []
        """What was to be stopped, with its grace in seconds."""
        self.renewals: list[tuple[Handle, str]] = []
        """Fresh workloads that jobs were given."""
        self.cleanups: list[Handle] = []
        self._error = error
        self._changed = asyncio.Event()

    @classmethod
    def default_job_configuration(cls) -> Mapping[str, Any]:
        return {name: f"{{{{ {name} }}}}" for name in FakeVariables.model_fields}

    async def open(self) -> None:
        self._fail_at(Step.OPEN)
        self.platform.watchers.append(self._changed)

    async def close(self) -> None:
        if self._changed in self.platform.watchers:
            self.platform.watchers.remove(self._changed)

    async def launch(self, spec: LaunchSpec) -> AsyncIterator[Handle]:
        self._fail_at(Step.BEFORE_LAUNCH)
        variables = FakeVariables.model_validate(spec.configuration)
        if variables.rejected is not None:
            raise LaunchRejected(variables.rejected)
        if spec.job_id not in self.platform.jobs:
            self.platform.jobs[spec.job_id] = FakeJob(spec, Observation(phase=Phase.RUNNING))
            self.platform.launches.append(spec)
            if variables.exit_code is not None:
                self.platform.end(spec.job_id, variables.exit_code)
        self._fail_at(Step.AFTER_LAUNCH)
        yield self._handle(spec.job_id)
        self._fail_at(Step.AFTER_HANDLE)

    async def observe(self, handles: Sequence[Handle]) -> Mapping[UUID, Observation]:
        self._fail_at(Step.OBSERVE)
        return {handle.job_id: self.platform.observe(handle.job_id) for handle in handles}

    async def find(self, job_ids: Collection[UUID]) -> Mapping[UUID, Handle]:
        self._fail_at(Step.FIND)
        return {job_id: self._handle(job_id) for job_id in job_ids if job_id in self.platform.jobs}

    async def left_behind(self, installation: str, *, before: datetime) -> Sequence[Handle]:
        self._fail_at(Step.LEFT_BEHIND)
        return [
            self._handle(job_id)
            for job_id, job in self.platform.jobs.items()
            if job.spec.labels.get("installation") == installation and job.made_at < before
        ]

    async def wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def stop(self, handle: Handle, *, grace_seconds: float) -> None:
        self._fail_at(Step.STOP)
        self.stops.append((handle, grace_seconds))
        self.platform.end(handle.job_id, 143)

    async def cleanup(self, handle: Handle) -> None:
        self._fail_at(Step.CLEANUP)
        self.cleanups.append(handle)
        self.platform.jobs.pop(handle.job_id, None)
        self.platform.logs.pop(handle.job_id, None)

    async def renew(self, handle: Handle, workload: str) -> None:
        self._fail_at(Step.RENEW)
        self.renewals.append((handle, workload))

    def _handle(self, job_id: UUID) -> Handle:
        return Handle(job_id=job_id, kind=self.kind, data={"name": f"wp-{job_id}"})

    def _fail_at(self, step: Step) -> None:
        if step in self.failures:
            self.failures.remove(step)
            raise self._error or InfrastructureUnavailable(f"failed as told: {step.value}")


class FakeInfrastructureWithLog(FakeInfrastructure):
    """The same, where jobs write something that their worker has to fetch."""

    async def follow_log(self, handle: Handle, *, offset: int) -> AsyncIterator[bytes]:
        self._fail_at(Step.BEGIN_LOG)
        changed = asyncio.Event()
        self.platform.watchers.append(changed)
        try:
            while True:
                ended = self.platform.observe(handle.job_id).ended
                if part := bytes(self.platform.logs.get(handle.job_id, b"")[offset : offset + PART_BYTES]):
                    offset += len(part)
                    yield part
                    self._fail_at(Step.FOLLOW_LOG)
                elif ended:
                    return
                else:
                    await changed.wait()
                    changed.clear()
        finally:
            self.platform.watchers.remove(changed)
