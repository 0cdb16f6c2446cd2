# SPDX-License-Identifier: Apache-2.0
"""Jobs as Kubernetes Jobs."""

from __future__ import annotations

from airflow_workpools.infrastructure.kubernetes.infrastructure import KubernetesInfrastructure

__all__ = ["KubernetesInfrastructure"]
