# SPDX-License-Identifier: Apache-2.0
"""Executors and workers of several teams on one store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.core.jobs import JobState
from airflow_workpools.store.records import Report
from tests.store.rigs import NOW, SCHEDULER, Rig, later, new_job, work_pool

if TYPE_CHECKING:
    import uuid

RED, BLUE = "team_red", "team_blue"
ORDERED = work_pool(limit=1, high=(1, None), low=(2, None))


def end(rig: Rig, worker: uuid.UUID, *ids: uuid.UUID) -> None:
    reports = [Report(job_id=id_, state=JobState.SUCCEEDED) for id_ in ids]
    rig.store.report(worker, reports, now=NOW)


def of_team(queue: str, team: str | None, **values: Any) -> Any:
    return new_job(queue, team_name=team, **values)


def test_a_worker_claims_jobs_of_its_own_team_only(rig: Rig) -> None:
    red, blue, nobodys = rig.hand_over(*(of_team("etl", team) for team in (RED, BLUE, None)))
    assert [job.id for job in rig.claim(rig.worker(team_name=RED))] == [red]
    assert [job.id for job in rig.claim(rig.worker())] == [nobodys]
    assert [job.id for job in rig.claim(rig.worker(team_name=BLUE))] == [blue]


def test_the_limit_of_a_pool_that_teams_share_counts_the_jobs_of_all(rig: Rig) -> None:
    pool = work_pool(limit=3)
    rig.hand_over(*(of_team("etl", team) for team in (RED, RED, BLUE, BLUE)))
    assert len(rig.claim(rig.worker(team_name=RED), pool)) == 2
    assert len(rig.claim(rig.worker(team_name=BLUE), pool)) == 1


def test_a_team_does_not_overtake_a_higher_queue_of_another(rig: Rig) -> None:
    low, high = rig.hand_over(of_team("etl/low", RED), of_team("etl/high", BLUE))
    red, blue = rig.worker(team_name=RED), rig.worker(team_name=BLUE)
    assert rig.claim(red, ORDERED) == []
    assert [job.id for job in rig.claim(blue, ORDERED)] == [high]
    assert rig.claim(red, ORDERED) == []
    end(rig, blue, high)
    assert [job.id for job in rig.claim(red, ORDERED)] == [low]


def test_a_worker_with_little_room_takes_its_own_jobs_behind_those_of_another_team(rig: Rig) -> None:
    rig.hand_over(*(of_team("etl", BLUE) for _ in range(3)))
    (own,) = rig.hand_over(of_team("etl", RED), now=later(1))
    rig.worker(team_name=BLUE)
    red = rig.worker(team_name=RED)
    assert [job.id for job in rig.claim(red, room=1, most=1, now=later(2))] == [own]


def test_jobs_that_no_worker_of_their_team_takes_hold_nobody_back(rig: Rig) -> None:
    """Neither where the team's worker is silent, nor where it has none at all."""
    low, _ = rig.hand_over(of_team("etl/low", RED), of_team("etl/high", BLUE))
    rig.worker(team_name=BLUE)
    red = rig.worker(team_name=RED)
    assert rig.claim(red, ORDERED) == []
    assert [job.id for job in rig.claim(red, ORDERED, now=later(3600))] == [low]


def test_an_executor_hears_of_the_jobs_of_its_own_team_only(rig: Rig) -> None:
    ids = dict(
        zip((RED, BLUE, None), rig.hand_over(*(of_team("etl", t) for t in (RED, BLUE, None))), strict=True)
    )
    for team, id_ in ids.items():
        assert [job.id for job in rig.store.active(SCHEDULER, team_name=team)] == [id_]
        assert rig.store.active_count(SCHEDULER, team_name=team) == 1
        worker = rig.worker(team_name=team)
        rig.claim(worker)
        end(rig, worker, id_)
        assert [job.id for job in rig.store.ended(SCHEDULER, limit=9, team_name=team)] == [id_]
        assert rig.store.active_count(SCHEDULER, team_name=team) == 0


def test_jobs_of_a_team_whose_executor_is_gone_are_taken_by_the_worker_of_who_adopts_them(rig: Rig) -> None:
    job = of_team("etl", RED)
    (id_,) = rig.hand_over(job)
    worker = rig.worker()
    assert rig.claim(worker) == []
    with rig.airflow.session() as session:
        rig.store.adopt([job.task_instance_id], SCHEDULER + 1, session=session)
    assert [claimed.id for claimed in rig.claim(worker)] == [id_]
    end(rig, worker, id_)
    assert rig.store.ended(SCHEDULER + 1, limit=9, team_name=RED) == []
    assert [job.id for job in rig.store.ended(SCHEDULER + 1, limit=9)] == [id_]
