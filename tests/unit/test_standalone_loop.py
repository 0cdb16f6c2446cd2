# SPDX-License-Identifier: Apache-2.0
"""What the loop does for a standalone worker: its limit, its end, news, outages, and what is kept on disk meanwhile."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.errors import ApiUnavailable, InfrastructureUnavailable, InvalidInput
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store.records import Report
from airflow_workpools.worker.client import SqlClient
from airflow_workpools.worker.journal import Journal
from airflow_workpools.worker.loop import Worker
from airflow_workpools.worker.outages import Outages
from tests.unit.scripted_infrastructure import ScriptedInfrastructure
from tests.unit.test_worker_loop import QUICK, Stage, etl, play, until, working


def prepared(worker: Worker, **changes: Any) -> Worker:
    """Return the worker as it is with other settings."""
    for name, value in changes.items():
        setattr(worker, name, value)
    worker.__post_init__()
    return worker


def test_no_more_jobs_are_claimed_than_the_limit_allows():
    async def scenario(stage: Stage) -> None:
        stage.pools["etl"] = etl(concurrency_limit=None)
        for _ in range(4):
            stage.hand_over()
        worker = prepared(stage.worker(), limit=2)
        async with working(worker) as infrastructure:
            await until(lambda: len(infrastructure.launched) == 2)
            await asyncio.sleep(10 * QUICK.claim)
            assert len(infrastructure.launched) == 2
            infrastructure.ends(infrastructure.launched[0].job_id)
            await until(lambda: len(infrastructure.launched) == 3)

    play(scenario)


def test_a_worker_that_drains_claims_nothing_and_ends_with_its_last_job():
    async def scenario(stage: Stage) -> None:
        job = stage.hand_over()
        worker = stage.worker()
        running = asyncio.create_task(worker.run())
        infrastructure = worker.infrastructures["process"]
        await until(lambda: stage.record(job).state is JobState.SUBMITTED)
        worker.drain()
        later = stage.hand_over()
        await until(lambda: "etl" in stage.store.run_state(now=stage.now).workers[0].hindered)
        assert "about to end" in stage.store.run_state(now=stage.now).workers[0].hindered["etl"]
        assert not running.done()
        infrastructure.ends(job)  # type: ignore[attr-defined]
        await asyncio.wait_for(running, 10)
        assert stage.record(job).state is JobState.SUCCEEDED
        assert stage.record(later).state is JobState.PENDING

    play(scenario)


def test_a_drain_that_takes_too_long_leaves_the_jobs_to_the_next_worker():
    async def scenario(stage: Stage) -> None:
        job = stage.hand_over()
        worker = stage.worker()
        running = asyncio.create_task(worker.run())
        await until(lambda: stage.record(job).state is JobState.SUBMITTED)
        worker.drain(0.05)
        await asyncio.wait_for(running, 10)
        assert stage.record(job).state is JobState.SUBMITTED
        async with working(stage.worker()) as infrastructure:
            await until(lambda: stage.record(job).worker_id != worker.record.id)
            infrastructure.ends(job)
            await until(lambda: stage.record(job).state is JobState.SUCCEEDED)

    play(scenario)


def test_a_worker_that_others_drain_claims_nothing_until_it_is_resumed(caplog: pytest.LogCaptureFixture):
    async def scenario(stage: Stage) -> None:
        worker = stage.worker()
        async with working(worker) as infrastructure:
            await until(lambda: stage.store.run_state(now=stage.now).workers)
            stage.store.drain_worker(worker.record.id)
            await until(lambda: "was drained" in caplog.text)
            job = stage.hand_over()
            await asyncio.sleep(5 * QUICK.claim)
            assert stage.record(job).state is JobState.PENDING
            stage.store.resume_worker(worker.record.id)
            await until(lambda: [spec.job_id for spec in infrastructure.launched] == [job])

    caplog.set_level(logging.INFO, logger="airflow_workpools.worker.claiming")
    play(scenario)


@pytest.mark.parametrize("limit", [None, 2])
def test_once_means_what_there_is_now(limit: int | None):
    async def scenario(stage: Stage) -> None:
        stage.pools["etl"] = etl(concurrency_limit=None)
        jobs = [stage.hand_over() for _ in range(3)]
        worker = prepared(stage.worker(), limit=limit)
        running = asyncio.create_task(worker.run())
        once = asyncio.create_task(worker.drain_when_all_is_taken(0.1))
        infrastructure = worker.infrastructures["process"]
        expected = 3 if limit is None else limit
        await until(once.done)
        assert len(infrastructure.launched) == expected  # type: ignore[attr-defined]
        stage.hand_over()
        for spec in list(infrastructure.launched):  # type: ignore[attr-defined]
            infrastructure.ends(spec.job_id)  # type: ignore[attr-defined]
        await asyncio.wait_for(running, 10)
        ended = [job for job in jobs if stage.record(job).state is JobState.SUCCEEDED]
        assert len(ended) == expected

    play(scenario)


class News(NamedTuple):
    work: bool
    wishes: bool
    pools: bool = False


class ListeningClient(SqlClient):
    """A client that can be told of news, by the test."""

    news = News(False, False)
    told: threading.Event
    asked: list[tuple[int, float]]

    def wait_for_work(self, worker_id: Any, *, most: int, seconds: float, heard: Any = ()) -> News:
        self.asked.append((most, seconds))
        if not self.told.wait(0.5):
            return News(False, False)
        self.told.clear()
        return self.news


def listening(worker: Worker) -> ListeningClient:
    made = ListeningClient(**{name: getattr(worker.client, name) for name in SqlClient.__dataclass_fields__})
    object.__setattr__(made, "told", threading.Event())
    object.__setattr__(made, "asked", [])
    return made


def test_news_of_work_is_looked_at_at_once():
    async def scenario(stage: Stage) -> None:
        worker = stage.worker()
        client = listening(worker)
        prepared(worker, client=client, times=replace(QUICK, claim=3600))
        async with working(worker) as infrastructure:
            await until(lambda: client.asked)
            job = stage.hand_over()
            object.__setattr__(client, "news", News(work=True, wishes=False))
            client.told.set()
            await until(lambda: [spec.job_id for spec in infrastructure.launched] == [job])

    play(scenario)


def test_news_of_work_pools_is_looked_at_at_once():
    async def scenario(stage: Stage) -> None:
        worker = stage.worker()
        client = listening(worker)
        served: list[list[str]] = []
        prepared(
            worker,
            client=client,
            times=replace(QUICK, claim=3600),
            on_pools=lambda pools: served.append(list(pools)),
        )
        async with working(worker):
            await until(lambda: client.asked)
            stage.pools["ml"] = replace(etl(), name="ml")
            object.__setattr__(client, "news", News(work=False, wishes=False, pools=True))
            client.told.set()
            await until(lambda: served[-1] == ["etl", "ml"])

    play(scenario)


def test_news_of_a_wish_is_looked_at_at_once():
    async def scenario(stage: Stage) -> None:
        job, worker = stage.hand_over(), stage.worker()
        client = listening(worker)
        prepared(worker, client=client, times=replace(QUICK, wishes=3600))
        async with working(worker) as infrastructure:
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            infrastructure.stop_errors = [InfrastructureUnavailable("away")]
            stage.store.request_cancel(job_ids=[job], reason="cleared", now=stage.now)
            object.__setattr__(client, "news", News(work=False, wishes=True))
            client.told.set()
            # What can't be stopped at first is tried again without another word.
            await until(lambda: stage.record(job).state is JobState.CANCELLED)

    play(scenario)


def test_room_that_becomes_free_is_offered_though_a_call_waits_without():
    async def scenario(stage: Stage) -> None:
        stage.hand_over()
        worker = stage.worker()
        client = listening(worker)
        prepared(worker, client=client, limit=1)
        async with working(worker) as infrastructure:
            await until(lambda: 0 in [most for most, _ in client.asked])
            before = len(client.asked)
            infrastructure.ends(infrastructure.launched[0].job_id)
            await until(lambda: any(most > 0 for most, _ in client.asked[before:]))

    play(scenario)


# -- outages ------------------------------------------------------------------------------------------------


def test_an_outage_is_told_at_once_then_at_growing_intervals_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.INFO, logger="airflow_workpools.worker.outages")
    seconds = 0.0
    outages = Outages(monotonic=lambda: seconds)
    for _ in range(2 * 3600 // 5):
        outages.fails(ApiUnavailable(f"the API server does not answer (so for {seconds / 60:.0f} min)"))
        seconds += 5
    outages.works()
    outages.works()
    said = [record.getMessage() for record in caplog.records]
    assert "does not answer" in said[0]
    assert "Jobs go on" in said[0]
    assert [text.partition(":")[2].partition(":")[0].strip() for text in said[1:-1]] == [
        f"for {minutes} min" for minutes in (1, 3, 7, 15, 31, 63)
    ]
    assert said[-1] == "Worker: the API server answers again, after 7200 s"


def test_reasons_that_come_in_turn_are_told_once_each_and_no_more_than_a_few(
    caplog: pytest.LogCaptureFixture,
):
    outages = Outages(monotonic=lambda: 0.0)
    for _ in range(50):
        for reason in ("it does not answer", "it can't be reached"):
            outages.fails(ApiUnavailable(reason))
    assert len(caplog.records) == 2
    for seconds in range(50):
        outages.fails(ApiUnavailable(f"none is looked at for {seconds} s"))
    assert len(caplog.records) == 5


# -- what is not taken --------------------------------------------------------------------------------------


def test_a_report_that_is_not_taken_keeps_no_other_from_being_told(caplog: pytest.LogCaptureFixture):
    async def scenario(stage: Stage) -> None:
        stage.pools["etl"] = etl(concurrency_limit=None)
        jobs = [stage.hand_over() for _ in range(5)]
        bad = jobs[2]
        take = stage.store.report

        def refuse(worker_id: Any, reports: list[Report], **more: Any) -> Any:
            if any(one.job_id == bad and one.handle is not None for one in reports):
                raise InvalidInput("the handle is no JSON")
            return take(worker_id, reports, **more)

        stage.store.report = refuse  # type: ignore[method-assign]
        async with working(stage.worker()) as infrastructure:
            await until(lambda: all(stage.record(job).state is JobState.SUBMITTED for job in jobs))
            for job in jobs:
                infrastructure.ends(job, 3, "exit code 3: its own")
            await until(lambda: all(stage.record(job).state is JobState.FAILED for job in jobs))
            await until(lambda: set(infrastructure.cleaned) == set(jobs))
        assert stage.record(bad).reason == "the reason was not taken: the handle is no JSON"
        assert stage.record(jobs[1]).reason == "exit code 3: its own"

    play(scenario)
    assert "what is to be told of job" in caplog.text


def test_what_is_another_workers_to_tell_is_said_to_be_so(caplog: pytest.LogCaptureFixture):
    async def scenario(stage: Stage) -> None:
        job, worker = stage.hand_over(), stage.worker()
        async with working(worker) as infrastructure:
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            take = stage.store.report
            stage.store.report = lambda _, *rest, **more: take(uuid.uuid4(), *rest, **more)  # type: ignore
            infrastructure.ends(job)
            await until(lambda: f"job {job} is not this worker's any more" in caplog.text)
            assert stage.record(job).state is JobState.SUBMITTED

    caplog.set_level(logging.INFO, logger="airflow_workpools.worker.outbox")
    play(scenario)


def test_a_worker_that_is_not_known_any_more_registers_again_at_once_whoever_hears_of_it():
    async def scenario(stage: Stage) -> None:
        worker = prepared(stage.worker(), times=replace(QUICK, heartbeat=3600))
        async with working(worker) as infrastructure:
            await until(lambda: stage.store.run_state(now=stage.now).workers)
            stage.store.purge(before=stage.now + timedelta(hours=1), limit=99)
            job = stage.hand_over()
            await until(lambda: [spec.job_id for spec in infrastructure.launched] == [job])

    play(scenario)


# -- what is kept on disk -----------------------------------------------------------------------------------


def report(job_id: Any, **changes: Any) -> Report:
    return replace(Report(job_id=job_id, state=JobState.FAILED, reason="why", start_attempts=0), **changes)


def test_what_is_kept_is_read_again_as_it_was(tmp_path: Path):
    journal, stage = Journal(tmp_path / "reports"), Stage()
    job = stage.hand_over()
    handle = Handle(job_id=job, kind="process", data={"pid": 7}, conn_id="c")
    kept = report(job, handle=handle, started_at=stage.now, exit_code=3)
    journal.keep([report(job, reason="older"), kept])
    assert Journal(journal.folder).kept(job, 0) == kept
    assert journal.kept(job, 1) is None, "it is of another claim"
    assert [path.name for path in journal.folder.iterdir()] == [f"{job}.json"]
    journal.forget([job])
    assert journal.kept(job, 0) is None


def test_what_is_kept_of_a_job_is_no_longer_than_what_the_store_keeps(tmp_path: Path):
    journal, job = Journal(tmp_path), Stage().hand_over()
    journal.keep([report(job, reason="x" * 1_000_000)])
    assert (tmp_path / f"{job}.json").stat().st_size < 20_000


@pytest.mark.parametrize("text", ["", "{", "[]", '{"job_id": 1}', "null"])
def test_a_file_that_was_cut_off_is_no_obstacle(tmp_path: Path, text: str):
    journal, job = Journal(tmp_path), Stage().hand_over()
    (tmp_path / f"{job}.json").write_text(text)
    assert journal.kept(job, 0) is None


def test_a_disk_that_cannot_be_written_to_is_told_of_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("")
    Journal(tmp_path / "file").keep([report(Stage().hand_over())])
    assert "can't be kept" in caplog.text


def test_a_report_survives_the_worker_when_the_store_is_away(tmp_path: Path):
    async def scenario(stage: Stage) -> None:
        journal = Journal(tmp_path)
        job = stage.hand_over()
        infrastructure = ScriptedInfrastructure(stage.platform)
        worker = prepared(stage.worker(infrastructure), journal=journal)
        running = asyncio.create_task(worker.run())
        await until(lambda: stage.record(job).state is JobState.SUBMITTED)
        stage.store.failures["report"] = 1_000_000
        infrastructure.ends(job, 3, "exit code 3: its own")
        await until(lambda: (kept := journal.kept(job, 0)) and kept.state is JobState.FAILED)
        worker.stop()
        await running
        # The infrastructure has forgotten it meanwhile: what was seen is all that is known.
        stage.platform.clear()
        stage.store.failures.clear()
        successor = prepared(stage.worker(), journal=journal)
        async with working(successor):
            await until(lambda: stage.record(job).state is JobState.FAILED)
        assert stage.record(job).exit_code == 3
        assert stage.record(job).reason == "exit code 3: its own"
        assert journal.job_ids() == set()

    play(scenario)


def test_what_was_told_is_not_kept(tmp_path: Path):
    async def scenario(stage: Stage) -> None:
        journal = Journal(tmp_path)
        job = stage.hand_over()
        async with working(prepared(stage.worker(), journal=journal)) as infrastructure:
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            stage.store.failures["report"] = 2
            infrastructure.ends(job)
            await until(lambda: stage.record(job).state is JobState.SUCCEEDED)
            await until(lambda: journal.job_ids() == set())

    play(scenario)
