# SPDX-License-Identifier: Apache-2.0
"""Who gets a slot: the waterfall.

The rule is Prefect's. Work of a queue with a higher priority (a lower number) goes first, each queue up to
its own limit, all together up to the limit of the pool, which nothing exceeds. Where everything can run,
priority decides the order only. Nothing that runs is stopped to make room: a queue that holds more than it
should *drains*.

The rule is stated once, in two steps, and both gates use the same two steps:

1. **share** (:func:`allocate`): what a queue should hold if all slots were handed out anew, in priority
   order: ``min(queue limit, occupied + demand, what higher queues leave of the pool's limit)``. A closed
   queue has share 0: what it still occupies does not count here, because it is on its way out.
2. **growth**: what a queue may take *now*. Slots that are really free (the pool's limit less all that is
   occupied, by closed and draining queues too) are reserved in priority order, for each queue up to
   ``share - occupied``.

The first step alone would exceed the limit while something drains; the second alone would let a low queue
that already holds slots refill each of them before a higher queue gets its turn. Together they give the
promises that the tests check for arbitrary pools:

- ``sum(max(slots, occupied)) <= limit``, as long as no more than the limit is occupied already (somebody
  may have lowered the limit a moment ago; then nothing grows until enough has ended);
- a free slot never goes to a queue while a higher one that may run still waits, not even if the higher
  one's task needs more slots than are free: they are kept together until it fits, or small tasks would
  starve it for ever;
- no slot stays free while a task of one slot that may run waits.

**Gate 1** (:func:`airflow_slots`) turns growth into the ``slots`` of Airflow pools, so that a task waits as
``scheduled`` until it may start. A queue whose share is below its occupancy is given its share: Airflow
then sees no open slot, and what ends there frees a slot for a higher queue rather than for itself. What
nobody asks for is spread as headroom, so that new work starts without waiting for the next allocation.

**Gate 2** (:func:`choose`) picks the jobs that a worker claims. It is the authority: gate 1 may be late by a
heartbeat, or not consulted at all where the author of a task chose an Airflow pool.

An example: limit 10; ``low`` (priority 10), ``high`` (priority 5, limit 3), ``critical`` (priority 1, limit
1), more than enough work in each. Shares, and what runs: critical 1, high 3, low 6. Let low have filled all
ten slots before the others had work: shares are the same, but nothing is free, so nobody grows; low has
slots 6 < 10 and drains. The first slot that it frees goes to critical, the next three to high; then low is
at 6 and keeps them filled. Pausing high closes it: share 0, its three finish, and low's share is 9, into
which it grows as they do.

All numbers are pool slots, not tasks. Nothing here reads a clock or a database.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

UNLIMITED_SLOTS = -1
"""What Airflow calls a pool without a limit."""

MAY_OVERTAKE = timedelta(seconds=60)
"""A job that does not fit may be passed by jobs of its queue that were handed over at most this much later.

Passing keeps slots busy, but a big job that anything may pass never finds enough slots free at once. This
way no more jobs than came up to then can pass it.
"""

_NO_LIMIT = sys.maxsize


@dataclass(frozen=True, kw_only=True)
class QueueLoad:
    """What the rule has to know of a work queue. Numbers are pool slots."""

    name: str
    priority: int
    """1 goes first."""
    limit: int | None
    """Concurrency limit; None is no limit."""
    open: bool
    """Whether new work may start: False if queue or pool is paused or has no ready worker."""
    demand: int
    """Slots of tasks that wait and may start; one too big for the limits may not, and would block others."""
    occupied: int
    """Slots held now."""
    next_slots: int = 1
    """Slots of the first task that waits. Gate 1 opens no slot until the queue may take that many at once."""


@dataclass(frozen=True, kw_only=True)
class WaitingJob:
    """A job that waits to be claimed."""

    id: UUID
    queue: str
    priority_weight: int
    """Airflow's: within a queue, the greater goes first."""
    slots: int
    handed_over_at: datetime


def allocate(pool_limit: int | None, queues: Iterable[QueueLoad]) -> dict[str, int]:
    """Return the share of every queue: the slots that it should hold, by name, in priority order.

    :param pool_limit: concurrency limit of the work pool; None is no limit.
    """
    remaining = _number(pool_limit)
    shares = {}
    for queue in _by_priority(queues):
        wanted = min(_number(queue.limit), queue.occupied + queue.demand) if queue.open else 0
        shares[queue.name] = min(wanted, remaining)
        remaining -= shares[queue.name]
    return shares


def airflow_slots(pool_limit: int | None, queues: Sequence[QueueLoad]) -> dict[str, int]:
    """Return what to set as ``slots`` of each queue's Airflow pool, by queue name, in priority order.

    An open queue without a limit in a pool without one gets :data:`UNLIMITED_SLOTS`; a closed queue gets 0.

    :param pool_limit: concurrency limit of the work pool; None is no limit.
    """
    shares = allocate(pool_limit, queues)
    growth = _growth(pool_limit, queues, shares)
    slots, takers = {}, []
    for queue in _by_priority(queues):
        share, grown = shares[queue.name], growth[queue.name]
        saves_up = _saves_up(queue, grown, pool_limit)
        if share < queue.occupied:
            slots[queue.name] = share
        else:
            slots[queue.name] = queue.occupied + (0 if saves_up else grown)
        if queue.open and not saves_up:
            takers.append(queue)
    if pool_limit is None:
        headroom = {queue.name: UNLIMITED_SLOTS if queue.limit is None else queue.limit for queue in takers}
    else:
        left = pool_limit - sum(queue.occupied + growth[queue.name] for queue in queues)
        headroom = _spread(left, takers, slots)
    return {**slots, **headroom}


def choose(
    waiting: Iterable[WaitingJob], *, pool_limit: int | None, queues: Iterable[QueueLoad], room: int
) -> list[WaitingJob]:
    """Choose the jobs to claim now, in the order in which they should start.

    The order is the queue's priority, then ``priority_weight`` (greater first), age, id. A job that does
    not fit is passed over, so that a smaller one of its queue may start, but not one that came more than
    :data:`MAY_OVERTAKE` later; a lower queue never takes slots that a higher one waits for. Jobs bigger
    than a limit can never start and stand in nobody's way, nor do those bigger than ``room``: another
    worker may take them.

    :param waiting: jobs of this pool; those of queues that are not given stay where they are.
    :param pool_limit: concurrency limit of the work pool; None is no limit.
    :param queues: their ``demand`` is not looked at: it is what ``waiting`` says.
    :param room: slots that the worker who claims has left.
    """
    lines = defaultdict(list)
    for job in sorted(waiting, key=_claim_order):
        lines[job.queue].append(job)
    loads = []
    for queue in _by_priority(queues):
        largest = min(_number(pool_limit), _number(queue.limit))
        lines[queue.name] = [job for job in lines[queue.name] if job.slots <= largest]
        loads.append(replace(queue, demand=sum(job.slots for job in lines[queue.name])))
    growth = _growth(pool_limit, loads, allocate(pool_limit, loads))

    chosen: list[WaitingJob] = []
    for queue in loads:
        taken = _take(lines[queue.name], growth[queue.name], room)
        room -= sum(job.slots for job in taken)
        chosen += taken
    return chosen


def _number(limit: int | None) -> int:
    return _NO_LIMIT if limit is None else limit


def _by_priority(queues: Iterable[QueueLoad]) -> list[QueueLoad]:
    return sorted(queues, key=lambda queue: (queue.priority, queue.name))


def _claim_order(job: WaitingJob) -> tuple[int, datetime, UUID]:
    return -job.priority_weight, job.handed_over_at, job.id


def _growth(pool_limit: int | None, queues: Iterable[QueueLoad], shares: Mapping[str, int]) -> dict[str, int]:
    """Reserve the slots that are really free, in priority order: what each queue may take now."""
    queues = _by_priority(queues)
    free = max(0, _number(pool_limit) - sum(queue.occupied for queue in queues))
    growth = {}
    for queue in queues:
        growth[queue.name] = max(0, min(shares[queue.name] - queue.occupied, free))
        free -= growth[queue.name]
    return growth


def _saves_up(queue: QueueLoad, grown: int, pool_limit: int | None) -> bool:
    """Say whether the queue keeps its new slots closed until they are enough for its first task.

    Airflow would give a slot that is open to a smaller task behind it, and the big one would never start.
    """
    can_fit = queue.next_slots <= min(_number(queue.limit), _number(pool_limit))
    return queue.demand > 0 and can_fit and grown < queue.next_slots


def _spread(left: int, takers: Sequence[QueueLoad], slots: Mapping[str, int]) -> dict[str, int]:
    """Spread what is left: a slot for each queue that may have it, and the rest to the highest that may."""
    spread = {queue.name: slots[queue.name] for queue in takers}
    for portion in (1, _NO_LIMIT):
        for queue in takers:
            more = max(0, min(portion, left, _number(queue.limit) - spread[queue.name]))
            spread[queue.name] += more
            left -= more
    return spread


def _take(line: Iterable[WaitingJob], slots: int, room: int) -> list[WaitingJob]:
    """Take jobs of one queue, in order, into ``slots`` of the pool and ``room`` of the worker."""
    taken = []
    latest: datetime | None = None
    for job in line:
        if latest is not None and job.handed_over_at > latest:
            continue
        if job.slots > slots:
            overtakers_until = job.handed_over_at + MAY_OVERTAKE
            latest = overtakers_until if latest is None else min(latest, overtakers_until)
        elif job.slots <= room:
            taken.append(job)
            slots -= job.slots
            room -= job.slots
    return taken
