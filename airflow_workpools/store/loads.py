# SPDX-License-Identifier: Apache-2.0
"""What Airflow pools hold and want, from counts of task instances. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import InvalidPool, WorkPool

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_workpools.core.pools import WorkQueue

Pools = Mapping[str, "WorkPool | InvalidPool"]
Run = tuple[str, str]


@dataclass(frozen=True)
class Load:
    """What one Airflow pool holds and wants, in slots."""

    occupied: int = 0
    demand: int = 0
    smallest: int = 1
    """Slots of the smallest task that waits."""
    overdue: int = 0
    """Slots of the task that is first in line, if it needs several and has waited for long."""
    largest: int = 1
    """Slots of the largest task in the line."""
    in_line: int = field(default=0, compare=False)
    """How many tasks were counted in the line, also those beyond the demand that makes a difference."""


class TaskGroup(NamedTuple):
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
    largest: int = 1
    """Slots of the largest of all."""


@dataclass(frozen=True)
class Line:
    """What waits in one Airflow pool."""

    groups: tuple[TaskGroup, ...] = ()
    tasks: int = 0
    smallest: int = 1
    any_overdue: bool = False
    largest: int = 1

    @classmethod
    def of(cls, groups: Sequence[TaskGroup]) -> Line:
        """Make a line of the groups of tasks in one Airflow pool."""
        return cls(
            tuple(groups),
            sum(group.tasks for group in groups),
            min((group.smallest for group in groups), default=1),
            any(group.overdue_slots for group in groups),
            max((group.largest for group in groups), default=1),
        )


def lines_of(waiting: Iterable[TaskGroup]) -> dict[str, Line]:
    """Sort what waits by Airflow pool."""
    groups: dict[str, list[TaskGroup]] = defaultdict(list)
    for group in waiting:
        groups[group.airflow_pool].append(group)
    return {name: Line.of(some) for name, some in groups.items()}


class PlacedQueue(NamedTuple):
    """A work queue, and the Airflow pool that stands for it."""

    queue: WorkQueue
    ref: WorkQueueRef
    airflow_pool: str


@dataclass(frozen=True, eq=False)
class Layout:
    """The Airflow pools of work pools: all that is the same as long as those are."""

    queues: Mapping[str, tuple[PlacedQueue, ...]]
    """By work pool; those whose definition is invalid have none."""
    limits: Mapping[str, int | None]
    """Concurrency limits of the work pools."""
    names: tuple[str, ...]
    """Of all Airflow pools."""
    priorities: Mapping[str, int]
    """Of the queues, by Airflow pool."""
    enough: Mapping[str, int]
    """By Airflow pool, the demand beyond which more makes no difference: it can't all be given slots.

    Twice the limit: as much may be handed over ahead.
    """

    @classmethod
    def of(cls, pools: Pools) -> Layout:
        """Lay out the Airflow pools of these work pools."""
        queues = {
            pool.name: tuple(
                PlacedQueue(queue, ref := WorkQueueRef(pool.name, queue.name), ref.airflow_pool)
                for queue in pool.queues
            )
            for pool in pools.values()
            if isinstance(pool, WorkPool)
        }
        placed = [one for of_pool in queues.values() for one in of_pool]
        limits = {pool.name: pool.concurrency_limit for pool in pools.values() if isinstance(pool, WorkPool)}
        return cls(
            queues=queues,
            limits=limits,
            names=tuple(one.airflow_pool for one in placed),
            priorities={one.airflow_pool: one.queue.priority for one in placed},
            enough={
                one.airflow_pool: _enough(limits[one.ref.pool], one.queue.concurrency_limit) for one in placed
            },
        )


def least_of(*limits: int | None) -> int | None:
    """Return the least of some limits; None if there is none."""
    return min((limit for limit in limits if limit is not None), default=None)


def _enough(*limits: int | None) -> int:
    least = least_of(*limits)
    return 1 if least is None else 2 * least


def loads_of(
    layout: Layout, lines: Mapping[str, Line], holding: Iterable[TaskGroup], *, all_demand: bool = True
) -> dict[str, Load]:
    """Turn counts of task instances into occupied and demanded slots per Airflow pool.

    A run whose DAG allows only so many active tasks demands no more slots than it could fill: otherwise a
    long backlog of one DAG would keep slots from queues behind it (apache/airflow#45636). Within a run the
    queues of higher priority count first, because the scheduler hands those over first.

    Which task is first in an Airflow pool's line is known as far as the rule needs it: Airflow goes by priority
    weight, then by the run's logical date. One of several slots counts as overdue by the time since which it has been
    ``scheduled``, and only when it is first: those ahead of it would take the slots that are kept for it.

    :param all_demand: whether to count all that waits; without, as much of each line as makes a difference.
    """
    occupied: dict[str, int] = defaultdict(int)
    active: dict[Run, int] = defaultdict(int)
    for group in holding:
        occupied[group.airflow_pool] += group.slots
        active[group.dag_id, group.run_id] += group.tasks
    loads = {name: Load(occupied=slots) for name, slots in occupied.items()}
    some = [name for name, line in lines.items() if line.groups]
    for name in sorted(some, key=lambda name: layout.priorities.get(name, 0)):
        enough = None if all_demand else layout.enough.get(name)
        loads[name] = _load(lines[name], occupied[name], active, enough)
    return loads


def _load(line: Line, occupied: int, active: dict[Run, int], enough: int | None) -> Load:
    """Count the demand of a line, and note in ``active`` which runs it comes from."""
    demand, smallest, able = 0, None, []
    for group in line.groups:
        run = group.dag_id, group.run_id
        tasks = min(group.tasks, group.max_active_tasks - active[run])
        if tasks <= 0:
            continue
        active[run] += tasks
        # Tasks of several slots: their share of the group's slots, rounded up.
        demand += -(-group.slots * tasks // group.tasks)
        smallest = group.smallest if smallest is None else min(smallest, group.smallest)
        able.append(group)
        if enough is not None and demand >= enough and smallest == line.smallest and not line.any_overdue:
            break
    overdue = _overdue(able) if line.any_overdue else 0
    return Load(occupied, demand, smallest or 1, overdue, line.largest, line.tasks)


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
