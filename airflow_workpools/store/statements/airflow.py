# SPDX-License-Identifier: Apache-2.0
"""Airflow's tables, as far as statements on jobs read them: Airflow's models would take a second to import."""

from __future__ import annotations

from airflow.utils.sqlalchemy import UtcDateTime
from sqlalchemy import String, Uuid, column, table

from airflow_workpools.store.tables import metadata

task_instance = table(
    "task_instance",
    column("id", Uuid()),
    column("state", String()),
    column("updated_at", UtcDateTime()),
    column("scheduled_dttm", UtcDateTime()),
    schema=metadata.schema,
)
task_instance_history = table(
    "task_instance_history",
    column("task_instance_id", Uuid()),
    column("end_date", UtcDateTime()),
    schema=metadata.schema,
)
