# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import uuid

import pytest

from airflow_workpools.core.jobs import ENDED, OCCUPYING, JobState
from airflow_workpools.store.records import Report
from tests.store.rigs import NOW, Rig, later, new_job


def test_a_waiting_job_is_cancelled_at_once(rig: Rig) -> None:
    (id_,) = rig.hand_over(new_job())
    assert rig.store.request_cancel(job_ids=[id_], reason="not wanted", now=later(1)) == 1
    record = rig.record(id_)
    assert (record.state, record.reason, record.ended_at) == (JobState.CANCELLED, "not wanted", later(1))
    assert record.desired_state is None


@pytest.mark.parametrize("state", sorted(OCCUPYING), ids=str)
def test_a_started_job_is_wished_away(rig: Rig, state: JobState) -> None:
    worker = rig.worker()
    (id_,) = rig.claimed(new_job(), worker=worker)
    rig.store.report(worker, [Report(job_id=id_, state=state)], now=NOW)
    assert rig.store.request_cancel(job_ids=[id_], reason="not wanted", now=later(1)) == 1
    record = rig.record(id_)
    assert (record.state, record.desired_state, record.ended_at) == (state, JobState.CANCELLED, None)
    assert rig.store.wishes(worker) == [(id_, "not wanted")]


@pytest.mark.parametrize("state", sorted(ENDED), ids=str)
def test_a_job_that_has_ended_is_left_as_it_is(rig: Rig, state: JobState) -> None:
    worker = rig.worker()
    (id_,) = rig.claimed(new_job(), worker=worker)
    rig.store.report(worker, [Report(job_id=id_, state=state)], now=NOW)
    before = rig.record(id_)
    assert rig.store.request_cancel(job_ids=[id_], reason="not wanted", now=later(1)) == 0
    assert rig.record(id_) == before


def test_the_first_wish_stays(rig: Rig) -> None:
    worker = rig.worker()
    (id_,) = rig.claimed(new_job(), worker=worker)
    assert rig.store.request_cancel(job_ids=[id_], reason="first", now=later(1)) == 1
    assert rig.store.request_cancel(job_ids=[id_], reason="second", now=later(2)) == 0
    assert rig.store.wishes(worker) == [(id_, "first")]


def test_all_rounds_of_a_task_instance_can_be_cancelled(rig: Rig) -> None:
    job = new_job()
    (first,) = rig.claimed(job)
    (second,) = rig.hand_over(job, now=later(1))
    changed = rig.store.request_cancel(
        task_instance_ids=[job.task_instance_id, uuid.uuid4()], reason="cleared", now=later(2)
    )
    assert changed == 2
    assert rig.record(first).desired_state is JobState.CANCELLED
    assert rig.state(second) is JobState.CANCELLED


def test_very_many_jobs_are_cancelled_in_one_call(rig: Rig) -> None:
    ids = rig.hand_over(*(new_job() for _ in range(1100)))
    assert rig.store.request_cancel(job_ids=ids, reason="all", now=NOW) == 1100
    assert rig.store.counts() == {}
    assert rig.store.request_cancel(reason="nothing", now=NOW) == 0
