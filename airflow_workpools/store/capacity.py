# SPDX-License-Identifier: Apache-2.0
"""What workers can take, in slots. Pure.

A worker may have a limit of its own, and restrict itself to some queues. What a queue may grow to is then not only
bounded by the limits of queue and pool, but by what the workers that take from it have free.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.store.rules import ANY_ROOM

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping, Sequence

    from airflow_workpools.core.pools import WorkPool, WorkQueue
    from airflow_workpools.store.records import WorkerRecord


def free_slots(worker: WorkerRecord, holds: Mapping[uuid.UUID, int]) -> int:
    """Return how many more slots a worker can fill.

    :param holds: slots that the jobs of workers hold; a worker without any is absent.
    """
    return ANY_ROOM if worker.slots is None else max(0, worker.slots - holds.get(worker.id, 0))


def within_reach(
    pool: WorkPool,
    worker: WorkerRecord,
    others: Sequence[WorkerRecord],
    *,
    held: Mapping[str, int],
    holds: Mapping[uuid.UUID, int],
) -> WorkPool:
    """Lower the limits of the queues from which a worker takes nothing to what the others can fill now.

    What waits there goes first where its queue does, but only as far as somebody takes it: a higher queue whose own
    workers are full, or gone, keeps no slot from a lower one.

    :param others: workers that claim jobs of the pool.
    :param held: slots that the pool's jobs hold, by queue.
    :param holds: slots that the jobs of workers hold.
    """
    reach = {}
    for queue in pool.queues:
        ref = WorkQueueRef(pool.name, queue.name)
        if not worker.takes_from(ref):
            room = sum(free_slots(other, holds) for other in others if other.takes_from(ref))
            reach[queue.name] = held.get(queue.name, 0) + room
    return lowered(pool, reach)


def lowered(pool: WorkPool, limits: Mapping[str, int]) -> WorkPool:
    """Give queues of a pool a lower limit, if theirs is not lower anyway."""

    def lower(queue: WorkQueue) -> WorkQueue:
        limit = min(one for one in (limits[queue.name], queue.concurrency_limit) if one is not None)
        return replace(queue, concurrency_limit=limit)

    queues = (lower(queue) if queue.name in limits else queue for queue in pool.queues)
    return replace(pool, queues=tuple(queues))
