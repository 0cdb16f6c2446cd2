# SPDX-License-Identifier: Apache-2.0
"""Every statement on Airflow's own tables that gate 1 needs, each with a name and a reason.

Statements on this package's tables are in ``statements.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance as TI  # noqa: N817  Airflow's own name for it
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import and_, bindparam, case, delete, func, insert, or_, select, update
from sqlalchemy.sql.functions import coalesce

from airflow_workpools.core.weights import RANK_STEP
from airflow_workpools.store.statements.common import add_missing

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy.sql import Delete, Insert, Select, Update

_HOLDING = (TaskInstanceState.QUEUED, TaskInstanceState.RUNNING)
_FAILING_POOL = Pool.DEFAULT_POOL_NAME

_may_be_handed_over = (
    TI.state == TaskInstanceState.SCHEDULED,
    DagRun.state == DagRunState.RUNNING,
    DagModel.is_paused.is_(False),
)
"""Tasks of paused DAGs and of runs that don't run wait for something else than a slot."""

_pool_table: Any = Pool.__table__
_log_table: Any = Log.__table__


def airflow_pools() -> Select[Any]:
    """All Airflow pools: what slots ours have, and which names others have taken."""
    return select(Pool.pool, Pool.slots, Pool.description)


def lock_airflow_pools(names: Collection[str]) -> Select[Any]:
    """Lock our rows; those that another scheduler holds are left out, so nobody waits."""
    return select(Pool.pool).where(Pool.pool.in_(names)).order_by(Pool.pool).with_for_update(skip_locked=True)


def first_waiting_task(airflow_pool_names: Collection[str]) -> Select[Any]:
    """Any task that waits in our Airflow pools, whatever else it waits for."""
    return (
        select(TI.id).where(TI.state == TaskInstanceState.SCHEDULED, TI.pool.in_(airflow_pool_names)).limit(1)
    )


def waiting_tasks(airflow_pool_names: Collection[str]) -> Select[Any]:
    """Tasks that wait as ``scheduled`` in our Airflow pools, per run, with what the run's DAG allows.

    Tasks of paused DAGs and of runs that don't run wait for something else: they demand no slot.
    """
    return (
        select(
            TI.pool,
            TI.dag_id,
            TI.run_id,
            func.count().label("tasks"),
            func.sum(TI.pool_slots).label("slots"),
            func.max(DagModel.max_active_tasks).label("max_active_tasks"),
            func.min(TI.pool_slots).label("smallest"),
        )
        .join(DagRun, and_(DagRun.dag_id == TI.dag_id, DagRun.run_id == TI.run_id))
        .join(DagModel, DagModel.dag_id == TI.dag_id)
        .where(
            TI.pool.in_(airflow_pool_names),
            *_may_be_handed_over,
        )
        .group_by(TI.pool, TI.dag_id, TI.run_id)
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
        .where(TI.state.in_(_HOLDING))
        .group_by(TI.pool, TI.dag_id, TI.run_id)
    )


def set_slots() -> Update:
    """Give Airflow pools their slots; executed with ``name`` and ``new_slots`` for each."""
    return (
        update(_pool_table)
        .where(_pool_table.c.pool == bindparam("name"))
        .values(slots=bindparam("new_slots"))
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
    ours = TI.executor.in_(executors)
    if ours_is_default:
        ours = or_(ours, TI.executor.is_(None))
    exists = select(Pool.id).where(Pool.pool == TI.pool).exists()
    excluded = [TI.queue.startswith(f"{name}/", autoescape=True) for name in sorted(waiting_pools)]
    return (
        update(TI)
        .where(
            TI.state == TaskInstanceState.SCHEDULED,
            TI.queue.contains("/"),
            TI.queue.not_in(queues),
            ours,
            ~exists,
            *(~condition for condition in excluded),
        )
        .values(pool=_FAILING_POOL)
        .execution_options(synchronize_session=False)
    )


def airflow_pool_of(task_instance_id: Any) -> Select[Any]:
    """The Airflow pool that a task is in."""
    return select(TI.pool).where(TI.id == task_instance_id)


def add_events() -> Insert:
    """Write rows of Airflow's event log."""
    return insert(_log_table)


def set_hostname(task_instance_ids: Collection[Any], hostname: str) -> Update:
    """Name the host that has the log of tasks that never ran anywhere, so that the UI finds it."""
    return (
        update(TI)
        .where(TI.id.in_(task_instance_ids), coalesce(TI.hostname, "") == "")
        .values(hostname=hostname)
        .execution_options(synchronize_session=False)
    )
