# SPDX-License-Identifier: Apache-2.0
"""Airflow's connections, for ``{{ conn.ID.field }}`` in base job templates and for infrastructures: what they say is
used, never stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_OF_INFRASTRUCTURE = ("conn_id", "conn_type", "host", "port", "login", "password", "schema")
_FIELDS = ("conn_type", "description", "host", "port", "login", "password", "schema")


def all_backends() -> list[Any]:
    """Return where Airflow finds connections: secrets backends, environment, metadata database."""
    from airflow.configuration import ensure_secrets_loaded

    return list(ensure_secrets_loaded())


def backends_without_database() -> list[Any]:
    """Return where a process finds connections that has no metadata database: secrets backends and environment."""
    from airflow.sdk.configuration import ensure_secrets_loaded

    # As Airflow's own supervisor of tasks does it.
    return list(
        ensure_secrets_loaded(
            default_backends=["airflow.secrets.environment_variables.EnvironmentVariablesBackend"]
        )
    )


def airflow_connections(
    conn_ids: Collection[str], *, backends: Callable[[], Collection[Any]] = all_backends
) -> dict[str, dict[str, Any]]:
    """Read connections from the first place that has them.

    One that is nowhere is left out, and so is a field that is empty: the template says which it misses. A backend
    that fails fails this, too: it may have the connection, and another place may have an older one. Blocks.
    """
    places = backends() if conn_ids else []
    found = {conn_id: _first(conn_id, places) for conn_id in conn_ids}
    return {
        conn_id: template_fields(connection)
        for conn_id, connection in found.items()
        if connection is not None
    }


def infrastructure_connection(
    conn_id: str, *, backends: Callable[[], Collection[Any]] = all_backends
) -> dict[str, Any]:
    """Read the connection of an infrastructure, from the first place that has it. Blocks.

    :raises NotFound: if none has.
    """
    connection = _first(conn_id, backends())
    if connection is None:
        raise NotFound(
            f"there is no Airflow connection '{conn_id}'; add it, or name another in the work pool"
        )
    return infrastructure_fields(connection)


def infrastructure_fields(connection: Any) -> dict[str, Any]:
    """Return what an infrastructure is told of its connection."""
    fields = {name: getattr(connection, name) for name in _OF_INFRASTRUCTURE}
    return fields | {"extra": connection.extra_dejson}


def template_fields(connection: Any) -> dict[str, Any]:
    """Return what a base job template may take from a connection; what is empty is left out."""
    fields = {name: getattr(connection, name) for name in _FIELDS} | {"extra": connection.extra_dejson}
    return {name: value for name, value in fields.items() if value not in (None, "")}


def _first(conn_id: str, backends: Collection[Any]) -> Any | None:
    answers = (backend.get_connection(conn_id=conn_id) for backend in backends)
    return next((connection for connection in answers if connection is not None), None)
