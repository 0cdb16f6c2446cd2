# SPDX-License-Identifier: Apache-2.0
"""The job variables of the kubernetes kind, and the default base job template that they fill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

if TYPE_CHECKING:
    from collections.abc import Mapping

Quantity = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei|[eE][+-]?[0-9]+)?$"),
]
"""An amount as Kubernetes writes it: ``500m``, ``2``, ``1.5Gi``."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)]

CONTAINER = "job"
"""Name of the container that runs the task, in the default template."""
KUEUE_LABEL = "kueue.x-k8s.io/queue-name"


class KubernetesVariables(BaseModel):
    """How a job runs as a Kubernetes Job."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(
        min_length=1,
        title="Image",
        description="The image of the container. It must have Airflow and the DAG files, as the images that "
        "`airflow workpools image build` makes.",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent",
        title="Image pull policy",
        description="Whether the node pulls the image before the container starts.",
    )
    image_pull_secrets: list[Name] = Field(
        default_factory=list,
        title="Image pull secrets",
        description="Names of Secrets in the job's namespace that log in to private registries.",
    )
    command: str | list[str] | None = Field(
        default=None,
        title="Command",
        description="What runs in the container; text is split as a shell would. Left empty: what runs an Airflow "
        "task. Another command must run the workload that it finds in /airflow-workpools/workload.json.",
    )
    env: dict[str, str | None] = Field(
        default_factory=dict,
        title="Environment variables",
        description="Set in the container; null takes away one that this provider would set.",
    )
    labels: dict[str, str] = Field(
        default_factory=dict,
        title="Labels",
        description="Labels of the Job and of its pod, beside those that identify the job.",
    )
    annotations: dict[str, str] = Field(
        default_factory=dict,
        title="Annotations",
        description="Annotations of the Job and of its pod.",
    )
    namespace: Name | None = Field(
        default=None,
        title="Namespace",
        description="The namespace of the Job. Left empty: that of the connection, else of the kubeconfig's "
        "context, else of the worker's own pod, else `default`.",
    )
    service_account_name: Name | None = Field(
        default=None,
        title="Service account",
        description="The service account as which the pod runs. Left empty: the namespace's default.",
    )
    cpu_request: Quantity | None = Field(
        default=None,
        title="CPU request",
        description="Processors that are kept for the job, like 500m or 2.",
    )
    cpu_limit: Quantity | None = Field(
        default=None,
        title="CPU limit",
        description="Most processors that the job gets.",
    )
    memory_request: Quantity | None = Field(
        default=None,
        title="Memory request",
        description="Memory that is kept for the job, like 512Mi or 2Gi.",
    )
    memory_limit: Quantity | None = Field(
        default=None,
        title="Memory limit",
        description="Most memory that the job may use; with more, it is killed.",
    )
    gpu_count: int | None = Field(
        default=None,
        ge=0,
        title="GPUs",
        description="How many GPUs the job gets.",
    )
    gpu_resource: str = Field(
        default="nvidia.com/gpu",
        min_length=1,
        title="GPU resource",
        description="How the cluster calls its GPUs: nvidia.com/gpu, amd.com/gpu, nvidia.com/mig-1g.5gb and so on.",
    )
    node_selector: dict[str, str] = Field(
        default_factory=dict,
        title="Node selector",
        description="Labels that a node must have to run the job.",
    )
    tolerations: list[dict[str, Any]] = Field(
        default_factory=list,
        title="Tolerations",
        description="Taints of nodes that do not keep the job away, as in a pod's spec.",
    )
    affinity: dict[str, Any] = Field(
        default_factory=dict,
        title="Affinity",
        description="Which nodes, and which pods beside it, the job prefers or needs; as in a pod's spec.",
    )
    priority_class_name: Name | None = Field(
        default=None,
        title="Priority class",
        description="The pod's priority class: who goes first where nodes are full.",
    )
    volumes: list[dict[str, Any]] = Field(
        default_factory=list,
        title="Volumes",
        description="Volumes of the pod, as in a pod's spec.",
    )
    volume_mounts: list[dict[str, Any]] = Field(
        default_factory=list,
        title="Volume mounts",
        description="Where the container sees the volumes, as in a container's spec.",
    )
    host_network: bool | None = Field(
        default=None,
        title="Host network",
        description="Whether the pod uses its node's network instead of one of its own.",
    )
    kueue_queue_name: Name | None = Field(
        default=None,
        title="Kueue queue",
        description="The LocalQueue of Kueue that admits the job. The Job is made suspended; the time it waits "
        "there is no part of the start timeout.",
    )
    finished_job_ttl: int | None = Field(
        default=86400,
        ge=0,
        title="Time to keep a finished Job (seconds)",
        description="When the cluster removes a Job that nobody removed. A worker removes it as soon as its log and "
        "its end are stored, so this must be longer than a worker may be away.",
    )
    active_deadline_seconds: int | None = Field(
        default=None,
        gt=0,
        title="Deadline (seconds)",
        description="How long the Job may take from its start; then the cluster ends it.",
    )
    stop_grace_seconds: int = Field(
        default=30,
        ge=0,
        title="Grace for stopping (seconds)",
        description="A job that is to stop is asked to end (SIGTERM, which calls the operator's on_kill); "
        "what is left of it after this time is killed.",
    )
    start_patience_seconds: int = Field(
        default=60,
        ge=0,
        title="Patience with what hinders the start (seconds)",
        description="How long an image that can't be pulled, a ConfigMap that is not there or a pod that the cluster "
        "refuses is tried again before the attempt to start the job ends with the reason.",
    )


JOB_CONFIGURATION: Mapping[str, Any] = {
    "command": "{{ command }}",
    "env": "{{ env }}",
    "labels": "{{ labels }}",
    "annotations": "{{ annotations }}",
    "gpu_count": "{{ gpu_count }}",
    "gpu_resource": "{{ gpu_resource }}",
    "image_pull_secrets": "{{ image_pull_secrets }}",
    "start_patience_seconds": "{{ start_patience_seconds }}",
    "manifest": {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "namespace": "{{ namespace }}",
            "labels": {KUEUE_LABEL: "{{ kueue_queue_name }}"},
        },
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": "{{ active_deadline_seconds }}",
            "ttlSecondsAfterFinished": "{{ finished_job_ttl }}",
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "serviceAccountName": "{{ service_account_name }}",
                    "terminationGracePeriodSeconds": "{{ stop_grace_seconds }}",
                    "hostNetwork": "{{ host_network }}",
                    "nodeSelector": "{{ node_selector }}",
                    "tolerations": "{{ tolerations }}",
                    "affinity": "{{ affinity }}",
                    "priorityClassName": "{{ priority_class_name }}",
                    "volumes": "{{ volumes }}",
                    "containers": [
                        {
                            "name": CONTAINER,
                            "image": "{{ image }}",
                            "imagePullPolicy": "{{ image_pull_policy }}",
                            "resources": {
                                "requests": {"cpu": "{{ cpu_request }}", "memory": "{{ memory_request }}"},
                                "limits": {"cpu": "{{ cpu_limit }}", "memory": "{{ memory_limit }}"},
                            },
                            "volumeMounts": "{{ volume_mounts }}",
                        }
                    ],
                },
            },
        },
    },
}
"""The default ``job_configuration``. What can't be written as a manifest with placeholders stands beside it: lists
that are merged, and names that are variables themselves."""
