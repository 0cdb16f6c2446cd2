# SPDX-License-Identifier: Apache-2.0
"""What becomes of a task that names a work queue.

===============  =====================================================================================
``queue``        ``"pool/queue"``, always with both parts
``pool``         the Airflow pool of the work queue, unless the author chose an Airflow pool
``executor``     the WorkPoolExecutor, unless it is the default executor anyway
``weight_rule``  ours around the author's: the queue's priority first, then the task's weight within it
===============  =====================================================================================

A task that names none is left alone, unless ``[workpools] default_work_queue`` sends it somewhere.

Where a task *runs*, its DAG file is read once more, perhaps with other configuration: in a container that
knows no ``[core] executor``. There nothing is judged any more; the task was accepted when its DAG was.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow.exceptions import AirflowClusterPolicyViolation

from airflow_workpools import airflow_private
from airflow_workpools.core.names import DEFAULT_POOL, WorkQueueRef
from airflow_workpools.dags.executors import WorkPoolExecutorNames, work_pool_executor
from airflow_workpools.dags.keyword import KEYWORD, choose_queue, is_work_queue, parse, task_name
from airflow_workpools.errors import InvalidInput
from airflow_workpools.settings import Settings

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    Operator: TypeAlias = BaseOperator | MappedOperator

log = logging.getLogger(__name__)

WEIGHT_RULES = {
    "downstream": "airflow_workpools.priority.WorkQueueDownstream",
    "upstream": "airflow_workpools.priority.WorkQueueUpstream",
    "absolute": "airflow_workpools.priority.WorkQueueAbsolute",
}
"""Airflow's weight rules, and what stands for each in a work queue. A rule of somebody's own making stays."""


def assign(task: Operator) -> None:
    """Put a task in the work queue that it names, or in the configured one if it names none.

    :raises AirflowClusterPolicyViolation: if the task asks for what cannot be.
    """
    executor = work_pool_executor()
    named = _named(task)
    if named is None and (executor is None or not executor.covers(task.executor)):
        return
    ref = named or _default_work_queue()
    if not airflow_private.running_a_task():
        if named is not None:
            _check_executor(task, named, executor)
        _check_job_variables(task)
    if ref is not None:
        _set(task, _fields(task, ref, executor))


def _named(task: Operator) -> WorkQueueRef | None:
    """Return the work queue that the task's author wrote, if any."""
    try:
        queue = _take_keyword(task) or task.queue
        return WorkQueueRef.parse(parse(queue, task.dag, task.task_id)) if is_work_queue(queue) else None
    except InvalidInput as error:
        raise AirflowClusterPolicyViolation(str(error)) from None


def _take_keyword(task: Operator) -> str | None:
    """Return the work queue that a mapped task's keyword asks for; a plain task's is in its queue by now."""
    given = task.partial_kwargs.get(KEYWORD) if task.is_mapped else None
    if given is None:
        return None
    # It stays as None: what is partial cannot be mapped, and all map indexes of a task share its queue.
    task.partial_kwargs[KEYWORD] = None
    chosen = choose_queue(given, task.queue, _inherited(task))
    return None if chosen is None else parse(chosen, task.dag, task.task_id)


def _inherited(task: Operator) -> Mapping[str, Any]:
    """Return what the task was given by its DAG, its task group, or Airflow's configuration."""
    group_defaults = getattr(task.task_group, "default_args", None) or {}
    return {"queue": airflow_private.default_queue(), **task.dag.default_args, **group_defaults}


def _check_executor(task: Operator, ref: WorkQueueRef, executor: WorkPoolExecutorNames | None) -> None:
    if executor is None:
        raise _violation(
            task,
            f"work queue '{ref}' needs the WorkPoolExecutor: add it to [core] executor, "
            'for example "LocalExecutor,airflow_workpools.WorkPoolExecutor"',
        )
    if task.executor and not executor.covers(task.executor):
        raise _violation(
            task,
            f"work queue '{ref}' needs the WorkPoolExecutor, but the task names executor {task.executor!r}: "
            "leave out one of the two",
        )


def _check_job_variables(task: Operator) -> None:
    variables = task.executor_config
    if not isinstance(variables, Mapping | None):
        raise _violation(
            task,
            f"executor_config must be a dict of job variables, not {type(variables).__name__}",
        )
    for name, value in (variables or {}).items():
        if not isinstance(name, str):
            raise _violation(task, f"job variables have names, but executor_config has the key {name!r}")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise _violation(task, f"job variable {name!r} in executor_config: {error}") from None


def _violation(task: Operator, problem: str) -> AirflowClusterPolicyViolation:
    return AirflowClusterPolicyViolation(f"{task_name(task.dag, task.task_id)}: {problem}")


@cache
def _default_work_queue() -> WorkQueueRef | None:
    """Return the work queue for tasks that name none, or None if they stay as they are.

    The built-in pool needs nothing done to a task: the executor sends there whatever names no work queue.
    """
    try:
        ref = Settings.from_airflow().pools.default_work_queue
    except InvalidInput as error:
        # The executor refuses to start for it. Every DAG would vanish if this were raised here.
        log.warning("Tasks that name no work queue are left as they are: %s", error)
        return None
    return None if ref == WorkQueueRef(DEFAULT_POOL) else ref


def _fields(task: Operator, ref: WorkQueueRef, executor: WorkPoolExecutorNames | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"queue": str(ref)}
    if task.pool in (None, airflow_private.DEFAULT_AIRFLOW_POOL):
        fields["pool"] = ref.airflow_pool
    if executor is not None and not task.executor and not executor.is_default:
        fields["executor"] = executor.name
    if isinstance(task.weight_rule, str):
        rule = str(getattr(task.weight_rule, "value", task.weight_rule))
        fields["weight_rule"] = WEIGHT_RULES.get(rule, rule)
    return fields


def _set(task: Operator, fields: Mapping[str, Any]) -> None:
    """Set fields of a task; a mapped one keeps them with the arguments it will be expanded with."""
    if task.is_mapped:
        task.partial_kwargs.update(fields)
    else:
        for name, value in fields.items():
            setattr(task, name, value)
