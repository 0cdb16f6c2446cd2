# SPDX-License-Identifier: Apache-2.0
"""Gate 1: counts in, slots out.

Every work queue has an Airflow pool. Each heartbeat the scheduler's executor counts what waits and what runs
in them and gives them slots by the rule in ``core.slots``, so that Airflow hands over exactly what may start
now and everything else waits as ``scheduled``.

A heartbeat that changes nothing locks and writes nothing. One that does change something locks the rows first
and counts again under the lock: Airflow's own hand-over locks the same rows, so no task slips in between. Rows
that another scheduler holds are not waited for; the next heartbeat comes soon. Until then the whole work pool
stays as it is: giving one queue what another has not given up yet would exceed the pool's limit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.names import WorkQueueRef, airflow_pool_description, is_managed_description
from airflow_workpools.core.pools import InvalidPool, WorkPool
from airflow_workpools.core.slots import QueueLoad, airflow_slots
from airflow_workpools.core.untaken import Offer
from airflow_workpools.store import airflow_statements as statements

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.orm import Session

    from airflow_workpools.store.records import EndedJob, RunState

Pools = Mapping[str, "WorkPool | InvalidPool"]


@dataclass(frozen=True)
class AirflowPool:
    """An Airflow pool as it is now."""

    slots: int
    description: str | None

    @property
    def ours(self) -> bool:
        return is_managed_description(self.description)


@dataclass(frozen=True)
class Load:
    """What one Airflow pool holds and wants, in slots."""

    occupied: int = 0
    demand: int = 0
    smallest: int = 1
    """Slots of the smallest task that waits."""
    overdue: int = 0
    """Slots of the task that is first in line, if it needs several and has waited for long."""


@dataclass(frozen=True)
class TaskGroup:
    """Tasks of one run in one Airflow pool."""

    airflow_pool: str
    dag_id: str
    run_id: str
    tasks: int
    slots: int
    max_active_tasks: int = 0
    smallest: int = 1
    weight: int = 0
    """The greatest priority weight among them."""
    logical_date: datetime | None = None
    """The run's."""
    overdue_weight: int | None = None
    """The greatest priority weight among those of several slots that have waited for long; None without any."""
    overdue_slots: int | None = None
    """The most slots that one of those needs."""


@dataclass(frozen=True)
class Plan:
    """What has to change among the Airflow pools."""

    add: Mapping[str, int] = field(default_factory=dict)
    change: Mapping[str, int] = field(default_factory=dict)
    remove: frozenset[str] = frozenset()
    taken: frozenset[str] = frozenset()
    """Work pools one of whose Airflow pools belongs to somebody else."""

    def __bool__(self) -> bool:
        return bool(self.add or self.change or self.remove)

    def without(self, work_pools: Collection[str]) -> Plan:
        """Leave the Airflow pools of some work pools as they are."""

        def stays(name: str) -> bool:
            return _ref_of(name).pool not in work_pools

        return Plan(
            add={name: slots for name, slots in self.add.items() if stays(name)},
            change={name: slots for name, slots in self.change.items() if stays(name)},
            remove=frozenset(name for name in self.remove if stays(name)),
            taken=self.taken,
        )


def allocate_slots(
    session: Session,
    pools: Pools,
    run_state: RunState,
    served: Mapping[str, bool],
    held_back: Mapping[WorkQueueRef, int] | None = None,
    *,
    overdue_since: datetime,
    rooms: Callable[[Mapping[str, Offer]], Mapping[str, int]] = lambda _: {},
) -> Plan:
    """Give every work queue's Airflow pool the slots it should have now, in ``session``'s transaction.

    :param served: for each work pool, whether a worker is ready to take its jobs.
    :param held_back: of paused queues, the slots of jobs that were handed over before and wait in the store.
    :param overdue_since: when a task that needs several slots must have become scheduled to have them kept now.
    :param rooms: says how many more slots some Airflow pools can use, whatever waits in them; see ``core.untaken``.
    :return: what was changed.
    """
    held_back = held_back or {}
    current, loads = _look(session, pools, held_back, overdue_since)
    can_use = rooms(offers_of(current, loads))
    loads = within(can_use, loads)
    plan = plan_slots(pools, run_state, served, current=current, loads=loads)
    if not plan:
        return plan
    locked = _lock(session, {*_managed_names(pools), *_ours(current)})
    current, loads = _look(session, pools, held_back, overdue_since)
    loads = within(can_use, loads)
    busy = {_ref_of(name).pool for name in _ours(current) - locked}
    plan = plan_slots(pools, run_state, served, current=current, loads=loads).without(busy)
    _write(session, plan)
    return plan


def anything_waits(session: Session, pools: Pools) -> bool:
    """Say whether any task waits for a slot of ours; the cheapest question of all."""
    names = _managed_names(pools)
    return bool(names) and session.execute(statements.first_waiting_task(names)).first() is not None


def _look(
    session: Session, pools: Pools, held_back: Mapping[WorkQueueRef, int], overdue_since: datetime
) -> tuple[dict[str, AirflowPool], dict[str, Load]]:
    current = {
        name: AirflowPool(slots, description)
        for name, slots, description in session.execute(statements.airflow_pools())
    }
    names = _managed_names(pools)
    lines = session.execute(statements.waiting_tasks(names, overdue_since)) if names else ()
    waiting = [TaskGroup(*row) for row in lines]
    holding = [TaskGroup(*row) for row in session.execute(statements.holding_tasks())]
    return current, without_held_back(loads_of(pools, waiting, holding), held_back)


def _ours(current: Mapping[str, AirflowPool]) -> set[str]:
    return {name for name, pool in current.items() if pool.ours}


def _managed_names(pools: Pools) -> list[str]:
    return [
        WorkQueueRef(pool.name, queue.name).airflow_pool
        for pool in pools.values()
        if isinstance(pool, WorkPool)
        for queue in pool.queues
    ]


def _lock(session: Session, names: Collection[str]) -> set[str]:
    return {name for (name,) in session.execute(statements.lock_airflow_pools(names))}


def _write(session: Session, plan: Plan) -> None:
    # On the connection: these are plain rows for Core, and executemany is one round trip.
    connection = session.connection()
    if plan.change:
        changes = [{"name": name, "new_slots": slots} for name, slots in sorted(plan.change.items())]
        connection.execute(statements.set_slots(), changes)
    if plan.add:
        connection.execute(
            statements.add_airflow_pools(connection.dialect.name),
            [
                {
                    "pool": name,
                    "slots": slots,
                    "description": airflow_pool_description(_ref_of(name)),
                    "include_deferred": False,
                }
                for name, slots in sorted(plan.add.items())
            ],
        )
    if plan.remove:
        connection.execute(statements.remove_airflow_pools(sorted(plan.remove)))


def _ref_of(airflow_pool: str) -> WorkQueueRef:
    pool, _, queue = airflow_pool.partition(".")
    return WorkQueueRef(pool, queue) if queue else WorkQueueRef(pool)


def loads_of(pools: Pools, waiting: Iterable[TaskGroup], holding: Iterable[TaskGroup]) -> dict[str, Load]:
    """Turn counts of task instances into occupied and demanded slots per Airflow pool.

    A run whose DAG allows only so many active tasks demands no more slots than it could fill: otherwise a
    long backlog of one DAG would keep slots from queues behind it (apache/airflow#45636). Within a run the
    queues of higher priority count first, because the scheduler hands those over first.

    Which task is first in an Airflow pool's line is known as far as the rule needs it: Airflow goes by priority
    weight, then by the run's logical date. One of several slots counts as overdue by the time since which it has been
    ``scheduled``, and only when it is first: those ahead of it would take the slots that are kept for it.
    """
    occupied: dict[str, int] = defaultdict(int)
    active: dict[tuple[str, str], int] = defaultdict(int)
    for group in holding:
        occupied[group.airflow_pool] += group.slots
        active[group.dag_id, group.run_id] += group.tasks
    demand: dict[str, int] = defaultdict(int)
    able: dict[str, list[TaskGroup]] = defaultdict(list)
    order = _priority_order(pools)
    for group in sorted(waiting, key=lambda g: order.get(g.airflow_pool, 0)):
        run = group.dag_id, group.run_id
        tasks = max(0, min(group.tasks, group.max_active_tasks - active[run]))
        active[run] += tasks
        # Tasks of several slots: their share of the group's slots, rounded up.
        demand[group.airflow_pool] += -(-group.slots * tasks // group.tasks)
        if tasks:
            able[group.airflow_pool].append(group)
    return {
        name: Load(
            occupied[name],
            demand[name],
            min((group.smallest for group in able[name]), default=1),
            _overdue(able[name]),
        )
        for name in {*occupied, *demand}
    }


def _overdue(line: Sequence[TaskGroup]) -> int:
    """Return the slots of the task that is first in line if it is overdue, or 0."""
    overdue = [group for group in line if group.overdue_slots]
    if not overdue:
        return 0
    weight = max(group.weight for group in line)
    dates = [group.logical_date for group in line if group.weight == weight and group.logical_date]
    first = min(dates, default=None)
    return max(
        (
            group.overdue_slots or 0
            for group in overdue
            if group.overdue_weight == weight
            # Where a run has no logical date, the order is the database's: it may be first.
            and (group.logical_date is None or first is None or group.logical_date <= first)
        ),
        default=0,
    )


def without_held_back(loads: Mapping[str, Load], held_back: Mapping[WorkQueueRef, int]) -> dict[str, Load]:
    """Take off what a paused queue's tasks hold for Airflow, but not on any infrastructure.

    A task that was handed over just before the pause waits in the store as long as the queue is paused. For
    Airflow it is queued and holds a slot, of its own Airflow pool; the other queues need not go without it, as
    gate 2 does not let it start.
    """
    result = dict(loads)
    for ref, slots in held_back.items():
        if (load := result.get(ref.airflow_pool)) is not None:
            result[ref.airflow_pool] = replace(load, occupied=max(0, load.occupied - slots))
    return result


def offers_of(current: Mapping[str, AirflowPool], loads: Mapping[str, Load]) -> dict[str, Offer]:
    """Return, of each Airflow pool of ours with tasks that wait, what is offered to them now."""
    return {
        name: Offer(
            slots=current[name].slots,
            occupied=load.occupied,
            demand=load.demand,
            next_slots=load.smallest,
        )
        for name, load in loads.items()
        # One without a limit keeps nothing from others.
        if load.demand and name in current and current[name].ours and current[name].slots >= 0
    }


def within(rooms: Mapping[str, int], loads: Mapping[str, Load]) -> dict[str, Load]:
    """Take no more for demand than what an Airflow pool can use."""
    return {
        name: replace(load, demand=min(load.demand, rooms[name])) if name in rooms else load
        for name, load in loads.items()
    }


def _priority_order(pools: Pools) -> dict[str, int]:
    return {
        WorkQueueRef(pool.name, queue.name).airflow_pool: queue.priority
        for pool in pools.values()
        if isinstance(pool, WorkPool)
        for queue in pool.queues
    }


def plan_slots(
    pools: Pools,
    run_state: RunState,
    served: Mapping[str, bool],
    *,
    current: Mapping[str, AirflowPool],
    loads: Mapping[str, Load],
) -> Plan:
    """Decide which Airflow pools get which slots. Pure."""
    target: dict[str, int] = {}
    taken = set()
    for pool in pools.values():
        if isinstance(pool, InvalidPool):
            continue
        names = {queue.name: WorkQueueRef(pool.name, queue.name).airflow_pool for queue in pool.queues}
        if any(name in current and not current[name].ours for name in names.values()):
            taken.add(pool.name)
            continue
        queues = queue_loads(pool, run_state, is_served=served.get(pool.name, False), loads=loads)
        target.update(
            {names[name]: slots for name, slots in airflow_slots(pool.concurrency_limit, queues).items()}
        )
    ours = _ours(current)
    # Work pools that can't be used now: their tasks wait.
    unusable = {name for name, pool in pools.items() if isinstance(pool, InvalidPool)} | taken
    target.update({name: 0 for name in ours - set(target) if _ref_of(name).pool in unusable})
    return Plan(
        add={name: slots for name, slots in target.items() if name not in current},
        change={
            name: slots for name, slots in target.items() if name in ours and current[name].slots != slots
        },
        remove=frozenset(ours - set(target)),
        taken=frozenset(taken),
    )


def queue_loads(
    pool: WorkPool, run_state: RunState, *, is_served: bool, loads: Mapping[str, Load]
) -> Sequence[QueueLoad]:
    """Return what the rule needs to know of each queue of a pool."""
    pool_open = is_served and not run_state.pool_paused(pool.name)
    result = []
    for queue in pool.queues:
        ref = WorkQueueRef(pool.name, queue.name)
        load = loads.get(ref.airflow_pool, Load())
        result.append(
            QueueLoad(
                name=queue.name,
                priority=queue.priority,
                limit=queue.concurrency_limit,
                open=pool_open and not run_state.queue(ref).paused,
                demand=load.demand,
                occupied=load.occupied,
                next_slots=load.smallest,
                overdue_slots=load.overdue,
            )
        )
    return result


def reprioritise(session: Session, ranks: Mapping[str, int]) -> int:
    """Give waiting tasks the rank of their queue; return how many moved.

    :param ranks: ``"pool/queue"`` → the queue's part of the priority weight.
    """
    if not ranks:
        return 0
    result: Any = session.execute(statements.reprioritise(ranks))
    return int(result.rowcount)


def unblock_unmapped(
    session: Session,
    executors: Sequence[str],
    *,
    ours_is_default: bool,
    queues: Sequence[str],
    waiting_pools: Sequence[str],
) -> int:
    """Let tasks of unknown work pools and queues go on, to fail with the reason; return how many.

    :param executors: names under which tasks name this executor.
    :param queues: work queues that can be used, as ``"pool/queue"``.
    :param waiting_pools: work pools that are known but can't be used now; their tasks wait.
    """
    result: Any = session.execute(
        statements.unmapped_tasks(
            executors, ours_is_default=ours_is_default, queues=queues, waiting_pools=waiting_pools
        )
    )
    return int(result.rowcount)


def airflow_pool_of(session: Session, task_instance_id: UUID) -> str | None:
    """Return the Airflow pool that a task is in."""
    name: str | None = session.scalar(statements.airflow_pool_of(task_instance_id))
    return name


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
