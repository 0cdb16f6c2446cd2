# SPDX-License-Identifier: Apache-2.0
"""Where the tasks of a real Airflow run in containers, made ready for its work pool."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_workpools.infrastructure.containers import LABEL_PREFIX
from airflow_workpools.infrastructure.docker.engine import OF_KUBERNETES
from airflow_workpools.infrastructure.registry import default_template
from tests.images import task_image

POOLS = ("there", "narrow", "pulled")
"""The work pools whose jobs are looked at."""


@dataclass(frozen=True, kw_only=True)
class ContainerPlatform:
    """What Airflow and its work pool need to know of a platform, and what is on it."""

    names: Callable[[], set[str]]
    """Names of what runs jobs there now, or is left of it. Each is, or begins with, the name of its job."""
    kill: Callable[[str], None]
    """Ends what has this name, from outside and without asking it."""
    killed: str
    """What is said of it then."""
    job_variables: Mapping[str, Any]
    definition: Mapping[str, Any] = field(default_factory=dict)
    """What else the definition of its work pools says."""
    environment: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def docker_engine(dags: Path) -> Iterator[ContainerPlatform]:
    """The engine of this machine, by its default socket."""
    from tests.containers import client

    engine = client()
    label = f"{LABEL_PREFIX}work_pool"

    def containers() -> list[Any]:
        found = engine.containers.list(all=True, filters={"label": label}, ignore_removed=True)
        # The cluster of other tests may run its pods on this engine.
        return [one for one in found if OF_KUBERNETES not in one.labels and one.labels[label] in POOLS]

    try:
        yield ContainerPlatform(
            names=lambda: {one.name for one in containers()},
            kill=lambda name: engine.containers.get(name).kill(),
            killed="SIGKILL",
            job_variables={
                "image": task_image(dags),
                "image_pull_policy": "if-not-present",
                "network_mode": "host",
                "stop_grace_seconds": 20,
            },
        )
    finally:
        for container in containers():
            container.remove(force=True)
        engine.close()


@contextmanager
def kubernetes_cluster(dags: Path) -> Iterator[ContainerPlatform]:
    """A namespace in the cluster that KUBECONFIG leads to."""
    from tests.kubernetes.cluster import KubernetesPlatform

    image = task_image(dags)
    with tempfile.TemporaryDirectory() as path, KubernetesPlatform(Path(path)) as platform:
        yield ContainerPlatform(
            names=lambda: {one.metadata.name for one in (*platform.jobs(), *filter(_runs, platform.pods()))},
            kill=platform.delete_pods_of,
            killed="deleted",
            job_variables={
                "image": image,
                "image_pull_policy": "IfNotPresent",
                "host_network": True,
                "namespace": platform.namespace,
                "stop_grace_seconds": 20,
                "start_patience_seconds": 5,
            },
            definition={"base_job_template": _of_the_nodes_processes()},
            environment={"KUBECONFIG": os.environ["KUBECONFIG"]},
        )


def _runs(pod: Any) -> bool:
    """Say whether a container of a pod runs; what is left of it then may stay with its node for some seconds."""
    return any(status.state.running is not None for status in pod.status.container_statuses or ())


def _of_the_nodes_processes() -> dict[str, Any]:
    """Return a template whose pods see the node's processes.

    Where the sandbox of a pod is a program that ignores SIGTERM as first process, each end would be seen 10 s late.
    """
    template: dict[str, Any] = json.loads(json.dumps(default_template("kubernetes").to_json()))
    template["job_configuration"]["manifest"]["spec"]["template"]["spec"]["hostPID"] = True
    return template


PLATFORMS: Mapping[str, Callable[[Path], AbstractContextManager[ContainerPlatform]]] = {
    "docker": docker_engine,
    "kubernetes": kubernetes_cluster,
}
