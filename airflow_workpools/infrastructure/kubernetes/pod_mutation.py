# SPDX-License-Identifier: Apache-2.0
"""Honours Airflow's ``pod_mutation_hook``, with which platform teams change every pod."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

from airflow_workpools.errors import LaunchRejected
from airflow_workpools.infrastructure.kubernetes.manifest import plan_job, with_template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_workpools.infrastructure.base import LaunchSpec
    from airflow_workpools.infrastructure.kubernetes.manifest import JobPlan


async def planned(spec: LaunchSpec, *, namespace: str, environment: Mapping[str, str]) -> JobPlan:
    """Return what is to be created for a job, after the hook has seen it."""
    plan = plan_job(spec, namespace=namespace, environment=environment)
    if not is_defined():
        return plan
    # A hook may do anything, also ask somebody.
    template = await asyncio.to_thread(mutated, plan.job["spec"]["template"], plan.namespace)
    return with_template(plan, template)


def is_defined() -> bool:
    """Say whether there is a hook."""
    from airflow_workpools.airflow_private import pod_mutation

    return pod_mutation.is_defined()


def mutated(template: Mapping[str, Any], namespace: str) -> dict[str, Any]:
    """Return a pod template as the hook leaves it.

    :raises LaunchRejected: if the hook fails.
    """
    from airflow_workpools.airflow_private import pod_mutation

    pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(dict(template))}
    pod["metadata"] = {**pod.get("metadata", {}), "namespace": namespace}
    try:
        changed = pod_mutation.mutate(pod)
    except Exception as error:
        raise LaunchRejected(f"pod_mutation_hook failed: {type(error).__name__}: {error}") from error
    metadata = changed.get("metadata") or {}
    kept = {key: metadata[key] for key in ("labels", "annotations") if key in metadata}
    return {"metadata": kept, "spec": changed["spec"]}
