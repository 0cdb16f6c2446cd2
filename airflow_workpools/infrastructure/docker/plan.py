# SPDX-License-Identifier: Apache-2.0
"""From a job to the container that runs it: what the SDK is told. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_workpools.errors import InvalidInput, LaunchRejected
from airflow_workpools.infrastructure.containers import (
    DEFAULT_COMMAND,
    JOB_ID_LABEL,
    LABEL_PREFIX,
    WORKLOAD_DIRECTORY,
    job_labels,
    merged_environment,
    read_configuration,
)
from airflow_workpools.infrastructure.docker.connecting import LOOPBACK
from airflow_workpools.infrastructure.docker.variables import DockerVariables
from airflow_workpools.infrastructure.image_names import ImageName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_workpools.infrastructure.base import LaunchSpec

GRACE_LABEL = f"{LABEL_PREFIX}stop_grace_seconds"
REMOVE_LABEL = f"{LABEL_PREFIX}auto_remove"
ATTEMPT_LABEL = f"{LABEL_PREFIX}attempt"

API_URL = "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"
HOST_NAME = "host.docker.internal"
"""The engine's host, as a container in a network of its own may call it."""
_OWN_LOOPBACK = ("none", "container:")
"""Network modes in which the engine's host can't be reached under another name."""

_NANO = 1_000_000_000
_TYPED = frozenset(
    {"image", "command", "environment", "labels", "network", "network_mode", "volumes", "mem_limit"}
    | {"memswap_limit", "nano_cpus", "privileged", "user", "working_dir", "init"}
)
_OURS = {
    "name": "it is how the container is found again",
    "detach": "containers are never waited for",
    "auto_remove": "a container must be there until its log and its end are stored; set the variable auto_remove",
    "remove": "a container must be there until its log and its end are stored; set the variable auto_remove",
    "restart_policy": "a task would run twice; retries are Airflow's",
}


@dataclass(frozen=True, kw_only=True)
class ContainerPlan:
    """What is to be made for a job."""

    name: str
    image: ImageName
    image_text: str
    arguments: Mapping[str, Any] = field(repr=False)
    """For the SDK's ``containers.create``."""
    more_networks: tuple[str, ...]
    """Joined after the container was made, which joins the first."""
    pull_policy: str
    registry_conn_id: str | None
    read_only: bool
    """Whether only volumes of the container can be written to."""


def plan_container(
    spec: LaunchSpec, environment: Mapping[str, str], *, engine_is_here: bool
) -> ContainerPlan:
    """Say what is to be made for a job.

    :param environment: what a runtime must know of this Airflow.
    :param engine_is_here: whether the engine's host is the worker's, so that "localhost" means that host.
    :raises LaunchRejected: if its configuration does not fit, with all that is wrong.
    """
    variables = read_configuration(DockerVariables, spec.configuration)
    try:
        image = ImageName.parse(variables.image)
        command = _command(variables.command)
    except InvalidInput as error:
        raise LaunchRejected(str(error)) from None
    if problems := list(_problems(variables)):
        raise LaunchRejected(f"the job's configuration does not fit: {'; '.join(problems)}")
    more = dict(variables.container_create_kwargs)
    env = merged_environment(environment, variables.env)
    if engine_is_here and API_URL not in variables.env:
        _reach_the_host(env, variables, more)
    arguments = {
        "image": variables.image,
        "command": command,
        "name": spec.name,
        "environment": env,
        "labels": _labels(spec, variables),
        "network": variables.networks[0] if variables.networks else None,
        "network_mode": variables.network_mode,
        "volumes": _volumes(variables),
        "mem_limit": variables.mem_limit,
        "memswap_limit": variables.memswap_limit,
        "nano_cpus": round(variables.cpus * _NANO) if variables.cpus else None,
        "privileged": variables.privileged or None,
        "user": variables.user,
        "working_dir": variables.working_dir,
        "init": variables.init or None,
    }
    return ContainerPlan(
        name=spec.name,
        image=image,
        image_text=variables.image,
        arguments={name: value for name, value in arguments.items() if value is not None} | more,
        more_networks=tuple(variables.networks[1:]),
        pull_policy=variables.image_pull_policy,
        registry_conn_id=variables.registry_conn_id,
        read_only=_is_read_only(variables),
    )


def _command(command: str | list[str] | None) -> list[str]:
    if not command:
        return list(DEFAULT_COMMAND)
    if isinstance(command, list):
        return command
    try:
        return shlex.split(command)
    except ValueError as error:
        raise InvalidInput(f"command {command!r} can't be split into words: {error}") from None


def _problems(variables: DockerVariables) -> list[str]:
    problems = []
    if variables.networks and variables.network_mode:
        problems.append("networks and network_mode can't be used together")
    if variables.memswap_limit is not None and variables.mem_limit is None:
        problems.append("memswap_limit needs mem_limit")
    for name in variables.container_create_kwargs:
        if name in _OURS:
            problems.append(f"container_create_kwargs.{name} may not be set: {_OURS[name]}")
        elif name in _TYPED:
            problems.append(f"container_create_kwargs.{name}: there is a variable of its own for that")
    return problems


def _is_read_only(variables: DockerVariables) -> bool:
    return bool(variables.container_create_kwargs.get("read_only"))


def _volumes(variables: DockerVariables) -> list[str] | None:
    # The workload needs a place that can be written to before the start: a volume of the container's own.
    own = [WORKLOAD_DIRECTORY] if _is_read_only(variables) else []
    return [*variables.volumes, *own] or None


def _labels(spec: LaunchSpec, variables: DockerVariables) -> dict[str, str]:
    return {
        **variables.labels,
        **job_labels(spec.labels),
        JOB_ID_LABEL: str(spec.job_id),
        ATTEMPT_LABEL: str(spec.attempt),
        GRACE_LABEL: str(variables.stop_grace_seconds),
        REMOVE_LABEL: str(variables.auto_remove).lower(),
    }


def _reach_the_host(env: dict[str, str], variables: DockerVariables, more: dict[str, Any]) -> None:
    """Give the engine's host a name in a container for which "localhost" is the container itself."""
    mode = variables.network_mode or ""
    url = urlsplit(env.get(API_URL, ""))
    if mode == "host" or mode.startswith(_OWN_LOOPBACK) or url.hostname not in LOOPBACK:
        return
    port = f":{url.port}" if url.port else ""
    env[API_URL] = url._replace(netloc=f"{HOST_NAME}{port}").geturl()
    hosts = more.get("extra_hosts") or {}
    if isinstance(hosts, list):
        more["extra_hosts"] = [f"{HOST_NAME}:host-gateway", *hosts]
    else:
        more["extra_hosts"] = {HOST_NAME: "host-gateway", **hosts}
