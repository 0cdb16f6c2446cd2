# SPDX-License-Identifier: Apache-2.0
"""The requests that make, change and delete the objects of a job: its Job, its Secret, its pod.

Each is made again, with growing pauses, while the API can't do it; what is gone already is no error to who deletes it.
"""

from __future__ import annotations

import contextlib
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from airflow_workpools.infrastructure.kubernetes.answers import AlreadyExists, DoesNotExist, NotNow
from airflow_workpools.infrastructure.kubernetes.client import MERGE_PATCH, STRATEGIC_MERGE_PATCH
from airflow_workpools.infrastructure.kubernetes.manifest import encoded
from airflow_workpools.infrastructure.kubernetes.objects import jobs_path, pods_path, secrets_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_workpools.infrastructure.kubernetes.client import KubernetesApi
    from airflow_workpools.infrastructure.kubernetes.manifest import JobPlan, WorkloadPlace

_CREATE_SECONDS = 20.0
"""How long creating a Job is tried again before the worker is told that it does not work now."""
_DELETE_SECONDS = 20.0
_DRY_RUN = {"dryRun": "All"}
"""The API does everything that it does with a request, and keeps nothing."""


class JobObjects:
    """The objects of jobs in one cluster."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    async def try_out(self, plan: JobPlan) -> str:
        """Say whether the API would take a job's objects, and show them to who watches. Nothing is created.

        :raises ApiRefusal: if it would not.
        :raises InfrastructureUnavailable: if it may later.
        """
        namespace = plan.namespace
        job = await self._api.request("POST", jobs_path(namespace), query=_DRY_RUN, body=plan.job)
        secret = plan.secret(job["metadata"]["uid"])
        await self._api.request("POST", secrets_path(namespace), query=_DRY_RUN, body=secret)
        for path in (jobs_path(namespace), pods_path(namespace)):
            await self._api.request("GET", path, query={"limit": 1})
        return f"By a dry run, it would take a job with the pool's defaults in namespace {namespace}."

    async def create_job(self, plan: JobPlan, *, again: JobPlan) -> tuple[Mapping[str, Any], bool]:
        """Return the Job, and whether it was there before.

        :param again: what is created instead where the first try fails and is made again.
        """
        path = jobs_path(plan.namespace)
        bodies = chain([plan.job], repeat(again.job))
        try:
            return await self._api.persist("POST", path, seconds=_CREATE_SECONDS, bodies=bodies), False
        except AlreadyExists:
            return await self._api.persist("GET", f"{path}/{plan.name}", seconds=_CREATE_SECONDS), True

    async def create_secret(self, secret: Mapping[str, Any]) -> None:
        """Create a Secret with workloads, or add these and their owners to the one that is there.

        :raises NotNow: if the one that was there has just gone, too: another one can be made.
        """
        metadata = secret["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        try:
            await self._api.persist("POST", secrets_path(namespace), seconds=_CREATE_SECONDS, body=secret)
        except AlreadyExists as error:
            owners = {"ownerReferences": metadata["ownerReferences"]}
            added = {"metadata": owners, "data": secret["data"]}
            try:
                await self._patch_secret(namespace, name, added, STRATEGIC_MERGE_PATCH)
            except DoesNotExist:
                # The cluster has removed it with the last of those that owned it.
                raise NotNow(f"the Kubernetes API can't do it now: Secret {name} is being removed") from error

    async def replace_workload(self, namespace: str, place: WorkloadPlace, workload: str) -> None:
        """Put another workload in a job's place. Fine if its Secret is gone."""
        with contextlib.suppress(DoesNotExist):
            await self._patch_secret(namespace, place.secret, {"data": {place.key: encoded(workload)}})

    async def has_workload(self, namespace: str, place: WorkloadPlace) -> bool:
        """Say whether a job's workload was handed over."""
        # A change of nothing: no right to read Secrets is needed for it.
        try:
            secret = await self._patch_secret(namespace, place.secret, {})
        except DoesNotExist:
            return False
        return place.key in (secret.get("data") or {})

    async def make_no_pods(self, namespace: str, name: str) -> None:
        """Have the cluster make no more pods of a Job; it deletes the one that there is."""
        with contextlib.suppress(DoesNotExist):
            await self._patch(f"{jobs_path(namespace)}/{name}", {"spec": {"parallelism": 0}})

    async def delete_pod(self, namespace: str, name: str, *, grace_seconds: int) -> None:
        """Delete a pod, whose containers get SIGTERM and this long to end."""
        await self._delete(f"{pods_path(namespace)}/{name}", {"gracePeriodSeconds": grace_seconds})

    async def delete_job(self, namespace: str, name: str) -> None:
        """Delete a Job; the cluster takes its pod and its Secret along."""
        await self._delete(f"{jobs_path(namespace)}/{name}", {"propagationPolicy": "Background"})

    async def _patch_secret(
        self, namespace: str, name: str, patch: Mapping[str, Any], type_: str = MERGE_PATCH
    ) -> Mapping[str, Any]:
        return await self._patch(f"{secrets_path(namespace)}/{name}", patch, type_)

    async def _patch(
        self, path: str, patch: Mapping[str, Any], type_: str = MERGE_PATCH
    ) -> Mapping[str, Any]:
        return await self._api.persist("PATCH", path, seconds=_CREATE_SECONDS, body=patch, content_type=type_)

    async def _delete(self, path: str, options: Mapping[str, Any]) -> None:
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        with contextlib.suppress(DoesNotExist):
            await self._api.persist("DELETE", path, seconds=_DELETE_SECONDS, body=body)
