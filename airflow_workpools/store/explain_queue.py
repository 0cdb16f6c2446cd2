# SPDX-License-Identifier: Apache-2.0
"""What the work pool of a task would say of it: the facts for the gates at which the work pool decides.

Both gates are asked in the words of the rule in ``core.slots``. Before the hand-over the counts are those of
Airflow's task instances, as slot allocation takes them; after it those of the store's jobs, as the claim does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from airflow_workpools.core.ahead import looking_ahead
from airflow_workpools.core.jobs import OCCUPYING, JobState
from airflow_workpools.core.names import WorkQueueRef, is_managed_description
from airflow_workpools.core.pools import Delivery, InvalidPool, WorkPool
from airflow_workpools.core.slots import UNLIMITED_SLOTS, airflow_slots
from airflow_workpools.core.task_facts import Holder, WorkQueueFacts
from airflow_workpools.core.teams import foreign_pool, may_use
from airflow_workpools.core.wording import listing
from airflow_workpools.errors import InvalidInput
from airflow_workpools.store import airflow_statements, blocked_tasks, claim_rules
from airflow_workpools.store.ahead import count_unclaimed, look_ahead
from airflow_workpools.store.capacity import Capacity, capacity_of, held_by_queue, slots_of_workers
from airflow_workpools.store.loads import Layout, TaskGroup, lines_of, loads_of, without_held_back
from airflow_workpools.store.records import WorkerState
from airflow_workpools.store.slot_plan import closed_queues, over_limit, queue_loads
from airflow_workpools.store.statements import run_time as statements

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.core.slots import QueueLoad
    from airflow_workpools.store.pools import Pools
    from airflow_workpools.store.protocol import RunTimeStore
    from airflow_workpools.store.records import JobCount, RunState

    Counts: TypeAlias = Mapping[WorkQueueRef, Mapping[JobState, JobCount]]

MAX_HOLDERS = 5
"""Most runs that are named as holders of slots."""


class NamedQueue(NamedTuple):
    """The work queue that a task names, and what is wrong with the name."""

    ref: WorkQueueRef
    problem: str | None = None


class _Problem(NamedTuple):
    text: str
    way_out: str
    fails: bool


def queue_named(text: str | None, default: WorkQueueRef) -> NamedQueue:
    """Read a task's ``queue`` as the hand-over does: one without a slash names no work queue."""
    if not text or "/" not in text:
        return NamedQueue(default)
    try:
        return NamedQueue(WorkQueueRef.parse(text))
    except InvalidInput as error:
        return NamedQueue(default, str(error))


def read_queue(
    session: Session,
    store: RunTimeStore,
    pools: Pools,
    queue: NamedQueue,
    *,
    now: datetime,
    gate_one: bool,
    overdue_since: datetime,
    overdue_slots: int,
    descriptions: Mapping[str, str | None],
    dag_id: str,
) -> WorkQueueFacts:
    """Read all that decides whether a work queue may take one more task.

    :param gate_one: whether to count as before the hand-over, by task instances.
    :param overdue_since: what has waited since then has slots kept for it.
    :param overdue_slots: slots of the largest job ahead in the queue that has waited so long; gate 1 counts tasks.
    :param descriptions: of all Airflow pools, by which those of work queues are known.
    """
    ref = queue.ref
    problem = _problem(pools, queue, descriptions if gate_one else {}) or _foreign(
        session, pools, ref, dag_id
    )
    pool = pools.get(ref.pool)
    if problem is not None or not isinstance(pool, WorkPool):
        text, way_out, fails = problem or (None, None, False)
        return WorkQueueFacts(ref=ref, problem=text, way_out=way_out, fails=fails)
    run_state = store.run_state(now=now)
    counts = store.counts([pool.name])
    push = pool.delivery is Delivery.PUSH
    online = run_state.workers_online(pool.name, push=push, team_name=pool.team_name)
    reach = capacity_of(
        pool,
        run_state,
        held=held_by_queue(pool.name, counts),
        holds=slots_of_workers(store),
    )
    if gate_one:
        loads = _task_loads(
            session, pool, run_state, counts, is_served=online > 0, overdue_since=overdue_since, now=now
        )
    else:
        loads = [
            replace(load, overdue_slots=overdue_slots) if load.name == ref.queue else load
            for load in _job_loads(pool, run_state, counts, is_served=online > 0)
        ]
    loads = [load if load.name in reach.free_of_queues else replace(load, open=False) for load in loads]
    of_pool = run_state.workers_of(pool.name, push=push, team_name=pool.team_name)
    taking = [worker for worker in of_pool if worker.takes_from(ref)]
    return WorkQueueFacts(
        ref=ref,
        pool_paused=run_state.pool_paused(pool.name),
        queue_paused=run_state.queue(ref).paused,
        pool_limit=pool.concurrency_limit,
        queue_limit=pool.queue(ref.queue).concurrency_limit,
        loads=loads,
        queue_holders=_holders(session, ref.pool, ref.queue, gate_one=gate_one),
        pool_holders=_holders(session, ref.pool, None, gate_one=gate_one),
        push=push,
        workers_online=sum(worker.can_use(pool.name, now) for worker in taking),
        workers_elsewhere=online,
        workers_draining=sum(worker.state is WorkerState.DRAINING for worker in taking),
        hindrance=run_state.hindrance(pool.name, push=push, team_name=pool.team_name),
        workers_known=len(of_pool),
        capacity=reach.total_of_queues.get(ref.queue, 0),
        room=_room(pool, loads, reach, ref.queue) if gate_one else reach.free_of_queues.get(ref.queue, 0),
    )


def _room(pool: WorkPool, loads: Sequence[QueueLoad], reach: Capacity, queue: str) -> int | None:
    """Return how many more slots gate 1 gives a queue, as far as workers decide on it; None where they don't."""
    if reach.total is None and reach.total_of_queues.get(queue, 0) is None:
        return None
    limited = reach.limit(pool)
    limits = {one.name: one.concurrency_limit for one in limited.queues}
    slots = airflow_slots(
        limited.concurrency_limit, [replace(load, limit=limits[load.name]) for load in loads]
    )
    occupied = next(load.occupied for load in loads if load.name == queue)
    return None if slots[queue] == UNLIMITED_SLOTS else max(0, slots[queue] - occupied)


def _problem(pools: Pools, queue: NamedQueue, descriptions: Mapping[str, str | None]) -> _Problem | None:
    """Say why a work queue cannot be used, or None if it can."""
    ref, pool = queue.ref, pools.get(queue.ref.pool)
    if queue.problem is not None:
        return _Problem(queue.problem, 'work_queue="pool/queue" in the DAG', fails=True)
    if pool is None:
        return _Problem(
            f"work pool '{ref.pool}' does not exist; there are: {listing(pools)}",
            f"`airflow workpools create {ref.pool}`, or another work queue in the DAG",
            fails=True,
        )
    if isinstance(pool, InvalidPool):
        return _Problem(
            f"work pool '{ref.pool}' is invalid: {pool.reason}",
            f"mend its definition, for example with `airflow workpools update {ref.pool}`",
            fails=False,
        )
    if pool.find_queue(ref.queue) is None:
        names = listing(queue.name for queue in pool.queues)
        return _Problem(
            f"work pool '{ref.pool}' has no work queue '{ref.queue}'; it has: {names}",
            f"`airflow workpools queue create {ref}`, or another work queue in the DAG",
            fails=True,
        )
    return _taken(pool, descriptions)


def _foreign(session: Session, pools: Pools, ref: WorkQueueRef, dag_id: str) -> _Problem | None:
    """Say that the work pool is another team's, if it is."""
    owner = pools[ref.pool].team_name
    if owner is None or may_use(team := blocked_tasks.team_of_dag(session, dag_id), owner=owner):
        return None
    usable = listing(name for name, pool in pools.items() if may_use(team, owner=pool.team_name))
    return _Problem(
        foreign_pool(ref.pool, owner=owner, dag_id=dag_id, team=team),
        f"a work queue of one of these work pools in the DAG: {usable}; "
        f"or `airflow workpools update {ref.pool} --team-name TEAM`",
        fails=True,
    )


def _taken(pool: WorkPool, descriptions: Mapping[str, str | None]) -> _Problem | None:
    """Say which Airflow pool that this work pool needs belongs to somebody else, if one does."""
    names = {WorkQueueRef(pool.name, queue.name).airflow_pool for queue in pool.queues}
    for name in sorted(names & descriptions.keys()):
        if not is_managed_description(descriptions[name]):
            return _Problem(
                f"work pool '{pool.name}' cannot be used: Airflow pool '{name}' was made for something else",
                f"`airflow pools delete {name}`, or another name for the work pool",
                fails=False,
            )
    return None


def _task_loads(
    session: Session,
    pool: WorkPool,
    run_state: RunState,
    counts: Counts,
    *,
    is_served: bool,
    overdue_since: datetime,
    now: datetime,
) -> Sequence[QueueLoad]:
    """Count as slot allocation does: task instances. Those that were handed over ahead hold nothing yet."""
    pools: Pools = {pool.name: pool}
    layout = Layout.of(pools)
    asked = {"names": layout.names, "overdue_since": overdue_since}
    waiting = [TaskGroup(*row) for row in session.execute(airflow_statements.waiting_tasks(), asked)]
    holding = [TaskGroup(*row) for row in session.execute(airflow_statements.holding_tasks())]
    held_back = {
        ref: states[JobState.PENDING].slots
        for ref, states in counts.items()
        if JobState.PENDING in states and run_state.queue(ref).paused
    }
    loads = without_held_back(loads_of(layout, lines_of(waiting), holding), held_back)
    closed = closed_queues(layout, run_state, {pool.name: is_served})
    further = look_ahead(session, pools, now=now)
    unclaimed = count_unclaimed(session, further.pools.keys() | over_limit(layout, loads).keys())
    return [
        looking_ahead(load, ahead=0, unclaimed=unclaimed.get(one.airflow_pool, 0))
        for load, one in zip(queue_loads(pool, layout, closed, loads), layout.queues[pool.name], strict=True)
    ]


def _job_loads(
    pool: WorkPool, run_state: RunState, counts: Counts, *, is_served: bool
) -> Sequence[QueueLoad]:
    """Count as the claim does: jobs, also those of queues that the pool has no longer."""
    is_open = is_served and not run_state.pool_paused(pool.name)
    return claim_rules.job_loads(
        pool,
        paused={
            queue.name
            for queue in pool.queues
            if not is_open or run_state.queue(WorkQueueRef(pool.name, queue.name)).paused
        },
        held={
            ref.queue: sum(count.slots for state, count in states.items() if state in OCCUPYING)
            for ref, states in counts.items()
        },
        pending={
            ref.queue: states[JobState.PENDING].slots
            for ref, states in counts.items()
            if JobState.PENDING in states
        },
    )


def _holders(session: Session, pool: str, queue: str | None, *, gate_one: bool) -> tuple[Holder, ...]:
    statement = statements.holders(pool, queue, waiting_too=gate_one, limit=MAX_HOLDERS)
    return tuple(
        Holder(
            dag_id=row.dag_id,
            run_id=row.run_id,
            queue=row.queue,
            tasks=row.tasks,
            slots=int(row.slots),
            since=row.since,
        )
        for row in session.execute(statement)
    )
