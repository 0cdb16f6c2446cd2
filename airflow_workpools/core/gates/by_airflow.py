# SPDX-License-Identifier: Apache-2.0
"""The gates at which Airflow decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_workpools.core.gates import by_work_pool
from airflow_workpools.core.gates.finding import SCHEDULER_LOOKS, START_A_SCHEDULER, Finding, at, no_scheduler
from airflow_workpools.core.wording import counted

if TYPE_CHECKING:
    from airflow_workpools.core.task_facts import ActiveLimit, TaskFacts


def run(facts: TaskFacts) -> Finding:
    """The DAG is active, and the run has started."""
    dag, found = facts.ref.dag_id, facts.run
    numbers = {
        "run_state": found.state,
        "dag_paused": found.dag_paused,
        "active_runs": found.active_runs,
        "max_active_runs": found.max_active_runs,
    }

    def holds(text: str, way_out: str) -> Finding:
        return Finding(holds=True, text=text, numbers=numbers, way_out=way_out)

    if found.dag_paused:
        return holds(f"DAG '{dag}' is paused", f"`airflow dags unpause {dag}`")
    if found.state not in ("queued", "running"):
        return holds(
            f"the run has ended as {found.state}; nothing of it starts any more",
            "clear the task, or start another run",
        )
    if found.dag_stale and facts.task.state != "scheduled":
        return holds(
            f"DAG '{dag}' is stale: the DAG processor does not find it any more",
            "put its file back, mend its import errors (`airflow dags list-import-errors`), or start "
            "`airflow dag-processor`",
        )
    if found.state == "running":
        return Finding(text="the run has started", numbers=numbers)
    return holds(*_run_waits_for(facts))


def _run_waits_for(facts: TaskFacts) -> tuple[str, str]:
    """Say what a run waits for that has not started, and the way out."""
    found, dag = facts.run, facts.ref.dag_id
    if found.run_after > facts.now:
        return f"the run starts {at(found.run_after)}, not before", "time"
    if found.backfill_paused:
        return "the run has not started: its backfill is paused", "unpause the backfill"
    if found.max_active_runs is not None and found.active_runs >= found.max_active_runs:
        limit_of = "the backfill" if found.in_backfill else f"DAG '{dag}'"
        return (
            f"the run has not started: {found.active_runs} of {found.max_active_runs} runs of {limit_of} are running "
            "(max_active_runs)",
            "the end of one of them, or a greater max_active_runs",
        )
    if no_scheduler(facts):
        return "the run has not started: no scheduler is running", START_A_SCHEDULER
    return "the run has not started yet", SCHEDULER_LOOKS


_TAKES_ITS_TIME = {
    "deferred": ("it is deferred: its trigger waits for an event", "the event; a triggerer must be running"),
    "awaiting_input": ("it waits for somebody's input", "give the input in Airflow's UI"),
}


def dependencies(facts: TaskFacts) -> Finding:
    """Everything is done that must be done before the task, and the scheduler has seen it."""
    state, found = facts.task.state, facts.dependencies
    if state in _TAKES_ITS_TIME:
        text, way_out = _TAKES_ITS_TIME[state]
        return Finding(holds=True, text=text, way_out=way_out)
    if found is None or not found.reasons:
        way_out = START_A_SCHEDULER if no_scheduler(facts) else SCHEDULER_LOOKS
        text = "all is done that it waits for"
        return Finding(
            text=f"{text}, but no scheduler is running" if no_scheduler(facts) else text, way_out=way_out
        )
    unfinished = [
        f"{upstream.task_id} ({f'{upstream.instances} × ' if upstream.instances > 1 else ''}"
        f"{upstream.state or 'not started'})"
        for upstream in found.unfinished
    ]
    return Finding(
        holds=True,
        text="; ".join([*found.reasons, *([f"upstream: {', '.join(unfinished)}"] if unfinished else [])]),
        numbers={
            "upstream": [
                {"task_id": one.task_id, "state": one.state, "instances": one.instances}
                for one in found.unfinished
            ]
        },
        way_out="what it waits for; `explain` those tasks"
        if unfinished
        else "what is named here; time alone, if that is all it waits for",
    )


_ACTIVE_WORDS = {
    "max_active_tasks": "tasks of the run are queued or running",
    "max_active_tis_per_dag": "instances of the task are active in all runs",
    "max_active_tis_per_dagrun": "instances of the task are active in the run",
}


def concurrency(facts: TaskFacts) -> Finding:
    """The DAG's and the task's own limits."""
    numbers = {one.name: {"active": one.active, "limit": one.limit} for one in facts.limits}
    for one in facts.limits:
        if one.active >= one.limit:
            return Finding(
                holds=True,
                text=_active(one),
                numbers=numbers,
                way_out=f"the end of one of them, or a greater {one.name}",
            )
    return Finding(text="; ".join(map(_active, facts.limits)) or None, numbers=numbers)


def _active(limit: ActiveLimit) -> str:
    words = _ACTIVE_WORDS.get(limit.name, "are active")
    return f"{limit.active} of {limit.limit} {words} ({limit.name})"


def airflow_pool(facts: TaskFacts) -> Finding:
    """The Airflow pool has enough open slots.

    Those of a work queue's own pool are what its work pool lets through, so whatever holds there is the
    reason; only where nothing does is the pool itself what the task waits for.
    """
    pool, asked, queue = facts.airflow_pool, facts.task.pool_slots, facts.task.work_queue
    if pool is None:
        return Finding()
    numbers = {
        "slots": pool.slots,
        "open": pool.open,
        "running": pool.running,
        "queued": pool.queued,
        "deferred": pool.deferred,
        "asked": asked,
    }
    slots = "unlimited slots" if pool.slots is None else counted(pool.slots, "slot")
    text = (
        f"Airflow pool '{pool.name}' has {slots}, {pool.running} running, {pool.queued} queued"
        + (f", {pool.deferred} deferred" if pool.deferred else "")
        + f"; the task asks for {asked}"
        if pool.exists
        else f"there is no Airflow pool '{pool.name}'"
    )
    enough = pool.exists and (pool.open is None or pool.open >= asked)
    if facts.gate_one:
        decided = by_work_pool.holds(facts)
        return Finding(
            holds=not enough and not decided,
            text=f"{text} (the work pool sets its slots)",
            numbers=numbers,
            way_out=START_A_SCHEDULER if no_scheduler(facts) else "the scheduler's next heartbeat",
        )
    if pool.refuses:
        way_out = "another pool= in the DAG, or none: the work queue then has one of its own"
        return Finding(holds=True, text=pool.refuses, numbers=numbers, way_out=way_out)
    if not pool.exists:
        way_out = f"`airflow pools set {pool.name} SLOTS DESCRIPTION`, or name another pool in the DAG"
    elif not pool.ours and queue is not None and pool.name == queue.airflow_pool:
        way_out = f"the end of tasks in this pool; it is not the work queue's own: `airflow pools delete {pool.name}`"
    elif pool.slots is not None and asked > pool.slots:
        way_out = "more slots (`airflow pools set`), or a smaller pool_slots: it can never start like this"
    else:
        way_out = "the end of tasks in this pool, or more slots (`airflow pools set`)"
    return Finding(holds=not enough, text=text, numbers=numbers, way_out=way_out)


def executor(facts: TaskFacts) -> Finding:
    """A scheduler has room for one more task."""
    if facts.task.state == "queued":
        if facts.task.work_queue is not None:
            return Finding(text="it is being handed over", way_out=SCHEDULER_LOOKS)
        other = facts.task.executor or "the default executor"
        return Finding(text=f"handed over to {other}, which has not started it", way_out="its executor")
    found = facts.executor
    if found is None:
        return Finding()
    numbers = {
        "parallelism": found.parallelism,
        "schedulers": [{"job_id": one.job_id, "tasks": one.tasks} for one in found.schedulers],
    }
    if not found.schedulers:
        return Finding(holds=True, text="no scheduler is running", numbers=numbers, way_out=START_A_SCHEDULER)
    limit = found.parallelism
    held = ", ".join(
        f"scheduler {one.job_id} has {one.tasks} of {'unlimited' if limit is None else limit} tasks"
        for one in found.schedulers
    )
    if limit is not None and all(one.tasks >= limit for one in found.schedulers):
        return Finding(
            holds=True,
            text=f"the executor is full: {held} ([core] parallelism)",
            numbers=numbers,
            way_out="the end of any task, a greater [core] parallelism, or one more scheduler",
        )
    return Finding(text=f"{held}: the task may be handed over", numbers=numbers, way_out=SCHEDULER_LOOKS)
