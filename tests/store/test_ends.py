# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import uuid

import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.store.records import EndedJob, Report
from airflow_workpools.testing import MemoryStore
from tests.airflow_versions import since_3_4
from tests.store.rigs import NOW, SCHEDULER, Rig, later, new_job

OTHER = SCHEDULER + 1


def end(
    rig: Rig, *ids: uuid.UUID, worker: uuid.UUID, at: float = 1, state: JobState = JobState.SUCCEEDED
) -> None:
    outcomes = rig.store.report(worker, [Report(job_id=id_, state=state) for id_ in ids], now=later(at))
    assert all(outcome.accepted for outcome in outcomes)


def ended(rig: Rig, scheduler: int = SCHEDULER, limit: int = 100) -> list[uuid.UUID]:
    return [job.id for job in rig.store.ended(scheduler, limit=limit)]


# -- telling Airflow ------------------------------------------------------------------------------------------


def test_the_end_of_a_job_comes_with_all_that_airflow_wants_to_know(rig: Rig) -> None:
    worker = rig.worker()
    job = new_job("etl/high", map_index=3, try_number=2)
    (id_,) = rig.claimed(job, worker=worker)
    rig.store.report(
        worker, [Report(job_id=id_, state=JobState.FAILED, reason="evicted", exit_code=137)], now=later(1)
    )
    assert rig.store.ended(SCHEDULER, limit=1) == [
        EndedJob(
            id=id_,
            task_instance_id=job.task_instance_id,
            dag_id=job.dag_id,
            task_id=job.task_id,
            run_id=job.run_id,
            map_index=3,
            try_number=2,
            state=JobState.FAILED,
            reason="evicted",
            exit_code=137,
            ref=WorkQueueRef("etl", "high"),
            log_path="dag/run/task/1.log",
            latest=True,
            desired_state=None,
            scheduled_at=None,
            handed_over_at=NOW,
            claimed_at=NOW,
            started_at=None,
            ended_at=later(1),
        )
    ]


def test_the_log_of_a_job_that_succeeded_is_nobodys_business(rig: Rig) -> None:
    worker = rig.worker()
    end(rig, *rig.claimed(new_job(), worker=worker), worker=worker)
    assert [job.log_path for job in rig.store.ended(SCHEDULER, limit=1)] == [None]


def test_a_workload_without_a_log_is_fine(rig: Rig) -> None:
    worker = rig.worker()
    end(rig, *rig.claimed(new_job(workload="{}"), worker=worker), worker=worker, state=JobState.FAILED)
    assert [job.log_path for job in rig.store.ended(SCHEDULER, limit=1)] == [None]


def test_ends_are_told_in_order_some_at_a_time_until_they_are_marked_as_told(rig: Rig) -> None:
    worker = rig.worker()
    ids = rig.claimed(*(new_job() for _ in range(3)), worker=worker)
    for at, id_ in enumerate(reversed(ids)):
        end(rig, id_, worker=worker, at=at)
    in_order = list(reversed(ids))

    assert ended(rig, limit=2) == in_order[:2]
    assert ended(rig, limit=2) == in_order[:2]
    rig.store.mark_reported(in_order[:2], now=later(9))
    assert ended(rig, limit=2) == in_order[2:]
    assert rig.record(in_order[0]).reported_at == later(9)


def test_jobs_that_have_not_ended_cannot_be_marked_as_told(rig: Rig) -> None:
    (waiting,) = rig.hand_over(new_job())
    rig.store.mark_reported([waiting, uuid.uuid4()], now=NOW)
    rig.store.mark_reported([], now=NOW)
    assert rig.record(waiting).reported_at is None


def test_every_scheduler_hears_of_its_own_jobs(rig: Rig) -> None:
    worker = rig.worker()
    mine, others = rig.claimed(new_job(), new_job(scheduler_job_id=OTHER), worker=worker)
    end(rig, mine, others, worker=worker)
    assert ended(rig) == [mine]
    assert ended(rig, OTHER) == [others]


def test_the_end_of_an_older_round_is_told_as_such(rig: Rig) -> None:
    worker, job = rig.worker(), new_job()
    (first,) = rig.claimed(job, worker=worker)
    (second,) = rig.hand_over(job, now=later(1))
    end(rig, first, worker=worker, at=2)
    rig.claim(worker)
    end(rig, second, worker=worker, at=3)
    assert [(job.id, job.latest) for job in rig.store.ended(SCHEDULER, limit=9)] == [
        (first, False),
        (second, True),
    ]


def test_what_is_still_to_end_is_known(rig: Rig) -> None:
    worker = rig.worker()
    ids = rig.claimed(new_job(), worker=worker) + rig.hand_over(new_job(), now=later(1))
    rig.hand_over(new_job(scheduler_job_id=OTHER))
    assert [job.id for job in rig.store.active(SCHEDULER)] == ids
    assert [job.state for job in rig.store.active(SCHEDULER)] == [JobState.CLAIMED, JobState.PENDING]
    assert rig.store.active_count(SCHEDULER) == 2

    end(rig, ids[0], worker=worker)
    assert rig.store.active_count(SCHEDULER) == 1


# -- adoption -------------------------------------------------------------------------------------------------


def adopt(rig: Rig, *ids: uuid.UUID, scheduler: int = OTHER) -> dict[uuid.UUID, uuid.UUID]:
    with rig.airflow.session() as session:
        adopted = rig.store.adopt(ids, scheduler, session=session)
    return {task_instance_id: job.id for task_instance_id, job in adopted.items()}


def test_a_new_scheduler_hears_of_the_jobs_that_it_adopts(rig: Rig) -> None:
    worker = rig.worker()
    waiting, running = new_job(), new_job()
    rig.claimed(running, worker=worker)
    rig.hand_over(waiting)
    ids = [waiting.task_instance_id, running.task_instance_id]
    stranger = uuid.uuid4()
    assert adopt(rig, *ids, stranger) == {id_: id_ for id_ in ids}

    assert rig.store.active_count(SCHEDULER) == 0
    assert {job.id for job in rig.store.active(OTHER)} == set(ids)
    end(rig, running.task_instance_id, worker=worker)
    assert ended(rig) == []
    assert ended(rig, OTHER) == [running.task_instance_id]


def test_an_end_that_was_told_is_told_again_after_adoption(rig: Rig) -> None:
    worker = rig.worker()
    (id_,) = rig.claimed(new_job(), worker=worker)
    end(rig, id_, worker=worker)
    rig.store.mark_reported([id_], now=later(2))
    assert ended(rig) == []

    assert adopt(rig, id_) == {id_: id_}
    assert ended(rig, OTHER) == [id_]
    assert ended(rig) == []


def test_of_a_task_handed_over_several_times_the_newest_job_is_adopted(rig: Rig) -> None:
    job, worker = new_job(), rig.worker()
    (first,) = rig.claimed(job, worker=worker)
    end(rig, first, worker=worker)
    rig.store.mark_reported([first], now=later(1))
    (second,) = rig.claimed(job, worker=worker, now=later(2))
    (third,) = rig.hand_over(job, now=later(3))

    assert adopt(rig, job.task_instance_id) == {job.task_instance_id: third}
    assert {active.id for active in rig.store.active(OTHER)} == {second, third}
    end(rig, second, worker=worker, at=4)
    assert [(old.id, old.latest) for old in rig.store.ended(OTHER, limit=9)] == [(second, False)]


def test_adopting_nothing_or_very_many_works(rig: Rig) -> None:
    assert adopt(rig) == {}
    jobs = [new_job() for _ in range(1100)]
    rig.hand_over(*jobs)
    assert len(adopt(rig, *(job.task_instance_id for job in jobs))) == 1100
    assert rig.store.active_count(OTHER) == 1100


def test_adoption_in_a_transaction_that_is_rolled_back_has_not_happened(sql: Rig) -> None:
    (id_,) = sql.hand_over(new_job())
    with sql.airflow.session() as session:
        sql.store.adopt([id_], OTHER, session=session)
        session.rollback()
    assert sql.store.active_count(SCHEDULER) == 1


# -- what is measured -----------------------------------------------------------------------------------------


def test_an_end_says_since_when_its_task_had_been_scheduled(rig: Rig) -> None:
    worker, known, gone = rig.worker(), new_job(), new_job()
    ids = rig.claimed(known, gone, worker=worker)
    rig.airflow.scheduled(later(-30), known, gone)
    rig.store.report(worker, [Report(job_id=id_, state=JobState.RUNNING) for id_ in ids], now=later(2))
    rig.airflow.remove(gone, later(3))  # retried: its task instance has a new id
    end(rig, *ids, worker=worker, at=3)
    found = {job.id: job for job in rig.store.ended(SCHEDULER, limit=9)}
    remembered = since_3_4("Airflow keeps every try") and not isinstance(rig.store, MemoryStore)
    assert [found[id_].scheduled_at for id_ in ids] == [later(-30), later(-30) if remembered else None]
    assert {(job.handed_over_at, job.claimed_at, job.started_at, job.ended_at) for job in found.values()} == {
        (NOW, NOW, later(2), later(3))
    }


def test_the_trace_of_a_task_comes_with_its_end_if_asked_for(rig: Rig) -> None:
    carrier = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    workloads = [json.dumps({"ti": {"context_carrier": carrier}}), '{"ti": {"context_carrier": null}}', "{}"]
    worker = rig.worker()
    ids = rig.claimed(*(new_job(workload=text) for text in workloads), worker=worker)
    end(rig, *ids, worker=worker)
    traced = {job.id: job for job in rig.store.ended(SCHEDULER, limit=9, traced=True)}
    assert [traced[id_].context_carrier for id_ in ids] == [carrier, None, None]
    assert [job.log_path for job in traced.values()] == [None] * 3
    assert [job.context_carrier for job in rig.store.ended(SCHEDULER, limit=9)] == [None] * 3


@pytest.mark.parametrize(
    ("reports", "cause"),
    [
        ([(JobState.RUNNING, None), (JobState.SUCCEEDED, 0)], "succeeded"),
        ([(JobState.RUNNING, None), (JobState.FAILED, -9)], "killed"),
        ([(JobState.RUNNING, None), (JobState.FAILED, 1)], "exit_code"),
        ([(JobState.RUNNING, None), (JobState.FAILED, None)], "lost"),
        ([(JobState.FAILED, None)], "could_not_start"),
    ],
)
def test_what_a_worker_reports_has_its_cause(
    rig: Rig, reports: list[tuple[JobState, int | None]], cause: str
) -> None:
    worker = rig.worker()
    (id_,) = rig.claimed(new_job(), worker=worker)
    for at, (state, code) in enumerate(reports):
        rig.store.report(worker, [Report(job_id=id_, state=state, exit_code=code)], now=later(at))
    assert [str(job.cause) for job in rig.store.ended(SCHEDULER, limit=9)] == [cause]


def test_what_the_store_ends_by_itself_has_its_cause(rig: Rig) -> None:
    worker = rig.worker()
    refused, cancelled, lost, late = new_job(), new_job(), new_job(), new_job(start_timeout_seconds=5.0)
    with rig.airflow.session() as session:
        rig.store.hand_over_failed(refused, "no such queue", now=NOW, session=session)
    rig.claimed(lost, late, worker=worker)
    rig.hand_over(cancelled)
    rig.airflow.put("running", NOW, lost)
    rig.airflow.put("queued", NOW, refused)
    rig.store.request_cancel(
        job_ids=[cancelled.task_instance_id, lost.task_instance_id], reason="x", now=later(1)
    )
    rig.store.reconcile(now=later(6), grace_seconds=30)  # wishes the late one's end
    end(rig, late.task_instance_id, worker=worker, at=7, state=JobState.CANCELLED)
    rig.store.reconcile(now=later(3600), grace_seconds=30)
    causes = {job.id: str(job.cause) for job in rig.store.ended(SCHEDULER, limit=9)}
    expected = {refused: "refused", cancelled: "cancelled", late: "start_timeout", lost: "lost"}
    assert causes == {job.task_instance_id: cause for job, cause in expected.items()}
