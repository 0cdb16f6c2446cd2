# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import uuid

import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import NotFound
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store.records import Report, ReportOutcome, WorkerKind, WorkerState
from tests.store.rigs import NOW, Rig, later, new_job, new_worker, pull_pool


def only_worker(rig: Rig, at: float = 0) -> object:
    (worker,) = rig.store.run_state(now=later(at)).workers
    return worker


# -- registration and heartbeats ------------------------------------------------------------------------------


def test_a_registered_worker_is_known_as_it_said(rig: Rig) -> None:
    worker = new_worker(
        kind=WorkerKind.STANDALONE, pools=("etl", "ml"), slots=4, team_name="blue", heartbeat_seconds=2.5
    )
    rig.store.register_worker(worker, now=NOW)
    assert only_worker(rig) == worker


def test_one_worker_is_read_by_its_id(rig: Rig) -> None:
    rig.worker()
    worker = new_worker(kind=WorkerKind.STANDALONE, pools=("etl", "ml"), queues=("etl/default",), slots=4)
    rig.store.register_worker(worker, now=NOW, token_id="abc")
    assert rig.store.worker(worker.id) == worker
    assert rig.store.worker(worker.id).token_id == "abc"


def test_a_worker_that_registers_again_is_online_again_with_what_it_says_now(rig: Rig) -> None:
    worker = new_worker()
    rig.store.register_worker(worker, now=NOW)
    rig.store.stop_worker(worker.id, now=later(1))
    rig.store.register_worker(new_worker(id=worker.id, name="renamed"), now=later(2))
    assert only_worker(rig) == new_worker(id=worker.id, name="renamed", last_heartbeat_at=later(2))


def test_a_worker_is_online_until_three_heartbeats_are_missing(rig: Rig) -> None:
    worker = rig.worker(heartbeat_seconds=10.0, pools=("etl",))

    def online(at: float) -> int:
        return rig.store.run_state(now=later(at)).workers_online("etl")

    assert (online(0), online(30), online(31)) == (1, 1, 0)
    assert rig.store.heartbeat(worker, now=later(31)) is WorkerState.ONLINE
    assert online(31) == 1
    assert rig.store.run_state(now=later(31)).workers_online("other") == 0


def test_a_worker_that_names_no_pools_serves_all_push_pools(rig: Rig) -> None:
    rig.worker(pools=None)
    state = rig.store.run_state(now=NOW)
    assert state.workers_online("any") == 1
    assert state.workers_online("any", push=False) == 0


def test_a_worker_is_told_to_drain_by_its_next_heartbeat(rig: Rig) -> None:
    worker = rig.worker(pools=("etl",))
    rig.store.drain_worker(worker)
    assert rig.store.heartbeat(worker, now=later(1)) is WorkerState.DRAINING
    assert rig.store.run_state(now=later(1)).workers_online("etl") == 0


def test_a_stopped_worker_stays_stopped_whatever_it_says(rig: Rig) -> None:
    worker = rig.worker()
    rig.store.stop_worker(worker, now=later(1))
    rig.store.drain_worker(worker)
    assert rig.store.heartbeat(worker, now=later(50)) is WorkerState.STOPPED
    (record,) = rig.store.run_state(now=later(50)).workers
    assert record.last_heartbeat_at == later(1)


def test_nobody_hears_of_an_unknown_worker(rig: Rig) -> None:
    stranger = uuid.uuid4()
    with pytest.raises(NotFound, match=f"worker {stranger} is not registered"):
        rig.store.heartbeat(stranger, now=NOW)
    with pytest.raises(NotFound):
        rig.store.drain_worker(stranger)
    with pytest.raises(NotFound):
        rig.store.worker(stranger)
    with pytest.raises(NotFound):
        rig.store.take_over(stranger, "here", now=NOW)
    rig.store.stop_worker(stranger, now=NOW)
    assert rig.store.mine(stranger) == []
    assert rig.store.wishes(stranger) == []


# -- polls ----------------------------------------------------------------------------------------------------


def test_polls_are_written_down_every_ten_seconds_for_each_queue(rig: Rig) -> None:
    one, two = WorkQueueRef("etl", "one"), WorkQueueRef("etl", "two")
    rig.store.poll([one], now=NOW)
    rig.store.poll([one, two], now=later(9))
    state = rig.store.run_state(now=later(9))
    assert (state.queue(one).last_polled_at, state.queue(two).last_polled_at) == (NOW, later(9))

    rig.store.poll([one, two], now=later(10))
    state = rig.store.run_state(now=later(10))
    assert (state.queue(one).last_polled_at, state.queue(two).last_polled_at) == (later(10), later(9))


def test_polling_leaves_a_queue_paused(rig: Rig) -> None:
    ref = WorkQueueRef("etl")
    rig.store.set_queue_paused(ref, True)
    rig.store.poll([ref], now=NOW)
    assert rig.store.run_state(now=NOW).queue(ref) == (True, NOW)
    rig.store.poll([], now=NOW)


# -- what a worker has ----------------------------------------------------------------------------------------


def test_a_worker_can_ask_what_it_has_and_what_it_should_stop(rig: Rig) -> None:
    worker = rig.worker()
    first, second = rig.claimed(new_job(), worker=worker) + rig.claimed(
        new_job(), worker=worker, now=later(1)
    )
    rig.claimed(new_job())
    assert [job.id for job in rig.store.mine(worker)] == [first, second]

    rig.store.request_cancel(job_ids=[second], reason="cleared", now=later(2))
    assert rig.store.wishes(worker) == [(second, "cleared")]
    assert rig.store.mine(worker)[1].desired_state is JobState.CANCELLED

    rig.store.report(worker, [Report(job_id=second, state=JobState.CANCELLED)], now=later(3))
    assert rig.store.wishes(worker) == []
    assert [job.id for job in rig.store.mine(worker)] == [first]


# -- take-over ------------------------------------------------------------------------------------------------


def test_the_jobs_of_a_stopped_worker_go_to_its_successor(rig: Rig) -> None:
    old = rig.worker()
    ids = rig.claimed(new_job(), new_job(), worker=old)
    new = rig.worker()
    assert rig.store.take_over(new, "here", now=later(1)) == []

    rig.store.stop_worker(old, now=later(2))
    taken = rig.store.take_over(new, "here", now=later(2))
    assert {job.id for job in taken} == set(ids)
    assert rig.store.mine(old) == []
    assert {job.id for job in rig.store.mine(new)} == set(ids)
    assert rig.store.take_over(new, "here", now=later(3)) == []


def test_the_jobs_of_a_silent_worker_are_taken_over_and_what_it_still_says_is_refused(rig: Rig) -> None:
    zombie = rig.worker(heartbeat_seconds=10.0)
    (id_,) = rig.claimed(new_job(), worker=zombie)
    heir = rig.worker(last_heartbeat_at=later(30))
    assert rig.store.take_over(heir, "here", now=later(30)) == []
    assert [job.id for job in rig.store.take_over(heir, "here", now=later(31))] == [id_]

    assert rig.store.heartbeat(zombie, now=later(32)) is WorkerState.STOPPED
    (outcome,) = rig.store.report(zombie, [Report(job_id=id_, state=JobState.FAILED)], now=later(32))
    assert outcome == ReportOutcome(id_, accepted=False, state=None)
    rig.hand_over(new_job())
    assert rig.claim(zombie) == []


def test_where_dead_standalone_workers_have_jobs_is_known(rig: Rig) -> None:
    silent, stopped, well = rig.standalone("etl"), rig.standalone("ml"), rig.standalone("gpu")
    rig.worker()
    for worker, pool in ((silent, "etl"), (stopped, "ml"), (well, "gpu")):
        rig.hand_over(new_job(pool))
        assert rig.claim(worker, pull_pool(pool))
    assert rig.store.pools_left_behind(now=later(30)) == set()
    rig.store.stop_worker(stopped, now=later(31))
    rig.store.heartbeat(well, now=later(31))
    assert rig.store.pools_left_behind(now=later(31)) == {"etl", "ml"}


def test_a_worker_that_was_taken_for_dead_takes_nothing_over_before_it_registers_again(rig: Rig) -> None:
    zombie, dead = rig.worker(), rig.worker()
    (id_,) = rig.claimed(new_job(), worker=dead)
    for worker in (zombie, dead):
        rig.store.stop_worker(worker, now=NOW)
    assert rig.store.take_over(zombie, "here", now=later(1)) == []

    rig.store.register_worker(new_worker(id=zombie), now=later(2))
    assert [job.id for job in rig.store.take_over(zombie, "here", now=later(2))] == [id_]


def test_each_workers_own_heartbeat_interval_counts(rig: Rig) -> None:
    slow, fast = rig.worker(heartbeat_seconds=60.0), rig.worker(heartbeat_seconds=1.0)
    rig.claimed(new_job(), worker=slow)
    (id_,) = rig.claimed(new_job(), worker=fast)
    heir = rig.worker(last_heartbeat_at=later(10))
    assert [job.id for job in rig.store.take_over(heir, "here", now=later(10))] == [id_]


@pytest.mark.parametrize(
    "other",
    [{"hostname": "there"}, {"kind": WorkerKind.STANDALONE, "pools": ("etl",)}, {"team_name": "blue"}],
    ids=str,
)
def test_jobs_of_a_worker_of_another_host_or_kind_or_team_are_left_alone(
    rig: Rig, other: dict[str, object]
) -> None:
    old = rig.worker(**other)
    rig.claimed(new_job(team_name=other.get("team_name")), worker=old)
    rig.store.stop_worker(old, now=NOW)
    assert rig.store.take_over(rig.worker(), "here", now=later(1)) == []
    assert len(rig.store.mine(old)) == 1


def test_jobs_that_have_ended_are_not_taken_over(rig: Rig) -> None:
    old = rig.worker()
    (id_,) = rig.claimed(new_job(), worker=old)
    rig.store.report(old, [Report(job_id=id_, state=JobState.SUCCEEDED)], now=NOW)
    rig.store.stop_worker(old, now=NOW)
    assert rig.store.take_over(rig.worker(), "here", now=later(1)) == []


def test_a_wish_goes_with_the_job_to_its_new_owner(rig: Rig) -> None:
    old = rig.worker()
    (id_,) = rig.claimed(new_job(), worker=old)
    rig.store.request_cancel(job_ids=[id_], reason="cleared", now=NOW)
    rig.store.stop_worker(old, now=NOW)
    heir = rig.worker()
    (job,) = rig.store.take_over(heir, "here", now=later(1))
    assert job.desired_state is JobState.CANCELLED
    assert rig.store.wishes(heir) == [(id_, "cleared")]


KUBERNETES = {"etl": "kubernetes"}


def test_a_job_that_any_host_can_look_after_goes_to_a_worker_of_another_host(rig: Rig) -> None:
    old = rig.worker(hostname="there")
    on_cluster, on_host, not_launched = rig.claimed(new_job(), new_job(), new_job(), worker=old)
    for id_, kind in ((on_cluster, "kubernetes"), (on_host, "process")):
        handle = Handle(job_id=id_, kind=kind, data={"name": "x"}, conn_id="cluster")
        rig.store.report(old, [Report(job_id=id_, state=JobState.SUBMITTED, handle=handle)], now=NOW)
    rig.store.stop_worker(old, now=NOW)
    heir = rig.worker()
    taken = rig.store.take_over(heir, "here", now=later(1), roaming=KUBERNETES)
    assert {job.id: job.handle for job in taken} == {
        on_cluster: Handle(job_id=on_cluster, kind="kubernetes", data={"name": "x"}, conn_id="cluster"),
        not_launched: None,
    }
    assert [job.id for job in rig.store.mine(old)] == [on_host]
    assert rig.store.take_over(heir, "here", now=later(2), roaming=KUBERNETES) == []


def test_a_job_that_is_bound_to_its_host_stays_there_though_its_kind_roams(rig: Rig) -> None:
    old = rig.worker(hostname="there")
    bound, free = rig.claimed(new_job(), new_job(), worker=old)
    for id_ in (bound, free):
        handle = Handle(job_id=id_, kind="docker", data={"bound_to_host": id_ == bound})
        rig.store.report(old, [Report(job_id=id_, state=JobState.SUBMITTED, handle=handle)], now=NOW)
    rig.store.stop_worker(old, now=NOW)
    taken = rig.store.take_over(rig.worker(), "here", now=later(1), roaming={"etl": "docker"})
    assert [job.id for job in taken] == [free]


def test_only_the_dead_of_other_hosts_lose_their_jobs_and_only_of_pools_that_roam(rig: Rig) -> None:
    alive, silent = rig.worker(hostname="there"), rig.worker(hostname="yonder", heartbeat_seconds=1.0)
    rig.claimed(new_job(), worker=alive)
    (lost, other_pool) = rig.claimed(new_job(), new_job("ml"), worker=silent)
    heir = rig.worker(last_heartbeat_at=later(10))
    taken = rig.store.take_over(heir, "here", now=later(10), roaming=KUBERNETES)
    assert [job.id for job in taken] == [lost]
    assert [job.id for job in rig.store.mine(silent)] == [other_pool]
    assert rig.store.heartbeat(silent, now=later(11)) is WorkerState.STOPPED
    assert rig.store.heartbeat(alive, now=later(11)) is WorkerState.ONLINE


@pytest.mark.parametrize(
    "other", [{"kind": WorkerKind.STANDALONE, "pools": ("etl",)}, {"team_name": "blue"}], ids=str
)
def test_jobs_that_roam_stay_with_workers_of_their_kind_and_team(rig: Rig, other: dict[str, object]) -> None:
    old = rig.worker(hostname="there", **other)
    rig.claimed(new_job(team_name=other.get("team_name")), worker=old)
    rig.store.stop_worker(old, now=NOW)
    assert rig.store.take_over(rig.worker(), "here", now=later(1), roaming=KUBERNETES) == []


# -- what hinders a worker ------------------------------------------------------------------------------------


def test_a_pool_that_no_worker_can_use_has_no_ready_worker_and_the_reason_is_known(rig: Rig) -> None:
    worker = rig.worker(hindered={"gpu": "the engine is down"})
    state = rig.store.run_state(now=NOW)
    assert (state.workers_online("gpu"), state.workers_online("etl")) == (0, 1)
    assert (state.hindrance("gpu"), state.hindrance("etl")) == ("the engine is down", None)

    rig.store.heartbeat(worker, now=later(1))
    assert rig.store.run_state(now=later(1)).hindrance("gpu") == "the engine is down"
    rig.store.heartbeat(worker, now=later(2), hindered={})
    assert rig.store.run_state(now=later(2)).workers_online("gpu") == 1


def test_a_pool_is_ready_if_one_of_its_workers_can_use_it(rig: Rig) -> None:
    hindered = rig.worker(hindered={"gpu": "the engine is down"})
    other = rig.worker()
    state = rig.store.run_state(now=NOW)
    assert (state.workers_online("gpu"), state.hindrance("gpu")) == (1, None)
    rig.store.heartbeat(other, now=NOW, hindered={"gpu": "no such connection"})
    assert rig.store.run_state(now=NOW).hindrance("gpu") in (
        "the engine is down; no such connection",
        "no such connection; the engine is down",
    )
    for id_ in (hindered, other):
        rig.store.stop_worker(id_, now=NOW)
    assert rig.store.run_state(now=NOW).hindrance("gpu") is None


# -- renewal --------------------------------------------------------------------------------------------------


def test_the_start_timeout_of_a_job_begins_anew_and_its_claim_stays(rig: Rig) -> None:
    worker = rig.worker()
    (id_,) = rig.claimed(new_job(start_timeout_seconds=60.0), worker=worker)
    (renewed,) = rig.store.renew(worker, [id_], now=later(50))
    assert (renewed.id, renewed.workload) == (id_, '{"log_path": "dag/run/task/1.log"}')
    record = rig.record(id_)
    assert (record.claimed_at, record.starting_since) == (NOW, later(50))
    assert rig.store.reconcile(now=later(100), grace_seconds=30).not_started == 0
    assert rig.store.reconcile(now=later(111), grace_seconds=30).not_started == 1


def test_only_a_job_that_waits_for_its_start_is_renewed_and_only_by_its_worker(rig: Rig) -> None:
    worker, other = rig.worker(), rig.worker()
    running, wished, foreign = rig.claimed(new_job(), new_job(), new_job(), worker=worker)
    rig.store.report(worker, [Report(job_id=running, state=JobState.RUNNING)], now=NOW)
    rig.store.request_cancel(job_ids=[wished], reason="cleared", now=NOW)
    assert rig.store.renew(worker, [running, wished, uuid.uuid4()], now=later(1)) == []
    assert rig.store.renew(other, [foreign], now=later(1)) == []
    assert rig.record(foreign).renewed_at is None


def test_a_job_that_is_given_back_begins_with_a_start_timeout_of_its_own(rig: Rig) -> None:
    worker = rig.worker()
    (id_,) = rig.claimed(new_job(), worker=worker)
    rig.store.renew(worker, [id_], now=later(1))
    rig.store.requeue(worker, [id_], "it did not start", now=later(2))
    assert rig.record(id_).starting_since is None
    rig.claim(worker, now=later(3))
    assert rig.record(id_).starting_since == later(3)


# -- failed starts --------------------------------------------------------------------------------------------


def test_that_a_start_failed_is_remembered_with_where_the_job_was(rig: Rig) -> None:
    worker = rig.worker()
    (id_,) = rig.claimed(new_job(), worker=worker)
    handle = Handle(job_id=id_, kind="fake", data={}, failed_start="no such image")
    rig.store.report(worker, [Report(job_id=id_, state=JobState.SUBMITTED, handle=handle)], now=NOW)
    (job,) = rig.store.mine(worker)
    assert job.handle == handle
    assert rig.store.requeue(worker, [id_], "no such image", now=NOW, start_attempts={id_: 0}) == 1
    assert rig.store.requeue(worker, [id_], "no such image", now=NOW, start_attempts={id_: 0}) == 0
    assert (rig.record(id_).state, rig.record(id_).handle) == (JobState.PENDING, None)
