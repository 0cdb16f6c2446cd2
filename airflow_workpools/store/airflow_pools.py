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
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_workpools.core.ahead import looking_ahead
from airflow_workpools.core.names import (
    WorkQueueRef,
    airflow_pool_description,
    is_managed_description,
)
from airflow_workpools.core.pools import InvalidPool, WorkPool
from airflow_workpools.core.slots import QueueLoad, airflow_slots
from airflow_workpools.core.untaken import Offer
from airflow_workpools.store import airflow_statements as statements
from airflow_workpools.store.ahead import NOTHING_AHEAD, Ahead, count_unclaimed
from airflow_workpools.store.loads import Layout, Load, TaskGroup, loads_of, without_held_back
from airflow_workpools.store.unchanged import Last
from airflow_workpools.store.waiting_lines import WaitingLines

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.store.loads import Line
    from airflow_workpools.store.records import RunState

Pools = Mapping[str, "WorkPool | InvalidPool"]
Minds = Callable[[str], bool]
Closed = tuple[frozenset[str], frozenset[WorkQueueRef]]
"""Work pools, and queues, in which nothing may start."""

REMEMBERED = 10_000
"""Most names that are remembered: nearly all are the same from heartbeat to heartbeat."""
_is_ours = lru_cache(maxsize=REMEMBERED)(is_managed_description)
_NO_LOAD = Load()


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


class Seen(NamedTuple):
    """What one look at Airflow's tables has shown."""

    current: Mapping[str, AirflowPool]
    loads: Mapping[str, Load]
    unclaimed: Mapping[str, int]
    """Slots of tasks that were handed over ahead and still wait, by Airflow pool."""


@dataclass
class Memory:
    """What the last heartbeat has seen and computed, in one scheduler: what has not changed costs nothing."""

    lines: WaitingLines = field(default_factory=WaitingLines)
    layout: Last[Layout] = field(default_factory=Last)
    current: Last[Mapping[str, AirflowPool]] = field(default_factory=Last)
    loads: Last[Mapping[str, Load]] = field(default_factory=Last)
    plan: Last[Plan] = field(default_factory=Last)


def minds_all(_name: str) -> bool:
    """Say of any work pool that its Airflow pools may be changed."""
    return True


def allocate_slots(
    session: Session,
    pools: Pools,
    run_state: RunState,
    served: Mapping[str, bool],
    held_back: Mapping[WorkQueueRef, int] | None = None,
    *,
    overdue_since: datetime,
    rooms: Callable[[Mapping[str, Offer]], Mapping[str, int]] = lambda _: {},
    minds: Minds = minds_all,
    ahead: Callable[[Session], Ahead] = lambda _: NOTHING_AHEAD,
    memory: Memory | None = None,
) -> Plan:
    """Give every work queue's Airflow pool the slots it should have now, in ``session``'s transaction.

    :param pools: the work pools that this executor looks after.
    :param minds: says of any name of a work pool whether its Airflow pools are this executor's to change; to be equal
        to that of an earlier call if it says the same.
    :param served: for each work pool, whether a worker is ready to take its jobs.
    :param held_back: of paused queues, the slots of jobs that were handed over before and wait in the store.
    :param overdue_since: when a task that needs several slots must have become scheduled to have them kept now.
    :param rooms: says how many more slots some Airflow pools can use, whatever waits in them; see ``core.untaken``.
    :param ahead: says how many slots may be given out before they are free; asked only if something waits.
    :param memory: what is known from earlier heartbeats; without, all is counted and computed.
    :return: what was changed.
    """
    memory = memory or Memory()
    layout = memory.layout.answer(pools, lambda: Layout.of(pools))
    waiting = memory.lines.look(session, layout.names, overdue_since)
    further = ahead(session) if memory.lines.any_waits else NOTHING_AHEAD
    closed = closed_queues(layout, run_state, served)

    def look() -> Seen:
        return _look(session, layout, waiting, held_back or {}, minds, further, memory)

    def plan(seen: Seen) -> Plan:
        loads = within(can_use, seen.loads)
        asked = pools, closed, seen.current, loads, further, seen.unclaimed
        return memory.plan.answer(
            asked,
            lambda: _plan(
                pools,
                layout,
                closed,
                current=seen.current,
                loads=loads,
                ahead=further,
                unclaimed=seen.unclaimed,
            ),
        )

    seen = look()
    can_use = rooms(offers_of(seen.current, seen.loads))
    if not (wanted := plan(seen)):
        return wanted
    locked = _lock(session, {*layout.names, *_ours(seen.current)})
    seen = look()
    busy = {_ref_of(name).pool for name in _ours(seen.current) - locked}
    done = plan(seen).without(busy)
    _write(session, done, {name: pool.team_name for name, pool in pools.items()})
    return done


def anything_waits(session: Session, pools: Pools, memory: Memory) -> bool:
    """Say whether any task waits for a slot of ours; the cheapest question of all."""
    names = memory.layout.answer(pools, lambda: Layout.of(pools)).names
    return (
        bool(names) and session.execute(statements.first_waiting_task(), {"names": names}).first() is not None
    )


def _look(
    session: Session,
    layout: Layout,
    waiting: Mapping[str, Line],
    held_back: Mapping[WorkQueueRef, int],
    minds: Minds,
    ahead: Ahead,
    memory: Memory,
) -> Seen:
    rows = [tuple(row) for row in session.execute(statements.airflow_pools())]
    current = memory.current.answer(
        (rows, minds),
        lambda: {
            name: AirflowPool(slots, description, team_name)
            for name, slots, description, team_name in rows
            if minds(_ref_of(name).pool)
        },
    )
    holding = [tuple(row) for row in session.execute(statements.holding_tasks())]

    def compute() -> Mapping[str, Load]:
        groups = [TaskGroup(*row) for row in holding]
        loads = loads_of(layout, waiting, groups, all_demand=False)
        return without_held_back(loads, held_back)

    loads = memory.loads.answer((layout, waiting, holding, held_back), compute)
    return Seen(current, loads, count_unclaimed(session, ahead))


def _ours(current: Mapping[str, AirflowPool]) -> set[str]:
    return {name for name, pool in current.items() if pool.ours}


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


def within(rooms: Mapping[str, int], loads: Mapping[str, Load]) -> Mapping[str, Load]:
    """Take no more for demand than what an Airflow pool can use."""
    if not rooms:
        return loads
    return {
        name: replace(load, demand=min(load.demand, rooms[name])) if name in rooms else load
        for name, load in loads.items()
    }


def closed_queues(layout: Layout, run_state: RunState, served: Mapping[str, bool]) -> Closed:
    """Return the work pools, and beyond them the queues, in which nothing may start: paused, or served by nobody."""
    closed = {
        name for name in layout.queues if not served.get(name, False) or run_state.pools.get(name, False)
    }
    return frozenset(closed), frozenset(ref for ref, queue in run_state.queues.items() if queue.paused)


def plan_slots(
    pools: Pools,
    run_state: RunState,
    served: Mapping[str, bool],
    *,
    current: Mapping[str, AirflowPool],
    loads: Mapping[str, Load],
    ahead: Ahead = NOTHING_AHEAD,
    unclaimed: Mapping[str, int] | None = None,
) -> Plan:
    """Decide which Airflow pools get which slots. Pure."""
    layout = Layout.of(pools)
    closed = closed_queues(layout, run_state, served)
    return _plan(pools, layout, closed, current=current, loads=loads, ahead=ahead, unclaimed=unclaimed or {})


def _plan(
    pools: Pools,
    layout: Layout,
    closed: Closed,
    *,
    current: Mapping[str, AirflowPool],
    loads: Mapping[str, Load],
    ahead: Ahead,
    unclaimed: Mapping[str, int],
) -> Plan:
    target: dict[str, int] = {}
    taken = set()
    for name, queues in layout.queues.items():
        if any(one.airflow_pool in current and not current[one.airflow_pool].ours for one in queues):
            taken.add(name)
            continue
        pool = pools[name]
        assert isinstance(pool, WorkPool)
        found = queue_loads(pool, layout, closed, loads)
        slots = _slots_of(*_looking_ahead(pool, layout, found, ahead, unclaimed))
        target.update({one.airflow_pool: slots[one.queue.name] for one in queues})
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


def _looking_ahead(
    pool: WorkPool,
    layout: Layout,
    loads: Sequence[QueueLoad],
    ahead: Ahead,
    unclaimed: Mapping[str, int],
) -> tuple[int | None, tuple[QueueLoad, ...]]:
    """Return a pool's limit and its queues as they have to be seen to hand over ahead."""
    limit, more = pool.concurrency_limit, ahead.pools.get(pool.name, 0)
    if not more:
        return limit, tuple(loads)
    return None if limit is None else limit + more, tuple(
        looking_ahead(load, ahead=ahead.queues.get(one.ref, 0), unclaimed=unclaimed.get(one.airflow_pool, 0))
        for load, one in zip(loads, layout.queues[pool.name], strict=True)
    )


def queue_loads(pool: WorkPool, layout: Layout, closed: Closed, loads: Mapping[str, Load]) -> list[QueueLoad]:
    """Return what the rule needs to know of each queue of a pool."""
    closed_pools, closed_refs = closed
    pool_open = pool.name not in closed_pools
    result = []
    for queue, ref, airflow_pool in layout.queues[pool.name]:
        load = loads.get(airflow_pool, _NO_LOAD)
        result.append(
            QueueLoad(
                name=queue.name,
                priority=queue.priority,
                limit=queue.concurrency_limit,
                open=pool_open and ref not in closed_refs,
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
