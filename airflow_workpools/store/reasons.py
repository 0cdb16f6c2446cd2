# SPDX-License-Identifier: Apache-2.0
"""Why jobs failed, where people look for it in Airflow's own tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.store import airflow_statements as statements

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.store.records import EndedJob


def file_reasons(session: Session, jobs: Sequence[EndedJob], *, hostname: str, now: datetime) -> None:
    """Write the reasons of failed jobs into Airflow's event log, and say which host has their task's log."""
    session.execute(statements.set_hostname([job.task_instance_id for job in jobs], hostname))
    session.execute(statements.add_events(), [statements.event_values(_event(job, now)) for job in jobs])


def _event(job: EndedJob, now: datetime) -> dict[str, Any]:
    return {
        "dttm": now,
        "event": f"work pool job {job.state}",
        "owner": "airflow_workpools",
        "dag_id": job.dag_id,
        "task_id": job.task_id,
        "run_id": job.run_id,
        "map_index": job.map_index,
        "try_number": job.try_number,
        "task_instance_id": job.task_instance_id,
        "extra": f"{job.ref}: {job.reason}",
    }
