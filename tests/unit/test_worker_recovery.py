# SPDX-License-Identifier: Apache-2.0
"""A worker and a store that do not agree about who has which job, and how they come together again."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.errors import InfrastructureError, InfrastructureUnavailable
from airflow_workpools.store.records import WorkerState
from tests.unit.scripted_infrastructure import ScriptedInfrastructure
from tests.unit.test_worker_loop import QUICK, Stage, etl, play, until, working


def fail_once(stage: Stage, what: str, *, after: bool) -> None:
    """Let the next call of a store's method fail, before or after it has done its work."""
    method = getattr(stage.store, what)

    def fail(*args: Any, **kwargs: Any) -> Any:
        setattr(stage.store, what, method)
        if after:
            method(*args, **kwargs)
        raise ConnectionError(f"{what}: the connection broke")

    setattr(stage.store, what, fail)


def test_jobs_whose_claim_was_answered_in_vain_are_launched_all_the_same():
    """The store has given them to this worker; nobody else would ever take them."""

    async def scenario(stage: Stage) -> None:
        jobs = {stage.hand_over(), stage.hand_over()}
        fail_once(stage, "claim", after=True)
        async with working(stage.worker()) as infrastructure:
            await until(lambda: {spec.job_id for spec in infrastructure.launched} == jobs)
            await until(lambda: all(stage.record(job).state is JobState.SUBMITTED for job in jobs))

    play(scenario)


def test_a_token_that_cannot_be_made_loses_no_job():
    async def scenario(stage: Stage) -> None:
        job = stage.hand_over()
        worker = stage.worker()
        mint, failures = worker.client.mint_token, [OSError("the key cannot be read")]

        def mint_or_fail(ti: uuid.UUID, seconds: float) -> str:
            if failures:
                raise failures.pop()
            return mint(ti, seconds)

        worker.client = replace(worker.client, mint_token=mint_or_fail)
        async with working(worker) as infrastructure:
            await until(lambda: [spec.job_id for spec in infrastructure.launched] == [job])

    play(scenario)


def test_a_job_that_could_not_be_given_back_is_given_back_later():
    async def scenario(stage: Stage) -> None:
        infrastructure = ScriptedInfrastructure()
        infrastructure.launch_errors = [OSError("a surprise")]
        fail_once(stage, "requeue", after=False)
        job = stage.hand_over()
        async with working(stage.worker(infrastructure)):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            assert stage.record(job).start_attempts == 1

    play(scenario)


def test_an_unknown_failure_of_the_infrastructure_leaves_no_other_job_unwatched():
    async def scenario(stage: Stage) -> None:
        stage.pools["etl"] = etl(concurrency_limit=5)
        infrastructure = ScriptedInfrastructure()
        infrastructure.launch_errors = [InfrastructureError("something new")]
        jobs = [stage.hand_over() for _ in range(4)]
        async with working(stage.worker(infrastructure)):
            await until(lambda: all(stage.record(job).state is JobState.SUBMITTED for job in jobs))
            for job in jobs:
                infrastructure.ends(job)
            await until(lambda: all(stage.record(job).state is JobState.SUCCEEDED for job in jobs))

    play(scenario)


def test_orphans_that_could_not_be_looked_at_are_looked_at_later():
    async def scenario(stage: Stage) -> None:
        job = stage.hand_over()
        async with working(stage.worker()):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
        fail_once(stage, "take_over", after=True)
        seldom = replace(QUICK, heartbeats_per_take_over=1000)
        async with working(replace(stage.worker(), times=seldom)) as infrastructure:
            infrastructure.ends(job)
            await until(lambda: stage.record(job).state is JobState.SUCCEEDED)

    play(scenario)


def test_orphans_are_looked_for_with_the_first_heartbeat_and_after_each_so_many():
    async def scenario(stage: Stage) -> None:
        calls: list[str] = []
        for name in ("heartbeat", "take_over"):
            note_calls(stage, name, calls)
        async with working(replace(stage.worker(), times=replace(QUICK, heartbeats_per_take_over=3))):
            await until(lambda: calls.count("heartbeat") >= 8)
        beats = ["heartbeat", "heartbeat", "heartbeat"]
        assert calls[:9] == ["heartbeat", "take_over", *beats, "take_over", *beats]

    play(scenario)


def note_calls(stage: Stage, what: str, calls: list[str]) -> None:
    method = getattr(stage.store, what)

    def note(*args: Any, **kwargs: Any) -> Any:
        calls.append(what)
        return method(*args, **kwargs)

    setattr(stage.store, what, note)


def test_a_worker_that_was_taken_for_dead_comes_back_and_leaves_to_the_heir_what_that_one_has():
    async def scenario(stage: Stage) -> None:
        taken, worker = stage.hand_over(), stage.worker()
        async with working(worker) as infrastructure:
            await until(lambda: stage.record(taken).state is JobState.SUBMITTED)
            heir = stage.worker()
            heir.client.register(heir.record, now=stage.now)
            stage.store.stop_worker(worker.record.id, now=stage.now)
            assert [job.id for job in heir.client.take_over(heir.record.id, "here", now=stage.now)] == [taken]

            job = stage.hand_over()
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            infrastructure.ends(taken)
            infrastructure.ends(job)
            await until(lambda: stage.record(job).state is JobState.SUCCEEDED)
            await until(lambda: infrastructure.cleaned)
            assert infrastructure.cleaned == [job]
            assert stage.record(taken).state is JobState.SUBMITTED
            assert stage.record(taken).worker_id == heir.record.id

    play(scenario)


def test_a_worker_that_was_taken_for_dead_keeps_the_jobs_that_nobody_took():
    async def scenario(stage: Stage) -> None:
        job, worker = stage.hand_over(), stage.worker()
        async with working(worker) as infrastructure:
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            stage.store.stop_worker(worker.record.id, now=stage.now)
            await until(lambda: _state_of(stage, worker.record.id) is WorkerState.ONLINE)
            infrastructure.ends(job)
            await until(lambda: stage.record(job).state is JobState.SUCCEEDED)
            assert [spec.job_id for spec in infrastructure.launched] == [job]

    play(scenario)


def test_a_worker_that_comes_back_late_stops_what_was_given_up_meanwhile():
    """What was to run once must not go on beside its next try."""

    async def scenario(stage: Stage) -> None:
        given_up, kept = stage.hand_over(), stage.hand_over()
        worker = stage.worker()
        async with working(worker) as infrastructure:
            await until(lambda: stage.record(given_up).state is JobState.SUBMITTED)
            await until(lambda: stage.record(kept).state is JobState.SUBMITTED)
            (lost,) = stage.store.run_state(now=stage.now).workers
            stage.store.living_tasks.add(stage.record(kept).task_instance_id)
            assert stage.store.give_up_lost([lost], bound={"etl": 2}, now=stage.now, grace_seconds=1) == (
                1,
                0,
            )
            await until(lambda: infrastructure.cleaned == [given_up])
            assert infrastructure.stopped == [given_up]
            assert stage.record(given_up).reason is not None
            assert stage.record(given_up).reason.startswith(
                "worker 'embedded@here:1' on host 'here' was lost"
            )
            infrastructure.ends(kept)
            await until(lambda: stage.record(kept).state is JobState.SUCCEEDED)

    play(scenario)


def test_a_launch_that_was_under_way_when_its_job_was_given_up_is_stopped_when_it_is_through():
    """Else it would run with nobody to look after it, beside its next try."""

    async def scenario(stage: Stage) -> None:
        job, worker = stage.hand_over(), stage.worker()
        infrastructure = worker.infrastructures["process"]
        infrastructure.holds = lambda _: True  # type: ignore[attr-defined]
        async with working(worker) as infrastructure:
            await until(lambda: infrastructure.asked == [job])
            (lost,) = stage.store.run_state(now=stage.now).workers
            assert (
                stage.store.give_up_lost([lost], bound={"etl": 1}, now=stage.now, grace_seconds=1).failed == 1
            )
            await until(lambda: _state_of(stage, worker.record.id) is WorkerState.ONLINE)
            infrastructure.holds = lambda _: False
            await until(lambda: infrastructure.cleaned == [job])
            assert infrastructure.stopped == [job]

    play(scenario)


def test_a_worker_that_comes_back_late_leaves_to_others_what_others_can_see():
    """On a cluster another worker may have begun to look after a job, under the same name."""

    class Cluster(ScriptedInfrastructure):
        bound_to_host = False

    async def scenario(stage: Stage) -> None:
        job, worker = stage.hand_over(), stage.worker(Cluster(stage.platform))
        async with working(worker) as infrastructure:
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            (lost,) = stage.store.run_state(now=stage.now).workers
            stage.store.give_up_lost([lost], bound={"etl": 2}, now=stage.now, grace_seconds=1)
            await until(lambda: _state_of(stage, worker.record.id) is WorkerState.ONLINE)
            other = stage.hand_over()
            await until(lambda: stage.record(other).state is JobState.SUBMITTED)
            assert infrastructure.stopped == []

    play(scenario)


def test_a_worker_that_nobody_knows_any_more_registers_again():
    async def scenario(stage: Stage) -> None:
        worker = stage.worker()
        async with working(worker) as infrastructure:
            await until(lambda: _state_of(stage, worker.record.id))
            stage.store.purge(before=stage.now + timedelta(hours=1), limit=99)
            job = stage.hand_over()
            await until(lambda: [spec.job_id for spec in infrastructure.launched] == [job])

    play(scenario)


def _state_of(stage: Stage, worker_id: uuid.UUID) -> WorkerState | None:
    workers = stage.store.run_state(now=stage.now).workers
    return next((worker.state for worker in workers if worker.id == worker_id), None)


@pytest.mark.parametrize("slots", [65, 200])
def test_a_job_that_wants_more_slots_than_are_claimed_at_a_time_is_claimed(slots: int):
    async def scenario(stage: Stage) -> None:
        stage.pools["etl"] = etl(concurrency_limit=200)
        job = stage.hand_over()
        record = stage.store._jobs[job]
        record.record = replace(record.record, pool_slots=slots)
        async with working(stage.worker()) as infrastructure:
            await until(lambda: [spec.job_id for spec in infrastructure.launched] == [job])

    play(scenario)


def test_a_requeue_whose_answer_was_lost_and_that_is_repeated_harms_no_later_claim():
    async def scenario(stage: Stage) -> None:
        infrastructure = ScriptedInfrastructure()
        infrastructure.launch_errors = [OSError("a surprise")]
        job = stage.hand_over()
        requeue, said = stage.store.requeue, []

        def note(*args: Any, **kwargs: Any) -> Any:
            said.append((args, kwargs))
            return requeue(*args, **kwargs)

        stage.store.requeue = note
        async with working(stage.worker(infrastructure)):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            ((args, kwargs),) = said
            assert requeue(*args, **kwargs) == 0
            assert stage.record(job).state is JobState.SUBMITTED

    play(scenario)


def test_jobs_of_claims_whose_answers_were_lost_start_without_using_up_an_attempt():
    async def scenario(stage: Stage) -> None:
        stage.pools["etl"] = etl(concurrency_limit=2, start_attempts=1)
        job = stage.hand_over()
        claim, lost = stage.store.claim, []

        def lose(*args: Any, **kwargs: Any) -> Any:
            jobs = claim(*args, **kwargs)
            if jobs:
                lost.append(jobs)
                raise ConnectionError("the answer was lost")
            return jobs

        stage.store.claim = lose
        async with working(stage.worker()) as infrastructure:
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            assert len(lost) == 1
            assert [spec.job_id for spec in infrastructure.launched] == [job]
            assert stage.record(job).start_attempts == 0

    play(scenario)


def test_a_job_whose_row_cannot_be_read_fails_with_that_and_the_others_run():
    async def scenario(stage: Stage) -> None:
        bad, good = stage.hand_over(), stage.hand_over()
        claim = stage.store.claim

        def spoil(*args: Any, **kwargs: Any) -> Any:
            jobs = claim(*args, **kwargs)
            return [
                replace(job, workload="{", problem="changed by hand") if job.id == bad else job
                for job in jobs
            ]

        stage.store.claim = spoil
        async with working(stage.worker()) as infrastructure:
            await until(lambda: stage.record(bad).state is JobState.FAILED)
            await until(lambda: stage.record(good).state is JobState.SUBMITTED)
            assert "changed by hand" in (stage.record(bad).reason or "")
            assert [spec.job_id for spec in infrastructure.launched] == [good]

    play(scenario)


class Hindered(ScriptedInfrastructure):
    """Can't launch anything while it is told so."""

    reason: str | None = "the disk is read-only"
    opens = 0

    def hindrance(self) -> str | None:
        return self.reason

    async def open(self) -> None:
        Hindered.opens += 1
        if Hindered.opens < 3:
            raise InfrastructureUnavailable("the disk can't be mounted")


def test_a_worker_waits_for_its_infrastructure_and_claims_nothing_that_it_could_not_launch(
    caplog: pytest.LogCaptureFixture,
):
    async def scenario(stage: Stage) -> None:
        infrastructure = Hindered()
        Hindered.opens = 0
        job = stage.hand_over()
        async with working(stage.worker(infrastructure)):
            await until(lambda: "no job of work pool 'etl', all wait: the disk is read-only" in caplog.text)
            assert "no job of work pool 'etl', all wait: the disk can't be mounted" in caplog.text
            assert stage.record(job).state is JobState.PENDING
            infrastructure.reason = None
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            assert stage.record(job).start_attempts == 0

    play(scenario)


def test_nobody_is_taken_for_dead_while_times_cannot_be_compared():
    async def scenario(stage: Stage) -> None:
        job = stage.hand_over()
        async with working(stage.worker()):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
        owner = stage.record(job).worker_id
        heir, judges = stage.worker(), [False]
        heir.may_judge = lambda: judges[0]
        beats: list[int] = []
        heir.keep_time = lambda: beats.append(1)
        async with working(heir):
            await until(lambda: len(beats) > 3)
            assert stage.record(job).worker_id == owner
            judges[0] = True
            await until(lambda: stage.record(job).worker_id == heir.record.id)

    play(scenario)
