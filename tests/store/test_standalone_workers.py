# SPDX-License-Identifier: Apache-2.0
"""Standalone workers: the pools and queues that they name, and their own limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.store.records import Report, WorkerKind
from tests.store.rigs import NOW, Rig, later, new_job, new_worker, pull_pool, work_pool

if TYPE_CHECKING:
    import uuid

ORDERED = pull_pool(limit=4, critical=(1, None), low=(2, None))


def ids_of(rig: Rig, worker: uuid.UUID, *pools: object, **values: object) -> list[uuid.UUID]:
    return [job.id for job in rig.claim(worker, *pools, **values)]  # type: ignore[arg-type]


def end(rig: Rig, worker: uuid.UUID, *ids: uuid.UUID) -> None:
    rig.store.report(worker, [Report(job_id=id_, state=JobState.SUCCEEDED) for id_ in ids], now=NOW)


# -- which jobs -----------------------------------------------------------------------------------------------


def test_a_worker_is_known_with_the_queues_that_it_names(rig: Rig) -> None:
    worker = new_worker(kind=WorkerKind.STANDALONE, pools=("etl",), queues=("etl/low",), slots=4)
    rig.store.register_worker(worker, now=NOW)
    assert rig.store.run_state(now=NOW).workers == (worker,)


def test_a_standalone_worker_claims_from_the_pull_pools_that_it_names_only(rig: Rig) -> None:
    named, other = rig.hand_over(new_job("etl"), new_job("ml"))
    pools = pull_pool("etl"), pull_pool("ml")
    assert ids_of(rig, rig.standalone("etl"), *pools) == [named]
    assert ids_of(rig, rig.standalone("etl", "ml"), *pools) == [other]


def test_push_pools_and_pull_pools_are_claimed_from_by_workers_of_their_kind(rig: Rig) -> None:
    (id_,) = rig.hand_over(new_job("etl"))
    embedded, standalone = rig.worker(), rig.standalone("etl")
    assert ids_of(rig, standalone, work_pool("etl")) == []
    assert ids_of(rig, embedded, pull_pool("etl")) == []
    assert ids_of(rig, standalone, pull_pool("etl")) == [id_]


def test_several_workers_share_a_pool_and_each_job_is_claimed_once(rig: Rig) -> None:
    ids = rig.hand_over(*(new_job() for _ in range(6)))
    first, second = rig.standalone(), rig.standalone()
    taken = [*ids_of(rig, first, pull_pool(), most=3), *ids_of(rig, second, pull_pool(), most=9)]
    assert sorted(taken) == sorted(ids)


def test_a_standalone_worker_takes_the_jobs_of_its_pools_whichever_team_handed_them_over(rig: Rig) -> None:
    ids = rig.hand_over(*(new_job(team_name=team) for team in ("red", "blue", None)))
    assert sorted(ids_of(rig, rig.standalone(), pull_pool())) == sorted(ids)


def test_a_worker_that_names_queues_claims_from_no_other(rig: Rig) -> None:
    _, low = rig.hand_over(new_job("etl/critical"), new_job("etl/low"))
    worker = rig.standalone(queues=("etl/low",))
    assert ids_of(rig, worker, ORDERED) == [low]
    rig.hand_over(new_job("etl/critical"))
    assert ids_of(rig, worker, ORDERED) == []


def test_a_queue_that_a_worker_names_is_one_of_its_pool_alone(rig: Rig) -> None:
    """A queue of the same name in another of its pools is another queue."""
    mine, _ = rig.hand_over(new_job("etl/low"), new_job("ml/low"))
    worker = rig.standalone("etl", "ml", queues=("etl/low",))
    assert ids_of(rig, worker, ORDERED, pull_pool("ml", low=(1, None))) == [mine]


# -- limits and priorities ------------------------------------------------------------------------------------


def test_a_worker_never_holds_more_than_its_own_slots(rig: Rig) -> None:
    rig.hand_over(*(new_job(task_id=str(n)) for n in range(5)))
    worker = rig.standalone(slots=2)
    first = ids_of(rig, worker, pull_pool())
    assert len(first) == 2
    assert ids_of(rig, worker, pull_pool(), room=100) == []
    end(rig, worker, first[0])
    assert len(ids_of(rig, worker, pull_pool(), room=100)) == 1
    assert len(ids_of(rig, rig.standalone(slots=9), pull_pool())) == 2


def test_a_workers_slots_count_over_all_of_its_pools(rig: Rig) -> None:
    rig.hand_over(*(new_job(queue) for queue in ("etl", "etl", "ml", "ml")))
    pools = pull_pool("etl"), pull_pool("ml")
    worker = rig.standalone("etl", "ml", slots=3)
    assert len(ids_of(rig, worker, *pools)) == 3
    assert ids_of(rig, worker, *pools) == []


def test_a_workers_own_limit_is_in_slots_and_a_small_job_passes_one_that_does_not_fit(rig: Rig) -> None:
    big, small = rig.hand_over(new_job(pool_slots=3, priority_weight=9), new_job(pool_slots=1))
    assert ids_of(rig, rig.standalone(slots=2), pull_pool()) == [small]
    assert ids_of(rig, rig.standalone(slots=3), pull_pool()) == [big]


def test_the_limit_of_a_pool_holds_for_all_of_its_workers_together(rig: Rig) -> None:
    rig.hand_over(*(new_job() for _ in range(9)))
    pool = pull_pool(limit=4)
    taken = [len(ids_of(rig, rig.standalone(slots=3), pool)) for _ in range(3)]
    assert taken == [3, 1, 0]


def test_a_worker_of_a_low_queue_leaves_slots_to_a_higher_one_that_another_worker_takes_from(
    rig: Rig,
) -> None:
    rig.hand_over(*(new_job("etl/low") for _ in range(9)))
    critical = rig.hand_over(*(new_job("etl/critical") for _ in range(3)))
    low = rig.standalone(queues=("etl/low",))
    other = rig.standalone(queues=("etl/critical",), slots=3)
    assert len(ids_of(rig, low, ORDERED)) == 1
    assert sorted(ids_of(rig, other, ORDERED)) == sorted(critical)
    assert ids_of(rig, low, ORDERED) == []


def test_a_higher_queue_keeps_no_more_slots_than_its_workers_can_fill(rig: Rig) -> None:
    rig.hand_over(*(new_job("etl/low") for _ in range(9)))
    rig.hand_over(*(new_job("etl/critical") for _ in range(9)))
    low = rig.standalone(queues=("etl/low",))
    rig.standalone(queues=("etl/critical",), slots=2)
    assert len(ids_of(rig, low, ORDERED)) == 2


@pytest.mark.parametrize("gone", ["silent", "draining", "hindered", "stopped"])
def test_a_higher_queue_that_nobody_takes_from_keeps_no_slot(rig: Rig, gone: str) -> None:
    rig.hand_over(*(new_job("etl/low") for _ in range(9)))
    rig.hand_over(*(new_job("etl/critical") for _ in range(9)))
    other = rig.standalone(
        queues=("etl/critical",), hindered={"etl": "no engine"} if gone == "hindered" else {}
    )
    low = rig.standalone(queues=("etl/low",))
    now = NOW
    if gone == "silent":
        now = later(3600)
    elif gone == "draining":
        rig.store.drain_worker(other)
    elif gone == "stopped":
        rig.store.stop_worker(other, now=NOW)
    assert len(ids_of(rig, low, ORDERED, now=now)) == 4


def test_queue_limits_hold_for_workers_that_name_queues(rig: Rig) -> None:
    pool = pull_pool(limit=10, critical=(1, 1), low=(2, 3))
    rig.hand_over(*(new_job(queue) for queue in ("etl/low", "etl/critical") for _ in range(5)))
    both = rig.standalone(queues=("etl/low", "etl/critical"))
    assert sorted(job.ref.queue for job in rig.claim(both, pool)) == ["critical", "low", "low", "low"]
    assert ids_of(rig, rig.standalone(queues=("etl/low",)), pool) == []


def test_a_worker_that_drains_gets_nothing_and_keeps_what_it_has(rig: Rig) -> None:
    worker = rig.standalone()
    (id_,) = rig.hand_over(new_job())
    assert ids_of(rig, worker, pull_pool()) == [id_]
    rig.hand_over(new_job())
    rig.store.drain_worker(worker)
    assert ids_of(rig, worker, pull_pool()) == []
    assert [job.id for job in rig.store.mine(worker)] == [id_]
