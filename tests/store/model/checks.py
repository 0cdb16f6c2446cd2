# SPDX-License-Identifier: Apache-2.0
"""What must hold whatever happens. Each is stated anew here, not by calling what is under test."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_workpools.core.jobs import ACTIVE, ENDED, OCCUPYING, TRANSITIONS, JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.settings import RESERVE_AFTER
from airflow_workpools.store import rules
from airflow_workpools.store.records import WorkerState
from tests.store.model.world import GRACE_SECONDS, RESUMED

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.store.records import ClaimedJob, JobRecord, RunState
    from tests.store.model.world import World

    Records = Mapping[uuid.UUID, JobRecord]

UNLIMITED = 10**9


def number(limit: int | None) -> int:
    return UNLIMITED if limit is None else limit


def slots(records: Iterable[JobRecord]) -> int:
    return sum(record.pool_slots for record in records)


def by_id(records: Iterable[JobRecord]) -> dict[uuid.UUID, JobRecord]:
    return {record.id: record for record in records}


# -- after every step -----------------------------------------------------------------------------------------


def check_step(before: Records, after: Records, world: World) -> None:
    """Check what became of each job by one step, and that none is lost."""
    for id_, was in before.items():
        if id_ in after:
            check_change(was, after[id_])
        else:
            assert id_ in world.forgotten, f"job {id_} is lost"
    for record in after.values():
        check_record(record)
    check_rounds(after)
    check_reality(after, world)


def check_change(was: JobRecord, now: JobRecord) -> None:
    told = {"reported_at": None, "scheduler_job_id": None}
    if was.state in ENDED:
        assert replace(was, **told) == replace(now, **told), "an ended job has changed"
    assert now.state is was.state or now.state in TRANSITIONS[was.state], f"{was.state} → {now.state}"
    if was.desired_state is not None:
        assert now.desired_state is was.desired_state, "a wish is lost"
        assert now.state in (was.state, *OCCUPYING, *ENDED), "a job that should stop waits again"
    fixed = ("task_instance_id", "round", "ref", "pool_slots", "handed_over_at", "priority_weight")
    assert all(getattr(was, name) == getattr(now, name) for name in fixed)
    assert now.start_attempts - was.start_attempts == (
        was.state in OCCUPYING and now.state is JobState.PENDING
    )


def check_record(record: JobRecord) -> None:
    """Check that what a row says fits together."""
    started = record.worker_id is not None
    assert (record.claimed_at is not None) == started
    if record.state is JobState.PENDING:
        assert not started
        assert record.handle is record.desired_state is record.started_at is None
    if record.state in OCCUPYING:
        assert started
    assert (record.ended_at is not None) == (record.state in ENDED)
    assert record.reported_at is None or record.state in ENDED
    times = [record.handed_over_at, record.claimed_at, record.started_at, record.ended_at]
    assert sorted(time for time in times if time) == [time for time in times if time]


def check_rounds(records: Records) -> None:
    """Of the rounds of a try, one holds slots at most, and only the newest waits."""
    tries = defaultdict(list)
    for record in records.values():
        tries[record.task_instance_id].append(record)
    for rounds in tries.values():
        rounds.sort(key=lambda record: record.round)
        assert [record.round for record in rounds] == list(range(len(rounds)))
        assert sum(record.state in OCCUPYING for record in rounds) <= 1, "a try is started twice at once"
        assert all(record.state is not JobState.PENDING for record in rounds[:-1])


def check_reality(records: Records, world: World) -> None:
    """What runs holds slots, and nothing runs twice, as far as anyone can know."""
    running = defaultdict(list)
    for process in world.processes:
        if not process.alive or process.is_excused or process.job_id in world.doubtful:
            continue
        job = records[process.job_id]
        if (job.reason or "").startswith(rules.WORKER_LOST):
            continue
        assert job.state in OCCUPYING, f"job {job.id} is {job.state} ({job.reason}), but its process runs"
        running[process.task_instance_id].append(process)
    assert all(len(processes) == 1 for processes in running.values()), "a try runs twice at once"


# -- claims ---------------------------------------------------------------------------------------------------


def check_claim(
    before: Records,
    after: Records,
    claimed: Sequence[ClaimedJob],
    pools: Sequence[WorkPool],
    run_state: RunState,
    *,
    worker_id: uuid.UUID,
    room: int,
    now: datetime,
) -> None:
    """Check what one claim took, against the pools as its worker knows them."""
    taken = [before[job.id] for job in claimed]
    assert all(after[job.id].worker_id == worker_id for job in taken)
    assert {job.id for job in taken} == {
        id_ for id_, job in after.items() if id_ in before and before[id_].state is not job.state
    }
    assert slots(taken) <= room
    state = next(worker.state for worker in run_state.workers if worker.id == worker_id)
    assert not taken or state is WorkerState.ONLINE
    for pool in pools:
        of_pool = [job for job in taken if job.ref.pool == pool.name]
        if of_pool:
            assert not run_state.pool_paused(pool.name)
            check_pool(before, of_pool, pool, run_state, now=now)
    idle = room - slots(taken)
    if state is WorkerState.ONLINE and len(pools) == 1 and not run_state.pool_paused(pools[0].name):
        check_nothing_idle(before, taken, pools[0], run_state, idle)


def check_pool(
    before: Records, taken: Sequence[JobRecord], pool: WorkPool, run_state: RunState, *, now: datetime
) -> None:
    held = [job for job in before.values() if job.ref.pool == pool.name and job.state in OCCUPYING]
    assert slots(held) + slots(taken) <= number(pool.concurrency_limit), "the pool's limit is exceeded"
    reach = number(pool.concurrency_limit) - slots(held)
    left = number(pool.concurrency_limit)
    for queue in sorted(pool.queues, key=lambda queue: queue.priority):
        ref_taken = [job for job in taken if job.ref.queue == queue.name]
        ref_held = slots(job for job in held if job.ref.queue == queue.name)
        line = waiting_line(before, pool, queue.name, run_state)
        assert all(job in line for job in ref_taken), "what is paused, too big or not its turn was taken"
        assert ref_held + slots(ref_taken) <= number(queue.concurrency_limit) or not ref_taken
        assert slots(ref_taken) <= max(0, reach), f"'{queue.name}' took what a higher queue waits for"
        assert [job for job in line if job in ref_taken] == ref_taken, "not in the order of their line"
        for position, job in enumerate(line):
            if job not in ref_taken:
                overtook = [one for one in line[position:] if one in ref_taken]
                assert all(one.pool_slots < job.pool_slots for one in overtook), "overtaken by no smaller one"
                share = min(number(queue.concurrency_limit), ref_held + slots(line), left)
                if overtook and job.pool_slots <= share:
                    ahead = slots(one for one in line[:position] if one in ref_taken)
                    room_in_queue = number(queue.concurrency_limit) - ref_held
                    fits = job.pool_slots <= min(room_in_queue, reach) - ahead
                    assert fits or now - job.handed_over_at < RESERVE_AFTER, "an overdue job was passed"
        if not run_state.queue(WorkQueueRef(pool.name, queue.name)).paused:
            left -= min(number(queue.concurrency_limit), ref_held + slots(line), left)
        wanted = min(number(queue.concurrency_limit), ref_held + slots(line)) - ref_held
        reach -= max(0, wanted)


def waiting_line(before: Records, pool: WorkPool, queue: str, run_state: RunState) -> list[JobRecord]:
    """Return the jobs of a queue that may start, in their order."""
    found = pool.find_queue(queue)
    assert found is not None
    largest = min(number(pool.concurrency_limit), number(found.concurrency_limit))
    line = [
        job
        for job in before.values()
        if (job.ref.pool, job.ref.queue) == (pool.name, queue)
        and job.state is JobState.PENDING
        and job.pool_slots <= largest
        and not run_state.queue(job.ref).paused
        and not older_round_is_active(job, before)
    ]
    return sorted(line, key=lambda job: (-job.priority_weight, job.handed_over_at, job.id))


def older_round_is_active(job: JobRecord, records: Records) -> bool:
    return any(
        other.task_instance_id == job.task_instance_id and other.round < job.round and other.state in ACTIVE
        for other in records.values()
    )


def check_nothing_idle(
    before: Records, taken: Sequence[JobRecord], pool: WorkPool, run_state: RunState, room: int
) -> None:
    """Where only tasks of one slot wait, none waits while a slot is free for it."""
    lines = {queue.name: waiting_line(before, pool, queue.name, run_state) for queue in pool.queues}
    if any(job.pool_slots > 1 for line in lines.values() for job in line) or room < 1:
        return
    held = [job for job in before.values() if job.ref.pool == pool.name and job.state in OCCUPYING]
    held += taken
    if slots(held) >= number(pool.concurrency_limit):
        return
    for queue in pool.queues:
        full = slots(job for job in held if job.ref.queue == queue.name) >= number(queue.concurrency_limit)
        assert full or all(job in taken for job in lines[queue.name]), f"slots of '{queue.name}' stay idle"


# -- what schedulers do ---------------------------------------------------------------------------------------


def check_reconciled(before: Records, after: Records, world: World) -> None:
    """Nothing that Airflow wants is stopped, and what is finishing has its time."""
    for id_, was in before.items():
        now = after[id_]
        one = world.find_try(was.task_instance_id)
        is_newest = not any(
            other.task_instance_id == was.task_instance_id and other.round > was.round
            for other in before.values()
        )
        if was.state in ACTIVE and now.state in ENDED and was.desired_state is None:
            assert now.state is JobState.CANCELLED
            assert not (is_newest and world.waits_for(one)), "what Airflow wants was cancelled"
        if was.desired_state is now.desired_state:
            continue
        process = next((one for one in world.processes if one.job_id == id_), None)
        if now.desired_state is JobState.FAILED:
            late = (world.now - was.claimed_at).total_seconds() > was.start_timeout_seconds  # type: ignore[operator]
            assert late
            assert process is None or not process.started, "a task that had started 'did not start in time'"
        else:
            assert not (is_newest and world.waits_for(one)), "what Airflow wants was stopped"
        if process is None or process.task_ended_at is None or not process.alive or not one.is_current:
            continue
        finishing = world.seconds - process.task_ended_at < GRACE_SECONDS
        stopped_by_airflow = one.state in (None, "restarting", "removed")
        assert stopped_by_airflow or not finishing, "a process that was finishing was stopped"


# -- at the end -----------------------------------------------------------------------------------------------


def check_end(records: Sequence[JobRecord], world: World) -> None:
    """With working actors everything comes to its end, and Airflow knows."""
    assert not [job for job in records if job.state in ACTIVE], "a job does not end"
    assert not [one for one in world.processes if one.alive], "a process does not end"
    hanging = [
        one
        for one in world.tries
        if one.is_current and one.state in ("scheduled", "queued", "running", *RESUMED)
    ]
    assert not hanging, f"a task hangs: {hanging[0]}"
