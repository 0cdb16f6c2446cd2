# SPDX-License-Identifier: Apache-2.0
"""Airflow's connections, for ``{{ conn.ID.field }}`` in base job templates: what they say is used, never stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

_FIELDS = ("conn_type", "description", "host", "port", "login", "password", "schema")


def airflow_connections(conn_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Read connections wherever Airflow finds them: secrets backends, environment, metadata database.

    One that is nowhere is left out, and so is a field that is empty: the template says which it misses. A backend
    that fails fails this, too: it may have the connection, and another place may have an older one. Blocks.
    """
    from airflow.configuration import ensure_secrets_loaded

    backends = ensure_secrets_loaded() if conn_ids else []
    found = {conn_id: _first(conn_id, backends) for conn_id in conn_ids}
    return {conn_id: _fields(connection) for conn_id, connection in found.items() if connection is not None}


def _first(conn_id: str, backends: Collection[Any]) -> Any | None:
    answers = (backend.get_connection(conn_id=conn_id) for backend in backends)
    return next((connection for connection in answers if connection is not None), None)


def _fields(connection: Any) -> dict[str, Any]:
    fields = {name: getattr(connection, name) for name in _FIELDS} | {"extra": connection.extra_dejson}
    return {name: value for name, value in fields.items() if value not in (None, "")}
