# SPDX-License-Identifier: Apache-2.0
"""What would start next in a work pool, in order, and what keeps the rest waiting.

The rule that decides is the one by which workers claim, :func:`~airflow_workpools.core.slots.choose`. It is asked
twice. First for the jobs that have been handed over: nothing that is still in Airflow can take a slot from
them. Then for the tasks that wait as ``scheduled``, with the slots of all those jobs taken.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_workpools.core.jobs import OCCUPYING, JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import Delivery
from airflow_workpools.core.slots import QueueLoad, WaitingJob, choose
from airflow_workpools.settings import RESERVE_AFTER
from airflow_workpools.store import airflow_statements as statements
from airflow_workpools.store import capacity, claim_rules
from airflow_workpools.store.claim_rules import ANY_ROOM

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.store.protocol import RunTimeStore


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A job, or a task that may become one, which waits in a work queue."""

    ref: WorkQueueRef
    id: uuid.UUID
    """Of the task instance, where no job has been made of it."""
    is_job: bool
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    slots: int
    priority_weight: int
    since: datetime
    """What decides between equals: the earlier goes first."""
    run_is_full: int | None = None
    """The DAG's ``max_active_tasks``, if the run has as many active tasks without this one."""
    waits_for: str | None = None
    """What must happen first; None if it would start now."""
    can_start: bool = True
    """Whether it starts as soon as enough slots are free."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is known of a pool beside what waits in it. Numbers are slots, by queue."""

    held: Mapping[str, int]
    """Slots that jobs hold."""
    pending: Mapping[str, int]
    """Slots of jobs that have been handed over and wait."""
    pool_paused: bool = False
    paused: Collection[str] = ()
    """Queues that are paused."""
    room: int | None = ANY_ROOM
    """Slots that the workers can fill; None if no worker can launch any."""
    hindrance: str | None = None
    """Why the workers that are online can't."""
    reach: WorkPool | None = None
    """The pool with its limits lowered to what the workers can take."""
    served: Collection[str] | None = None
    """Queues from which a worker takes jobs; None: all."""
    overdue_since: datetime | None = None
    """What has waited since then has slots kept for it."""


def preview(
    session: Session,
    pool: WorkPool,
    store: RunTimeStore,
    *,
    limit: int,
    now: datetime,
    reserve_after: timedelta = RESERVE_AFTER,
) -> list[Waiting]:
    """Return the first that wait in a pool: what would start now, what comes then, and what can't start.

    Tasks whose author chose an Airflow pool of their own appear when they have been handed over.
    """
    conditions = replace(_conditions(pool, store, now), overdue_since=now - reserve_after)
    free = ANY_ROOM if pool.concurrency_limit is None else pool.concurrency_limit
    depth = max(limit, min(free, claim_rules.MAX_LOOKAHEAD))
    refs = [WorkQueueRef(pool.name, queue.name) for queue in pool.queues]
    jobs = [job for ref in refs for job in _jobs(store, ref, depth)]
    tasks = _tasks(session, refs, depth, now)
    return order(pool, jobs, tasks, conditions)[:limit]


def order(
    pool: WorkPool, jobs: Sequence[Waiting], tasks: Sequence[Waiting], conditions: Conditions
) -> list[Waiting]:
    """Put what waits into the order in which it would start, and say what it waits for. Pure."""
    jobs = [_blocked(pool, job, conditions) for job in jobs]
    tasks = [_blocked(pool, task, conditions) for task in tasks]
    held = dict(conditions.held)
    jobs_now = _choose(pool, jobs, held, conditions, room=conditions.room)
    _add(held, jobs_now)
    taken = {
        name: conditions.held.get(name, 0)
        + (0 if name in conditions.paused else conditions.pending.get(name, 0))
        for name in {*conditions.held, *conditions.pending}
    }
    tasks_now = _choose(pool, tasks, taken, conditions, room=ANY_ROOM)
    _add(taken, tasks_now)
    starting = {item.id for item in (*jobs_now, *tasks_now)}
    jobs, tasks = _without(jobs, starting), _without(tasks, starting)
    later = [
        *(replace(job, waits_for=_missing(pool, job, held, conditions)) for job in _in_turn(pool, jobs)),
        *(replace(task, waits_for=_missing(pool, task, taken, conditions)) for task in _in_turn(pool, tasks)),
    ]
    stuck = [item for item in (*jobs, *tasks) if not item.can_start]
    return [*jobs_now, *tasks_now, *later, *stuck]


def _blocked(pool: WorkPool, item: Waiting, conditions: Conditions) -> Waiting:
    """Say what keeps something from starting however many slots are free."""
    queue = pool.queue(item.ref.queue)
    reason = None
    if pool.concurrency_limit is not None and item.slots > pool.concurrency_limit:
        reason = f"nothing: {item.slots} slots are more than the limit of work pool '{pool.name}'"
    elif queue.concurrency_limit is not None and item.slots > queue.concurrency_limit:
        reason = f"nothing: {item.slots} slots are more than the limit of work queue '{item.ref}'"
    elif conditions.pool_paused:
        reason = f"work pool '{pool.name}' to be resumed"
    elif queue.name in conditions.paused:
        reason = f"work queue '{item.ref}' to be resumed"
    elif conditions.hindrance is not None:
        reason = f"the infrastructure of work pool '{pool.name}': {conditions.hindrance}"
    elif conditions.room is None:
        reason = f"a worker that serves work pool '{pool.name}' to come online"
    elif conditions.served is not None and queue.name not in conditions.served:
        reason = f"a worker that takes jobs of work queue '{item.ref}' to come online"
    elif item.run_is_full is not None:
        reason = f"tasks of its run to end: max_active_tasks of the DAG is {item.run_is_full}"
    return item if reason is None else replace(item, can_start=False, waits_for=reason)


def _missing(pool: WorkPool, item: Waiting, held: Mapping[str, int], conditions: Conditions) -> str:
    """Say what something that could start lacks, when what starts before it has its slots."""
    limit = pool.queue(item.ref.queue).concurrency_limit
    if limit is not None and limit - held.get(item.ref.queue, 0) < item.slots:
        return f"slots of work queue '{item.ref}', which has {limit}"
    free = None if pool.concurrency_limit is None else pool.concurrency_limit - sum(held.values())
    if conditions.reach is not None and (free is None or free >= item.slots):
        own = conditions.reach.queue(item.ref.queue).concurrency_limit
        of_pool = conditions.reach.concurrency_limit
        room_of_queue = None if own is None else own - held.get(item.ref.queue, 0)
        room_of_pool = None if of_pool is None else of_pool - sum(held.values())
        if any(room is not None and room < item.slots for room in (room_of_queue, room_of_pool)):
            return "a worker with room for it"
    if pool.concurrency_limit is not None:
        return f"slots of work pool '{pool.name}', which has {pool.concurrency_limit}"
    return "a worker with room for it"


def _choose(
    pool: WorkPool,
    items: Iterable[Waiting],
    held: Mapping[str, int],
    conditions: Conditions,
    *,
    room: int | None,
) -> list[Waiting]:
    if conditions.pool_paused or room is None:
        return []
    can_start = {item.id: item for item in items if item.can_start}
    chosen = claim_rules.choose_from(
        conditions.reach or pool,
        map(_as_job, can_start.values()),
        paused=conditions.paused,
        held=held,
        room=room,
        overdue_since=conditions.overdue_since,
    )
    return [can_start[job.id] for job in chosen]


def _in_turn(pool: WorkPool, items: Iterable[Waiting]) -> list[Waiting]:
    """Return what can start in the order in which the rule would take it, were there slots for all."""
    can_start = {item.id: item for item in items if item.can_start}
    queues = [
        QueueLoad(name=queue.name, priority=queue.priority, limit=None, open=True, demand=0, occupied=0)
        for queue in pool.queues
    ]
    everything = sum(item.slots for item in can_start.values())
    chosen = choose(map(_as_job, can_start.values()), pool_limit=None, queues=queues, room=everything)
    return [can_start[job.id] for job in chosen]


def _as_job(item: Waiting) -> WaitingJob:
    return WaitingJob(
        id=item.id,
        queue=item.ref.queue,
        priority_weight=item.priority_weight,
        slots=item.slots,
        handed_over_at=item.since,
    )


def _add(held: dict[str, int], items: Iterable[Waiting]) -> None:
    for item in items:
        held[item.ref.queue] = held.get(item.ref.queue, 0) + item.slots


def _without(items: Iterable[Waiting], ids: Collection[uuid.UUID]) -> list[Waiting]:
    return [item for item in items if item.id not in ids]


# -- what is known ---------------------------------------------------------------------------------------------


def _conditions(pool: WorkPool, store: RunTimeStore, now: datetime) -> Conditions:
    run_state = store.run_state(now=now)
    held: dict[str, int] = {}
    pending: dict[str, int] = {}
    for ref, states in store.counts([pool.name]).items():
        held[ref.queue] = sum(count.slots for state, count in states.items() if state in OCCUPYING)
        pending[ref.queue] = states[JobState.PENDING].slots if JobState.PENDING in states else 0
    reach = capacity.capacity_of(pool, run_state, held=held, holds=capacity.slots_of_workers(store))
    return Conditions(
        held=held,
        pending=pending,
        pool_paused=run_state.pool_paused(pool.name),
        paused={
            queue.name for queue in pool.queues if run_state.queue(WorkQueueRef(pool.name, queue.name)).paused
        },
        room=(ANY_ROOM if reach.free is None else reach.free) if reach.workers else None,
        reach=reach.limit(pool) if reach.workers else None,
        served=frozenset(reach.free_of_queues),
        hindrance=run_state.hindrance(
            pool.name, push=pool.delivery is Delivery.PUSH, team_name=pool.team_name
        ),
    )


def _jobs(store: RunTimeStore, ref: WorkQueueRef, limit: int) -> list[Waiting]:
    return [
        Waiting(
            ref=ref,
            id=job.id,
            is_job=True,
            dag_id=job.dag_id,
            task_id=job.task_id,
            run_id=job.run_id,
            map_index=job.map_index,
            slots=job.pool_slots,
            priority_weight=job.priority_weight,
            since=job.handed_over_at,
        )
        for job in store.line(ref, limit=limit)
    ]


def _tasks(session: Session, refs: Iterable[WorkQueueRef], limit: int, now: datetime) -> list[Waiting]:
    """Read what waits in Airflow; tasks that their run's limit holds back are marked as such."""
    active: dict[tuple[str, str], int] = defaultdict(int)
    for group in session.execute(statements.holding_tasks()):
        active[group.dag_id, group.run_id] += group.tasks
    found: list[Waiting] = []
    for ref in refs:
        for row in session.execute(statements.next_tasks(ref.airflow_pool, limit)):
            run = row.dag_id, row.run_id
            full = active[run] >= row.max_active_tasks
            active[run] += not full
            found.append(
                Waiting(
                    ref=ref,
                    id=row.id,
                    is_job=False,
                    dag_id=row.dag_id,
                    task_id=row.task_id,
                    run_id=row.run_id,
                    map_index=row.map_index,
                    slots=row.pool_slots,
                    priority_weight=row.priority_weight,
                    # They will be handed over in the order in which they were read.
                    since=now + timedelta(microseconds=len(found)),
                    run_is_full=row.max_active_tasks if full else None,
                )
            )
    return found
