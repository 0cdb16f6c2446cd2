# SPDX-License-Identifier: Apache-2.0
"""Airflow's tables, as far as statements on jobs read them: Airflow's models would take a second to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.utils.sqlalchemy import UtcDateTime
from sqlalchemy import Boolean, String, Uuid, column, exists, not_, table

from airflow_workpools.airflow_private import tries
from airflow_workpools.store.tables import metadata

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Exists

task_instance = table(
    "task_instance",
    column("id", Uuid()),
    column("state", String()),
    column("updated_at", UtcDateTime()),
    column("scheduled_dttm", UtcDateTime()),
    column("end_date", UtcDateTime()),
    *([column(tries.IN_USE, Boolean())] if tries.ALL_IN_ONE_TABLE else []),
    schema=metadata.schema,
)
_history = table(
    "task_instance_history",
    column("task_instance_id", Uuid()),
    column("end_date", UtcDateTime()),
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
