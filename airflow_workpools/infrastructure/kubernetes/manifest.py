# SPDX-License-Identifier: Apache-2.0
"""From a rendered job configuration to the objects that are created: a Job, and a Secret with its workload. Pure.

The Job is created first. The Secret names it as its owner from the start, so that whatever takes the Job away takes
the Secret along, and none is ever left over; until it is there, the pod waits for it. Jobs that are launched at the
same time share a Secret, which all of them own: each has its workload under a key of its own, and its pod sees that
one only. The cluster removes the Secret when the last of them is gone.
"""

from __future__ import annotations

import base64
import copy
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from airflow_workpools.errors import LaunchRejected
from airflow_workpools.infrastructure.containers import (
    DEFAULT_COMMAND,
    INSTALLATION_LABEL,
    LABEL_PREFIX,
    WORKLOAD_DIRECTORY,
    WORKLOAD_NAME,
    job_labels,
    merged_environment,
    read_configuration,
)
from airflow_workpools.infrastructure.image_checks import EACH
from airflow_workpools.infrastructure.kubernetes.variables import KUEUE_LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_workpools.infrastructure.base import LaunchSpec

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "airflow-workpools"
SELECTOR = f"{MANAGED_BY_LABEL}={MANAGED_BY}"
"""Selects everything that is made here."""

PATIENCE_ANNOTATION = f"{LABEL_PREFIX}start-patience-seconds"
"""Where a Job says how long what hinders its start is waited for: whoever watches it has nothing but the Job."""

IMAGES = tuple(
    ("manifest", "spec", "template", "spec", containers, EACH, "image")
    for containers in ("containers", "initContainers")
)
"""Where images stand in a ``job_configuration``."""

_VOLUME = "airflow-workload"
_ROOT = "$.job_configuration.manifest"


class KubernetesConfiguration(BaseModel):
    """The rendered ``job_configuration`` of a job."""

    model_config = ConfigDict(extra="forbid")

    manifest: dict[str, Any]
    command: str | list[str] | None = None
    env: dict[str, str | None] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    gpu_count: int | None = None
    gpu_resource: str = "nvidia.com/gpu"
    image_pull_secrets: list[str] = Field(default_factory=list)
    start_patience_seconds: int = Field(default=60, ge=0)


class WorkloadPlace(NamedTuple):
    """Where the workload of a job is."""

    secret: str
    """Name of the Secret, in the namespace of the Job."""
    key: str


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """What is created for one job."""

    job: Mapping[str, Any]
    workload: str

    @property
    def name(self) -> str:
        return str(self.job["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.job["metadata"]["namespace"])

    def secret(self, job_uid: str) -> dict[str, Any]:
        """Return the Secret with the workload, if no other job shares it.

        :param job_uid: the uid of the Job, once it has been created.
        """
        place = workload_place(self.job)
        return secret_of({self.name: job_uid}, {place.key: self.workload}, name=place.secret, first=self)

    def sharing(self, secret: str) -> JobPlan:
        """Return the same plan with the workload in the Secret of this name."""
        if workload_place(self.job).secret == secret:
            return self
        spec = self.job["spec"]
        pod = spec["template"]["spec"]
        volumes = [
            {**volume, "secret": {**volume["secret"], "secretName": secret}} if _is_ours(volume) else volume
            for volume in pod["volumes"]
        ]
        template = {**spec["template"], "spec": {**pod, "volumes": volumes}}
        return JobPlan(job={**self.job, "spec": {**spec, "template": template}}, workload=self.workload)


def secret_of(
    owners: Mapping[str, str], workloads: Mapping[str, str], *, name: str, first: JobPlan
) -> dict[str, Any]:
    """Return a Secret with workloads.

    :param owners: the uids of the Jobs, by their names.
    :param workloads: by their keys.
    :param first: one of the jobs, of whose namespace and Airflow all are.
    """
    labels = first.job["metadata"]["labels"]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": first.namespace,
            "labels": {key: labels[key] for key in (MANAGED_BY_LABEL, INSTALLATION_LABEL) if key in labels},
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid}
                for job, uid in owners.items()
            ],
        },
        "type": "Opaque",
        "data": {key: encoded(workload) for key, workload in workloads.items()},
    }


def encoded(workload: str) -> str:
    """Return a workload as the ``data`` of a Secret has it."""
    return base64.b64encode(workload.encode()).decode()


def workload_place(job: Mapping[str, Any]) -> WorkloadPlace:
    """Return where a Job's pod looks for its workload, whoever created it."""
    secret = _workload_volume(job).get("secret") or {"secretName": job["metadata"]["name"]}
    items = secret.get("items") or [{"key": WORKLOAD_NAME}]
    return WorkloadPlace(str(secret["secretName"]), str(items[0]["key"]))


def _workload_volume(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the volume with the workload; empty if somebody else's Job has none."""
    volumes = job["spec"]["template"]["spec"].get("volumes") or ()
    return next((volume for volume in volumes if _is_ours(volume)), {})


def _is_ours(volume: Any) -> bool:
    """Say whether a volume, or a mount of one, is that of the workload. What is wrong with others the API says."""
    return isinstance(volume, dict) and volume.get("name") == _VOLUME


def plan_job(spec: LaunchSpec, *, namespace: str, environment: Mapping[str, str]) -> JobPlan:
    """Turn a launch into manifests.

    :param namespace: where the job goes if its configuration names no namespace.
    :param environment: what the container must know of this Airflow.
    :raises LaunchRejected: if the configuration leaves out or changes what a job can't be run without; with the
        path of it.
    """
    configuration = read_configuration(KubernetesConfiguration, spec.configuration)
    job = without_nulls(configuration.manifest)  # a copy
    _check_kind(job)
    metadata = _object(job, "metadata", _ROOT)
    job_spec = _object(job, "spec", _ROOT)
    _must_be(job_spec, "backoffLimit", 0, f"{_ROOT}.spec")
    _must_be(job_spec, "completions", 1, f"{_ROOT}.spec")
    _must_be(job_spec, "parallelism", 1, f"{_ROOT}.spec")
    # A pod that is being deleted is not to be replaced; clusters that are too old to know this are told otherwise.
    job_spec.setdefault("podReplacementPolicy", "Failed")
    template = _object(job_spec, "template", f"{_ROOT}.spec")
    pod_metadata = _object(template, "metadata", f"{_ROOT}.spec.template")

    metadata.pop("generateName", None)
    metadata["name"] = spec.name
    metadata.setdefault("namespace", namespace)
    pod_metadata.pop("name", None)
    _identify(metadata, configuration, spec)
    _identify(pod_metadata, configuration, spec)
    metadata["annotations"][PATIENCE_ANNOTATION] = str(configuration.start_patience_seconds)
    if KUEUE_LABEL in metadata["labels"]:
        # Never runs before Kueue has admitted it, even where Kueue's webhook comes late.
        job_spec.setdefault("suspend", True)

    _complete_pod(template, configuration, environment)
    prepare_pod(template, name=spec.name)
    return JobPlan(job=job, workload=spec.workload)


def prepare_pod(template: dict[str, Any], *, name: str) -> None:
    """Give a pod template what a job can't do without: one run only, and its workload as a file.

    Also what a ``pod_mutation_hook`` has made of a template comes here, so that it can't take that away.
    """
    path = f"{_ROOT}.spec.template.spec"
    pod = _object(template, "spec", f"{_ROOT}.spec.template")
    container = _task_container(pod, path)
    _must_be(pod, "restartPolicy", "Never", path)
    volumes = _list(pod, "volumes", path)
    volumes[:] = [one for one in volumes if not _is_ours(one)]
    mode = _file_mode(pod, container)
    # A key of its own, as others may share the Secret.
    item = {"key": name, "path": WORKLOAD_NAME}
    volumes.append({"name": _VOLUME, "secret": {"secretName": name, "defaultMode": mode, "items": [item]}})
    mounts = _list(container, "volumeMounts", f"{path}.containers[0]")
    mounts[:] = [one for one in mounts if not _is_ours(one)]
    mounts.append({"name": _VOLUME, "mountPath": WORKLOAD_DIRECTORY, "readOnly": True})


def with_template(plan: JobPlan, template: Mapping[str, Any]) -> JobPlan:
    """Return a plan with another pod template."""
    changed = copy.deepcopy(dict(template))
    prepare_pod(changed, name=plan.name)
    return JobPlan(
        job={**plan.job, "spec": {**plan.job["spec"], "template": changed}}, workload=plan.workload
    )


def without_nulls(tree: Any) -> Any:
    """Return a tree of JSON values without the keys whose value is null, which to Kubernetes is the same."""
    if isinstance(tree, dict):
        return {key: without_nulls(value) for key, value in tree.items() if value is not None}
    if isinstance(tree, list):
        return [without_nulls(value) for value in tree if value is not None]
    return tree


def _check_kind(job: Mapping[str, Any]) -> None:
    kind, version = job.get("kind", "Job"), job.get("apiVersion", "batch/v1")
    if (kind, version) != ("Job", "batch/v1"):
        raise LaunchRejected(
            f"{_ROOT} of the base job template must be a Job of batch/v1, not {kind} of {version}"
        )


def _identify(metadata: dict[str, Any], configuration: KubernetesConfiguration, spec: LaunchSpec) -> None:
    """Put labels and annotations on an object. What identifies the job can't be changed by a template."""
    metadata["labels"] = {
        **(metadata.get("labels") or {}),
        **configuration.labels,
        **job_labels(spec.labels),
        MANAGED_BY_LABEL: MANAGED_BY,
    }
    metadata["annotations"] = {
        **(metadata.get("annotations") or {}),
        **configuration.annotations,
        **{f"{LABEL_PREFIX}{name}": value for name, value in spec.labels.items()},
    }


def _complete_pod(
    template: dict[str, Any], configuration: KubernetesConfiguration, environment: Mapping[str, str]
) -> None:
    path = f"{_ROOT}.spec.template.spec"
    pod = _object(template, "spec", f"{_ROOT}.spec.template")
    container = _task_container(pod, path)
    if configuration.command is not None:
        command = configuration.command
        container["args"] = shlex.split(command) if isinstance(command, str) else list(command)
    elif not container.get("command") and not container.get("args"):
        container["args"] = list(DEFAULT_COMMAND)
    _add_environment(container, configuration.env, environment, path)
    if configuration.gpu_count:
        resources = _object(container, "resources", f"{path}.containers[0]")
        limits = _object(resources, "limits", f"{path}.containers[0].resources")
        limits[configuration.gpu_resource] = str(configuration.gpu_count)
    if configuration.image_pull_secrets:
        secrets = _list(pod, "imagePullSecrets", path)
        secrets += [{"name": name} for name in configuration.image_pull_secrets]


def _add_environment(
    container: dict[str, Any], variables: Mapping[str, str | None], defaults: Mapping[str, str], path: str
) -> None:
    """Lay the environment over each other: what a container needs < the template's < the variable ``env``."""
    written = _list(container, "env", f"{path}.containers[0]")
    names = {one.get("name") for one in written if isinstance(one, dict)}
    added = merged_environment({k: v for k, v in defaults.items() if k not in names}, variables)
    kept = [one for one in written if not (isinstance(one, dict) and one.get("name") in variables)]
    # The template's own come last: they may refer to those before as $(NAME).
    container["env"] = [{"name": name, "value": value} for name, value in added.items()] + kept


def _file_mode(pod: Mapping[str, Any], container: Mapping[str, Any]) -> int:
    """Return the mode of the workload's file: the narrowest with which the container's user is sure to read it.

    Files of a Secret belong to root, or to root and the pod's fsGroup, whoever runs the container. No other
    container has this volume.
    """
    pod_context, own_context = pod.get("securityContext") or {}, container.get("securityContext") or {}
    if own_context.get("runAsUser", pod_context.get("runAsUser")) == 0:
        return 0o400
    return 0o440 if pod_context.get("fsGroup") is not None else 0o444


def _task_container(pod: dict[str, Any], path: str) -> dict[str, Any]:
    containers = _list(pod, "containers", path)
    if not containers or not isinstance(containers[0], dict):
        raise LaunchRejected(
            f"the base job template leaves out the container: {path}.containers must be a list whose first item is the "
            "container that runs the task"
        )
    first: dict[str, Any] = containers[0]
    if not first.get("name"):
        raise LaunchRejected(f"{path}.containers[0].name of the base job template is missing")
    return first


def _object(parent: dict[str, Any], key: str, path: str) -> dict[str, Any]:
    value = parent.setdefault(key, {})
    if not isinstance(value, dict):
        raise LaunchRejected(f"{path}.{key} of the base job template must be an object")
    return value


def _list(parent: dict[str, Any], key: str, path: str) -> list[Any]:
    value = parent.setdefault(key, [])
    if not isinstance(value, list):
        raise LaunchRejected(f"{path}.{key} of the base job template must be a list")
    return value


def _must_be(parent: dict[str, Any], key: str, value: Any, path: str) -> None:
    if parent.setdefault(key, value) != value:
        raise LaunchRejected(
            f"{path}.{key} of the base job template must be {value!r}, not {parent[key]!r}: one Job runs one try of a "
            "task once; tries are Airflow's to count"
        )
