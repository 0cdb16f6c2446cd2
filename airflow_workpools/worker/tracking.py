# SPDX-License-Identifier: Apache-2.0
"""What a worker knows of a job that it looks after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_workpools.infrastructure.base import Handle
    from airflow_workpools.store.records import ClaimedJob
    from airflow_workpools.worker.sites import Site

DEFAULT_GRACE_SECONDS = 30.0


def grace_of(handle: Handle) -> float:
    """Return how long a job has to end, once it was asked to."""
    seconds = handle.data.get("stop_grace_seconds")
    return DEFAULT_GRACE_SECONDS if seconds is None else float(seconds)


@dataclass
class Tracked:
    """A job that this worker looks after."""

    job: ClaimedJob
    site: Site
    handle: Handle | None = None
    running: bool = False
    held: bool = False
    """Whether the platform's own queue holds it."""
    renewed_at: datetime | None = None
    workload: str | None = None
    """A fresh workload that its infrastructure has not been given yet."""
    said: str | None = None
    """Why it waits, as it was told last."""
    said_at: datetime | None = None
    cancel_reason: str | None = None
    stopping: bool = False
    revoked: bool = False
    """Whether the store has given it up: it is to be stopped, whatever the store says of it."""


@dataclass
class Sought:
    """A job of which it is not known whether it exists on its infrastructure."""

    job: ClaimedJob
    site: Site
    reason: str
    """Why that is not known; if it turns out not to exist, why it did not start."""
    launched_here: bool
    """Whether this worker has tried to launch it."""
    outage: bool = False
    """Whether its infrastructure did not answer when it was looked for."""
    renewed_at: datetime | None = None
