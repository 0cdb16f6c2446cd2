# SPDX-License-Identifier: Apache-2.0
"""What workers can take, in slots. Pure.

A worker may have a limit of its own, and restrict itself to some queues. What a queue may grow to is then not only
bounded by the limits of queue and pool, but by what the workers that take from it have free.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from airflow_workpools.core.jobs import OCCUPYING
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import WorkPool
from airflow_workpools.store import rules
from airflow_workpools.store.claim_rules import ANY_ROOM
from airflow_workpools.store.records import WorkerKind

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping, Sequence

    from airflow_workpools.core.jobs import JobState
    from airflow_workpools.core.pools import WorkQueue
    from airflow_workpools.store.pools import Pools
    from airflow_workpools.store.protocol import RunTimeStore
    from airflow_workpools.store.records import JobCount, RunState, WorkerRecord


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


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What the workers of a pool can take: those that are online, do not drain, and that nothing hinders.

    ``None`` is without limit. A worker of several pools counts in each with what it does not hold for the others.
    """

    workers: int = 0
    free: int | None = 0
    """Slots that they can fill now."""
    total: int | None = 0
    """The same, and what the pool's jobs hold, whoever has them."""
    free_of_queues: Mapping[str, int | None] = field(default_factory=dict)
    """By queue; one from which no worker takes is absent."""
    total_of_queues: Mapping[str, int | None] = field(default_factory=dict)

    def limit(self, pool: WorkPool) -> WorkPool:
        """Lower the limits of a pool and its queues to what the workers can take."""
        limits = {queue.name: self.total_of_queues.get(queue.name, 0) for queue in pool.queues}
        lower = lowered(pool, {name: limit for name, limit in limits.items() if limit is not None})
        return replace(lower, concurrency_limit=_least(pool.concurrency_limit, self.total))


def capacity_of(
    pool: WorkPool,
    run_state: RunState,
    *,
    held: Mapping[str, int],
    holds: Mapping[uuid.UUID, int],
) -> Capacity:
    """Say what the workers of a pool can take.

    :param held: slots that the pool's jobs hold, by queue.
    :param holds: slots that the jobs of workers hold.
    """
    usable = [
        worker
        for worker in run_state.workers
        if rules.serves(worker, pool) and worker.can_use(pool.name, run_state.as_of)
    ]
    free, total = _sums(usable, sum(held.values()), holds)
    of_queues = {}
    for queue in pool.queues:
        taking = [worker for worker in usable if worker.takes_from(WorkQueueRef(pool.name, queue.name))]
        if taking:
            of_queues[queue.name] = _sums(taking, held.get(queue.name, 0), holds)
    return Capacity(
        workers=len(usable),
        free=free,
        total=total,
        free_of_queues={name: free for name, (free, _) in of_queues.items()},
        total_of_queues={name: total for name, (_, total) in of_queues.items()},
    )


def _sums(
    workers: Sequence[WorkerRecord], held: int, holds: Mapping[uuid.UUID, int]
) -> tuple[int | None, int | None]:
    if any(worker.slots is None for worker in workers):
        return None, None
    free = sum(free_slots(worker, holds) for worker in workers)
    return free, held + free


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def held_by_queue(pool: str, counts: Mapping[WorkQueueRef, Mapping[JobState, JobCount]]) -> dict[str, int]:
    """Return the slots that the jobs of a pool hold, by queue."""
    return {
        ref.queue: sum(count.slots for state, count in states.items() if state in OCCUPYING)
        for ref, states in counts.items()
        if ref.pool == pool
    }


def matters(run_state: RunState) -> bool:
    """Say whether any worker has a limit, or restricts itself: embedded ones do neither."""
    return any(
        worker.kind is WorkerKind.STANDALONE
        and (worker.slots is not None or worker.queues is not None)
        and worker.online(run_state.as_of)
        for worker in run_state.workers
    )


@dataclass
class WorkerLimits:
    """Remembers what the workers of pools can take, for as long as the run-time state is the same."""

    _known_for: tuple[RunState | None, Pools] = (None, {})
    _lowered: Pools = field(default_factory=dict)

    def lower(self, pools: Pools, run_state: RunState, store: RunTimeStore) -> Pools:
        """Lower the limits of pools and queues to what their workers can take.

        Two statements for each run-time state; none where no worker has a limit. Pools that no worker serves stay as
        they are: nothing is given to them anyway.
        """
        if not matters(run_state):
            return pools
        known_state, known_pools = self._known_for
        if known_state is not run_state or known_pools != pools:
            self._lowered = _within_capacity(pools, run_state, store)
            self._known_for = run_state, pools
        return self._lowered


def _within_capacity(pools: Pools, run_state: RunState, store: RunTimeStore) -> Pools:
    counts = store.counts()
    holds = slots_of_workers(store)

    def limited(pool: WorkPool) -> WorkPool:
        held = held_by_queue(pool.name, counts)
        capacity = capacity_of(pool, run_state, held=held, holds=holds)
        return capacity.limit(pool) if capacity.workers else pool

    return {name: limited(pool) if isinstance(pool, WorkPool) else pool for name, pool in pools.items()}


def slots_of_workers(store: RunTimeStore) -> dict[uuid.UUID, int]:
    """Count the slots that the jobs of workers hold."""
    return {worker_id: count.slots for worker_id, count in store.worker_counts().items()}
