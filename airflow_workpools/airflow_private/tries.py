# SPDX-License-Identifier: Apache-2.0
"""Where Airflow keeps the tries of a task instance, and how its executors name them.

Until Airflow 3.3, ``task_instance`` holds the latest try of each; when there is to be another, it gets a new id, and
the try that is over moves to ``task_instance_history``. Since 3.4 every try stays in ``task_instance`` under its own
id; those that are over leave its *working set*. A task is named by more than its map index there, so an executor
names the try that it speaks of by id.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

ALL_IN_ONE_TABLE = find_spec("airflow.models.taskinstancehistory") is None
"""Whether tries that are over stay in ``task_instance``."""

IN_USE = "working_set"
"""Where they do: the column that is true for the latest try, and NULL for those that are over."""


def is_latest(task_instance: Any) -> ColumnElement[bool]:
    """Say of a row of ``task_instance`` that it is the latest try.

    Airflow puts this condition into statements on its model by itself, but not into those that only count.

    :param task_instance: Airflow's model, or the columns of the table.
    """
    from sqlalchemy import true

    in_use: ColumnElement[bool] | None = getattr(task_instance, IN_USE, None)
    return true() if in_use is None else in_use.is_(True)


@cache
def task_key_type() -> Any:
    """Return the class of :func:`task_key`."""
    from airflow.executors.workloads import types
    from airflow.models.taskinstancekey import TaskInstanceKey

    return getattr(types, "TaskInstanceUuid", TaskInstanceKey)


def task_key(job: Any) -> Any:
    """Return the key under which Airflow's scheduler knows the task of a job that the WorkPoolExecutor has."""
    if hasattr(task_key_type(), "id"):
        return task_key_type()(job.task_instance_id)
    return task_key_type()(job.dag_id, job.task_id, job.run_id, job.try_number, job.map_index)


def key_of_workload(workload: Any) -> Any:
    """Return the key under which Airflow's scheduler knows the task of a workload of the WorkPoolExecutor."""
    return task_key_type()(workload.ti.id) if hasattr(task_key_type(), "id") else workload.key
