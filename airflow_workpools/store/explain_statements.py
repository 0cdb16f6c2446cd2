# SPDX-License-Identifier: Apache-2.0
"""Statements on Airflow's own tables about one task on its way, for `explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.jobs.job import Job, JobState
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance as TI  # noqa: N817  Airflow's own name for it
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import and_, case, func, or_, select
from sqlalchemy.sql.functions import coalesce

from airflow_workpools.airflow_private.tries import is_latest
from airflow_workpools.store.airflow_statements import HOLDING

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement
    from sqlalchemy.sql import Select

    from airflow_workpools.core.task_facts import TaskRef

_ACTIVE = (*HOLDING, TaskInstanceState.DEFERRED, TaskInstanceState.AWAITING_INPUT)
"""What Airflow counts towards a task's own limits; towards its DAG's, only what holds slots."""
_latest = is_latest(TI)


def _is(ref: TaskRef) -> ColumnElement[bool]:
    return and_(_latest, TI.dag_id == ref.dag_id, TI.run_id == ref.run_id, TI.task_id == ref.task_id)


def task_instance(ref: TaskRef) -> Select[Any]:
    """A task instance with its run and DAG."""
    return (
        select(TI, DagRun, DagModel)
        .join(DagRun, and_(DagRun.dag_id == TI.dag_id, DagRun.run_id == TI.run_id))
        .join(DagModel, DagModel.dag_id == TI.dag_id)
        .where(_is(ref), TI.map_index == ref.map_index)
    )


def task_instance_id(ref: TaskRef) -> Select[Any]:
    """The id of a task instance."""
    return select(TI.id).where(_is(ref), TI.map_index == ref.map_index)


def map_indexes(ref: TaskRef) -> Select[Any]:
    """Which map indexes a task has in a run: how many, the first, the last."""
    return select(func.count(), func.min(TI.map_index), func.max(TI.map_index)).where(_is(ref))


def task_ids(dag_id: str, run_id: str, limit: int) -> Select[Any]:
    """The tasks of a run, as many as may be shown."""
    return (
        select(TI.task_id)
        .where(_latest, TI.dag_id == dag_id, TI.run_id == run_id)
        .distinct()
        .order_by(TI.task_id)
        .limit(limit)
    )


def latest_runs(dag_id: str, run_id: str) -> Select[Any]:
    """The run of that id, if there is one, and the latest."""
    return (
        select(DagRun.run_id)
        .where(DagRun.dag_id == dag_id)
        .order_by((DagRun.run_id == run_id).desc(), DagRun.run_after.desc(), DagRun.id.desc())
        .limit(1)
    )


def dag_ids() -> Select[Any]:
    """All DAGs."""
    return select(DagModel.dag_id)


def running_runs(dag_id: str, backfill_id: int | None) -> Select[Any]:
    """How many runs count towards the limit of a run: those of its backfill, or those of none."""
    return select(func.count()).where(
        DagRun.dag_id == dag_id,
        DagRun.state == DagRunState.RUNNING,
        DagRun.backfill_id.is_not_distinct_from(backfill_id),
    )


def upstream_states(dag_id: str, run_id: str, task_ids: Collection[str]) -> Select[Any]:
    """How many instances of upstream tasks are in which state."""
    return (
        select(TI.task_id, TI.state, func.count().label("instances"))
        .where(_latest, TI.dag_id == dag_id, TI.run_id == run_id, TI.task_id.in_(task_ids))
        .group_by(TI.task_id, TI.state)
        .order_by(TI.task_id, TI.state)
    )


def active_tasks(ref: TaskRef) -> Select[Any]:
    """What counts towards Airflow's limits on active tasks: in the run, of the task, of the task in the run."""
    in_run, of_task = TI.run_id == ref.run_id, TI.task_id == ref.task_id

    def counted(condition: ColumnElement[bool]) -> Any:
        return coalesce(func.sum(case((condition, 1), else_=0)), 0)

    return select(
        counted(and_(in_run, TI.state.in_(HOLDING))).label("max_active_tasks"),
        counted(of_task).label("max_active_tis_per_dag"),
        counted(and_(of_task, in_run)).label("max_active_tis_per_dagrun"),
    ).where(_latest, TI.dag_id == ref.dag_id, TI.state.in_(_ACTIVE), or_(in_run, of_task))


def schedulers() -> Select[Any]:
    """Schedulers that have not said that they ended."""
    return select(Job).where(Job.job_type == "SchedulerJob", Job.state == JobState.RUNNING).order_by(Job.id)


def tasks_of_others(executors: Collection[str], *, ours_is_default: bool) -> Select[Any]:
    """Tasks that other executors have, by the scheduler that gave them out.

    :param executors: names under which tasks name the WorkPoolExecutor.
    """
    named = and_(TI.executor.is_not(None), TI.executor.not_in(executors))
    return (
        select(TI.queued_by_job_id, func.count())
        .where(
            _latest, TI.state.in_(HOLDING), named if ours_is_default else or_(named, TI.executor.is_(None))
        )
        .group_by(TI.queued_by_job_id)
    )
