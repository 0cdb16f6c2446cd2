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

A task that needs more slots than are free may be passed by smaller ones of its own queue, which keeps slots busy,
but not for ever: once it has waited for a while (``[workpools] reserve_after``), what its queue may take is *kept for
it* until it is enough (:func:`_is_kept_for`): small tasks of the queue end, and are not followed by others. The rule
is that of backfilling batch schedulers, with the reservation put off. It holds within a queue and for the task that is
first in line: tasks of a higher queue, of a greater ``priority_weight``, and those ahead of it go first, however long
it waits. And it holds only while the queue's share is as large as the task: what higher queues occupy does not come
free by waiting here.

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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

UNLIMITED_SLOTS = -1
"""What Airflow calls a pool without a limit."""

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
    """Slots of the smallest task that waits. Gate 1 opens no slot until the queue may take that many at once."""
    overdue_slots: int = 0
    """Slots of the task that is first in line if it has waited for so long that slots are kept for it.

    Gate 1 looks at it; gate 2 sees the jobs themselves.
    """


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
        saves_up = _saves_up(queue, grown, share, pool_limit)
        if share < queue.occupied:
            slots[queue.name] = share
        elif saves_up:
            slots[queue.name] = min(queue.occupied, share - _kept_slots(queue, grown, share))
        else:
            slots[queue.name] = queue.occupied + grown
        if queue.open and not saves_up:
            takers.append(queue)
    if pool_limit is None:
        headroom = {queue.name: UNLIMITED_SLOTS if queue.limit is None else queue.limit for queue in takers}
    else:
        left = pool_limit - sum(queue.occupied + growth[queue.name] for queue in queues)
        headroom = _spread(left, takers, slots)
    return {**slots, **headroom}


def choose(
    waiting: Iterable[WaitingJob],
    *,
    pool_limit: int | None,
    queues: Iterable[QueueLoad],
    room: int,
    overdue_since: datetime | None = None,
    takes_from: Collection[str] | None = None,
) -> list[WaitingJob]:
    """Choose the jobs to claim now, in the order in which they should start.

    The order is the queue's priority, then ``priority_weight`` (greater first), age, id. A job that does
    not fit is passed over, so that a smaller one of its queue may start, until it is overdue: then nothing
    behind it starts before it. A lower queue never takes slots that a higher one waits for. Jobs bigger
    than a limit can never start and stand in nobody's way, nor do those bigger than ``room``: another
    worker may take them.

    :param waiting: jobs of this pool; those of queues that are not given stay where they are.
    :param pool_limit: concurrency limit of the work pool; None is no limit.
    :param queues: their ``demand`` is not looked at: it is what ``waiting`` says.
    :param room: slots that the worker who claims has left.
    :param overdue_since: a job handed over at this time or before is overdue; without a time, none is.
    :param takes_from: queues from which the worker takes jobs; None: from all. What waits in the others, which other
        workers take, gets its slots by the same rule.
    """
    lines = defaultdict(list)
    for job in sorted(waiting, key=_claim_order):
        lines[job.queue].append(job)
    loads = []
    for queue in _by_priority(queues):
        largest = min(_number(pool_limit), _number(queue.limit))
        lines[queue.name] = [job for job in lines[queue.name] if job.slots <= largest]
        loads.append(replace(queue, demand=sum(job.slots for job in lines[queue.name])))
    shares = allocate(pool_limit, loads)
    growth = _growth(pool_limit, loads, shares)

    chosen: list[WaitingJob] = []
    for queue in loads:
        if takes_from is not None and queue.name not in takes_from:
            continue
        taken = _take(
            lines[queue.name],
            growth[queue.name],
            share=shares[queue.name],
            room=room,
            overdue_since=overdue_since,
        )
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


def _saves_up(queue: QueueLoad, grown: int, share: int, pool_limit: int | None) -> bool:
    """Say whether the queue keeps its new slots closed until they are enough for a task that waits.

    Airflow would give a slot that is open to a smaller task behind it, and the big one would never start.
    """
    can_fit = queue.next_slots <= min(_number(queue.limit), _number(pool_limit))
    too_few_for_any = queue.demand > 0 and can_fit and grown < queue.next_slots
    return too_few_for_any or (queue.open and _is_kept_for(queue.overdue_slots, grown, share))


def _kept_slots(queue: QueueLoad, grown: int, share: int) -> int:
    """Return the slots that small tasks of a queue must leave to an overdue one.

    As many must come free as it lacks. With no fewer slots than are occupied, Airflow would hand each that comes
    free to a small task before the next allocation could take it away.
    """
    return queue.overdue_slots if _is_kept_for(queue.overdue_slots, grown, share) else 0


def _is_kept_for(overdue_slots: int, slots: int, share: int) -> bool:
    """Say whether a queue's free slots are kept for an overdue task that needs more of them.

    Only if the queue's share could hold it: that much comes free when the queue's own tasks end.
    """
    return slots < overdue_slots <= share


def _spread(left: int, takers: Sequence[QueueLoad], slots: Mapping[str, int]) -> dict[str, int]:
    """Spread what is left: a slot for each queue that may have it, and the rest to the highest that may."""
    spread = {queue.name: slots[queue.name] for queue in takers}
    for portion in (1, _NO_LIMIT):
        for queue in takers:
            more = max(0, min(portion, left, _number(queue.limit) - spread[queue.name]))
            spread[queue.name] += more
            left -= more
    return spread


def _take(
    line: Iterable[WaitingJob], slots: int, *, share: int, room: int, overdue_since: datetime | None
) -> list[WaitingJob]:
    """Take jobs of one queue, in order, into ``slots`` of the pool and ``room`` of the worker."""
    taken = []
    for job in line:
        if job.slots > slots:
            overdue = overdue_since is not None and job.handed_over_at <= overdue_since
            if overdue and _is_kept_for(job.slots, slots, share):
                break
        elif job.slots <= room:
            taken.append(job)
            slots -= job.slots
            room -= job.slots
    return taken
