# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import NotFound
from airflow_workpools.store.records import Report
from airflow_workpools.store.tables import jobs
from tests.store.rigs import NOW, Rig, later, new_job, work_pool

EXAMPLE = work_pool(limit=10, low=(10, None), high=(5, 3), critical=(1, 1))


def queues_of(rig: Rig, state: JobState = JobState.CLAIMED) -> dict[str, int]:
    counts = rig.store.counts()
    return {ref.queue: states[state].slots for ref, states in counts.items() if state in states}


def test_a_claimed_job_comes_with_all_that_its_worker_needs(rig: Rig) -> None:
    job = new_job(job_variables={"image": "a:1"}, start_timeout_seconds=12.5, map_index=4, try_number=2)
    rig.hand_over(job)
    worker = rig.worker()
    (claimed,) = rig.claim(worker, now=later(3))

    assert claimed.id == claimed.task_instance_id == job.task_instance_id
    assert claimed.workload == job.workload
    assert claimed.job_variables == {"image": "a:1"}
    assert claimed.start_timeout_seconds == 12.5
    assert claimed.start_attempts == 0
    assert (claimed.map_index, claimed.try_number) == (4, 2)
    assert claimed.state is JobState.CLAIMED
    assert claimed.handle is None
    record = rig.record(claimed.id)
    assert (record.worker_id, record.claimed_at) == (worker, later(3))


def test_the_workload_of_a_claimed_job_stays_out_of_its_repr(rig: Rig) -> None:
    rig.hand_over(new_job(workload='{"secret": "hunter2"}'))
    assert "hunter2" not in repr(rig.claim(rig.worker()))


def test_a_job_is_claimed_once(rig: Rig) -> None:
    rig.hand_over(new_job(), new_job())
    first, second = rig.worker(), rig.worker()
    assert len(rig.claim(first)) == 2
    assert rig.claim(first) == []
    assert rig.claim(second) == []


def test_jobs_are_claimed_by_queue_then_weight_then_age_then_id(rig: Rig) -> None:
    low, high = uuid.UUID(int=1), uuid.UUID(int=2)
    rig.hand_over(new_job("etl/low", task_id="6", priority_weight=99))
    rig.hand_over(new_job("etl/high", task_id="5", priority_weight=1))
    rig.hand_over(new_job("etl/high", task_id="4", priority_weight=5), now=later(2))
    rig.hand_over(new_job("etl/high", task_id="3", priority_weight=5, task_instance_id=high), now=later(1))
    rig.hand_over(new_job("etl/high", task_id="2", priority_weight=5, task_instance_id=low), now=later(1))
    rig.hand_over(new_job("etl/high", task_id="1", priority_weight=9), now=later(3))

    claimed = rig.claim(rig.worker(), work_pool(high=(1, None), low=(2, None)))
    assert [job.task_id for job in claimed] == ["1", "2", "3", "4", "5", "6"]


def test_the_reference_example_runs_one_critical_three_high_and_six_low(rig: Rig) -> None:
    for queue in ("low", "high", "critical"):
        rig.hand_over(*(new_job(f"etl/{queue}") for _ in range(12)))
    claimed = rig.claim(rig.worker(), EXAMPLE)
    assert [job.ref.queue for job in claimed] == ["critical", *["high"] * 3, *["low"] * 6]
    assert rig.claim(rig.worker(), EXAMPLE) == []


def test_a_critical_job_gets_the_next_slot_that_comes_free(rig: Rig) -> None:
    rig.hand_over(*(new_job("etl/low") for _ in range(12)))
    worker = rig.worker()
    running = rig.claim(worker, EXAMPLE)
    (critical,) = rig.hand_over(new_job("etl/critical"), now=later(1))
    assert rig.claim(worker, EXAMPLE) == []

    rig.store.report(worker, [Report(job_id=running[0].id, state=JobState.SUCCEEDED)], now=later(2))
    assert [job.id for job in rig.claim(worker, EXAMPLE)] == [critical]


def test_every_occupying_state_holds_slots_and_no_other_does(rig: Rig) -> None:
    pool = work_pool(limit=3)
    worker = rig.worker()
    ids = rig.hand_over(*(new_job() for _ in range(9)))
    rig.claim(worker, pool)
    taken = [job.id for job in rig.store.mine(worker)]
    for id_, state in zip(taken, (JobState.SUBMITTED, JobState.RUNNING), strict=False):
        rig.store.report(worker, [Report(job_id=id_, state=state)], now=NOW)
    assert rig.claim(worker, pool) == []

    for id_, state in zip(taken, (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED), strict=True):
        rig.store.report(worker, [Report(job_id=id_, state=state)], now=NOW)
    assert len(rig.claim(worker, pool)) == 3
    assert len(ids) == 9


def test_pool_slots_count_not_jobs(rig: Rig) -> None:
    rig.hand_over(*(new_job(pool_slots=3, task_id=str(n)) for n in range(4)))
    assert len(rig.claim(rig.worker(), work_pool(limit=10))) == 3


def test_room_is_in_slots(rig: Rig) -> None:
    rig.hand_over(*(new_job(pool_slots=2) for _ in range(4)))
    worker = rig.worker()
    assert len(rig.claim(worker, room=5)) == 2
    assert rig.claim(worker, room=1) == []
    assert rig.claim(worker, room=0) == []


def test_a_worker_may_say_how_many_jobs_it_takes_whatever_their_slots(rig: Rig) -> None:
    pool = work_pool(limit=100, high=(1, None), low=(2, None))
    low = [rig.hand_over(new_job("etl/low"), now=later(n))[0] for n in range(5)]
    high = [rig.hand_over(new_job("etl/high", pool_slots=30), now=later(5 + n))[0] for n in range(3)]
    worker = rig.worker()
    assert [job.id for job in rig.claim(worker, pool, most=2)] == high[:2]
    assert {job.id for job in rig.claim(worker, pool, most=3)} == {high[2], *low[:2]}
    assert rig.claim(worker, pool, most=0) == []


def test_a_worker_takes_from_pools_in_turn_as_many_as_it_may(rig: Rig) -> None:
    rig.hand_over(*(new_job(f"{pool}/default") for pool in ("a", "b") for _ in range(3)))
    claimed = rig.claim(rig.worker(), work_pool("a"), work_pool("b"), most=4)
    assert sorted(job.ref.pool for job in claimed) == ["a", "a", "b", "b"]


def test_jobs_too_big_for_the_worker_do_not_hide_what_is_behind_them(rig: Rig) -> None:
    rig.hand_over(*(new_job(pool_slots=4) for _ in range(3)))
    (small,) = rig.hand_over(new_job(), now=later(1))
    assert [job.id for job in rig.claim(rig.worker(), room=1)] == [small]


def test_jobs_bigger_than_a_limit_do_not_hide_what_is_behind_them(rig: Rig) -> None:
    rig.hand_over(*(new_job(pool_slots=4) for _ in range(3)))
    (small,) = rig.hand_over(new_job(), now=later(100))
    assert [job.id for job in rig.claim(rig.worker(), work_pool(limit=3), room=1)] == [small]


def test_a_lower_queue_takes_no_slot_that_a_higher_one_waits_for_even_if_this_worker_has_no_room_for_it(
    rig: Rig,
) -> None:
    pool = work_pool(limit=4, high=(1, None), low=(2, None))
    rig.hand_over(new_job("etl/high", pool_slots=2), new_job("etl/high", pool_slots=2), new_job("etl/low"))
    assert rig.claim(rig.worker(), pool, room=1) == []


def test_a_long_backlog_does_not_matter(rig: Rig) -> None:
    rig.hand_over(*(new_job("etl/low") for _ in range(1500)))
    (high,) = rig.hand_over(new_job("etl/high"), now=later(1))
    claimed = rig.claim(rig.worker(), work_pool(limit=2, high=(1, None), low=(2, None)), room=1)
    assert [job.id for job in claimed] == [high]


def test_a_pool_may_have_hundreds_of_queues(rig: Rig) -> None:
    queues = {f"q{n}": (n + 1, None) for n in range(330)}
    ids = rig.hand_over(new_job("etl/q329"), new_job("etl/q0"), new_job("etl/q150"))
    claimed = rig.claim(rig.worker(), work_pool(default=(1000, None), **queues))
    assert [job.id for job in claimed] == [ids[1], ids[2], ids[0]]


def test_more_jobs_than_one_statement_takes_are_claimed_together(rig: Rig) -> None:
    ids = rig.hand_over(*(new_job() for _ in range(1100)))
    assert {job.id for job in rig.claim(rig.worker(), room=2000)} == set(ids)


@pytest.mark.parametrize("limit", [0, 1])
def test_limits_of_pool_and_queue_hold(rig: Rig, limit: int) -> None:
    rig.hand_over(new_job(), new_job())
    assert len(rig.claim(rig.worker(), work_pool(limit=limit))) == limit
    rig.hand_over(new_job("other/q"), new_job("other/q"))
    assert len(rig.claim(rig.worker(), work_pool("other", q=(1, limit)))) == limit


def test_a_paused_pool_starts_nothing_and_keeps_what_runs(rig: Rig) -> None:
    rig.hand_over(new_job(), new_job())
    worker = rig.worker()
    (running,) = rig.claim(worker, room=1)
    rig.store.set_pool_paused("etl", True)
    assert rig.claim(worker) == []
    assert rig.store.wishes(worker) == []
    assert rig.state(running.id) is JobState.CLAIMED

    rig.store.set_pool_paused("etl", False)
    assert len(rig.claim(worker)) == 1


def test_a_paused_queue_starts_nothing_but_its_slots_count(rig: Rig) -> None:
    for queue in ("low", "high"):
        rig.hand_over(*(new_job(f"etl/{queue}") for _ in range(12)))
    worker = rig.worker()
    assert len(rig.claim(worker, EXAMPLE, room=2)) == 2  # two high
    rig.store.set_queue_paused(WorkQueueRef("etl", "high"), True)
    rig.claim(worker, EXAMPLE)
    assert queues_of(rig) == {"high": 2, "low": 8}

    rig.store.set_queue_paused(WorkQueueRef("etl", "high"), False)
    assert rig.claim(worker, EXAMPLE) == []


def test_a_paused_queue_of_another_pool_is_another_queue(rig: Rig) -> None:
    rig.store.set_queue_paused(WorkQueueRef("other"), True)
    rig.hand_over(new_job())
    assert len(rig.claim(rig.worker())) == 1


def test_slots_held_by_a_queue_that_the_pool_has_no_longer_count(rig: Rig) -> None:
    rig.hand_over(new_job("etl/gone"), new_job("etl/gone"), new_job("etl/gone"))
    worker = rig.worker()
    assert len(rig.claim(worker, work_pool(gone=(1, None)), room=2)) == 2
    rig.hand_over(new_job(), new_job(), new_job())
    claimed = rig.claim(worker, work_pool(limit=3))
    assert [job.ref.queue for job in claimed] == ["default"]


def test_only_the_given_pools_are_claimed_from(rig: Rig) -> None:
    rig.hand_over(new_job("one"), new_job("two"))
    assert [job.ref.pool for job in rig.claim(rig.worker(), work_pool("one"))] == ["one"]


def test_pools_take_turns_so_that_none_starves_the_others(rig: Rig) -> None:
    rig.hand_over(*(new_job("long") for _ in range(50)))
    rig.hand_over(new_job("short"), new_job("short"), now=later(60))
    claimed = rig.claim(rig.worker(), work_pool("long"), work_pool("short"), room=4)
    assert sorted(job.ref.pool for job in claimed) == ["long", "long", "short", "short"]


def test_a_job_waits_while_an_older_round_of_its_try_still_runs(rig: Rig) -> None:
    job, worker = new_job(), rig.worker()
    (first,) = rig.claimed(job, worker=worker)
    (second,) = rig.hand_over(job, now=later(1))
    assert rig.claim(worker) == []

    rig.store.report(worker, [Report(job_id=first, state=JobState.SUCCEEDED)], now=later(2))
    assert [job.id for job in rig.claim(worker)] == [second]


def test_a_job_that_was_handed_over_again_ends_instead_of_waiting_again(rig: Rig) -> None:
    job, worker = new_job(), rig.worker()
    (first,) = rig.claimed(job, worker=worker)
    (second,) = rig.hand_over(job, now=later(1))
    assert rig.store.requeue(worker, [first], "not launched", now=later(2)) == 1
    record = rig.record(first)
    assert (record.state, record.reason, record.ended_at) == (
        JobState.CANCELLED,
        "handed over again",
        later(2),
    )
    assert [job.id for job in rig.claim(worker)] == [second]


def test_two_rounds_that_both_wait_are_claimed_one_after_the_other(sql: Rig, engine: sa.Engine) -> None:
    """A requeue and a hand-over at the same moment don't see each other."""
    job, worker = new_job(), sql.worker()
    (first,) = sql.claimed(job, worker=worker)
    (second,) = sql.hand_over(job, now=later(1))
    with engine.begin() as connection:
        waits = {"state": "pending", "worker_id": None, "claimed_at": None}
        connection.execute(sa.update(jobs).where(jobs.c.id == first).values(waits))
    assert [job.id for job in sql.claim(worker)] == [first]
    assert sql.claim(worker) == []
    sql.store.report(worker, [Report(job_id=first, state=JobState.FAILED)], now=later(2))
    assert [job.id for job in sql.claim(worker)] == [second]


def test_a_cancelled_job_is_not_claimed(rig: Rig) -> None:
    job_ids = rig.hand_over(new_job())
    rig.store.request_cancel(job_ids=job_ids, reason="no more", now=NOW)
    assert rig.claim(rig.worker()) == []


def test_a_worker_that_drains_or_has_stopped_gets_nothing(rig: Rig) -> None:
    rig.hand_over(new_job())
    draining, stopped = rig.worker(), rig.worker()
    rig.store.drain_worker(draining)
    rig.store.stop_worker(stopped, now=NOW)
    assert rig.claim(draining) == []
    assert rig.claim(stopped) == []


def test_an_unknown_worker_is_told_to_register(rig: Rig) -> None:
    with pytest.raises(NotFound, match="not registered"):
        rig.claim(uuid.uuid4())


def test_no_pools_no_jobs(rig: Rig) -> None:
    rig.hand_over(new_job())
    assert rig.store.claim(rig.worker(), [], room=5, now=NOW) == []
