# SPDX-License-Identifier: Apache-2.0
"""Everything of Airflow's that is used here and is not its public interface, in one place.

What the processes of jobs need stands in :mod:`.workloads`. ``tests/unit/test_airflow_private.py`` and
``tests/unit/test_process_workload.py`` tell when Airflow changes any of it. Importing this package imports nothing
of Airflow: DAG files reach it.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType
    from uuid import UUID

    from airflow.api_fastapi.auth.tokens import JWTGenerator
    from airflow.executors.executor_utils import ExecutorName
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.task.priority_strategy import PriorityWeightStrategy
    from sqlalchemy.orm import Session

OPERATOR_MODULE = "airflow.sdk.bases.operator"
"""Where ``BaseOperator`` is defined."""

DEFAULT_AIRFLOW_POOL = "default_pool"
"""The Airflow pool of a task whose author chose none."""

_TASK_RUNNER = "airflow.sdk.execution_time.task_runner"
_DAG_PROCESSOR = "airflow.dag_processing.processor"


def replace_operator_init(
    operators: ModuleType,
    wrap: Callable[[Callable[..., None]], Callable[..., None]],
    *,
    defaults: Mapping[str, Any],
) -> None:
    """Put ``wrap(BaseOperator.__init__)`` in the place of ``BaseOperator.__init__``.

    :param operators: the module :data:`OPERATOR_MODULE`.
    :param wrap: is given the function as it was written, without what Airflow's metaclass has put around it.
    :param defaults: what the keywords that are new are, where ``.partial()`` is not given them.
    """
    base = operators.BaseOperator
    written = base.__init__.__wrapped__
    base.__init__ = operators.BaseOperatorMeta._apply_defaults(wrap(written))
    operators.OPERATOR_DEFAULTS.update(defaults)
    if hasattr(operators.warnings, "delta"):
        # Airflow counts the frames between a warning in __init__ and the DAG file; now there is one more.
        operators.warnings.delta += 1


def running_a_task() -> bool:
    """Say whether this process runs a task (and reads the DAG file only to find it there).

    A task's process and a DAG processor's both speak with a supervisor; only the latter has the DAG
    processor's module.
    """
    return hasattr(sys.modules.get(_TASK_RUNNER), "SUPERVISOR_COMMS") and _DAG_PROCESSOR not in sys.modules


def default_queue() -> str:
    """Return the ``queue`` of an operator whose author chose none."""
    from airflow.sdk.bases.operator import OPERATOR_DEFAULTS

    return str(OPERATOR_DEFAULTS["queue"])


def configured_executors() -> list[ExecutorName]:
    """Return the executors in ``[core] executor``: the first of each team is its default."""
    from airflow.executors.executor_loader import ExecutorLoader

    # Validating teams would ask the database, which the process that reads DAG files must not do.
    return list(ExecutorLoader.get_executor_names(validate_teams=False))


def weight_strategy(rule: str) -> PriorityWeightStrategy:
    """Return Airflow's own strategy for a weight rule: ``downstream``, ``upstream`` or ``absolute``."""
    from airflow.task.priority_strategy import validate_and_load_priority_weight_strategy

    return validate_and_load_priority_weight_strategy(rule)


def stored_task(run: DagRun, task_id: str, session: Session) -> Any | None:
    """Return a task from the DAG as it was stored for a run; None if it is not in it, or no longer."""
    from airflow.models.dagbag import DBDagBag

    run.dag = DBDagBag(load_op_links=False).get_dag_for_run(run, session=session)
    return run.dag.get_task(task_id) if run.dag is not None and run.dag.has_task(task_id) else None


def unmet_dependencies(ti: TaskInstance, task: Any, session: Session) -> list[str]:
    """Return what keeps the scheduler from making a task instance ``scheduled``, in Airflow's words.

    Evaluating some dependencies changes states in the session, which must not be committed afterwards.

    :param task: what :func:`stored_task` returned.
    """
    from airflow.ti_deps.dep_context import DepContext
    from airflow.ti_deps.deps.ready_to_reschedule import ReadyToRescheduleDep

    ti.task = task
    also = {ReadyToRescheduleDep()} if ti.state == "up_for_reschedule" else set()
    context = DepContext(deps=also, ignore_unmapped_tasks=True)
    unmet = ti.get_failed_dep_statuses(context, session=session)
    # What follows is the repr of what Airflow counted.
    return sorted({status.reason.partition(" upstream_states=")[0] for status in unmet})


def mint_workload_token(task_instance_id: UUID, valid_for_seconds: float) -> str:
    """Return a token with which the job of a task instance may start it, once, within so many seconds.

    Airflow makes one when it queues a task. Here a task may wait in the store for any time, so it gets another one
    when it is claimed.
    """
    token: str = jwt_generator().generate(
        extras={"sub": str(task_instance_id), "scope": "workload"}, valid_for=valid_for_seconds
    )
    return token


@cache
def jwt_generator() -> JWTGenerator:
    """Return what signs tokens, set up as ``BaseExecutor.jwt_generator`` does."""
    from airflow.api_fastapi.auth.tokens import JWTGenerator, get_signing_args
    from airflow.configuration import conf

    return JWTGenerator(
        valid_for=conf.getint("execution_api", "jwt_expiration_time"),
        audience=conf.get_mandatory_list_value("execution_api", "jwt_audience")[0],
        issuer=conf.get("api_auth", "jwt_issuer", fallback=None),
        **get_signing_args(make_secret_key_if_needed=False),
    )
