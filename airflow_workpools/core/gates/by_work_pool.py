# SPDX-License-Identifier: Apache-2.0
"""The gates at which the work pool decides, before the hand-over or at the claim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.core.gates.finding import Finding, age
from airflow_workpools.core.slots import UNLIMITED_SLOTS, airflow_slots
from airflow_workpools.core.wording import counted, duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from airflow_workpools.core.task_facts import Holder, TaskFacts, WorkQueueFacts


def work_queue(facts: TaskFacts) -> Finding:
    """Pool and queue exist, and their definition is valid."""
    found = facts.work_queue
    if found is None:
        return Finding()
    if found.problem is None:
        return Finding(text=f"work queue '{found.ref}' is there")
    follows = "the task fails with this reason within seconds" if found.fails else "the task waits"
    return Finding(holds=True, text=f"{found.problem}; {follows}", way_out=found.way_out)


def paused(facts: TaskFacts) -> Finding:
    """Neither pool nor queue is paused."""
    found = facts.work_queue
    if found is None:
        return Finding()
    numbers = {"pool_paused": found.pool_paused, "queue_paused": found.queue_paused}
    if found.pool_paused:
        name = found.ref.pool
        return Finding(
            holds=True,
            text=f"work pool '{name}' is paused",
            numbers=numbers,
            way_out=f"`airflow workpools resume {name}`",
        )
    if found.queue_paused:
        return Finding(
            holds=True,
            text=f"work queue '{found.ref}' is paused",
            numbers=numbers,
            way_out=f"`airflow workpools queue resume {found.ref}`",
        )
    return Finding(text="neither pool nor queue is paused", numbers=numbers)


def queue_limit(facts: TaskFacts) -> Finding:
    """The queue's concurrency limit has room."""
    found = facts.work_queue
    if found is None or found.load is None:
        return Finding()
    return _limit(
        f"work queue '{found.ref}'",
        limit=found.queue_limit,
        held=found.load.occupied,
        asked=facts.task.pool_slots,
        waiting=found.load.demand,
        holders=found.queue_holders,
        raise_it=f"`airflow workpools queue set-concurrency-limit {found.ref} SLOTS`",
        now=facts.now,
    )


def pool_limit(facts: TaskFacts) -> Finding:
    """The pool's concurrency limit has room, and no queue of higher priority is to have it."""
    found = facts.work_queue
    if found is None or found.load is None:
        return Finding()
    asked = facts.task.pool_slots
    held = sum(load.occupied for load in found.loads)
    finding = _limit(
        f"work pool '{found.ref.pool}'",
        limit=found.pool_limit,
        held=held,
        asked=asked,
        waiting=sum(load.demand for load in found.loads),
        holders=found.pool_holders,
        raise_it=f"`airflow workpools set-concurrency-limit {found.ref.pool} SLOTS`",
        now=facts.now,
    )
    if finding.holds or not found.load.open or _has_share(found, asked):
        return finding
    free = None if found.pool_limit is None else found.pool_limit - held
    higher = {
        load.name: load.demand
        for load in found.loads
        if load.priority < found.load.priority and load.open and load.demand
    }
    first = ", ".join(f"{name} (waiting: {counted(slots, 'slot')})" for name, slots in higher.items())
    reserved = (
        f"queues of higher priority: {first}" if higher else "a task that asks for more slots than are free"
    )
    return Finding(
        holds=True,
        text=f"work pool '{found.ref.pool}' has {free} of {found.pool_limit} slots free, kept for {reserved}",
        numbers={**finding.numbers, "kept_for": higher},
        way_out="those tasks go first; or a greater limit, or another priority of the queue",
    )


def _has_share(found: WorkQueueFacts, asked: int) -> bool:
    """Say whether the rule gives the queue enough slots for the task now."""
    load = found.load
    assert load is not None
    slots = airflow_slots(found.pool_limit, found.loads)[load.name]
    return slots == UNLIMITED_SLOTS or slots - load.occupied >= asked


def _limit(
    what: str,
    *,
    limit: int | None,
    held: int,
    asked: int,
    waiting: int,
    holders: Sequence[Holder],
    raise_it: str,
    now: datetime,
) -> Finding:
    numbers: dict[str, Any] = {
        "limit": limit,
        "held": held,
        "free": None if limit is None else max(0, limit - held),
        "asked": asked,
        "waiting": waiting,
    }
    if limit is None:
        return Finding(text=f"{what} has no limit", numbers=numbers)
    text = f"{held} of {counted(limit, 'slot')} of {what} {'is' if held == 1 else 'are'} held"
    if held + asked <= limit:
        return Finding(text=text, numbers=numbers)
    numbers["holders"] = [_holder(holder) for holder in holders]
    if asked > limit:
        return Finding(
            holds=True,
            text=f"the task asks for {counted(asked, 'slot')}, and {what} has {limit}: it can never start like this",
            numbers=numbers,
            way_out=f"{raise_it}, or a smaller pool_slots" if limit else raise_it,
        )
    return Finding(
        holds=True,
        text=f"{text}, the task asks for {asked}{_held_by(holders, now)}",
        numbers=numbers,
        way_out=f"the end of one of its tasks, or {raise_it}",
    )


def _held_by(holders: Iterable[Holder], now: datetime) -> str:
    shown = [
        f"{one.dag_id} / {one.run_id} ({one.slots} in {one.queue}, for {duration(age(one.since, now))})"
        for one in holders
    ]
    return f"; held by {', '.join(shown)}" if shown else ""


def _holder(holder: Holder) -> dict[str, Any]:
    return {
        "dag_id": holder.dag_id,
        "run_id": holder.run_id,
        "queue": holder.queue,
        "tasks": holder.tasks,
        "slots": holder.slots,
        "since": holder.since.isoformat(),
    }


def worker(facts: TaskFacts) -> Finding:
    """A worker that serves the pool is online and, for a job that waits, has room."""
    found = facts.work_queue
    if found is None:
        return Finding()
    numbers = {
        "workers_online": found.workers_online,
        "workers_known": found.workers_known,
        "room": found.room,
        "capacity": found.capacity,
        "workers_draining": found.workers_draining,
    }
    asked = facts.task.pool_slots
    if found.workers_online and found.room is not None and found.room < asked:
        return Finding(
            holds=True,
            text=f"{counted(found.workers_online, 'worker')} of work pool '{found.ref.pool}' online, with room for "
            f"{counted(found.room, 'slot')} in all{_of_capacity(found)}; the task asks for {asked}",
            numbers=numbers,
            way_out="the end of one of their jobs, one more worker, or a greater limit of theirs",
        )
    if found.workers_online:
        return Finding(text=f"workers online: {found.workers_online}", numbers=numbers)
    if found.hindrance is not None:
        return Finding(
            holds=True,
            text=f"no worker can launch jobs of work pool '{found.ref.pool}' now: {found.hindrance}",
            numbers={**numbers, "hindrance": found.hindrance},
            way_out="mend that; the workers try again by themselves, and the task waits until then",
        )
    if found.workers_elsewhere:
        return Finding(
            holds=True,
            text=f"no worker that takes jobs of work queue '{found.ref}' is online; "
            f"{counted(found.workers_elsewhere, 'worker')} of its pool only from other queues",
            numbers=numbers,
            way_out=f"a worker for this queue: `airflow workpools worker start --pool {found.ref.pool} --work-queue "
            f"{found.ref.queue}`",
        )
    if found.workers_draining:
        return Finding(
            holds=True,
            text=f"every worker that would take jobs of work pool '{found.ref.pool}' is being drained "
            f"({found.workers_draining})",
            numbers=numbers,
            way_out="another worker, or `airflow workpools worker resume NAME`",
        )
    if found.push:
        way_out = "start a scheduler whose [core] executor has the WorkPoolExecutor: it brings a worker along"
    else:
        way_out = (
            f"start a worker for the pool: `airflow workpools worker start --pool {found.ref.pool}`; or let schedulers "
            f"start its jobs: `airflow workpools update {found.ref.pool} --delivery push`"
        )
    text = f"no worker that serves work pool '{found.ref.pool}' is online"
    return Finding(holds=True, text=text, numbers=numbers, way_out=way_out)


def _of_capacity(found: WorkQueueFacts) -> str:
    return "" if found.capacity is None else f" of {found.capacity}"


def holds(facts: TaskFacts) -> bool:
    """Say whether any of these gates holds the task."""
    return any(gate(facts).holds for gate in (work_queue, paused, queue_limit, pool_limit, worker))
