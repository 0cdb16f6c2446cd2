# SPDX-License-Identifier: Apache-2.0
"""How a job is stopped: its pod is deleted, and the cluster makes no other.

The Job stays until it is cleaned up, and so does its Secret: a node that misses a Secret while it brings a pod up does
nothing else with that pod until it gives up looking.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_workpools.infrastructure.kubernetes.job_objects import JobObjects
    from airflow_workpools.infrastructure.kubernetes.namespace import Entry

HEARS_SECONDS = 5.0
"""So long a cluster may take to delete the pod of a Job of which no pods are wanted any more; then it is told to."""
BRINGS_UP_SECONDS = 5.0
"""So long a node may take to end a pod of which no container has begun."""


async def stop_job(objects: JobObjects, entry: Entry, namespace: str, *, grace_seconds: float) -> str | None:
    """Delete a job's pod, whose container gets SIGTERM and this long to end; return the pod's name, if it has one."""
    entry.stopping()
    pod = entry.seen.pod
    if pod is None:
        await objects.delete_job(namespace, entry.name)
        return None
    await objects.make_no_pods(namespace, entry.name)
    # Were the pod deleted from here before the cluster has heard of that, it could make another one.
    await entry.until_going(seconds=HEARS_SECONDS)
    # With 0, the pod would be gone at once, and nobody would know how its container ended.
    seconds = max(1, math.ceil(grace_seconds))
    name = str(pod["metadata"]["name"])
    await objects.delete_pod(namespace, name, grace_seconds=seconds)
    return name


async def free_pod(objects: JobObjects, entry: Entry, namespace: str, pod: str) -> None:
    """Delete a pod without waiting for its node, if that does nothing with it: it was stopped while it was brought up.

    Kubelets of 1.20 take a minute or two to look again at a pod whose volumes are not there, or were taken away under
    its start. Should its container have begun unheard, a kubelet ends what the cluster does not know any more.
    """
    await entry.until_over_or_begun(seconds=BRINGS_UP_SECONDS)
    if entry.ended is None and not entry.has_begun:
        await objects.delete_pod(namespace, pod, grace_seconds=0)
