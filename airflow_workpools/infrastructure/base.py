# SPDX-License-Identifier: Apache-2.0
"""What every kind of infrastructure can do. A kind is one class; the loop around it is written once, in
the worker.

An infrastructure never sees Airflow's database and decides nothing about slots, retries or order. It
launches what it is told, says what it sees, and stops what it is told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import uuid
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence
    from datetime import datetime

    from pydantic import BaseModel


class Phase(str, Enum):
    """What the infrastructure says of a job."""

    QUEUED = "queued"
    """Accepted, and held back by the platform's own queue (a suspended Job, say): its start timeout does not run."""
    WAITING = "waiting"
    """Accepted, not running yet (image being pulled, no room)."""
    RUNNING = "running"
    EXITED = "exited"
    """It ended by itself; ``exit_code`` says how."""
    GONE = "gone"
    """Nothing is left of it and nobody knows how it ended."""


@dataclass(frozen=True, kw_only=True)
class Handle:
    """How a launched job is found again, also by another worker after a restart. It is stored with the job."""

    job_id: uuid.UUID
    kind: str
    data: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """JSON values that only this kind of infrastructure understands, but for ``bound_to_host``: that is true where only
    workers of the host can look after the job, though others of its kind are anybody's."""
    conn_id: str | None = None
    """The Airflow connection through which it was launched. Noted by the worker; a kind need not care."""
    failed_start: str | None = None
    """Why it ended before anything of its task ran, if it did: it is removed and launched again, also after a crash.
    Noted by the worker."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What was seen of a job."""

    phase: Phase
    exit_code: int | None = None
    reason: str | None = None
    """Why it ended or waits, in words for the person who looks at the task."""
    never_started: bool = False
    """Whether it ended before anything of the task ran, so that it may be launched again without harm."""

    @property
    def ended(self) -> bool:
        return self.phase in (Phase.EXITED, Phase.GONE)


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """Everything that is needed to launch one job."""

    job_id: uuid.UUID
    configuration: Mapping[str, Any]
    """The rendered ``job_configuration`` of the base job template."""
    workload: str = field(repr=False)
    """The workload as JSON. It carries the job's token: hand it over so that only the job can read it."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Identifies the job: installation, pool, queue, worker, dag_id, task_id, run_id, map_index, try_number, job_id."""
    attempt: int = 0
    """How often the job has failed to start before."""

    @property
    def name(self) -> str:
        """Name of what is launched: the same whoever launches it, so that "it exists" means "adopt it".

        Another attempt has another name: what is left of an earlier one is not taken for it.
        """
        return f"wp-{self.job_id}-{self.attempt}" if self.attempt else f"wp-{self.job_id}"


@runtime_checkable
class Infrastructure(Protocol):
    """One kind of infrastructure.

    Created by the worker with keyword arguments ``home`` (a :class:`pathlib.Path` for files of its own), and
    ``connection`` (a mapping with ``conn_id``, ``conn_type``, ``host``, ``port``, ``login``, ``password``,
    ``schema``, ``extra`` of the pool's infrastructure connection, or None). One is made for each connection; the
    pools that name the same connection share it.

    A kind whose jobs run elsewhere than on the worker's own host, so that a worker of another host can look after them,
    says so with ``bound_to_host = False``, as a property where that depends on the connection (the data of its handles
    say then which jobs are so); see :func:`bound_to_host`. One that takes more jobs at a time than
    :data:`DEFAULT_LAUNCHES_IN_FLIGHT`, or fewer, says how many as ``launches_in_flight``.
    """

    kind: ClassVar[str]
    """The word for it in the database, the CLI and the docs: ``process``, ``docker``, …"""
    runs_at_launch: ClassVar[bool]
    """Whether a launched job is running at once; otherwise it waits until it is observed to run."""
    variables: ClassVar[type[BaseModel]]
    """Typed job variables; they become the JSON Schema of the default base job template."""

    @classmethod
    def default_job_configuration(cls) -> Mapping[str, Any]:
        """Return the ``job_configuration`` of the default base job template, with placeholders."""
        ...

    async def open(self) -> None:
        """Get ready; called once before anything else.

        :raises InfrastructureUnavailable: if it cannot be reached.
        """
        ...

    async def close(self) -> None:
        """Let go of connections; what runs goes on running."""
        ...

    def launch(self, spec: LaunchSpec) -> AsyncIterator[Handle]:
        """Start a job, yielding its handle after each step that leaves something behind.

        Launching a job that exists already means adopting it: the handle is yielded and nothing runs twice.

        :raises LaunchRejected: if the job can never start; the message is the reason.
        :raises InfrastructureUnavailable: if it may work later.
        """
        ...

    async def observe(self, handles: Sequence[Handle]) -> Mapping[uuid.UUID, Observation]:
        """Say what is seen of these jobs, in one go; every job asked for is in the answer."""
        ...

    async def find(self, job_ids: Collection[uuid.UUID]) -> Mapping[uuid.UUID, Handle]:
        """Look for jobs whose handle was lost (a crash between launch and report)."""
        ...

    async def wait_for_change(self) -> None:
        """Return when something may have changed; a hint that makes the worker observe at once."""
        ...

    async def stop(self, handle: Handle, *, grace_seconds: float) -> None:
        """Ask the job to end, and end it when the grace is over. Fine if it is gone already. Does not wait."""
        ...

    async def cleanup(self, handle: Handle) -> None:
        """Remove what an ended job left behind; called when its end is stored. Fine if nothing is left."""
        ...


DEFAULT_LAUNCHES_IN_FLIGHT = 16


def launches_in_flight(infrastructure: Infrastructure | None) -> int:
    """Return how many jobs an infrastructure takes at a time, through one connection."""
    return int(getattr(infrastructure, "launches_in_flight", DEFAULT_LAUNCHES_IN_FLIGHT))


def bound_to_host(infrastructure: Infrastructure) -> bool:
    """Say whether only workers of the host on which a job was launched here can look after it."""
    return bool(getattr(infrastructure, "bound_to_host", True))


@runtime_checkable
class ChecksTemplates(Protocol):
    """An infrastructure that knows of some base job templates that no job can be launched with."""

    @classmethod
    def template_problems(cls, job_configuration: Any) -> Sequence[str]:
        """Say what is wrong with a ``job_configuration``, whatever values a job gives; each names its place."""
        ...


@runtime_checkable
class ChecksVariables(Protocol):
    """An infrastructure that knows of some values of job variables that no job can be launched with."""

    @classmethod
    def variable_problems(cls, job_configuration: Any, variables: Mapping[str, Any]) -> Sequence[str]:
        """Say what is wrong with what these values make of a ``job_configuration``; each names its job variable.

        :param variables: those that are known; a job may yet give others.
        """
        ...


@runtime_checkable
class CanBeTried(Protocol):
    """An infrastructure that can say whether it would take a job, without launching any."""

    async def try_out(self, spec: LaunchSpec) -> str:
        """Say in a sentence what was found out of a job that it would take.

        :raises LaunchRejected: if it would not; the message is the reason.
        :raises InfrastructureUnavailable: if it may later.
        """
        ...


@runtime_checkable
class MayBeHindered(Protocol):
    """An infrastructure that may know by itself, at once, that it can't launch anything now.

    A worker claims nothing for it then: the jobs wait, instead of failing one after the other.
    """

    def hindrance(self) -> str | None:
        """Say what hinders it, and the way out; None if nothing is known to."""
        ...


@runtime_checkable
class HasLog(Protocol):
    """An infrastructure that keeps what a job wrote where its worker has to fetch it.

    Where jobs write into Airflow's log folder themselves, as processes do, there is nothing to fetch.
    """

    def follow_log(self, handle: Handle, *, offset: int) -> AsyncIterator[bytes]:
        """Yield what the job writes to standard output and error, from this byte on, while it runs.

        Returns when the job has ended and all was yielded, or when nothing is left of it. What was yielded once
        is yielded again, the same, to whoever asks for the same offset.

        :raises InfrastructureUnavailable: if it may work later.
        """
        ...


@runtime_checkable
class MayLeaveBehind(Protocol):
    """An infrastructure on which jobs stay until they are removed, also when every worker has forgotten them."""

    async def left_behind(self, installation: str, *, before: datetime) -> Sequence[Handle]:
        """Return every job of an Airflow, running or not, that was made before this time; not what is to be kept.

        :param installation: whose jobs: what their label ``installation`` says. Nothing of another Airflow's.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class LivingJob:
    """A job that runs, as an infrastructure finds it by itself."""

    handle: Handle
    labels: Mapping[str, str]
    """Those of its :class:`LaunchSpec`."""
    attempt: int
    """How often it had failed to start before."""


@runtime_checkable
class RemembersJobs(Protocol):
    """An infrastructure of this host alone that knows of the jobs which earlier workers have left running on it."""

    async def alive(self) -> Sequence[LivingJob]:
        """Return all jobs that run, whoever launched them."""
        ...


@runtime_checkable
class CanRenew(Protocol):
    """An infrastructure that can give a job which has not started yet a fresh workload, whose token lasts longer."""

    async def renew(self, handle: Handle, workload: str) -> None:
        """Replace the workload of a job that is held back by the platform's own queue. Fine if it is gone."""
        ...
