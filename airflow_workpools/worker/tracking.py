# SPDX-License-Identifier: Apache-2.0
"""What a worker knows of a job that it looks after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_workpools.infrastructure.base import Handle
    from airflow_workpools.store.records import ClaimedJob


@dataclass
class Tracked:
    """A job that this worker looks after."""

    job: ClaimedJob
    kind: str
    handle: Handle | None = None
    running: bool = False
    cancel_reason: str | None = None
    stopping: bool = False
