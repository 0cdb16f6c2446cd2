# SPDX-License-Identifier: Apache-2.0
"""Logins at registries, from Airflow connections of the Docker provider's type."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_workpools.errors import LaunchRejected
from airflow_workpools.infrastructure.docker.connecting import CONNECTION_TYPE
from airflow_workpools.infrastructure.image_names import registry_host

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_workpools.infrastructure.image_names import ImageName


@dataclass(frozen=True, kw_only=True)
class RegistryLogin:
    """Who pulls at a registry."""

    registry: str
    username: str
    password: str = field(repr=False)

    @classmethod
    def from_connection(cls, connection: Mapping[str, Any]) -> RegistryLogin | None:
        """Read the login of a connection; None if it has none."""
        host, login = connection.get("host"), connection.get("login")
        if not host or not login:
            return None
        port = f":{connection['port']}" if connection.get("port") else ""
        return cls(
            registry=registry_host(f"{host}{port}"), username=login, password=connection.get("password") or ""
        )

    @property
    def for_sdk(self) -> dict[str, str]:
        return {"username": self.username, "password": self.password}


def named_login(conn_id: str, image: ImageName) -> RegistryLogin:
    """Return the login that a job names for its image. Blocks.

    A login goes to its own registry only: who may choose an image must not be able to send it elsewhere.

    :raises LaunchRejected: if there is no such connection, or it is not for the image's registry.
    """
    connection = _connection(conn_id)
    if connection is None:
        raise LaunchRejected(f"registry_conn_id: there is no connection {conn_id!r} where the worker runs")
    if connection["conn_type"] != CONNECTION_TYPE:
        raise LaunchRejected(
            f"registry_conn_id: connection {conn_id!r} is of type {connection['conn_type']!r}, not {CONNECTION_TYPE!r}"
        )
    login = RegistryLogin.from_connection(connection)
    if login is None:
        raise LaunchRejected(
            f"registry_conn_id: connection {conn_id!r} needs a host (the registry) and a login"
        )
    if login.registry != image.registry:
        raise LaunchRejected(
            f"registry_conn_id: connection {conn_id!r} is for registry {login.registry}, "
            f"but the image comes from {image.registry}"
        )
    return login


def _connection(conn_id: str) -> dict[str, Any] | None:
    from airflow.configuration import ensure_secrets_loaded

    for backend in ensure_secrets_loaded():
        if (found := backend.get_connection(conn_id=conn_id)) is not None:
            return {name: getattr(found, name) for name in ("conn_type", "host", "port", "login", "password")}
    return None
