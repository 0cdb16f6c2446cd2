# SPDX-License-Identifier: Apache-2.0
"""How an engine is reached: as a connection of the Docker provider says, else as the environment does.

Such a connection names a registry (``host``) and a login there. The engine stands in its ``extra``, in the words of
the provider's operator: ``base_url``, ``tls_ca_cert``, ``tls_client_cert``, ``tls_client_key``, ``tls_verify``. What is
not there comes from the environment of the worker: ``DOCKER_HOST``, ``DOCKER_TLS_VERIFY``, ``DOCKER_CERT_PATH``.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_workpools.errors import InfrastructureUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_URL = "unix:///var/run/docker.sock"
CONNECTION_TYPE = "docker"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
TIMEOUT_SECONDS = 60
"""For one request; pulls, logs and events have none."""

_INSTALL = 'pip install "airflow-provider-workpools[docker]"'
_SOCKET = "unix://"
_PIPE = "npipe://"


def engine_url(connection: Mapping[str, Any] | None) -> str:
    """Return the address of the engine."""
    return _extra(connection).get("base_url") or os.environ.get("DOCKER_HOST") or DEFAULT_URL


def is_here(url: str) -> bool:
    """Say whether an engine's host is this one."""
    return url.startswith((_SOCKET, _PIPE, "/"))


def is_for_all_hosts(connection: Mapping[str, Any] | None) -> bool:
    """Say whether a connection leads to the same engine from whichever host it is used.

    What the environment says may be another engine on each host; so is what is behind a socket or on "localhost".
    """
    url = _extra(connection).get("base_url") or ""
    return bool(url) and not is_here(url) and urlsplit(url).hostname not in LOOPBACK


def connect(connection: Mapping[str, Any] | None, *, connections: int) -> Any:
    """Return a client of the engine; it is asked for the version of its API. Blocks.

    :param connections: how many are kept open for the next request.
    :raises InfrastructureUnavailable: if it does not answer, or what is needed to ask it is missing.
    """
    try:
        import docker
        from docker.errors import DockerException
    except ImportError as error:
        raise InfrastructureUnavailable(
            f"the Docker SDK is not installed ({error}). Install it: {_INSTALL}"
        ) from error
    url = engine_url(connection)
    options = {"base_url": url, "timeout": TIMEOUT_SECONDS, "max_pool_size": connections}
    try:
        tls = _tls(connection)
        if not tls:
            return docker.DockerClient(**options, version="auto")
        client = docker.DockerClient(version=docker.constants.MINIMUM_DOCKER_API_VERSION)  # asks nothing yet
        client.api = _client_with_tls()(**options, tls=tls, version="auto")
        return client
    except (DockerException, OSError, ValueError) as error:
        raise unavailable(url, error) from error


def _client_with_tls() -> Any:
    """Return a client for which REQUESTS_CA_BUNDLE, mostly meant for the web, is not above the engine's authority."""
    import docker

    class ClientWithTls(docker.APIClient):
        def merge_environment_settings(
            self, url: str, proxies: Any, stream: Any, verify: Any, cert: Any
        ) -> Any:
            authority = self.verify if verify is None else verify
            return super().merge_environment_settings(url, proxies, stream, authority, cert)

    return ClientWithTls


def _extra(connection: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if connection is None:
        return {}
    if connection.get("conn_type") not in (None, CONNECTION_TYPE):
        raise InfrastructureUnavailable(
            f"connection {connection.get('conn_id')!r} is of type {connection['conn_type']!r}; "
            f"a docker work pool needs one of type {CONNECTION_TYPE!r}"
        )
    return connection.get("extra") or {}


def _tls(connection: Mapping[str, Any] | None) -> Any:
    extra = _extra(connection)
    parts = ("tls_ca_cert", "tls_client_cert", "tls_client_key")
    given = [part for part in parts if extra.get(part)]
    if not given:
        return _tls_of_environment() if not extra.get("base_url") else False
    if missing := [part for part in parts if part not in given]:
        raise InfrastructureUnavailable(
            f"connection {connection and connection.get('conn_id')!r} has {', '.join(given)} in its extra, but not "
            f"{', '.join(missing)}: TLS needs all three"
        )
    try:
        from airflow.providers.docker.hooks.docker import DockerHook
    except ImportError as error:
        raise InfrastructureUnavailable(
            f"the Docker provider is not installed ({error}). Install it: {_INSTALL}"
        ) from error
    return DockerHook.construct_tls_config(
        ca_cert=extra["tls_ca_cert"],
        client_cert=extra["tls_client_cert"],
        client_key=extra["tls_client_key"],
        verify=extra.get("tls_verify", True),
    )


def _tls_of_environment() -> Any:
    from docker.utils import kwargs_from_env

    return kwargs_from_env().get("tls", False)


def unavailable(url: str, error: BaseException) -> InfrastructureUnavailable:
    """Say that an engine does not answer, why, and what to do about it."""
    return InfrastructureUnavailable(f"the Docker Engine at {url} does not answer: {_cause(url, error)}")


def _cause(url: str, error: BaseException) -> str:
    causes = list(_chain(error))
    if url.startswith(_SOCKET):
        path = Path(url.removeprefix(_SOCKET))
        if any(isinstance(cause, PermissionError) for cause in causes):
            return f"no permission for the socket {path}. {_way_to(path)}"
        if any(isinstance(cause, FileNotFoundError) for cause in causes):
            return f"there is no socket {path}. Is the engine running, and on this host? DOCKER_HOST names another"
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return f"nobody listens at the socket {path}. Is the engine running?"
    innermost = next((cause for cause in reversed(causes) if str(cause)), error)
    return str(innermost) or type(innermost).__name__


def _way_to(path: Path) -> str:
    """Say how to get permission for a socket."""
    try:
        import grp

        group = grp.getgrgid(path.stat().st_gid).gr_name
        by_group = bool(path.stat().st_mode & stat.S_IWGRP)
    except (OSError, KeyError):
        group, by_group = "docker", True
    if not by_group or group == "root":
        return "Give the worker's user the right to write to it"
    return f"Add the worker's user to group {group} (usermod -aG {group} USER), and start the worker anew"


def _chain(error: BaseException) -> Any:
    """Yield an error and what caused it, also where a library has put that among the arguments."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [arg for arg in one.args if isinstance(arg, BaseException)]
        waiting += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
