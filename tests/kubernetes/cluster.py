# SPDX-License-Identifier: Apache-2.0
"""The cluster that KUBECONFIG leads to, as a platform: a namespace whose pods write into a folder of this machine.

Seen through another client than the one under test. Pods use the host's network and an image that the node has
(``WORKPOOLS_TEST_IMAGE``), so that they run on a cluster without a registry.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import client, config

from airflow_workpools.core.templates import render
from airflow_workpools.infrastructure.base import LaunchSpec
from airflow_workpools.infrastructure.kubernetes import KubernetesInfrastructure
from airflow_workpools.infrastructure.registry import default_template
from tests.kubernetes.testbed import using_the_cluster

IMAGE = os.environ.get("WORKPOOLS_TEST_IMAGE", "workpools-test:local")
TOKEN = "s3cr3t-t0ken"
FOREVER = "trap 'echo ended >> /diary; exit 143' TERM; echo begun >> /diary; while :; do sleep 0.1; done"
T = TypeVar("T")


def eventually(look: Callable[[], T], *, seconds: float = 60.0) -> T:
    """Return what a look gives as soon as that is true; fail when it is not within this time."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return seen


class KubernetesPlatform:
    """A namespace with jobs; on leaving it, nothing is left of it.

    :param path: where the jobs' diaries are, on this machine.
    :param alone: whether the cluster is to be broken, so that no other test may use it meanwhile.
    """

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        self.path = path
        self._use = using_the_cluster(alone=alone)
        self.namespace = f"workpools-{uuid.uuid4().hex[:8]}"
        self.api = config.new_client_from_config()
        self.core, self.batch = client.CoreV1Api(self.api), client.BatchV1Api(self.api)
        self.rbac = client.RbacAuthorizationV1Api(self.api)

    def __enter__(self) -> KubernetesPlatform:
        self._use.__enter__()
        metadata = {"name": self.namespace}
        self.core.create_namespace({"metadata": metadata})
        # Until its service account is ready, the cluster makes no pods.
        eventually(self._takes_pods)
        return self

    def __exit__(self, *exception: object) -> None:
        for pod in self.pods():
            with contextlib.suppress(client.ApiException):  # it is going by itself
                self.core.delete_namespaced_pod(pod.metadata.name, self.namespace, grace_period_seconds=0)
        self.core.delete_namespace(self.namespace)
        self.api.close()
        self._use.__exit__(None, None, None)

    def _takes_pods(self) -> bool:
        container = {"name": "try", "image": IMAGE}
        pod = {"metadata": {"name": "try"}, "spec": {"containers": [container]}}
        try:
            self.core.create_namespaced_pod(self.namespace, pod, dry_run="All")
        except client.ApiException as error:
            if error.status not in (403, 500):
                raise
            return False
        return True

    # -- Platform -------------------------------------------------------------------------------------------

    def worker(self, **extra: Any) -> KubernetesInfrastructure:
        return KubernetesInfrastructure(home=self.path / "home", connection=self.connection(**extra))

    def exits_with(self, code: int) -> LaunchSpec:
        return self.spec(f"echo begun >> /diary; exit {code}")

    def waits(self) -> LaunchSpec:
        return self.spec(FOREVER)

    def cannot_start(self) -> LaunchSpec:
        return self.spec("true", memory_request="2Gi", memory_limit="1Gi")

    def times_run(self, spec: LaunchSpec) -> int:
        return self.diary(spec).count("begun")

    def writes(self, *lines: str, goes_on: bool = False) -> LaunchSpec:
        say = "; ".join(f"echo {line}" for line in lines)
        return self.spec(
            f"trap 'exit 143' TERM; {say}; while {'true' if goes_on else 'false'}; do sleep 0.1; done"
        )

    # -- more -----------------------------------------------------------------------------------------------

    def connection(self, **extra: Any) -> Mapping[str, Any]:
        return {
            "conn_id": "the_cluster",
            "conn_type": "kubernetes",
            "extra": {"kube_config_path": os.environ["KUBECONFIG"], "namespace": self.namespace, **extra},
        }

    def spec(self, script: str, *, workload: str | None = None, **variables: Any) -> LaunchSpec:
        """Return a job that runs this in a shell, and may write to /diary."""
        job_id = uuid.uuid4()
        diary = self._diary(job_id)
        diary.touch()
        given = {
            "image": IMAGE,
            "image_pull_policy": "Never",
            "host_network": True,
            "command": ["sh", "-c", script],
            "volumes": [{"name": "diary", "hostPath": {"path": str(diary), "type": "File"}}],
            "volume_mounts": [{"name": "diary", "mountPath": "/diary"}],
            **variables,
        }
        configuration = render(default_template("kubernetes"), given, context=None, environ={})
        # Where the sandbox of a pod is a program that ignores SIGTERM as first process, each stop would take 10 s more.
        configuration["manifest"]["spec"]["template"]["spec"]["hostPID"] = True
        return LaunchSpec(
            job_id=job_id,
            configuration=configuration,
            workload=workload or json.dumps({"token": TOKEN}),
            labels={"job_id": str(job_id), "dag_id": "a dag", "task_id": "t", "work_pool": "p"},
        )

    def diary(self, spec: LaunchSpec) -> list[str]:
        """Return what a job has written down."""
        return self._diary(spec.job_id).read_text().splitlines()

    def write(self, spec: LaunchSpec, text: str) -> None:
        """Write something into the diary of a job, which may wait for it."""
        self._diary(spec.job_id).write_text(text)

    def pods(self, spec: LaunchSpec | None = None) -> list[Any]:
        selector = f"job-name={spec.name}" if spec is not None else ""
        return list(self.core.list_namespaced_pod(self.namespace, label_selector=selector).items)

    def pod(self, spec: LaunchSpec) -> Any:
        """Return the pod of a job, as soon as it has one."""
        return eventually(lambda: self.pods(spec))[0]

    def delete_pods_of(self, job_name: str) -> None:
        """Delete the pods of a Job at once, as somebody might."""
        self.core.delete_collection_namespaced_pod(
            self.namespace, label_selector=f"job-name={job_name}", grace_period_seconds=0
        )

    def jobs(self) -> list[Any]:
        return list(self.batch.list_namespaced_job(self.namespace).items)

    def secrets(self) -> list[Any]:
        """Return the Secrets that are not the cluster's own."""
        found = self.core.list_namespaced_secret(self.namespace).items
        return [one for one in found if one.type == "Opaque"]

    def restrict_quota(self, hard: Mapping[str, str]) -> None:
        """Have a ResourceQuota in the namespace, and wait until the cluster keeps to it."""
        quota = {"metadata": {"name": "few"}, "spec": {"hard": dict(hard)}}
        self.core.create_namespaced_resource_quota(self.namespace, quota)
        eventually(
            lambda: (self.core.read_namespaced_resource_quota("few", self.namespace).status.hard or {}).keys()
        )

    def _diary(self, job_id: uuid.UUID) -> Path:
        return self.path / f"{job_id}.diary"
