# SPDX-License-Identifier: Apache-2.0
"""Rows of Airflow's task instances, written as the installed Airflow keeps them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from airflow.models.taskinstance import TaskInstance

from airflow_workpools.airflow_private import tries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

task_instances: Any = TaskInstance.__table__
_map_index = "region_index" if "region_index" in task_instances.c else "map_index"


def history() -> list[sa.Table]:
    """Return the tables of tries that are over, where Airflow keeps them apart."""
    if tries.ALL_IN_ONE_TABLE:
        return []
    from airflow.models.taskinstancehistory import TaskInstanceHistory

    return [TaskInstanceHistory.__table__]  # type: ignore[list-item]


def task_instance_row(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give a row's values the names that the columns have."""
    return {_map_index if name == "map_index" else name: value for name, value in values.items()}


def insert_task_instances(connection: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put task instances into Airflow's table.

    :param connection: or a session.
    """
    connection.execute(sa.insert(task_instances), [task_instance_row(row) for row in rows])


def begin_next_try(connection: Any, id_: uuid.UUID, ended_at: datetime | None) -> None:
    """Let a task instance be at its next try, with a new id, as Airflow does to retry or to clear it.

    :param connection: or a session.
    :param ended_at: when the try ended; None if it never ran, of which Airflow keeps no end.
    """
    this = task_instances.c.id == id_
    row = dict(connection.execute(sa.select(task_instances).where(this)).one()._mapping)
    ended = {} if ended_at is None else {"end_date": ended_at, "state": "failed"}
    if tries.ALL_IN_ONE_TABLE:
        over = {"working_set": None, "archived_reason": "superseded" if ended_at is None else "retry"}
        connection.execute(sa.update(task_instances).where(this).values(**over, **ended))
        successor = row | {"id": uuid.uuid4(), "try_number": row["try_number"] + 1}
        connection.execute(sa.insert(task_instances), [successor])
        return
    connection.execute(sa.update(task_instances).where(this).values(id=uuid.uuid4()))
    if ended_at is not None:
        (table,) = history()
        kept = {name: value for name, value in row.items() if name in table.c}
        connection.execute(sa.insert(table), [kept | ended | {"task_instance_id": id_}])
