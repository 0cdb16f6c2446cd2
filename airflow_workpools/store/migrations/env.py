# SPDX-License-Identifier: Apache-2.0
"""Run by Alembic for every command. A caller may bring a connection; else Airflow's engine is used."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from airflow import settings
from alembic import context

from airflow_workpools.store.db_manager import WorkpoolsDBManager

if TYPE_CHECKING:
    from sqlalchemy import Connection

_TARGET = WorkpoolsDBManager.metadata
_OPTIONS: dict[str, Any] = {
    "target_metadata": _TARGET,
    "version_table": WorkpoolsDBManager.version_table_name,
    "compare_type": True,
    "render_as_batch": True,
    # The database is Airflow's; what is not in our metadata is none of our business.
    "include_object": lambda object_, name, type_, reflected, compare_to: (
        type_ != "table" or name in {table.name for table in _TARGET.tables.values()}
    ),
}


def _run_offline() -> None:
    context.configure(url=settings.SQL_ALCHEMY_CONN, literal_binds=True, **_OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


def _run_online(connection: Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=True, **_OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    _run_offline()
else:
    given = context.config.attributes.get("connection")
    with nullcontext(given) if given is not None else settings.engine.connect() as connection:
        _run_online(connection)
