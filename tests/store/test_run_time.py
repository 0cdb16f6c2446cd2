# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import uuid

import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import Conflict, NotFound
from airflow_workpools.store.records import (
    JobCount,
    JobFilter,
    NewJob,
    Purged,
    QueueRunState,
    Report,
    RunState,
)
from tests.store.rigs import NOW, Rig, later, new_job

HIGH, LOW = WorkQueueRef("etl", "high"), WorkQueueRef("etl", "low")


def test_nothing_is_known_at_first_and_nothing_is_paused(rig: Rig) -> None:
    state = rig.store.run_state(now=NOW)
    assert state == RunState(as_of=NOW)
    assert not state.pool_paused("etl")
    assert state.queue(HIGH) == QueueRunState(paused=False, last_polled_at=None)


def test_pools_and_queues_are_paused_and_resumed_one_by_one(rig: Rig) -> None:
    rig.store.set_pool_paused("etl", True)
    rig.store.set_queue_paused(HIGH, True)
    rig.store.set_queue_paused(LOW, False)
    for _ in range(2):
        state = rig.store.run_state(now=NOW)
        assert state.pools == {"etl": True}
        assert state.queue(HIGH).paused
        assert not state.queue(LOW).paused
        rig.store.set_pool_paused("etl", True)

    rig.store.set_pool_paused("etl", False)
    rig.store.set_queue_paused(HIGH, False)
    state = rig.store.run_state(now=NOW)
    assert not state.pool_paused("etl")
    assert not state.queue(HIGH).paused


def test_names_that_differ_in_case_are_different_pools_and_queues(rig: Rig) -> None:
    rig.store.set_pool_paused("etl", True)
    rig.store.set_pool_paused("ETL", False)
    rig.store.set_queue_paused(HIGH, True)
    rig.store.set_queue_paused(WorkQueueRef("etl", "High"), False)
    rig.hand_over(new_job("etl/high"), new_job("ETL/high"))
    state = rig.store.run_state(now=NOW)
    assert state.pools == {"etl": True, "ETL": False}
    assert state.queue(HIGH).paused
    assert not state.queue(WorkQueueRef("etl", "High")).paused
    assert set(rig.store.counts(["ETL"])) == {WorkQueueRef("ETL", "high")}


def test_pausing_a_queue_keeps_the_time_of_its_last_poll(rig: Rig) -> None:
    rig.store.poll([HIGH], now=NOW)
    rig.store.set_queue_paused(HIGH, True)
    assert rig.store.run_state(now=NOW).queue(HIGH) == QueueRunState(paused=True, last_polled_at=NOW)


def test_what_has_not_ended_is_counted_by_queue_and_state_in_jobs_and_slots(rig: Rig) -> None:
    worker = rig.worker()
    (done, _) = rig.claimed(
        new_job("etl/high", pool_slots=2), new_job("etl/high", pool_slots=3), worker=worker
    )
    rig.store.report(worker, [Report(job_id=done, state=JobState.SUCCEEDED)], now=NOW)
    rig.hand_over(new_job("etl/high"), new_job("etl/high", pool_slots=4), new_job("etl/low"), new_job("ml"))
    expected = {
        HIGH: {JobState.CLAIMED: JobCount(1, 3), JobState.PENDING: JobCount(2, 5)},
        LOW: {JobState.PENDING: JobCount(1, 1)},
    }
    assert rig.store.counts(["etl"]) == expected
    assert rig.store.counts() == {**expected, WorkQueueRef("ml"): {JobState.PENDING: JobCount(1, 1)}}
    assert rig.store.counts([]) == {}


# -- listings -------------------------------------------------------------------------------------------------


def test_jobs_are_listed_page_by_page_the_newest_first(rig: Rig) -> None:
    ids = [rig.hand_over(new_job(), now=later(n))[0] for n in range(5)]
    newest_first = ids[::-1]
    assert [job.id for job in rig.store.jobs()] == newest_first
    assert [job.id for job in rig.store.jobs(limit=2)] == newest_first[:2]
    assert [job.id for job in rig.store.jobs(limit=2, offset=2)] == newest_first[2:4]
    assert rig.store.jobs(offset=9) == []


def test_a_listing_can_be_restricted_in_every_way(rig: Rig) -> None:
    worker = rig.worker()
    claimed = new_job("etl/high", dag_id="a", task_id="x", run_id="r1")
    waiting = new_job("ml", dag_id="b", task_id="y", run_id="r2")
    rig.claimed(claimed, worker=worker)
    rig.hand_over(waiting)
    a, b = claimed.task_instance_id, waiting.task_instance_id

    def found(**restrictions: object) -> set[uuid.UUID]:
        return {job.id for job in rig.store.jobs(JobFilter(**restrictions))}  # type: ignore[arg-type]

    assert found() == {a, b}
    assert found(pools=("etl",)) == {a}
    assert found(pools=("etl", "ml")) == {a, b}
    assert found(queues=(HIGH, LOW)) == {a}
    assert found(queues=(LOW,)) == found(queues=()) == found(pools=()) == set()
    assert found(states=frozenset({JobState.PENDING})) == {b}
    assert found(dag_id="a") == found(task_id="x") == found(run_id="r1") == {a}
    assert found(dag_id="a", task_id="y") == set()
    assert found(job_ids=(a,)) == found(task_instance_ids=(a,)) == {a}
    assert found(worker_ids=(worker, uuid.uuid4())) == {a}
    assert found(worker_ids=()) == set()


def test_a_line_is_in_the_order_of_the_claim(rig: Rig) -> None:
    older = rig.hand_over(new_job(priority_weight=5), now=later(1))
    newer = rig.hand_over(new_job(priority_weight=5), now=later(2))
    heavier = rig.hand_over(new_job(priority_weight=9, pool_slots=100), now=later(3))
    rig.hand_over(new_job("etl/high"), new_job("ml"))

    line = [job.id for job in rig.store.line(WorkQueueRef("etl"), limit=10)]

    assert line == [*heavier, *older, *newer]
    assert [job.id for job in rig.store.line(WorkQueueRef("etl"), limit=2)] == line[:2]
    assert [job.id for job in rig.claim(rig.worker(), room=1000)] == line
    assert rig.store.line(WorkQueueRef("etl"), limit=10) == []


def test_a_job_whose_older_round_still_runs_is_not_in_the_line(rig: Rig) -> None:
    worker, job = rig.worker(), new_job()
    (first,) = rig.claimed(job, worker=worker)
    (second,) = rig.hand_over(job)
    assert rig.store.line(WorkQueueRef("etl"), limit=10) == []

    rig.store.report(worker, [Report(job_id=first, state=JobState.SUCCEEDED)], now=NOW)
    assert [waiting.id for waiting in rig.store.line(WorkQueueRef("etl"), limit=10)] == [second]


def test_what_has_not_ended_is_counted_by_worker(rig: Rig) -> None:
    busy, done_with, _idle = rig.worker(), rig.worker(), rig.worker()
    rig.claimed(new_job(pool_slots=2), new_job(pool_slots=3), worker=busy)
    (ended,) = rig.claimed(new_job(), worker=done_with)
    rig.store.report(done_with, [Report(job_id=ended, state=JobState.FAILED)], now=NOW)
    rig.hand_over(new_job())
    assert rig.store.worker_counts() == {busy: JobCount(2, 5)}


def test_a_single_job_is_found_or_not(rig: Rig) -> None:
    (id_,) = rig.hand_over(new_job())
    assert rig.store.job(id_).id == id_
    stranger = uuid.uuid4()
    with pytest.raises(NotFound, match=f"no job {stranger}"):
        rig.store.job(stranger)


# -- forgetting -----------------------------------------------------------------------------------------------


def test_a_pool_with_active_jobs_is_not_forgotten(rig: Rig) -> None:
    rig.store.set_pool_paused("etl", True)
    ids = rig.hand_over(new_job("etl/high"), new_job("etl/low"))
    with pytest.raises(Conflict, match="work pool 'etl' has 2 jobs that have not ended"):
        rig.store.forget_pool("etl")
    assert rig.store.run_state(now=NOW).pool_paused("etl")

    rig.store.request_cancel(job_ids=ids, reason="no more", now=NOW)
    rig.store.set_queue_paused(HIGH, True)
    rig.store.set_queue_paused(WorkQueueRef("ml"), True)
    rig.store.forget_pool("etl")
    state = rig.store.run_state(now=NOW)
    assert not state.pool_paused("etl")
    assert set(state.queues) == {WorkQueueRef("ml")}
    rig.store.forget_pool("etl")


def test_a_queue_with_active_jobs_is_not_forgotten(rig: Rig) -> None:
    rig.store.set_queue_paused(HIGH, True)
    rig.store.set_queue_paused(LOW, True)
    rig.hand_over(new_job("etl/high"))
    with pytest.raises(
        Conflict, match=r"work queue 'etl/high' has 1 job that has not ended; .* jobs cancel`"
    ):
        rig.store.forget_queue(HIGH)
    rig.store.forget_queue(LOW)
    assert set(rig.store.run_state(now=NOW).queues) == {HIGH}


def done(rig: Rig, *jobs: NewJob, state: str = "success") -> None:
    """Let the tries of jobs be over for Airflow."""
    rig.airflow.put(state, NOW, *jobs)


def test_old_jobs_and_workers_are_purged_and_nothing_else(rig: Rig) -> None:
    worker, idle = rig.worker(), rig.worker()
    tries = [new_job(), new_job(), new_job()]
    old, recent, running = rig.claimed(*tries, worker=worker)
    rig.store.report(worker, [Report(job_id=old, state=JobState.SUCCEEDED)], now=later(1))
    rig.store.report(worker, [Report(job_id=recent, state=JobState.SUCCEEDED)], now=later(100))
    (waiting,) = rig.hand_over(new_job())
    done(rig, *tries)

    assert rig.store.purgeable(before=later(50)) == Purged(jobs=1, workers=1)
    assert rig.store.purge(before=later(50), limit=10) == Purged(jobs=1, workers=1)
    assert {job.id for job in rig.store.jobs()} == {recent, running, waiting}
    assert [record.id for record in rig.store.run_state(now=NOW).workers] == [worker]
    assert idle not in {record.id for record in rig.store.run_state(now=NOW).workers}
    assert (
        rig.store.purge(before=later(50), limit=10) == rig.store.purgeable(before=later(50)) == Purged(0, 0)
    )


@pytest.mark.parametrize("state", ["queued", "running", "deferred", "up_for_reschedule", None])
def test_a_job_stays_as_long_as_its_try_goes_on_in_airflow(rig: Rig, state: str | None) -> None:
    """Airflow may not have heard of its end; or hands the try over again, and the job's id must not be reused."""
    job = new_job()
    ids = rig.hand_over(job)
    rig.store.request_cancel(job_ids=ids, reason="x", now=NOW)
    done(rig, job, state=state)  # type: ignore[arg-type]
    assert rig.store.purge(before=later(9), limit=10) == rig.store.purgeable(before=later(9)) == Purged(0, 0)

    done(rig, job, state="failed")
    assert rig.store.purgeable(before=later(9)) == Purged(1, 0)
    assert rig.store.purge(before=later(9), limit=10) == Purged(1, 0)


def test_a_job_whose_task_instance_is_gone_is_purged(rig: Rig) -> None:
    job = new_job()
    ids = rig.hand_over(job)
    rig.store.request_cancel(job_ids=ids, reason="x", now=NOW)
    rig.airflow.remove(job, None)
    assert rig.store.purge(before=later(9), limit=10) == Purged(1, 0)


def test_of_several_rounds_the_newest_is_purged_first_so_that_none_is_taken_for_the_first(rig: Rig) -> None:
    job = new_job()
    first, second = (rig.hand_over(job, now=later(n))[0] for n in range(2))
    rig.store.request_cancel(job_ids=[second], reason="x", now=later(3))
    done(rig, job)
    assert rig.store.purgeable(before=later(2)) == Purged(0, 0)
    assert rig.store.purge(before=later(2), limit=10) == Purged(0, 0)

    (third,) = rig.hand_over(job, now=later(4))
    assert len({first, second, third}) == 3
    rig.store.request_cancel(job_ids=[third], reason="x", now=later(5))
    done(rig, job)
    assert rig.store.purgeable(before=later(9)) == Purged(3, 0)
    assert [rig.store.purge(before=later(9), limit=10).jobs for _ in range(4)] == [1, 1, 1, 0]


def test_a_purge_is_bounded(rig: Rig) -> None:
    tries = [new_job() for _ in range(5)]
    ids = rig.hand_over(*tries)
    rig.store.request_cancel(job_ids=ids, reason="x", now=NOW)
    done(rig, *tries)
    assert rig.store.purgeable(before=later(1)).total == 5
    assert [rig.store.purge(before=later(1), limit=2).total for _ in range(4)] == [2, 2, 1, 0]
