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

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_workpools.core.names import airflow_pool_description
from airflow_workpools.store import airflow_statements as statements
from airflow_workpools.store.ahead import NOTHING_AHEAD, Ahead, count_unclaimed
from airflow_workpools.store.loads import Layout, Load, TaskGroup, loads_of, without_held_back
from airflow_workpools.store.slot_plan import (
    AirflowPool,
    Plan,
    Pools,
    closed_queues,
    offers_of,
    ours_among,
    over_limit,
    plan_slots,
    ref_of,
    within,
)
from airflow_workpools.store.unchanged import Last
from airflow_workpools.store.waiting_lines import WaitingLines

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.core.names import WorkQueueRef
    from airflow_workpools.core.untaken import Offer
    from airflow_workpools.store.loads import Line
    from airflow_workpools.store.records import RunState

Minds = Callable[[str], bool]


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
    parallelism: int | None = None,
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
    :param parallelism: how many slots the executor has; None: no limit.
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
        asked = pools, closed, seen.current, loads, further, seen.unclaimed, parallelism
        return memory.plan.answer(
            asked,
            lambda: plan_slots(
                pools,
                layout,
                closed,
                current=seen.current,
                loads=loads,
                ahead=further,
                unclaimed=seen.unclaimed,
                parallelism=parallelism,
            ),
        )

    seen = look()
    can_use = rooms(offers_of(seen.current, seen.loads))
    if not (wanted := plan(seen)):
        return wanted
    locked = _lock(session, {*layout.names, *ours_among(seen.current)})
    seen = look()
    busy = {ref_of(name).pool for name in ours_among(seen.current) - locked}
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
    connection = session.connection()  # plain rows, without the ORM's ways: there are thousands
    rows = [tuple(row) for row in connection.execute(statements.airflow_pools())]
    current = memory.current.answer(
        (rows, minds),
        lambda: {
            name: AirflowPool(slots, description, team_name)
            for name, slots, description, team_name in rows
            if minds(ref_of(name).pool)
        },
    )
    holding = [tuple(row) for row in connection.execute(statements.holding_tasks())]

    def compute() -> Mapping[str, Load]:
        groups = [TaskGroup(*row) for row in holding]
        loads = loads_of(layout, waiting, groups, all_demand=False)
        return without_held_back(loads, held_back)

    loads = memory.loads.answer((layout, waiting, holding, held_back), compute)
    return Seen(
        current, loads, count_unclaimed(session, ahead.pools.keys() | over_limit(layout, loads).keys())
    )


def _lock(session: Session, names: Collection[str]) -> set[str]:
    return {name for (name,) in session.execute(statements.lock_airflow_pools(names))}


def _write(session: Session, plan: Plan, teams: Mapping[str, str | None]) -> None:
    # On the connection: these are plain rows for Core, and executemany is one round trip.
    connection = session.connection()
    if plan.change:
        changes = [
            {"name": name, "new_slots": slots, "new_team": teams.get(ref_of(name).pool)}
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
                    "description": airflow_pool_description(ref_of(name)),
                    "include_deferred": False,
                    "team_name": teams.get(ref_of(name).pool),
                }
                for name, slots in sorted(plan.add.items())
            ],
        )
    if plan.remove:
        connection.execute(statements.remove_airflow_pools(sorted(plan.remove)))


def reprioritise(session: Session, ranks: Mapping[str, int]) -> int:
    """Give waiting tasks the rank of their queue; return how many moved.

    :param ranks: ``"pool/queue"`` → the queue's part of the priority weight.
    """
    if not ranks:
        return 0
    result: Any = session.execute(statements.reprioritise(ranks))
    return int(result.rowcount)
