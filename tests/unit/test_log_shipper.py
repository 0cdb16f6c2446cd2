# SPDX-License-Identifier: Apache-2.0
"""What jobs write on its way into the store: with the whole worker, on the store and the platform in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.logs import LogChunk, LogEnd, lines_of
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import PoolSource, WorkPool, parse_work_pool
from airflow_workpools.core.templates import BaseJobTemplate
from airflow_workpools.errors import InfrastructureError, InvalidInput
from airflow_workpools.store.records import NewJob, WorkerKind, WorkerRecord
from airflow_workpools.task_logs import read_chunks
from airflow_workpools.testing import FakeInfrastructureWithLog, FakePlatform, MemoryStore
from airflow_workpools.testing.fake_infrastructure import Step
from airflow_workpools.worker import log_shipper
from airflow_workpools.worker.client import SqlClient
from airflow_workpools.worker.log_shipper import LogTimes
from airflow_workpools.worker.loop import Worker
from airflow_workpools.worker.times import WorkerTimes

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
QUICK = WorkerTimes(
    heartbeat=0.02,
    claim=0.01,
    observe=0.01,
    wishes=0.02,
    stops=0.02,
    report_delay=0.001,
    progress_delay=0.01,
    max_retry=0.05,
    logs=LogTimes(collect=0.01, collect_last=0.001, partial=0.05, wait_at_end=30, max_retry=0.05),
)
TEMPLATE = BaseJobTemplate.parse({"variables": {}, "job_configuration": {}})
POOL = parse_work_pool("etl", {"type": "fake"}, templates={"fake": TEMPLATE}, source=PoolSource.DATABASE)
TOKEN = "eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiIxIiwic2NvcGUiOiJ3b3JrbG9hZCJ9.c2lnbmF0dXJl"


class FlakyStore(MemoryStore):
    """Takes no logs while it is told not to."""

    away = False
    calls = 0

    def append_log(self, *args: Any, **kwargs: Any) -> dict[uuid.UUID, LogEnd]:
        self.calls += 1
        if self.away:
            raise ConnectionError("the database is away")
        return super().append_log(*args, **kwargs)


@dataclass
class Stage:
    store: FlakyStore = field(default_factory=FlakyStore)
    platform: FakePlatform = field(default_factory=FakePlatform)
    pools: dict[str, WorkPool] = field(default_factory=lambda: {"etl": POOL})
    infrastructures: list[FakeInfrastructureWithLog] = field(default_factory=list)

    def hand_over(self) -> uuid.UUID:
        job = NewJob(
            task_instance_id=uuid.uuid4(),
            dag_id="sales",
            task_id="load",
            run_id="today",
            map_index=-1,
            try_number=1,
            ref=WorkQueueRef("etl"),
            pool_slots=1,
            priority_weight=1,
            workload=json.dumps({"token": "", "ti": {}}),
            scheduler_job_id=1,
            start_timeout_seconds=60,
        )
        return self.store.hand_over(job, now=NOW, session=None)  # type: ignore[arg-type]

    def worker(
        self,
        times: LogTimes = QUICK.logs,
        *,
        fail_at: tuple[Step, ...] = (),
        error: Exception | None = None,
    ) -> Worker:
        infrastructure = FakeInfrastructureWithLog(self.platform, fail_at=fail_at, error=error)
        self.infrastructures.append(infrastructure)
        return Worker(
            record=WorkerRecord(
                id=uuid.uuid4(),
                name="embedded@here:1",
                hostname="here",
                kind=WorkerKind.EMBEDDED,
                started_at=NOW,
                last_heartbeat_at=NOW,
                heartbeat_seconds=10,
                version="1",
            ),
            client=SqlClient(
                store=self.store,
                all_pools=lambda: self.pools,
                mint_token=lambda _ti, _seconds: "token",
                kinds=frozenset({"fake"}),
            ),
            infrastructures={"fake": infrastructure},
            clock=lambda: NOW,
            environ={},
            times=replace(QUICK, logs=times),
        )

    async def started(self) -> uuid.UUID:
        """Hand a job over and wait until it runs."""
        job = self.hand_over()
        await until(lambda: self.state(job) is JobState.RUNNING)
        return job

    def state(self, job: uuid.UUID) -> JobState:
        return self.store.job(job).state

    def log(self, job: uuid.UUID) -> list[str]:
        return list(lines_of(read_chunks(self.store, job)))


@contextlib.asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[None]:
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await task


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    async def look() -> None:
        while not condition():
            await asyncio.sleep(0.002)

    await asyncio.wait_for(look(), seconds)


def play(scenario: Callable[[Stage], Awaitable[None]]) -> None:
    asyncio.run(scenario(Stage()))  # type: ignore[arg-type]


def test_what_a_job_writes_can_be_read_while_it_runs():
    async def scenario(stage: Stage) -> None:
        async with working(stage.worker()):
            job = await stage.started()
            stage.platform.write(job, "one\ntwo\n")
            await until(lambda: stage.log(job) == ["one", "two"])
            stage.platform.write(job, "three\n")
            await until(lambda: stage.log(job) == ["one", "two", "three"])
            assert stage.state(job) is JobState.RUNNING

    play(scenario)


def test_an_unfinished_line_comes_a_little_later():
    async def scenario(stage: Stage) -> None:
        async with working(stage.worker()):
            job = await stage.started()
            stage.platform.write(job, "Really? [y/n] ")
            await until(lambda: stage.log(job) == ["Really? [y/n] "])
            stage.platform.write(job, "y\n")
            await until(lambda: stage.log(job) == ["Really? [y/n] y"])

    play(scenario)


def test_when_the_end_of_a_job_is_known_its_log_is_complete():
    async def scenario(stage: Stage) -> None:
        async with working(stage.worker()):
            jobs = [await stage.started() for _ in range(5)]
            for job in jobs:
                stage.platform.write(job, f"{job}\n" * 1000 + "the end, without a line's end")
                stage.platform.end(job)
            for job in jobs:
                await until(lambda job=job: stage.state(job) is JobState.SUCCEEDED)
                assert len(stage.log(job)) == 1001

    play(scenario)


def test_a_job_that_ends_before_anyone_looked_has_its_log():
    async def scenario(stage: Stage) -> None:
        worker = stage.worker()
        worker.times = replace(worker.times, observe=0.3)
        async with working(worker):
            job = stage.hand_over()
            await until(lambda: job in stage.platform.jobs)
            stage.platform.write(job, "quick\n")
            stage.platform.end(job)
            await until(lambda: stage.state(job) is JobState.SUCCEEDED)
            assert stage.log(job) == ["quick"]

    play(scenario)


def test_the_logs_of_all_jobs_are_sent_in_one_call():
    async def scenario(stage: Stage) -> None:
        async with working(stage.worker(replace(QUICK.logs, collect=0.3))):
            jobs = [await stage.started() for _ in range(20)]
            for job in jobs:
                stage.platform.write(job, "x\n")
            before = stage.store.calls
            for job in jobs:
                await until(lambda job=job: stage.log(job))
            assert stage.store.calls - before <= 3

    play(scenario)


def test_while_the_store_is_away_no_more_is_read_than_a_little_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(log_shipper, "MAX_READ_BYTES", 1000)

    async def scenario(stage: Stage) -> None:
        worker = stage.worker()
        async with working(worker):
            job = await stage.started()
            stage.store.away = True
            lines = [f"line {n}" for n in range(2000)]
            for line in lines:
                stage.platform.write(job, line + "\n")
                await asyncio.sleep(0)
            before = stage.store.calls
            await until(lambda: stage.store.calls > before + 2)
            assert sum(len(one.read) for one in worker._logs._logs.values()) < 3000
            stage.platform.end(job)
            await until(lambda: stage.store.calls > before + 5)
            assert stage.state(job) is JobState.RUNNING
            assert stage.infrastructures[0].cleanups == []
            stage.store.away = False
            await until(lambda: stage.state(job) is JobState.SUCCEEDED)
            assert stage.log(job) == lines
            await until(lambda: stage.infrastructures[0].cleanups)

    play(scenario)


def test_an_end_does_not_wait_for_ever_but_what_is_left_of_the_job_stays_until_its_log_is_stored():
    async def scenario(stage: Stage) -> None:
        async with working(stage.worker(replace(QUICK.logs, wait_at_end=0.1))):
            job = await stage.started()
            stage.store.away = True
            stage.platform.write(job, "late\n")
            stage.platform.end(job)
            await until(lambda: stage.state(job) is JobState.SUCCEEDED)
            assert stage.log(job) == []
            assert stage.infrastructures[0].cleanups == []
            stage.store.away = False
            await until(lambda: stage.infrastructures[0].cleanups)
            assert stage.log(job) == ["late"]

    play(scenario)


def test_a_log_that_can_not_be_read_is_given_up_in_the_end():
    async def scenario(stage: Stage) -> None:
        times = replace(QUICK.logs, wait_at_end=0.05, give_up=0.1)
        async with working(stage.worker(times, fail_at=(Step.BEGIN_LOG,) * 10_000)):
            job = await stage.started()
            stage.platform.end(job)
            await until(lambda: stage.infrastructures[0].cleanups)
            assert stage.state(job) is JobState.SUCCEEDED

    play(scenario)


def test_a_log_that_can_never_be_read_says_so_and_keeps_no_end_waiting():
    async def scenario(stage: Stage) -> None:
        error = InfrastructureError("the engine keeps none")
        async with working(stage.worker(fail_at=(Step.BEGIN_LOG,), error=error)):
            job = await stage.started()
            stage.platform.end(job)
            await until(lambda: stage.state(job) is JobState.SUCCEEDED)
            assert stage.log(job) == ["The log of this task can't be read: the engine keeps none"]

    play(scenario)


def test_a_worker_that_takes_a_job_over_goes_on_where_the_stores_copy_ends():
    async def scenario(stage: Stage) -> None:
        async with working(stage.worker()):
            job = await stage.started()
            stage.platform.write(job, "one\n")
            await until(lambda: stage.log(job) == ["one"])
        stage.platform.write(job, "two\n")
        async with working(stage.worker()):
            await until(lambda: stage.log(job) == ["one", "two"])
            stage.platform.write(job, "three\n")
            stage.platform.end(job)
            await until(lambda: stage.state(job) is JobState.SUCCEEDED)
            assert stage.log(job) == ["one", "two", "three"]

    play(scenario)


def test_reading_that_breaks_off_goes_on_where_it_was():
    async def scenario(stage: Stage) -> None:
        async with working(stage.worker(fail_at=(Step.FOLLOW_LOG,) * 3)):
            job = await stage.started()
            for n in range(6):
                stage.platform.write(job, f"{n}\n")
                await until(lambda n=n: len(stage.log(job)) == n + 1)
            assert stage.log(job) == ["0", "1", "2", "3", "4", "5"]

    play(scenario)


def test_what_the_store_has_lost_is_read_again():
    async def scenario(stage: Stage) -> None:
        async with working(stage.worker()):
            job = await stage.started()
            stage.platform.write(job, "one\n")
            await until(lambda: stage.log(job) == ["one"])
            stage.store._logs.clear()  # as a database that was restored
            stage.platform.write(job, "two\n")
            await until(lambda: stage.log(job) == ["one", "two"])

    play(scenario)


def test_a_log_that_is_too_long_is_read_no_further_and_its_job_ends_well():
    async def scenario(stage: Stage) -> None:
        stage.store.max_log_bytes = 10
        async with working(stage.worker()):
            job = await stage.started()
            stage.platform.write(job, "one\n" * 10)
            await until(lambda: len(stage.log(job)) == 3)
            calls = stage.store.calls
            stage.platform.write(job, "more\n")
            stage.platform.end(job)
            await until(lambda: stage.state(job) is JobState.SUCCEEDED)
            assert stage.store.calls == calls
            await until(lambda: stage.infrastructures[0].cleanups)

    play(scenario)


def test_a_log_that_is_not_taken_is_given_up_and_keeps_no_other_waiting(caplog: pytest.LogCaptureFixture):
    async def scenario(stage: Stage) -> None:
        async with working(stage.worker()):
            jobs = [await stage.started() for _ in range(5)]
            bad, take = jobs[2], stage.store.append_log

            def refuse(worker_id: uuid.UUID, chunks: list[LogChunk], **more: Any) -> dict[uuid.UUID, LogEnd]:
                if any(chunk.job_id == bad for chunk in chunks):
                    raise InvalidInput("it can't be so")
                return take(worker_id, chunks, **more)

            stage.store.append_log = refuse  # type: ignore[method-assign,assignment]
            for job in jobs:
                stage.platform.write(job, "a line\n")
                stage.platform.end(job)
            await until(lambda: all(stage.state(job) is JobState.SUCCEEDED for job in jobs))
            assert [stage.log(job) for job in jobs] == [["a line"], ["a line"], [], ["a line"], ["a line"]]

    play(scenario)
    assert "is not taken, and given up: it can't be so" in caplog.text


def test_no_token_is_stored():
    async def scenario(stage: Stage) -> None:
        async with working(stage.worker()):
            job = await stage.started()
            stage.platform.write(job, f'{{"event": "{TOKEN}"}}\n{TOKEN[:40]}')
            await until(lambda: stage.log(job))
            stage.platform.write(job, TOKEN[40:])
            stage.platform.end(job)
            await until(lambda: stage.state(job) is JobState.SUCCEEDED)
            text = "".join(stage.log(job))
            assert "eyJ" not in text
            assert text.count("*") == 2 * len(TOKEN)

    play(scenario)


def test_what_is_in_a_log_is_not_in_the_workers_own(caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")

    async def scenario(stage: Stage) -> None:
        async with working(stage.worker(fail_at=(Step.FOLLOW_LOG,))):
            job = await stage.started()
            stage.store.away = True
            stage.platform.write(job, "my secret\n")
            await until(lambda: stage.store.calls > 2)
            stage.store.away = False
            await until(lambda: stage.log(job) == ["my secret"])

    play(scenario)
    assert "my secret" not in caplog.text
