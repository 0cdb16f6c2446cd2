# SPDX-License-Identifier: Apache-2.0
"""For DAG files: a work queue and job variables as arguments that every operator already has."""

from __future__ import annotations

from typing import Any

from airflow_workpools.core.names import WorkQueueRef


def work_queue(queue: str, /, **job_variables: Any) -> dict[str, Any]:
    """Return the arguments that put a task in a work queue.

    They are Airflow's own, so they fit every operator and decorator, ``.override()`` and ``default_args``::

        BashOperator(task_id="train", bash_command="…", **work_queue("gpu/training", image="train:1.4"))

    :param queue: ``"pool/queue"``, or ``"pool"`` for the pool's default queue.
    :param job_variables: what this task sets on top of the pool's own settings.
    :raises InvalidInput: if ``queue`` is malformed.
    """
    arguments: dict[str, Any] = {"queue": str(WorkQueueRef.parse(queue))}
    if job_variables:
        arguments["executor_config"] = job_variables
    return arguments
