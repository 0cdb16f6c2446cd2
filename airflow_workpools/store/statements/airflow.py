# SPDX-License-Identifier: Apache-2.0
"""Airflow's tables, as far as statements on jobs read them: Airflow's models would take a second to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.utils.sqlalchemy import UtcDateTime
from sqlalchemy import Boolean, Integer, String, Uuid, column, exists, not_, select, table, union_all

from airflow_workpools.airflow_private import tries
from airflow_workpools.store.tables import metadata

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnClause, ColumnElement, Exists, Select, TableClause
    from sqlalchemy.sql.selectable import CompoundSelect

    from airflow_workpools.store.records import TryKey


def _key() -> list[ColumnClause[Any]]:
    """Name the columns by which people name a try."""
    return [
        column("dag_id", String()),
        column("task_id", String()),
        column("run_id", String()),
        column("map_index", Integer()),
        column("try_number", Integer()),
    ]


task_instance = table(
    "task_instance",
    column("id", Uuid()),
    column("state", String()),
    column("updated_at", UtcDateTime()),
    column("last_heartbeat_at", UtcDateTime()),
    column("scheduled_dttm", UtcDateTime()),
    column("end_date", UtcDateTime()),
    *_key(),
    *([column(tries.IN_USE, Boolean())] if tries.ALL_IN_ONE_TABLE else []),
    schema=metadata.schema,
)
_history = table(
    "task_instance_history",
    column("task_instance_id", Uuid()),
    column("end_date", UtcDateTime()),
    *_key(),
    schema=metadata.schema,
)

is_latest_try = tries.is_latest(task_instance.c)
"""A row of ``task_instance`` is the latest try of its task instance."""


def try_ended_since(task_instance_id: ColumnElement[Any], since: datetime) -> Exists:
    """A try is not its task instance's latest any more, and ended later than that."""
    if tries.ALL_IN_ONE_TABLE:
        over = task_instance.alias("ended_try")
        return exists().where(
            over.c.id == task_instance_id, not_(tries.is_latest(over.c)), over.c.end_date > since
        )
    return exists().where(_history.c.task_instance_id == task_instance_id, _history.c.end_date > since)


def ids_of_try(key: TryKey) -> CompoundSelect[Any]:
    """The ids of a try: until Airflow 3.3, one that waits for the next has two, and its jobs name the older."""
    parts = [_of_try(task_instance, "id", key)]
    if not tries.ALL_IN_ONE_TABLE:
        parts.append(_of_try(_history, "task_instance_id", key))
    return union_all(*parts)


def _of_try(source: TableClause, id_: str, key: TryKey) -> Select[Any]:
    return select(source.c[id_]).where(*(source.c[name] == value for name, value in key._asdict().items()))
