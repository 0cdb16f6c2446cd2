# SPDX-License-Identifier: Apache-2.0
"""Gate 1: counts in, slots out.

Every work queue has an Airflow pool. Each heartbeat the scheduler's executor counts what waits and what runs
in them and gives them slots by the rule in ``core.slots``, so that Airflow hands over exactly what may start
now and everything else waits as ``scheduled``.

A heartbeat that changes nothing locks and writes nothing. One that does change something locks the rows first
and counts what is held again under the lock: Airflow's own hand-over locks the same rows, so no task slips in
between. What waits is not counted again: a task that was handed over in between is counted twice then, which may keep
a slot from a lower queue until the next heartbeat, but exceeds no limit. Rows that another scheduler holds are not
waited for; the next heartbeat comes soon. Until then the whole work pool stays as it is: giving one queue what another
has not given up yet would exceed the pool's limit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.names import (
    WorkQueueRef,
    airflow_pool_description,
    is_managed_description,
)
from airflow_workpools.core.pools import InvalidPool, WorkPool
from airflow_workpools.core.slots import QueueLoad, airflow_slots
from airflow_workpools.core.untaken import Offer
from airflow_workpools.store import airflow_statements as statements
from airflow_workpools.store.loads import (
    Load,
    TaskGroup,
    enough_demand,
    loads_of,
    without_held_back,
    work_queue,
)
from airflow_workpools.store.waiting_lines import WaitingLines

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.store.loads import Line
    from airflow_workpools.store.records import RunState

Pools = Mapping[str, "WorkPool | InvalidPool"]

REMEMBERED = 10_000
"""Most names, and most pools' slots, that are remembered: nearly all are the same from heartbeat to heartbeat."""
_is_ours = lru_cache(maxsize=REMEMBERED)(is_managed_description)


@dataclass(frozen=True)
class AirflowPool:
    """An Airflow pool as it is now."""

    slots: int
    description: str | None
    team_name: str | None = None

    @property
    def ours(self) -> bool:
        return _is_ours(self.description)


@dataclass(frozen=True)
class Plan:
    """What has to change among the Airflow pools."""

    add: Mapping[str, int] = field(default_factory=dict)
    change: Mapping[str, int] = field(default_factory=dict)
    """With their slots; some change only their team."""
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
    minds: Callable[[str], bool] = lambda _: True,
    lines: WaitingLines | None = None,
) -> Plan:
    """Give every work queue's Airflow pool the slots it should have now, in ``session``'s transaction.

    :param pools: the work pools that this executor looks after.
    :param minds: says of any name of a work pool whether its Airflow pools are this executor's to change.
    :param served: for each work pool, whether a worker is ready to take its jobs.
    :param held_back: of paused queues, the slots of jobs that were handed over before and wait in the store.
    :param overdue_since: when a task that needs several slots must have become scheduled to have them kept now.
    :param rooms: says how many more slots some Airflow pools can use, whatever waits in them; see ``core.untaken``.
    :param lines: what is known of what waits, to count only a part of it anew; without, all is counted.
    :return: what was changed.
    """
    held_back = held_back or {}
    waiting = (lines or WaitingLines()).look(session, _managed_names(pools), overdue_since)
    current, loads = _look(session, pools, waiting, held_back, minds)
    can_use = rooms(offers_of(current, loads))
    loads = within(can_use, loads)
    plan = plan_slots(pools, run_state, served, current=current, loads=loads)
    if not plan:
        return plan
    locked = _lock(session, {*_managed_names(pools), *_ours(current)})
    current, loads = _look(session, pools, waiting, held_back, minds)
    loads = within(can_use, loads)
    busy = {_ref_of(name).pool for name in _ours(current) - locked}
    plan = plan_slots(pools, run_state, served, current=current, loads=loads).without(busy)
    _write(session, plan, {name: pool.team_name for name, pool in pools.items()})
    return plan


def anything_waits(session: Session, pools: Pools) -> bool:
    """Say whether any task waits for a slot of ours; the cheapest question of all."""
    names = _managed_names(pools)
    return (
        bool(names) and session.execute(statements.first_waiting_task(), {"names": names}).first() is not None
    )


def _look(
    session: Session,
    pools: Pools,
    waiting: Mapping[str, Line],
    held_back: Mapping[WorkQueueRef, int],
    minds: Callable[[str], bool],
) -> tuple[dict[str, AirflowPool], dict[str, Load]]:
    current = {
        name: AirflowPool(slots, description, team_name)
        for name, slots, description, team_name in session.execute(statements.airflow_pools())
        if minds(_ref_of(name).pool)
    }
    holding = [TaskGroup(*row) for row in session.execute(statements.holding_tasks())]
    loads = loads_of(pools, waiting, holding, enough=enough_demand(pools))
    return current, without_held_back(loads, held_back)


def _ours(current: Mapping[str, AirflowPool]) -> set[str]:
    return {name for name, pool in current.items() if pool.ours}


def _managed_names(pools: Pools) -> list[str]:
    return [
        work_queue(pool.name, queue.name).airflow_pool
        for pool in pools.values()
        if isinstance(pool, WorkPool)
        for queue in pool.queues
    ]


def _lock(session: Session, names: Collection[str]) -> set[str]:
    return {name for (name,) in session.execute(statements.lock_airflow_pools(names))}


def _write(session: Session, plan: Plan, teams: Mapping[str, str | None]) -> None:
    # On the connection: these are plain rows for Core, and executemany is one round trip.
    connection = session.connection()
    if plan.change:
        changes = [
            {"name": name, "new_slots": slots, "new_team": teams.get(_ref_of(name).pool)}
            for name, slots in sorted(plan.change.items())
        ]
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
                    "team_name": teams.get(_ref_of(name).pool),
                }
                for name, slots in sorted(plan.add.items())
            ],
        )
    if plan.remove:
        connection.execute(statements.remove_airflow_pools(sorted(plan.remove)))


@lru_cache(maxsize=REMEMBERED)
def _ref_of(airflow_pool: str) -> WorkQueueRef:
    pool, _, queue = airflow_pool.partition(".")
    return WorkQueueRef(pool, queue) if queue else WorkQueueRef(pool)


def offers_of(current: Mapping[str, AirflowPool], loads: Mapping[str, Load]) -> dict[str, Offer]:
    """Return, of each Airflow pool of ours with tasks that wait, what is offered to them now."""
    return {
        name: Offer(
            slots=current[name].slots,
            occupied=load.occupied,
            demand=max(load.demand, load.in_line),
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
        names = {queue.name: work_queue(pool.name, queue.name).airflow_pool for queue in pool.queues}
        if any(name in current and not current[name].ours for name in names.values()):
            taken.add(pool.name)
            continue
        queues = queue_loads(pool, run_state, is_served=served.get(pool.name, False), loads=loads)
        slots = _slots_of(pool.concurrency_limit, tuple(queues))
        target.update({names[name]: number for name, number in slots.items()})
    ours = _ours(current)
    # Work pools that can't be used now: their tasks wait.
    unusable = {name for name, pool in pools.items() if isinstance(pool, InvalidPool)} | taken
    target.update({name: 0 for name in ours - set(target) if _ref_of(name).pool in unusable})
    teams = {name: pool.team_name for name, pool in pools.items()}
    return Plan(
        add={name: slots for name, slots in target.items() if name not in current},
        change={
            name: slots
            for name, slots in target.items()
            if name in ours
            and (current[name].slots, current[name].team_name) != (slots, teams[_ref_of(name).pool])
        },
        remove=frozenset(ours - set(target)),
        taken=frozenset(taken),
    )


@lru_cache(maxsize=REMEMBERED)
def _slots_of(pool_limit: int | None, queues: tuple[QueueLoad, ...]) -> Mapping[str, int]:
    return airflow_slots(pool_limit, queues)


def queue_loads(
    pool: WorkPool, run_state: RunState, *, is_served: bool, loads: Mapping[str, Load]
) -> Sequence[QueueLoad]:
    """Return what the rule needs to know of each queue of a pool."""
    pool_open = is_served and not run_state.pool_paused(pool.name)
    result = []
    for queue in pool.queues:
        ref = work_queue(pool.name, queue.name)
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
