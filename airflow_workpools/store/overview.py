# SPDX-License-Identifier: Apache-2.0
"""Work pools as they are doing now: definitions, run-time state and counts together, for CLI, API and UI."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from airflow_workpools.core.jobs import OCCUPYING, JobState
from airflow_workpools.core.names import WorkQueueRef, is_managed_description
from airflow_workpools.core.pools import (
    Delivery,
    InvalidPool,
    PoolStatus,
    QueueStatus,
    WorkPool,
    WorkQueue,
    pool_status,
    queue_status,
)
from airflow_workpools.core.wording import counted
from airflow_workpools.store import airflow_statements as statements
from airflow_workpools.store.capacity import (
    Capacity,
    capacity_of,
    held_by_queue,
    matters,
    slots_of_workers,
)
from airflow_workpools.store.records import WorkerState
from airflow_workpools.store.sessions import airflow_session

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.store.pools import AnyPool, Pools
    from airflow_workpools.store.protocol import RunTimeStore
    from airflow_workpools.store.records import JobCount, RunState, WorkerRecord


@dataclass(frozen=True, kw_only=True)
class QueueOverview:
    """A work queue, and what is in it."""

    ref: WorkQueueRef
    queue: WorkQueue
    status: QueueStatus
    paused: bool
    last_polled_at: datetime | None
    occupied: int
    """Slots that its jobs hold."""
    running: int
    """Jobs that hold them."""
    pending: int
    """Jobs that have been handed over and wait for a slot."""
    scheduled: int
    """Tasks that wait in Airflow until they may be handed over."""
    airflow_slots: int | None
    """Slots of its Airflow pool; None if there is none yet. -1 is no limit."""
    airflow_pool_is_ours: bool = True
    """False if somebody else has made an Airflow pool of that name: then its slots decide, which nobody here sets."""

    @property
    def waiting(self) -> int:
        return self.pending + self.scheduled


@dataclass(frozen=True, kw_only=True)
class PoolOverview:
    """A work pool, what is in it and who serves it."""

    pool: AnyPool
    status: PoolStatus
    paused: bool
    queues: tuple[QueueOverview, ...]
    """By priority; none if the pool's definition is invalid."""
    workers: tuple[WorkerRecord, ...]
    """Those that serve it, whether online or not."""
    workers_online: int
    """Those that can launch its jobs now."""
    hindrance: str | None = None
    """Why none of the workers that are online can."""
    capacity: Capacity = field(default_factory=Capacity)
    """What those can take."""

    @property
    def limit(self) -> int | None:
        return self.pool.concurrency_limit if isinstance(self.pool, WorkPool) else None

    @property
    def reason(self) -> str | None:
        """Why the pool is invalid, or can't give slots to its queues, or be used; None if nothing is wrong."""
        if isinstance(self.pool, InvalidPool):
            return self.pool.reason
        taken = [queue.ref for queue in self.queues if not queue.airflow_pool_is_ours]
        if not taken:
            return self.hindrance or self.no_worker
        return (
            f"Airflow pool '{taken[0].airflow_pool}' was made for something else: its slots decide how many tasks of "
            f"work queue '{taken[0]}' are handed over, and the other queues get none; rename or delete that Airflow "
            "pool, or name the work pool otherwise"
        )

    @property
    def no_worker(self) -> str | None:
        """Why no worker takes jobs of a pull pool; None if one does, or it has a scheduler's."""
        if not isinstance(self.pool, WorkPool) or self.pool.delivery is Delivery.PUSH or self.workers_online:
            return None
        start = f"start one: `airflow workpools worker start --pool {self.pool.name}`"
        alive = [worker for worker in self.workers if worker.state is not WorkerState.STOPPED]
        draining = sum(worker.state is WorkerState.DRAINING for worker in alive)
        known = f"; {counted(draining, 'worker')} of it being drained" if draining else ""
        silent = len(alive) - draining
        known += f"; {counted(silent, 'worker')} of it not heard of" if silent else ""
        return f"no worker that serves the pool is online{known}; {start}"

    @property
    def occupied(self) -> int:
        return sum(queue.occupied for queue in self.queues)

    @property
    def running(self) -> int:
        return sum(queue.running for queue in self.queues)

    @property
    def waiting(self) -> int:
        return sum(queue.waiting for queue in self.queues)

    @property
    def free(self) -> int | None:
        """Slots that are free, and that its workers can fill; None is without limit."""
        own = None if self.limit is None else max(0, self.limit - self.occupied)
        return _least(own, self.capacity.free if self.workers_online else None)

    def free_in(self, queue: QueueOverview) -> int | None:
        """Return the slots that are free for a queue within both limits; None is without limit."""
        limit = queue.queue.concurrency_limit
        own = None if limit is None else max(0, limit - queue.occupied)
        can_take = self.capacity.free_of_queues.get(queue.queue.name, 0) if self.workers_online else None
        return _least(own, self.free, can_take)


def overview(session: Session, pools: Pools, store: RunTimeStore, *, now: datetime) -> list[PoolOverview]:
    """Read what is known of the given pools, with a fixed number of statements."""
    run_state = store.run_state(now=now)
    found = session.execute(statements.airflow_pools()).all()
    return put_together(
        pools,
        run_state=run_state,
        holds=slots_of_workers(store) if matters(run_state) else {},
        jobs=store.counts(list(pools)),
        scheduled=scheduled_tasks(session, pools, run_state.as_of),
        airflow_slots={row.pool: row.slots for row in found},
        foreign={row.pool for row in found if not is_managed_description(row.description)},
    )


def overview_in_loop(pools: Pools, store: RunTimeStore, run_state: RunState) -> list[PoolOverview]:
    """Return how pools are doing, with two statements, and one more where workers have limits.

    Airflow pools' slots are not among it.
    """
    with airflow_session() as session:
        scheduled = scheduled_tasks(session, pools, run_state.as_of)
    return put_together(
        pools,
        run_state=run_state,
        jobs=store.counts(),
        holds=slots_of_workers(store) if matters(run_state) else {},
        scheduled=scheduled,
        airflow_slots={},
    )


def put_together(
    pools: Pools,
    *,
    run_state: RunState,
    jobs: Mapping[WorkQueueRef, Mapping[JobState, JobCount]],
    scheduled: Mapping[str, int],
    airflow_slots: Mapping[str, int],
    foreign: Collection[str] = (),
    holds: Mapping[uuid.UUID, int] = MappingProxyType({}),
) -> list[PoolOverview]:
    """Put together what is known of the given pools.

    :param jobs: the jobs that have not ended.
    :param scheduled: tasks that wait in Airflow, by Airflow pool.
    :param airflow_slots: slots of Airflow pools.
    :param foreign: Airflow pools that were made for something else than a work queue.
    :param holds: slots that the jobs of workers hold, where any worker has a limit.
    """
    return [
        PoolOverview(
            pool=pool,
            paused=run_state.pool_paused(name),
            status=_pool_status(pool, run_state),
            queues=tuple(
                _queue_overview(
                    WorkQueueRef(name, queue.name),
                    queue,
                    run_state,
                    jobs,
                    scheduled,
                    airflow_slots,
                    foreign,
                )
                for queue in (pool.queues if isinstance(pool, WorkPool) else ())
            ),
            workers=_workers_of(pool, run_state),
            workers_online=_workers_online(pool, run_state),
            hindrance=run_state.hindrance(name, push=_is_push(pool), team_name=pool.team_name),
            capacity=_capacity(pool, run_state, jobs, holds),
        )
        for name, pool in pools.items()
    ]


def _queue_overview(
    ref: WorkQueueRef,
    queue: WorkQueue,
    run_state: RunState,
    jobs: Mapping[WorkQueueRef, Mapping[JobState, JobCount]],
    scheduled: Mapping[str, int],
    airflow_slots: Mapping[str, int],
    foreign: Collection[str],
) -> QueueOverview:
    state, counts = run_state.queue(ref), jobs.get(ref, {})
    holding = [count for job_state, count in counts.items() if job_state in OCCUPYING]
    pending = counts.get(JobState.PENDING)
    return QueueOverview(
        ref=ref,
        queue=queue,
        status=queue_status(paused=state.paused, last_polled_at=state.last_polled_at, now=run_state.as_of),
        paused=state.paused,
        last_polled_at=state.last_polled_at,
        occupied=sum(count.slots for count in holding),
        running=sum(count.jobs for count in holding),
        pending=pending.jobs if pending else 0,
        scheduled=scheduled.get(ref.airflow_pool, 0),
        airflow_slots=airflow_slots.get(ref.airflow_pool),
        airflow_pool_is_ours=ref.airflow_pool not in foreign,
    )


def scheduled_tasks(session: Session, pools: Pools, now: datetime) -> Mapping[str, int]:
    """Count the tasks that wait in Airflow for a slot of these pools, by Airflow pool."""
    names = [
        WorkQueueRef(pool.name, queue.name).airflow_pool
        for pool in pools.values()
        if isinstance(pool, WorkPool)
        for queue in pool.queues
    ]
    tasks: dict[str, int] = defaultdict(int)
    for group in session.execute(statements.waiting_tasks(), {"names": names, "overdue_since": now}):
        tasks[group.pool] += group.tasks
    return tasks


def _pool_status(pool: AnyPool, run_state: RunState) -> PoolStatus:
    if isinstance(pool, InvalidPool):
        return PoolStatus.INVALID
    paused = run_state.pool_paused(pool.name)
    return pool_status(paused=paused, workers_online=_workers_online(pool, run_state))


def _workers_of(pool: AnyPool, run_state: RunState) -> tuple[WorkerRecord, ...]:
    return run_state.workers_of(pool.name, push=_is_push(pool), team_name=pool.team_name)


def _workers_online(pool: AnyPool, run_state: RunState) -> int:
    return run_state.workers_online(pool.name, push=_is_push(pool), team_name=pool.team_name)


def _capacity(
    pool: AnyPool,
    run_state: RunState,
    jobs: Mapping[WorkQueueRef, Mapping[JobState, JobCount]],
    holds: Mapping[uuid.UUID, int],
) -> Capacity:
    if isinstance(pool, InvalidPool):
        return Capacity()
    return capacity_of(pool, run_state, held=held_by_queue(pool.name, jobs), holds=holds)


def _least(*numbers: int | None) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


def _is_push(pool: AnyPool) -> bool:
    return isinstance(pool, WorkPool) and pool.delivery is Delivery.PUSH
