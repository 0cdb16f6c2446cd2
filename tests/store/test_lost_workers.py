# SPDX-License-Identifier: Apache-2.0
"""Standalone workers that fall silent: whose jobs are taken over, given up or left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from airflow_workpools.core.jobs import JobState
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store import rules
from airflow_workpools.store.records import Report, WorkerState
from airflow_workpools.testing import MemoryStore
from tests.airflow_tables import task_instances
from tests.store.rigs import NOW, AirflowInSql, Rig, later, new_job, pull_pool

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from airflow_workpools.store.records import GivenUp, NewJob, WorkerRecord

GRACE = 300.0
BOUND = {"etl": 2}
KUBERNETES = {"etl": "kubernetes"}


def beat(rig: Rig, *workers: uuid.UUID, since: float = 0, until: float) -> None:
    """Let workers say that they live, every ten seconds."""
    at = since
    while at <= until:
        for worker in workers:
            rig.store.heartbeat(worker, now=later(at))
        at += 10


def lost(rig: Rig, at: float) -> list[uuid.UUID]:
    return [worker.id for worker in lost_records(rig, at)]


def lost_records(rig: Rig, at: float) -> Sequence[WorkerRecord]:
    workers = rig.store.run_state(now=later(at)).workers
    return rules.lost_workers(workers, grace_seconds=GRACE, now=later(at))


def give_up(rig: Rig, at: float) -> GivenUp:
    return rig.store.give_up_lost(lost_records(rig, at), bound=BOUND, now=later(at), grace_seconds=GRACE)


def launched(rig: Rig, worker: uuid.UUID, *jobs: NewJob, kind: str = "process") -> list[uuid.UUID]:
    """Have jobs claimed and started; their task instances run."""
    ids = rig.claimed(*jobs, worker=worker)
    reports = [
        Report(job_id=id_, state=JobState.RUNNING, handle=Handle(job_id=id_, kind=kind, data={}))
        for id_ in ids
    ]
    rig.store.report(worker, reports, now=NOW)
    rig.airflow.put("running", NOW, *jobs)
    return ids


def task_lives(rig: Rig, job: NewJob, at: float) -> None:
    if isinstance(rig.airflow, AirflowInSql):
        with rig.airflow.session() as session:
            session.execute(
                sa.update(task_instances)
                .where(task_instances.c.id == job.task_instance_id)
                .values(last_heartbeat_at=later(at))
            )
    else:
        assert isinstance(rig.store, MemoryStore)
        rig.store.living_tasks.add(job.task_instance_id)


# -- who is lost ----------------------------------------------------------------------------------------------


def test_a_silent_worker_is_lost_after_the_grace_if_another_was_heard_of_all_the_time(rig: Rig) -> None:
    silent, witness = rig.standalone(), rig.standalone(hostname="there")
    beat(rig, witness, until=300)
    assert lost(rig, 300) == []
    assert lost(rig, 301) == [silent]


def test_nobody_is_lost_for_an_outage_of_what_all_heartbeats_pass_through(rig: Rig) -> None:
    workers = [rig.standalone(hostname=host) for host in ("here", "there", "yonder")]
    beat(rig, *workers, until=60)
    assert lost(rig, 3600) == []
    # The first one is back, the others come a moment later.
    beat(rig, workers[0], since=3600, until=3600)
    assert lost(rig, 3600) == []
    beat(rig, workers[0], since=3610, until=3890)
    assert lost(rig, 3890) == []
    # It has been heard of for the whole grace, and the others could have been, too.
    beat(rig, workers[0], since=3900, until=3900)
    assert lost(rig, 3900) == sorted(workers[1:]) or set(lost(rig, 3900)) == set(workers[1:])


def test_a_worker_that_has_ended_is_lost_after_the_grace_without_a_witness(rig: Rig) -> None:
    worker = rig.standalone()
    rig.store.stop_worker(worker, now=later(10))
    assert lost(rig, 310) == []
    assert lost(rig, 311) == [worker]


def test_an_embedded_worker_is_never_lost_in_this_sense(rig: Rig) -> None:
    silent, witness = rig.worker(), rig.standalone()
    beat(rig, witness, until=600)
    assert silent not in lost(rig, 601)


# -- what becomes of its jobs ---------------------------------------------------------------------------------


def test_processes_of_a_lost_worker_fail_with_a_reason_that_names_it(rig: Rig) -> None:
    worker, witness = rig.standalone(name="edge-1", hostname="edge"), rig.standalone(hostname="there")
    (id_,) = launched(rig, worker, new_job())
    beat(rig, witness, until=310)
    assert give_up(rig, 301) == (1, 0)
    record = rig.record(id_)
    assert (record.state, record.ended_at) == (JobState.FAILED, later(301))
    assert record.reason == (
        "worker 'edge-1' on host 'edge' was lost: it was last heard of at 2026-03-04 05:06:07 UTC, and for 5 min no "
        "worker of that host has come back to look after the job ([workpools] lost_worker_grace)"
    )
    assert rig.store.heartbeat(worker, now=later(310)) is WorkerState.STOPPED
    assert give_up(rig, 310) == (0, 0)


def test_a_job_that_was_never_launched_waits_for_another_worker(rig: Rig) -> None:
    worker, witness = rig.standalone(), rig.standalone(hostname="there")
    (id_,) = rig.claimed(new_job(), worker=worker)
    beat(rig, witness, until=301)
    assert give_up(rig, 301) == (0, 1)
    record = rig.record(id_)
    assert (record.state, record.worker_id, record.start_attempts) == (JobState.PENDING, None, 1)


def test_it_fails_if_it_was_given_back_too_often(rig: Rig) -> None:
    first, worker, witness = rig.standalone(), rig.standalone(), rig.standalone(hostname="there")
    job = new_job()
    (id_,) = rig.claimed(job, worker=first)
    rig.store.requeue(first, [id_], "no start", now=NOW)
    assert [one.id for one in rig.claim(worker, pull_pool())] == [id_]
    beat(rig, witness, until=301)
    assert give_up(rig, 301) == (1, 0)
    assert rig.state(id_) is JobState.FAILED


def test_a_job_whose_task_says_that_it_lives_is_left_alone(rig: Rig) -> None:
    worker, witness = rig.standalone(), rig.standalone(hostname="there")
    job = new_job()
    (id_,) = launched(rig, worker, job)
    task_lives(rig, job, 290)
    beat(rig, witness, until=301)
    assert give_up(rig, 301) == (0, 0)
    assert rig.state(id_) is JobState.RUNNING


def test_jobs_of_pools_that_roam_are_not_given_up(rig: Rig) -> None:
    worker, witness = rig.standalone("ml"), rig.standalone(hostname="there")
    (id_,) = launched(rig, worker, new_job("ml"), kind="kubernetes")
    beat(rig, witness, until=301)
    assert give_up(rig, 301) == (0, 0)
    assert rig.state(id_) is JobState.RUNNING


def test_a_worker_that_comes_back_at_the_last_moment_keeps_its_jobs(rig: Rig) -> None:
    worker, witness = rig.standalone(), rig.standalone(hostname="there")
    (id_,) = launched(rig, worker, new_job())
    beat(rig, witness, until=301)
    found = lost_records(rig, 301)
    rig.store.heartbeat(worker, now=later(301))
    assert rig.store.give_up_lost(found, bound=BOUND, now=later(302), grace_seconds=GRACE) == (0, 0)
    assert rig.state(id_) is JobState.RUNNING
    assert rig.store.heartbeat(worker, now=later(311)) is WorkerState.ONLINE


# -- take-over ------------------------------------------------------------------------------------------------


def test_a_worker_of_the_same_host_looks_after_the_processes_of_one_that_is_gone(rig: Rig) -> None:
    old = rig.standalone()
    (id_,) = launched(rig, old, new_job())
    heir = rig.standalone()
    beat(rig, heir, until=40)
    assert [job.id for job in rig.store.take_over(heir, "here", now=later(40))] == [id_]


def test_a_worker_takes_over_jobs_of_its_own_pools_only(rig: Rig) -> None:
    """What other pools' jobs hold is not for its token to see."""
    old = rig.standalone("etl", "ml")
    mine, _ = launched(rig, old, new_job("etl"), new_job("ml"))
    heir = rig.standalone("etl")
    rig.store.stop_worker(old, now=later(1))
    roaming = {"etl": "process", "ml": "process"}
    assert [job.id for job in rig.store.take_over(heir, "here", now=later(1), roaming=roaming)] == [mine]


def test_jobs_on_a_cluster_go_to_another_worker_of_the_pool_whatever_its_host_and_queues(rig: Rig) -> None:
    old = rig.standalone(hostname="there", team_name="blue")
    (id_,) = launched(rig, old, new_job(), kind="kubernetes")
    heir = rig.standalone(queues=("etl/low",))
    beat(rig, heir, until=40)
    taken = rig.store.take_over(heir, "here", now=later(40), roaming=KUBERNETES)
    assert [job.id for job in taken] == [id_]


def test_who_comes_back_first_after_an_outage_takes_nothing_from_those_who_follow(rig: Rig) -> None:
    first, second = rig.standalone(), rig.standalone(hostname="there")
    (id_,) = launched(rig, second, new_job(), kind="kubernetes")
    beat(rig, first, second, until=30)
    rig.store.heartbeat(first, now=later(3600))
    assert rig.store.take_over(first, "here", now=later(3600), roaming=KUBERNETES) == []
    rig.store.heartbeat(second, now=later(3605))
    beat(rig, first, second, since=3610, until=3700)
    assert rig.store.take_over(first, "here", now=later(3700), roaming=KUBERNETES) == []
    assert [job.id for job in rig.store.mine(second)] == [id_]


# -- who comes back late --------------------------------------------------------------------------------------


def test_a_late_worker_is_told_which_of_its_jobs_to_stop(rig: Rig) -> None:
    worker, witness = rig.standalone(), rig.standalone(hostname="there")
    (failed,) = launched(rig, worker, new_job())
    (requeued,) = rig.claimed(new_job(), worker=worker)
    beat(rig, witness, until=301)
    assert give_up(rig, 301) == (1, 1)
    assert set(rig.store.revoked({failed: 0, requeued: 0})) == {failed, requeued}
    (outcome,) = rig.store.report(worker, [Report(job_id=failed, state=JobState.SUCCEEDED)], now=later(400))
    assert (outcome.accepted, outcome.state) == (False, JobState.FAILED)


def test_a_job_that_another_has_taken_over_as_it_is_goes_on(rig: Rig) -> None:
    worker, heir = rig.standalone(), rig.standalone()
    (id_,) = launched(rig, worker, new_job())
    rig.store.stop_worker(worker, now=later(1))
    rig.store.take_over(heir, "here", now=later(1))
    assert rig.store.revoked({id_: 0}) == []


def test_a_claim_that_was_made_anew_by_another_is_revoked(rig: Rig) -> None:
    worker, other = rig.standalone(), rig.standalone(hostname="there")
    (id_,) = rig.claimed(new_job(), worker=worker)
    beat(rig, other, until=301)
    give_up(rig, 301)
    assert [job.id for job in rig.claim(other, pull_pool(), now=later(302))] == [id_]
    assert rig.store.revoked({id_: 0}) == [id_]
    assert rig.store.revoked({id_: 1}) == []


@pytest.mark.parametrize("wanted", [WorkerState.DRAINING, WorkerState.ONLINE], ids=str)
def test_a_drain_can_be_undone(rig: Rig, wanted: WorkerState) -> None:
    worker = rig.standalone()
    rig.store.drain_worker(worker)
    if wanted is WorkerState.ONLINE:
        rig.store.resume_worker(worker)
    assert rig.store.heartbeat(worker, now=later(1)) is wanted


def test_a_worker_that_has_stopped_is_not_resumed(rig: Rig) -> None:
    worker = rig.standalone()
    rig.store.stop_worker(worker, now=NOW)
    rig.store.resume_worker(worker)
    assert rig.store.heartbeat(worker, now=later(1)) is WorkerState.STOPPED
