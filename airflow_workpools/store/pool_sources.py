# SPDX-License-Identifier: Apache-2.0
"""Where definitions of work pools are found: the metadata database, environment variables, secrets backends.

A source answers with :class:`Found`: the text of a definition, or what kept it from being read. Nothing here
knows what a definition means, and one that is broken never hides the others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow.models.connection import Connection
from airflow.models.team import Team
from sqlalchemy import select

from airflow_workpools.core.pools import PoolSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.orm import Session

CONN_TYPE = "workpool"
"""Type of the connections that define work pools."""

ENV_PREFIX = "AIRFLOW_CONN_"

TEAM_SEPARATOR = "___"
"""Between team and connection in the name of a variable: ``AIRFLOW_CONN__<TEAM>___<ID>``."""

_CONNECTION_KEYS = frozenset(
    {
        "conn_id",
        "conn_type",
        "description",
        "host",
        "login",
        "password",
        "schema",
        "port",
        "extra",
        "team_name",
    }
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A connection that defines a work pool, as it was found."""

    name: str
    source: PoolSource
    extra: str | None = None
    """The definition: JSON text."""
    description: str | None = None
    team_name: str | None = None
    problem: str | None = None
    """What kept the definition from being read; then ``extra`` says nothing."""
    passing: bool = False
    """The problem is of the moment: what was known before may still be true."""


def in_database(session: Session) -> list[Found]:
    """Read every connection that defines a work pool, in one query.

    Columns, not objects: loading a connection that another Fernet key has encrypted must not fail the others.
    """
    statement = select(
        Connection.conn_id,
        Connection.description,
        Connection._extra,
        Connection.is_extra_encrypted,
        Connection.team_name,
    ).where(Connection.conn_type == CONN_TYPE)
    return [_found_in_row(*row) for row in session.execute(statement)]


def _found_in_row(
    name: str, description: str | None, extra: str | None, encrypted: bool, team_name: str | None
) -> Found:
    common: dict[str, Any] = {
        "name": name,
        "source": PoolSource.DATABASE,
        "description": description,
        "team_name": team_name,
    }
    if not (extra and encrypted):
        return Found(extra=extra, **common)
    try:
        return Found(extra=_decrypt(extra), **common)
    except Exception:
        # Whatever the cryptography library raises, to the reader it means one thing.
        return Found(
            problem=f"connection {name!r} cannot be decrypted: it was stored with another [core] fernet_key; "
            "set that key again, or store the connection anew",
            **common,
        )


def _decrypt(text: str) -> str:
    from airflow.models.crypto import get_fernet

    fernet = get_fernet()
    if not fernet.is_encrypted:
        raise ValueError("there is no [core] fernet_key")
    return str(fernet.decrypt(text.encode()).decode())


def team_names(session: Session) -> list[str]:
    """Read which teams there are."""
    return list(session.scalars(select(Team.name).order_by(Team.name)))


def in_environment(
    environ: Mapping[str, str],
    *,
    known_names: Iterable[str] = (),
    teams: Iterable[str] | None = None,
) -> list[Found]:
    """Read every ``AIRFLOW_CONN_…`` variable that defines a work pool.

    Airflow finds a connection's variable by the connection's id in capitals, so a variable alone does not say
    how the id is spelled: it stands for every known name that it would be found for, else for the name in
    small letters.

    :param known_names: names of work pools from other places.
    :param teams: all teams; None if Airflow has none. Where it has, a variable whose name has three underscores in
        a row is looked up for tasks of the team that it names, and never for others.
    """
    spellings: dict[str, list[str]] = {}
    for name in known_names:
        spellings.setdefault(name.upper(), []).append(name)
    found = []
    for variable, value in sorted(environ.items()):
        key = variable.removeprefix(ENV_PREFIX)
        if key == variable or key != key.upper() or not _may_define_a_pool(value):
            continue
        for team, id_ in _owners(key, teams):
            for name in spellings.get(id_, [id_.lower()]):
                if (pool := _found_in_variable(name, variable, value)) is not None:
                    found.append(replace(pool, team_name=team))
    return found


def _owners(key: str, teams: Iterable[str] | None) -> Iterable[tuple[str | None, str]]:
    """Say for whom Airflow finds a variable, and as which connection, in capitals."""
    if teams is None or TEAM_SEPARATOR not in key:
        return [(None, key)]
    prefixes = {team: f"_{team.upper()}{TEAM_SEPARATOR}" for team in teams}
    return [(team, key.removeprefix(prefix)) for team, prefix in prefixes.items() if key.startswith(prefix)]


def _may_define_a_pool(value: str) -> bool:
    """Look before parsing: most variables hold other connections, whose secrets are not ours to read."""
    text = value.lstrip()
    return CONN_TYPE in text if text.startswith("{") else text.lower().startswith(f"{CONN_TYPE}:")


def _found_in_variable(name: str, variable: str, value: str) -> Found | None:
    try:
        extra, description = _parse_json(value) if value.lstrip().startswith("{") else _parse_uri(name, value)
    except _OtherTypeError:
        return None
    except Exception as error:
        # Airflow's URI parser raises what it likes; one bad variable must not hide the others.
        return Found(name=name, source=PoolSource.ENVIRONMENT, problem=f"{variable} cannot be read: {error}")
    return Found(name=name, source=PoolSource.ENVIRONMENT, extra=extra, description=description)


class _OtherTypeError(Exception):
    """The text defines a connection of another type."""


def _parse_json(value: str) -> tuple[str | None, str | None]:
    try:
        connection = json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not valid JSON: {error}") from error
    if not isinstance(connection, dict) or connection.get("conn_type") != CONN_TYPE:
        raise _OtherTypeError
    if unknown := sorted(connection.keys() - _CONNECTION_KEYS):
        raise ValueError(
            f"a connection has no {', '.join(map(repr, unknown))}; "
            "a work pool's definition belongs in 'extra'"
        )
    extra, description = connection.get("extra"), connection.get("description")
    if extra is not None and not isinstance(extra, str):
        extra = json.dumps(extra)
    return extra, description


def _parse_uri(name: str, value: str) -> tuple[str | None, str | None]:
    connection = Connection(conn_id=name, uri=value)
    if connection.conn_type != CONN_TYPE:
        raise _OtherTypeError
    return connection.extra, None


def in_secrets_backends(names: Iterable[str]) -> list[Found]:
    """Ask the secrets backends for the named pools. Slow: never call it in the scheduler's loop.

    A name that no backend knows is left out; it may be defined in the database or the environment.
    """
    backends = _secrets_backends()
    found = (_found_in_backends(name, backends) for name in names)
    return [pool for pool in found if pool is not None]


def _secrets_backends() -> list[Any]:
    """Return the backends in Airflow's order, without the two whose pools are found by enumeration."""
    from airflow.configuration import ensure_secrets_loaded
    from airflow.secrets.environment_variables import EnvironmentVariablesBackend
    from airflow.secrets.metastore import MetastoreBackend

    enumerated = (EnvironmentVariablesBackend, MetastoreBackend)
    return [backend for backend in ensure_secrets_loaded() if not isinstance(backend, enumerated)]


def _found_in_backends(name: str, backends: Iterable[Any]) -> Found | None:
    for backend in backends:
        try:
            connection = backend.get_connection(conn_id=name)
        except Exception as error:
            problem = f"{type(backend).__name__} could not be asked for connection {name!r}: {error}"
            return Found(name=name, source=PoolSource.SECRETS, problem=problem, passing=True)
        if connection is not None:
            return _found_in_backend(name, type(backend).__name__, connection)
    return None


def _found_in_backend(name: str, backend: str, connection: Any) -> Found:
    if connection.conn_type != CONN_TYPE:
        problem = (
            f"connection {name!r} in {backend} is of type {connection.conn_type!r}, not {CONN_TYPE!r}; "
            "mend it, or take it out of [workpools] pools"
        )
        return Found(name=name, source=PoolSource.SECRETS, problem=problem)
    return Found(
        name=name,
        source=PoolSource.SECRETS,
        extra=connection.extra,
        description=connection.description,
    )
