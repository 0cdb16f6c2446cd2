# SPDX-License-Identifier: Apache-2.0
"""Where the objects of a job are, and how a job is found again. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.infrastructure.kubernetes.status import container_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from uuid import UUID

KIND = "kubernetes"


def handle_of(job_id: UUID, job: Mapping[str, Any]) -> Handle:
    metadata, template = job["metadata"], job["spec"]["template"]
    return Handle(
        job_id=job_id,
        kind=KIND,
        data={
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "container": container_name(template),
            "stop_grace_seconds": template["spec"].get("terminationGracePeriodSeconds", 30),
        },
    )


def created_at(job: Mapping[str, Any]) -> str:
    return str(job["metadata"].get("creationTimestamp"))


def place_of(handle: Handle) -> tuple[str, str]:
    """Return the namespace and the name of a job's Job; empty where the handle has none."""
    return str(handle.data.get("namespace") or ""), str(handle.data.get("name") or "")


def jobs_path(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def pods_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def secrets_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets"


def chunks(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[n : n + size] for n in range(0, len(items), size))
