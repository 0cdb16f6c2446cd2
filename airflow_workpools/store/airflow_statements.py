# SPDX-License-Identifier: Apache-2.0
"""Every statement on Airflow's own tables that the executor's duties need, each with a name and a reason.

Those that only `explain` needs are in ``explain_statements``; statements on this package's tables, in ``statements``.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance as TI  # noqa: N817  Airflow's own name for it
from airflow.models.team import dag_bundle_team_association_table
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import and_, bindparam, case, delete, func, insert, or_, select, update
from sqlalchemy.sql.functions import coalesce

from airflow_workpools.airflow_private.tries import is_latest
from airflow_workpools.core.weights import RANK_STEP
from airflow_workpools.store.statements.common import add_missing, as_written, waiting
from airflow_workpools.store.tables import jobs

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.sql import Delete, Insert, Select, Update

HOLDING = (TaskInstanceState.QUEUED, TaskInstanceState.RUNNING)
"""What holds slots."""
_FAILING_POOL = Pool.DEFAULT_POOL_NAME

_latest = is_latest(TI)
_may_be_handed_over = (
    _latest,
    TI.state == TaskInstanceState.SCHEDULED,
    DagRun.state == DagRunState.RUNNING,
    DagModel.is_paused.is_(False),
)
"""Tasks of paused DAGs and of runs that don't run wait for something else than a slot."""

_in_our_pools = TI.pool.in_(bindparam("names", expanding=True))
"""Names are given when it is executed: hundreds of them, each time, would cost more than the question itself."""

_pool_table: Any = Pool.__table__
_log_table: Any = Log.__table__
_bundle_team = dag_bundle_team_association_table


@cache
def airflow_pools() -> Select[Any]:
    """All Airflow pools: what slots and team ours have, and which names others have taken."""
    return select(Pool.pool, Pool.slots, Pool.description, Pool.team_name)


def lock_airflow_pools(names: Collection[str]) -> Select[Any]:
    """Lock our rows; those that another scheduler holds are left out, so nobody waits."""
    return select(Pool.pool).where(Pool.pool.in_(names)).order_by(Pool.pool).with_for_update(skip_locked=True)


@cache
def first_waiting_task() -> Select[Any]:
    """Any task that waits in our Airflow pools, whatever else it waits for; executed with their ``names``."""
    return select(TI.id).where(_latest, TI.state == TaskInstanceState.SCHEDULED, _in_our_pools).limit(1)


@cache
def waiting_tasks() -> Select[Any]:
    """Tasks that wait as ``scheduled`` in our Airflow pools, per run, with what the run's DAG allows.

    Tasks of paused DAGs and of runs that don't run wait for something else: they demand no slot. Executed with the
    Airflow pools' ``names``, and ``overdue_since``, when a task of several slots must have become scheduled to be
    overdue now.
    """
    overdue = and_(
        TI.pool_slots > 1, TI.scheduled_dttm <= bindparam("overdue_since", type_=TI.scheduled_dttm.type)
    )
    groups = (
        select(
            TI.pool,
            TI.dag_id,
            TI.run_id,
            func.count().label("tasks"),
            func.sum(TI.pool_slots).label("slots"),
            func.min(TI.pool_slots).label("smallest"),
            func.max(TI.priority_weight).label("weight"),
            func.max(case((overdue, TI.priority_weight))).label("overdue_weight"),
            func.max(case((overdue, TI.pool_slots))).label("overdue_slots"),
            func.max(TI.pool_slots).label("largest"),
        )
        .where(_latest, _in_our_pools, TI.state == TaskInstanceState.SCHEDULED)
        .group_by(TI.pool, TI.dag_id, TI.run_id)
        .subquery()
    )
    # Grouped before they are joined: tasks are many, runs and DAGs few.
    return (
        select(
            groups.c.pool,
            groups.c.dag_id,
            groups.c.run_id,
            groups.c.tasks,
            groups.c.slots,
            DagModel.max_active_tasks,
            groups.c.smallest,
            groups.c.weight,
            DagRun.logical_date,
            groups.c.overdue_weight,
            groups.c.overdue_slots,
            groups.c.largest,
        )
        .join(DagRun, and_(DagRun.dag_id == groups.c.dag_id, DagRun.run_id == groups.c.run_id))
        .join(DagModel, DagModel.dag_id == groups.c.dag_id)
        .where(DagRun.state == DagRunState.RUNNING, DagModel.is_paused.is_(False))
    )


def next_tasks(airflow_pool: str, limit: int) -> Select[Any]:
    """Tasks that wait as ``scheduled`` in an Airflow pool, in the order in which Airflow hands them over."""
    return (
        select(
            TI.id,
            TI.dag_id,
            TI.task_id,
            TI.run_id,
            TI.map_index,
            TI.pool_slots,
            TI.priority_weight,
            DagModel.max_active_tasks,
        )
        .join(DagRun, and_(DagRun.dag_id == TI.dag_id, DagRun.run_id == TI.run_id))
        .join(DagModel, DagModel.dag_id == TI.dag_id)
        .where(TI.pool == airflow_pool, *_may_be_handed_over)
        .order_by(TI.priority_weight.desc(), DagRun.logical_date, TI.map_index, TI.id)
        .limit(limit)
    )


@cache
def holding_tasks() -> Select[Any]:
    """Tasks that hold slots now, per Airflow pool and run: few, whatever waits."""
    return (
        select(
            TI.pool,
            TI.dag_id,
            TI.run_id,
            func.count().label("tasks"),
            func.sum(TI.pool_slots).label("slots"),
        )
        .where(_latest, TI.state.in_(HOLDING))
        .group_by(TI.pool, TI.dag_id, TI.run_id)
    )


@cache
def unclaimed_tasks() -> Select[Any]:
    """Slots of tasks that were handed over to the work pools ``work_pools``, and that no worker has claimed.

    Per Airflow pool, which may be one that a task's author has chosen.
    """
    return (
        select(TI.pool, func.sum(TI.pool_slots).label("slots"))
        .join(jobs, jobs.c.task_instance_id == TI.id)
        .where(
            jobs.c.pool.in_(bindparam("work_pools", expanding=True)),
            waiting,
            TI.state == TaskInstanceState.QUEUED,
        )
        .group_by(TI.pool)
    )


def set_slots() -> Update:
    """Give Airflow pools their slots and team; executed with ``name``, ``new_slots`` and ``new_team`` for each."""
    return (
        update(_pool_table)
        .where(_pool_table.c.pool == bindparam("name"))
        .values(slots=bindparam("new_slots"), team_name=bindparam("new_team"))
    )


def add_airflow_pools(dialect: str) -> Insert:
    """Create Airflow pools for work queues; one that another scheduler has just made stays as it is."""
    return add_missing(dialect, _pool_table)


def remove_airflow_pools(names: Collection[str]) -> Delete:
    """Remove Airflow pools of work queues that don't exist any more."""
    return delete(_pool_table).where(_pool_table.c.pool.in_(names))


def reprioritise(ranks: Mapping[str, int]) -> Update:
    """Move waiting tasks to the rank of their work queue, keeping each task's own weight within it.

    :param ranks: ``"pool/queue"`` → rank (the queue's part of the weight, a multiple of ``RANK_STEP``).
    """
    rank = case(ranks, value=TI.queue)
    own = case((TI.priority_weight < 0, 0), else_=TI.priority_weight % RANK_STEP)
    return (
        update(TI)
        .where(
            _latest,
            or_(TI.state.is_(None), TI.state == TaskInstanceState.SCHEDULED),
            TI.queue.in_(ranks),
            TI.priority_weight - own != rank,
        )
        .values(priority_weight=rank + own)
        .execution_options(synchronize_session=False)
    )


def unmapped_tasks(
    executors: Collection[str],
    *,
    ours_is_default: bool,
    queues: Collection[str],
    waiting_pools: Collection[str],
) -> Update:
    """Let tasks go on that would wait for ever in an Airflow pool that doesn't exist.

    Airflow only logs a line for such a task. In the default pool it is handed over, and fails there with
    the reason: its work pool or queue is unknown. A task of a known queue stays where it is: its Airflow pool
    is made at the next heartbeat, or it is its author's own, and theirs to make.

    :param executors: names under which tasks name this executor.
    :param queues: work queues that can be used, as ``"pool/queue"``.
    :param waiting_pools: work pools that are known but can't be used now; their tasks wait.
    """
    exists = select(Pool.id).where(as_written(Pool.pool) == as_written(TI.pool)).exists()
    excluded = [TI.queue.startswith(f"{name}/", autoescape=True) for name in sorted(waiting_pools)]
    return (
        update(TI)
        .where(
            _latest,
            TI.state == TaskInstanceState.SCHEDULED,
            TI.queue.contains("/"),
            as_written(TI.queue).not_in(queues),
            _runs_on(executors, ours_is_default=ours_is_default),
            ~exists,
            *(~condition for condition in excluded),
        )
        .values(pool=_FAILING_POOL)
        .execution_options(synchronize_session=False)
    )


def jobless_tasks(
    executors: Collection[str], *, ours_is_default: bool, scheduler_job_id: int, queued_before: datetime
) -> Select[Any]:
    """Tasks that were handed over but have no job any more: somebody has deleted its row.

    :param executors: names under which tasks name this executor.
    """
    has_job = select(jobs.c.id).where(jobs.c.task_instance_id == TI.id).exists()
    return select(TI.id, TI.dag_id, TI.task_id, TI.run_id, TI.map_index).where(
        TI.state == TaskInstanceState.QUEUED,
        TI.queued_by_job_id == scheduler_job_id,
        TI.queued_dttm < queued_before,
        _runs_on(executors, ours_is_default=ours_is_default),
        ~has_job,
    )


def schedule_again(task_instance_ids: Collection[Any]) -> Update:
    """Let queued tasks wait for their hand-over again; a task that has gone on meanwhile stays as it is."""
    return (
        update(TI)
        .where(TI.id.in_(task_instance_ids), TI.state == TaskInstanceState.QUEUED)
        .values(state=TaskInstanceState.SCHEDULED, queued_dttm=None)
        .execution_options(synchronize_session=False)
    )


def _runs_on(executors: Collection[str], *, ours_is_default: bool) -> ColumnElement[bool]:
    """The task's executor is one of these, or the default if it is."""
    named = TI.executor.in_(executors)
    return or_(named, TI.executor.is_(None)) if ours_is_default else named


def foreign_tasks(
    executors: Collection[str], *, ours_is_default: bool, airflow_pools: Collection[str], team_name: str
) -> Update:
    """Let tasks go on that would wait for ever in Airflow pools of another team's work pool.

    Airflow passes over such a task without a word. In the default pool it is handed over, and fails there with the
    reason.

    :param airflow_pools: Airflow pools of work queues of the team's.
    """
    return (
        update(TI)
        .where(
            TI.state == TaskInstanceState.SCHEDULED,
            TI.queue.contains("/"),
            TI.pool.in_(airflow_pools),
            _runs_on(executors, ours_is_default=ours_is_default),
            TI.dag_id.not_in(_dags_of(team_name)),
        )
        .values(pool=_FAILING_POOL)
        .execution_options(synchronize_session=False)
    )


def _dags_of(team_name: str) -> Select[Any]:
    return _bundle_teams(DagModel.dag_id).where(_bundle_team.c.team_name == team_name)


def team_of_dag(dag_id: str) -> Select[Any]:
    """The team that owns a DAG's bundle; no row if none does."""
    return _bundle_teams(_bundle_team.c.team_name).where(DagModel.dag_id == dag_id)


def _bundle_teams(what: Any) -> Select[Any]:
    return (
        select(what)
        .select_from(DagModel)
        .join(_bundle_team, _bundle_team.c.dag_bundle_name == DagModel.bundle_name)
    )


def airflow_pool_of(task_instance_id: Any) -> Select[Any]:
    """The Airflow pool that a task is in."""
    return select(TI.pool).where(TI.id == task_instance_id)


def add_events() -> Insert:
    """Write rows of Airflow's event log."""
    return insert(_log_table)


def event_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what Airflow's event log has no column for: which try an event is of, before 3.4."""
    return {name: value for name, value in values.items() if name in _log_table.c}


def set_hostname(task_instance_ids: Collection[Any], hostname: str) -> Update:
    """Name the host that has the log of tasks that never ran anywhere, so that the UI finds it."""
    return (
        update(TI)
        .where(TI.id.in_(task_instance_ids), coalesce(TI.hostname, "") == "")
        .values(hostname=hostname)
        .execution_options(synchronize_session=False)
    )
