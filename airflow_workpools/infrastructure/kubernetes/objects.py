# SPDX-License-Identifier: Apache-2.0
"""Where the objects of a job are, and how a job is found again. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.infrastructure.containers import JOB_ID_LABEL, WORKLOAD_NAME
from airflow_workpools.infrastructure.kubernetes.manifest import WorkloadPlace, workload_place
from airflow_workpools.infrastructure.kubernetes.status import container_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

KIND = "kubernetes"


def handle_of(job_id: UUID, job: Mapping[str, Any]) -> Handle:
    metadata, template = job["metadata"], job["spec"]["template"]
    place = workload_place(job)
    return Handle(
        job_id=job_id,
        kind=KIND,
        data={
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "container": container_name(template),
            "stop_grace_seconds": template["spec"].get("terminationGracePeriodSeconds", 30),
            "secret": place.secret,
            "key": place.key,
        },
    )


def job_id_of(job: Mapping[str, Any]) -> UUID | None:
    """Return the id of the job that a Job is; None if its labels were changed."""
    try:
        return UUID((job["metadata"].get("labels") or {}).get(JOB_ID_LABEL) or "")
    except ValueError:
        return None


def created_at(job: Mapping[str, Any]) -> str:
    return str(job["metadata"].get("creationTimestamp"))


def place_of(handle: Handle) -> tuple[str, str]:
    """Return the namespace and the name of a job's Job; empty where the handle has none."""
    return str(handle.data.get("namespace") or ""), str(handle.data.get("name") or "")


def workload_place_of(handle: Handle) -> WorkloadPlace:
    """Return where a job's workload is; of one that an earlier version launched, in a Secret of its own."""
    secret, key = handle.data.get("secret"), handle.data.get("key")
    return WorkloadPlace(str(secret or handle.data.get("name") or ""), str(key or WORKLOAD_NAME))


def jobs_path(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def pods_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def secrets_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets"


def chunks(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[n : n + size] for n in range(0, len(items), size))
