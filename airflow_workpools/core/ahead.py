# SPDX-License-Identifier: Apache-2.0
"""Handing over a little ahead, so that a pool of short tasks stays busy.

A task that waits as ``scheduled`` can start only after the scheduler has looked: up to a second after a slot came
free, as Airflow's scheduler sleeps that long when it has found nothing to do, and nobody can wake it. For a task of an
hour that is nothing; for tasks of a second it is a third of the pool's time. So gate 1 gives out a few slots more than
there are: as many as will probably come free before the scheduler looks again. Their tasks wait in the store, where a
worker claims the first of them in the moment in which a slot comes free. What runs is bounded as ever: gate 2, the
claim, is the only authority, and in it priorities decide anew, whatever was handed over first.

What will come free is judged by what has: slots of jobs that ended in the last seconds, and were short. Where tasks
are long, or nothing ends, nothing is handed over ahead, and what waits does so as ``scheduled``. What was handed over
when that ended is first in its queue's line, and starts with the next slot that no queue of higher priority wants.

A task that was handed over ahead still waits, only in another place. So gate 1 counts it as demand, not as held: it
keeps no slot from a queue of higher priority (:func:`looking_ahead`).

All numbers are pool slots. Nothing here reads a clock or a database.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_workpools.core.slots import QueueLoad

WINDOW_SECONDS = 2.0
"""Ends of so long say how many there will be."""
SHORT_SECONDS = 10.0
"""A job that was claimed longer ago says nothing of them: whoever follows it will hold its slot for as long."""
LOOP_SECONDS = 0.5
"""What a busy scheduler may take from one look to the next, besides its sleep."""


def slots_ahead(ended: int, *, idle_seconds: float, limit: int) -> int:
    """Return how many slots to give out before they are free.

    Rounded up to a power of two: one too many costs nothing, while each change has to be written.

    :param ended: slots of short jobs that have come free in the last :data:`WINDOW_SECONDS`.
    :param idle_seconds: how long the scheduler sleeps between two looks.
    :param limit: concurrency limit of the pool or queue; more than all of it can't come free.
    """
    expected = ceil(ended * (idle_seconds + LOOP_SECONDS) / WINDOW_SECONDS)
    return min(1 << (expected - 1).bit_length(), limit) if expected > 0 else 0


def within_parallelism(more: Mapping[str, int], *, wanted: int, parallelism: int | None) -> dict[str, int]:
    """Leave of the slots that may be given out ahead those for which the executor has room.

    What waits in the store takes a slot of the executor's, too. It must not keep one from a task that could run.

    :param more: slots that may be given out ahead, by work pool. Each gets all of them or none.
    :param wanted: slots of all tasks that run or could, by the limits of their pools and queues.
    :param parallelism: how many slots the executor has; None: no limit.
    """
    if parallelism is None:
        return dict(more)
    left, room = {}, parallelism - wanted
    for name, slots in sorted(more.items()):
        if slots <= room:
            left[name] = slots
            room -= slots
    return left


def looking_ahead(load: QueueLoad, *, ahead: int, unclaimed: int) -> QueueLoad:
    """Return a queue as gate 1 has to see it where tasks are handed over ahead.

    :param ahead: slots that may be given out beyond the queue's own limit.
    :param unclaimed: slots of tasks that were handed over and that no worker has claimed.
    """
    if not load.open:  # what waits in the store stays there, too
        return load
    unclaimed = min(unclaimed, load.occupied)
    return replace(
        load,
        limit=None if load.limit is None else load.limit + ahead,
        demand=load.demand + unclaimed,
        occupied=load.occupied - unclaimed,
        # What was handed over goes first: so much more is needed until the one that is overdue can follow.
        overdue_slots=load.overdue_slots + unclaimed if load.overdue_slots else 0,
    )
