# SPDX-License-Identifier: Apache-2.0
"""What the engine's list of containers says of one. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow_workpools.infrastructure.containers import JOB_ID_LABEL
from airflow_workpools.infrastructure.docker import reasons

if TYPE_CHECKING:
    from collections.abc import Mapping


def job_id_of(labels: Mapping[str, str]) -> UUID | None:
    """Return the id of the job that a container is; None if its labels were changed."""
    try:
        return UUID(labels.get(JOB_ID_LABEL) or "")
    except ValueError:
        return None


def name_of(container: Mapping[str, Any]) -> str:
    """Return the name of a container."""
    return str((container.get("Names") or [""])[0]).lstrip("/")


def is_over(state: str) -> bool:
    """Say whether a container in this state has ended."""
    return state.lower() not in reasons.RUNS | reasons.NOT_STARTED
