# SPDX-License-Identifier: Apache-2.0
"""Honours Airflow's ``pod_mutation_hook``, with which platform teams change every pod."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from airflow_workpools.errors import LaunchRejected

if TYPE_CHECKING:
    from collections.abc import Mapping


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
