# SPDX-License-Identifier: Apache-2.0
"""Which Airflow pools get which slots, from what is there and what the rule says. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from airflow_workpools.core.ahead import looking_ahead, within_parallelism
from airflow_workpools.core.names import WorkQueueRef, is_managed_description
from airflow_workpools.core.pools import InvalidPool, WorkPool
from airflow_workpools.core.slots import QueueLoad, airflow_slots
from airflow_workpools.core.untaken import Offer
from airflow_workpools.store.ahead import NOTHING_AHEAD, Ahead
from airflow_workpools.store.loads import Layout, Load, least_of

if TYPE_CHECKING:
    from airflow_workpools.store.records import RunState

Pools = Mapping[str, "WorkPool | InvalidPool"]
Closed = tuple[frozenset[str], frozenset[WorkQueueRef]]
"""Work pools, and queues, in which nothing may start."""

REMEMBERED = 10_000
"""Most names that are remembered: nearly all are the same from heartbeat to heartbeat."""
_is_ours = lru_cache(maxsize=REMEMBERED)(is_managed_description)
_NO_LOAD = Load()
NOTHING_UNCLAIMED: Mapping[str, int] = MappingProxyType({})


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
            return ref_of(name).pool not in work_pools

        return Plan(
            add={name: slots for name, slots in self.add.items() if stays(name)},
            change={name: slots for name, slots in self.change.items() if stays(name)},
            remove=frozenset(name for name in self.remove if stays(name)),
            taken=self.taken,
        )


@lru_cache(maxsize=REMEMBERED)
def ref_of(airflow_pool: str) -> WorkQueueRef:
    """Return the work queue that an Airflow pool of ours stands for."""
    pool, _, queue = airflow_pool.partition(".")
    return WorkQueueRef(pool, queue) if queue else WorkQueueRef(pool)


def ours_among(current: Mapping[str, AirflowPool]) -> set[str]:
    """Return the names of those that stand for work queues."""
    return {name for name, pool in current.items() if pool.ours}


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
    layout: Layout,
    closed: Closed,
    *,
    current: Mapping[str, AirflowPool],
    loads: Mapping[str, Load],
    ahead: Ahead = NOTHING_AHEAD,
    unclaimed: Mapping[str, int] = NOTHING_UNCLAIMED,
    parallelism: int | None = None,
) -> Plan:
    """Decide which Airflow pools get which slots.

    :param layout: of the pools.
    :param unclaimed: slots of tasks that were handed over ahead and still wait, by Airflow pool.
    :param parallelism: how many slots the executor has; None: no limit.
    """
    ahead = _further(layout, ahead, loads, unclaimed, parallelism)
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
    ours = ours_among(current)
    # Work pools that can't be used now: their tasks wait.
    unusable = {name for name, pool in pools.items() if isinstance(pool, InvalidPool)} | taken
    target.update({name: 0 for name in ours - set(target) if ref_of(name).pool in unusable})
    teams = {name: pool.team_name for name, pool in pools.items()}
    return Plan(
        add={name: slots for name, slots in target.items() if name not in current},
        change={
            name: slots
            for name, slots in target.items()
            if name in ours
            and (current[name].slots, current[name].team_name) != (slots, teams[ref_of(name).pool])
        },
        remove=frozenset(ours - set(target)),
        taken=frozenset(taken),
    )


@lru_cache(maxsize=REMEMBERED)
def _slots_of(pool_limit: int | None, queues: tuple[QueueLoad, ...]) -> Mapping[str, int]:
    return airflow_slots(pool_limit, queues)


def over_limit(layout: Layout, loads: Mapping[str, Load]) -> dict[str, int]:
    """Return the work pools that hold more than their limit, and by how much, up to the limit again.

    What was handed over ahead and still waits is the reason, for one.
    """
    found = {}
    for name, queues in layout.queues.items():
        if (limit := layout.limits[name]) is None:
            continue
        held = sum(load.occupied for one in queues if (load := loads.get(one.airflow_pool)) is not None)
        if held > limit:
            found[name] = min(held - limit, limit)
    return found


def _further(
    layout: Layout,
    ahead: Ahead,
    loads: Mapping[str, Load],
    unclaimed: Mapping[str, int],
    parallelism: int | None,
) -> Ahead:
    """Return how far tasks are handed over ahead, so that nobody has to suffer from it.

    Not in a pool in whose lines is a task that is larger than the limits: it can't run, and more slots would let it in.
    No further than the executor has room for, beside all that may run. And where more was handed over than may run, by
    as much: the next slot goes to whoever is first in the store, so a task of higher priority must get there.
    """
    if not ahead.pools and not unclaimed:
        return ahead
    fitting = {name: more for name, more in ahead.pools.items() if _all_fit(layout, name, loads)}
    wanted = sum(_may_run(layout, name, loads) for name in layout.queues) if fitting else 0
    pools = within_parallelism(fitting, wanted=wanted, parallelism=parallelism)
    for name, beyond in over_limit(layout, loads).items():
        waits = any(one.airflow_pool in unclaimed for one in layout.queues[name])
        if waits and _all_fit(layout, name, loads):
            pools[name] = max(pools.get(name, 0), beyond)
    return Ahead(pools, ahead.queues)


def _all_fit(layout: Layout, name: str, loads: Mapping[str, Load]) -> bool:
    for one in layout.queues[name]:
        least = least_of(layout.limits[name], one.queue.concurrency_limit)
        if least is not None and loads.get(one.airflow_pool, _NO_LOAD).largest > least:
            return False
    return True


def _may_run(layout: Layout, name: str, loads: Mapping[str, Load]) -> int:
    """Return how many slots the tasks of a work pool hold and want within its limits."""
    in_all = 0
    for one in layout.queues[name]:
        load = loads.get(one.airflow_pool, _NO_LOAD)
        in_all += least_of(one.queue.concurrency_limit, load.occupied + load.demand) or 0
    return least_of(layout.limits[name], in_all) or 0


def _looking_ahead(
    pool: WorkPool,
    layout: Layout,
    loads: Sequence[QueueLoad],
    ahead: Ahead,
    unclaimed: Mapping[str, int],
) -> tuple[int | None, tuple[QueueLoad, ...]]:
    """Return a pool's limit and its queues as they have to be seen to hand over ahead."""
    limit, more = pool.concurrency_limit, ahead.pools.get(pool.name, 0)
    queues = layout.queues[pool.name]
    if not more and not any(one.airflow_pool in unclaimed for one in queues):
        return limit, tuple(loads)
    more_of_queues = ahead.queues if more else {}
    return None if limit is None else limit + more, tuple(
        looking_ahead(
            load, ahead=more_of_queues.get(one.ref, 0), unclaimed=unclaimed.get(one.airflow_pool, 0)
        )
        for load, one in zip(loads, queues, strict=True)
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
