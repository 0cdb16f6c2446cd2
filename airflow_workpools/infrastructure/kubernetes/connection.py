# SPDX-License-Identifier: Apache-2.0
"""Where the cluster is and how to log in: an Airflow connection, the worker's own pod, or a kubeconfig.

1. The pool's ``infrastructure_conn_id``, a connection of type ``kubernetes``, read by the hook of Airflow's Kubernetes
   provider. Where it says neither ``in_cluster`` nor which kubeconfig, what follows holds.
2. The service account of the pod in which the worker runs.
3. ``KUBECONFIG``, else ``~/.kube/config``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_workpools.errors import InfrastructureUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

EXTRA = 'pip install "airflow-provider-workpools[kubernetes]"'
DEFAULT_NAMESPACE = "default"
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_DEFAULT_KUBECONFIG = "~/.kube/config"
_PLACES = ("in_cluster", "kube_config_path", "kube_config")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the API is, and how to log in there."""

    client: Any
    """A :class:`kubernetes_asyncio.client.Configuration`."""
    namespace: str
    """Where jobs go that name no namespace."""


async def find_cluster(connection: Mapping[str, Any] | None) -> Cluster:
    """Read how to reach the cluster.

    :param connection: the pool's infrastructure connection, if it has one.
    :raises InfrastructureUnavailable: if that can't be known; the message says what is wrong with what.
    """
    extra = connection_extra(connection)
    named = any(extra.get(place) for place in _PLACES)
    in_pod = not named and not extra.get("cluster_context") and is_in_pod()
    if in_pod:
        extra["in_cluster"] = True
    elif not named:
        # Said outright: the client library looks at the variable only once, when it is imported.
        extra["kube_config_path"] = os.environ.get("KUBECONFIG") or _DEFAULT_KUBECONFIG
    source = _source(connection, extra)
    try:
        configuration = (
            await _own_configuration(extra) if connection is None else await _of_hook(connection, extra)
        )
    except InfrastructureUnavailable:
        raise
    except Exception as error:
        words = str(error).strip() or type(error).__name__
        if isinstance(error, TypeError | AttributeError | LookupError | AssertionError):
            words = f"it is no kubeconfig ({words})"
        raise InfrastructureUnavailable(f"{source} can't be used: {words}") from error
    if _is_true(extra.get("disable_verify_ssl")):
        configuration.verify_ssl = False
    # Watches and logs stay open; how many requests are made at a time is limited elsewhere.
    configuration.connection_pool_maxsize = 0
    in_cluster = _is_true(extra.get("in_cluster"))
    namespace = extra.get("namespace") or (_pod_namespace() if in_cluster else _context_namespace(extra))
    return Cluster(client=configuration, namespace=str(namespace or DEFAULT_NAMESPACE))


def is_in_pod() -> bool:
    """Say whether this process runs in a pod with a service account."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (_SERVICE_ACCOUNT / "token").exists()


def connection_extra(connection: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields of a connection, also those that were stored under Airflow's long names."""
    extra = (connection or {}).get("extra") or {}
    if isinstance(extra, str):
        extra = json.loads(extra)
    prefix = "extra__kubernetes__"
    return {str(key).removeprefix(prefix): value for key, value in extra.items() if value not in (None, "")}


def _source(connection: Mapping[str, Any] | None, extra: Mapping[str, Any]) -> str:
    """Say where the configuration comes from, for messages."""
    if _is_true(extra.get("in_cluster")):
        place = "the service account of the worker's pod"
    elif extra.get("kube_config_path"):
        place = f"the kubeconfig {extra['kube_config_path']}"
    else:
        place = "its kube_config"
    return place if connection is None else f"connection {connection.get('conn_id')!r} ({place})"


async def _own_configuration(extra: Mapping[str, Any]) -> Any:
    try:
        from kubernetes_asyncio import client, config
    except ImportError as error:
        raise InfrastructureUnavailable(
            f"the kubernetes kind needs kubernetes_asyncio, which is not installed here: {EXTRA}"
        ) from error
    configuration = client.Configuration()
    if extra.get("in_cluster"):
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(
            config_file=extra["kube_config_path"], client_configuration=configuration
        )
    return configuration


async def _of_hook(connection: Mapping[str, Any], extra: Mapping[str, Any]) -> Any:
    conn_id, conn_type = connection.get("conn_id"), connection.get("conn_type")
    if conn_type not in (None, "kubernetes"):
        raise InfrastructureUnavailable(
            f"connection {conn_id!r} is of type {conn_type!r}; a kubernetes work pool needs one of type 'kubernetes'"
        )
    try:
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
    except ImportError as error:
        raise InfrastructureUnavailable(
            f"connection {conn_id!r} needs Airflow's Kubernetes provider, which is not installed here: {EXTRA}"
        ) from error
    # With the fields given, the hook asks nobody for the connection.
    async with AsyncKubernetesHook(conn_id=conn_id, connection_extras=dict(extra)).get_conn() as api:
        return api.configuration


def _pod_namespace() -> str | None:
    try:
        return (_SERVICE_ACCOUNT / "namespace").read_text().strip() or None
    except OSError:
        return None


def _context_namespace(extra: Mapping[str, Any]) -> str | None:
    """Return the namespace of the context in use, if a kubeconfig is and its context names one."""
    from airflow.utils import yaml

    given = extra.get("kube_config")
    try:
        if given:
            kubeconfig = given if isinstance(given, dict) else yaml.safe_load(given)
        else:
            path = (
                extra.get("kube_config_path")
                or os.environ.get("KUBECONFIG", "~/.kube/config").split(os.pathsep)[0]
            )
            kubeconfig = yaml.safe_load(Path(path).expanduser().read_text())
        name = extra.get("cluster_context") or kubeconfig.get("current-context")
        for context in kubeconfig.get("contexts") or ():
            if context.get("name") == name:
                return (context.get("context") or {}).get("namespace")
    except (OSError, AttributeError, KeyError, yaml.YAMLError):
        pass
    return None


def _is_true(value: Any) -> bool:
    return value is True or str(value).lower() in ("true", "1", "yes")
