# SPDX-License-Identifier: Apache-2.0
"""Work pools and work queues: what they are, and how a definition is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

from airflow_workpools.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from airflow_workpools.core.templates import BaseJobTemplate

DEFAULT_START_TIMEOUT_SECONDS = 600.0
"""How long a job may take from its claim to the start of its task, where nothing else is said."""

QUEUE_READY_FOR = timedelta(seconds=60)
"""A queue is ready for so long after a worker last polled it."""


class Delivery(str, Enum):
    """How jobs reach a worker."""

    PUSH = "push"
    """The scheduler's embedded worker starts them."""
    PULL = "pull"
    """Separate workers poll for them."""

    def __str__(self) -> str:
        return self.value


class PoolSource(str, Enum):
    """Where the definition of a work pool stands."""

    DATABASE = "database"
    """A connection in Airflow's database: the only one that UI and CLI can change."""
    ENVIRONMENT = "environment"
    """A connection in an environment variable."""
    SECRETS = "secrets"
    """A connection in a secrets backend."""
    BUILTIN = "builtin"
    """Nowhere: it exists without being declared."""

    def __str__(self) -> str:
        return self.value


class PoolStatus(str, Enum):
    """What a work pool can do at the moment."""

    READY = "ready"
    """A worker is online."""
    NOT_READY = "not_ready"
    """No worker is online."""
    PAUSED = "paused"
    INVALID = "invalid"
    """Its definition cannot be read."""

    def __str__(self) -> str:
        return self.value


class QueueStatus(str, Enum):
    """What a work queue can do at the moment."""

    READY = "ready"
    """A worker polled it lately."""
    NOT_READY = "not_ready"
    PAUSED = "paused"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class WorkQueue:
    """A line of waiting work inside a work pool."""

    name: str
    priority: int
    """From 1, which goes first; unique in its pool."""
    concurrency_limit: int | None = None
    """Most pool slots that its jobs may hold; None is no limit, 0 delivers nothing."""
    description: str | None = None
    job_variables: Mapping[str, Any] = field(default_factory=dict)
    """Over the pool's, under the task's."""


@dataclass(frozen=True, kw_only=True)
class WorkPool:
    """A named kind of infrastructure, with its limit, its queues and the look of its jobs."""

    name: str
    type: str
    """Kind of infrastructure: ``process``, ``docker``, …"""
    description: str | None = None
    concurrency_limit: int | None = None
    """Most pool slots that its jobs may hold; None is no limit, 0 delivers nothing."""
    delivery: Delivery = Delivery.PUSH
    start_timeout_seconds: float = DEFAULT_START_TIMEOUT_SECONDS
    """From the claim of a job to the start of its task. Waiting for a slot is no part of it."""
    infrastructure_conn_id: str | None = None
    """Airflow connection with address and credentials of the infrastructure."""
    queues: tuple[WorkQueue, ...]
    """By priority; ``default`` is always among them."""
    base_job_template: BaseJobTemplate
    job_variables: Mapping[str, Any] = field(default_factory=dict)
    """The pool's defaults: over those of the template, under those of queue and task."""
    source: PoolSource = PoolSource.BUILTIN
    team_name: str | None = None

    def find_queue(self, name: str) -> WorkQueue | None:
        """Return the queue of that name, or None if there is none."""
        return next((queue for queue in self.queues if queue.name == name), None)

    def queue(self, name: str) -> WorkQueue:
        """Return the queue of that name.

        :raises NotFound: if there is none; the message names those there are.
        """
        found = self.find_queue(name)
        if found is None:
            there_are = ", ".join(sorted(queue.name for queue in self.queues))
            raise NotFound(f"work pool {self.name!r} has no work queue {name!r}; it has: {there_are}")
        return found


@dataclass(frozen=True, kw_only=True)
class InvalidPool:
    """A work pool whose definition cannot be read: it exists, and nothing runs in it until it is mended."""

    name: str
    reason: str
    source: PoolSource
    team_name: str | None = None


def pool_status(*, paused: bool, workers_online: int) -> PoolStatus:
    """Return the status of a work pool that could be read. Workers make it ready, but never end a pause."""
    if paused:
        return PoolStatus.PAUSED
    return PoolStatus.READY if workers_online > 0 else PoolStatus.NOT_READY


def queue_status(*, paused: bool, last_polled_at: datetime | None, now: datetime) -> QueueStatus:
    """Return the status of a work queue: ready for :data:`QUEUE_READY_FOR` after each poll, unless paused."""
    if paused:
        return QueueStatus.PAUSED
    polled_lately = last_polled_at is not None and now - last_polled_at <= QUEUE_READY_FOR
    return QueueStatus.READY if polled_lately else QueueStatus.NOT_READY
