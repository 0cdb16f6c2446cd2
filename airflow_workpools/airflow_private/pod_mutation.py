# SPDX-License-Identifier: Apache-2.0
"""Airflow's ``pod_mutation_hook``: whether anybody has defined one, and what it makes of a pod.

The hook itself is public. That nothing need be done where there is none, which spares a worker the import of another
Kubernetes client, is known only to Airflow's manager of policies; and the provider's way from JSON to the objects
that hooks are written for is its own. ``tests/unit/test_kubernetes_pod_mutation.py`` tells when any of it changes.
"""

from __future__ import annotations

from typing import Any


def is_defined() -> bool:
    """Say whether ``airflow_local_settings.py`` or a plugin defines a ``pod_mutation_hook``."""
    from airflow.settings import get_policy_plugin_manager

    return bool(get_policy_plugin_manager().hook.pod_mutation_hook.get_hookimpls())


def mutate(pod: dict[str, Any]) -> dict[str, Any]:
    """Return what the hook makes of a pod.

    :raises ImportError: if Airflow's Kubernetes provider is not installed.
    """
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
    from airflow.settings import pod_mutation_hook
    from kubernetes.client import ApiClient

    model = PodGenerator.deserialize_model_dict(pod)
    pod_mutation_hook(model)
    mutated: dict[str, Any] = ApiClient().sanitize_for_serialization(model)
    return mutated
