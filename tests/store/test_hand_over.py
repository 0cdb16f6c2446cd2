# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest

from airflow_workpools.core.jobs import JobState, job_id_for
from airflow_workpools.core.json_values import MAX_DEPTH
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import InvalidJobVariables
from airflow_workpools.store.records import JobFilter
from tests.store.rigs import NOW, SCHEDULER, Rig, later, new_job


def test_a_job_that_is_handed_over_waits_and_has_the_id_of_its_task_instance(rig: Rig) -> None:
    job = new_job(
        "etl/critical", pool_slots=3, priority_weight=8, job_variables={"image": "a:1", "n": [1, None]}
    )
    (id_,) = rig.hand_over(job)

    assert id_ == job.task_instance_id
    record = rig.record(id_)
    assert record.state is JobState.PENDING
    assert record.round == 0
    assert record.ref == WorkQueueRef("etl", "critical")
    assert (record.pool_slots, record.priority_weight) == (3, 8)
    assert record.job_variables == {"image": "a:1", "n": [1, None]}
    assert record.handed_over_at == NOW
    assert record.scheduler_job_id == SCHEDULER
    assert (record.desired_state, record.reason, record.worker_id, record.ended_at) == (
        None,
        None,
        None,
        None,
    )


def test_times_come_back_in_utc_from_whatever_zone_they_were_given_in(sql: Rig) -> None:
    in_tokyo = NOW.astimezone(dt.timezone(dt.timedelta(hours=9)))
    (id_,) = sql.hand_over(new_job(), now=in_tokyo)
    assert sql.record(id_).handed_over_at == NOW
    assert sql.record(id_).handed_over_at.utcoffset() == dt.timedelta(0)


def test_the_same_try_handed_over_again_is_its_next_round_and_the_waiting_one_is_cancelled(rig: Rig) -> None:
    job = new_job()
    ids = [rig.hand_over(job, now=later(n))[0] for n in range(3)]

    assert ids == [job_id_for(job.task_instance_id, n) for n in range(3)]
    assert [rig.state(id_) for id_ in ids] == [JobState.CANCELLED, JobState.CANCELLED, JobState.PENDING]
    assert rig.record(ids[0]).reason == "handed over again"
    assert rig.record(ids[0]).ended_at == later(1)


def test_an_older_round_that_runs_goes_on_when_its_try_is_handed_over_again(rig: Rig) -> None:
    job = new_job()
    (first,) = rig.claimed(job)
    (second,) = rig.hand_over(job, now=later(5))
    assert rig.state(first) is JobState.CLAIMED
    assert rig.record(first).desired_state is None
    assert rig.state(second) is JobState.PENDING


def test_a_refused_job_is_stored_as_failed_with_its_reason(rig: Rig) -> None:
    job = new_job("nowhere")
    with rig.airflow.session() as session:
        id_ = rig.store.hand_over_failed(job, "there is no such pool", now=NOW, session=session)
    record = rig.record(id_)
    assert record.state is JobState.FAILED
    assert record.reason == "there is no such pool"
    assert record.ended_at == NOW
    assert [ended.id for ended in rig.store.ended(SCHEDULER, limit=10)] == [id_]


def test_a_refused_hand_over_also_ends_the_round_before_it(rig: Rig) -> None:
    job = new_job()
    (first,) = rig.hand_over(job)
    with rig.airflow.session() as session:
        rig.store.hand_over_failed(job, "no", now=later(1), session=session)
    assert rig.state(first) is JobState.CANCELLED


def test_job_variables_that_are_no_json_are_refused_before_anything_is_stored(rig: Rig) -> None:
    job = new_job(job_variables={"image": object()})
    with rig.airflow.session() as session:
        with pytest.raises(InvalidJobVariables, match=r"\$\.image is a Python object"):
            rig.store.hand_over(job, now=NOW, session=session)
        rig.store.hand_over_failed(job, "not JSON", now=NOW, session=session)
    assert [record.state for record in rig.store.jobs()] == [JobState.FAILED]


@pytest.mark.parametrize("odd", ["half a character \udc80", "NUL \x00", "\U0001f40b", "'\\'\"%s :a"])
def test_job_variables_come_back_as_they_were_however_odd_and_deep(rig: Rig, odd: str) -> None:
    variables: dict[str, Any] = {odd: odd}
    for _ in range(MAX_DEPTH - 1):
        variables = {"nested": variables}
    rig.hand_over(new_job(job_variables=variables))
    (claimed,) = rig.claim(rig.worker())
    assert claimed.job_variables == variables


def test_reasons_are_made_fit_for_every_database(rig: Rig) -> None:
    job = new_job()
    with rig.airflow.session() as session:
        id_ = rig.store.hand_over_failed(job, "NUL \x00 and " + "x" * 100_000, now=NOW, session=session)
    reason = rig.record(id_).reason
    assert reason is not None
    assert reason.startswith("NUL  and xxx")
    assert len(reason) == 10_000


def test_a_hand_over_in_a_transaction_that_is_rolled_back_has_not_happened(sql: Rig) -> None:
    job = new_job()

    def crash() -> None:
        with sql.airflow.session() as session:
            sql.store.hand_over(job, now=NOW, session=session)
            raise RuntimeError("crash")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="crash"):
            crash()
        assert sql.store.jobs() == []
    assert sql.hand_over(job) == [job.task_instance_id]


def test_a_rolled_back_second_hand_over_leaves_the_first_waiting(sql: Rig) -> None:
    job = new_job()
    (first,) = sql.hand_over(job)
    with sql.airflow.session() as session:
        sql.store.hand_over(job, now=later(1), session=session)
        session.rollback()
    assert [(record.id, record.state) for record in sql.store.jobs()] == [(first, JobState.PENDING)]


def test_a_hand_over_never_commits_the_schedulers_transaction(sql: Rig) -> None:
    with sql.airflow.session() as session:
        sql.store.hand_over(new_job(), now=NOW, session=session)
        assert session.in_transaction()
        assert sql.store.jobs() == []


def test_tasks_of_one_run_are_listed_together(rig: Rig) -> None:
    ids = rig.hand_over(
        *(new_job(map_index=n, task_id="t", task_instance_id=uuid.UUID(int=n + 1)) for n in range(3))
    )
    assert [job.id for job in rig.store.jobs(JobFilter(dag_id="dag", run_id="run", task_id="t"))] == ids
