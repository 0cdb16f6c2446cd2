# SPDX-License-Identifier: Apache-2.0
"""The worker's loop: on the store in memory, with an infrastructure that does what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import InvalidPool, PoolSource, WorkPool, parse_work_pool
from airflow_workpools.core.templates import BaseJobTemplate
from airflow_workpools.errors import InfrastructureUnavailable, LaunchRejected
from airflow_workpools.store.records import JobRecord, NewJob, WorkerKind, WorkerRecord
from airflow_workpools.testing import MemoryStore
from airflow_workpools.worker.client import SqlClient
from airflow_workpools.worker.loop import Worker
from airflow_workpools.worker.times import WorkerTimes
from tests.unit.scripted_infrastructure import ScriptedInfrastructure

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
QUICK = WorkerTimes(
    heartbeat=0.02,
    claim=0.02,
    observe=0.02,
    wishes=0.02,
    stops=0.02,
    report_delay=0.001,
    progress_delay=0.01,
    launch_patience=0.05,
    renewal=0.02,
    connections=0.02,
    max_retry=0.05,
)
TEMPLATE = BaseJobTemplate.parse(
    {
        "variables": {"type": "object", "properties": {"nice": {"type": "integer", "default": 1}}},
        "job_configuration": {"nice": "{{ nice }}", "who": "{{ ctx.dag_id }}.{{ ctx.task_id }}"},
    }
)


def etl(**definition: Any) -> WorkPool:
    return parse_work_pool(
        "etl",
        {"type": "process", "concurrency_limit": 2, **definition},
        templates={"process": TEMPLATE},
        source=PoolSource.DATABASE,
    )


class FlakyStore(MemoryStore):
    """Fails as often as it is told to: the database is away."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, int] = {}

    def _fail(self, what: str) -> None:
        if self.failures.get(what, 0) > 0:
            self.failures[what] -= 1
            raise ConnectionError(f"{what}: the database is away")

    def report(self, *args: Any, **kwargs: Any) -> Any:
        self._fail("report")
        return super().report(*args, **kwargs)

    def claim(self, *args: Any, **kwargs: Any) -> Any:
        self._fail("claim")
        return super().claim(*args, **kwargs)

    def register_worker(self, *args: Any, **kwargs: Any) -> None:
        self._fail("register")
        super().register_worker(*args, **kwargs)


@dataclass
class Stage:
    """A store, a pool, and workers that come and go."""

    store: FlakyStore = field(default_factory=FlakyStore)
    pools: dict[str, WorkPool | InvalidPool] = field(default_factory=lambda: {"etl": etl()})
    platform: dict[uuid.UUID, Any] = field(default_factory=dict)
    now: datetime = NOW
    connections: dict[str, dict[str, Any]] = field(default_factory=dict)

    def hand_over(self, pool: str = "etl", *, priority_weight: int = 1, **variables: Any) -> uuid.UUID:
        job = NewJob(
            task_instance_id=uuid.uuid4(),
            dag_id="sales",
            task_id="load",
            run_id="today",
            map_index=-1,
            try_number=1,
            ref=WorkQueueRef(pool),
            pool_slots=1,
            priority_weight=priority_weight,
            workload=json.dumps({"token": "", "ti": {}}),
            job_variables=variables,
            scheduler_job_id=1,
            start_timeout_seconds=60,
        )
        return self.store.hand_over(job, now=self.now, session=None)  # type: ignore[arg-type]

    def record(self, job_id: uuid.UUID) -> JobRecord:
        return self.store.job(job_id)

    def worker(self, infrastructure: ScriptedInfrastructure | None = None) -> Worker:
        return Worker(
            record=WorkerRecord(
                id=uuid.uuid4(),
                name="embedded@here:1",
                hostname="here",
                kind=WorkerKind.EMBEDDED,
                started_at=self.now,
                last_heartbeat_at=self.now,
                heartbeat_seconds=10,
                version="1",
            ),
            client=SqlClient(
                store=self.store,
                all_pools=lambda: self.pools,
                mint_token=lambda ti, seconds: f"token of {ti} for {seconds:.0f} s",
                kinds=frozenset({"process"}),
            ),
            infrastructures={"process": infrastructure or ScriptedInfrastructure(self.platform)},
            clock=lambda: self.now,
            environ={},
            connections=self._connections,
            times=QUICK,
        )

    def _connections(self, conn_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        self.store._fail("connections")
        return {conn_id: self.connections[conn_id] for conn_id in conn_ids if conn_id in self.connections}


@contextlib.asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[ScriptedInfrastructure]:
    task = asyncio.create_task(worker.run())
    try:
        yield worker.infrastructures["process"]  # type: ignore[misc]
    finally:
        worker.stop()
        await task


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds) if hasattr(asyncio, "timeout") else contextlib.AsyncExitStack():
        while not condition():
            await asyncio.sleep(0.002)


def play(scenario: Callable[[Stage], Awaitable[None]]) -> None:
    asyncio.run(scenario(Stage()))  # type: ignore[arg-type]


def test_a_job_goes_its_way_and_what_it_left_behind_is_removed():
    async def scenario(stage: Stage) -> None:
        job = stage.hand_over(nice=7)
        async with working(stage.worker()) as infrastructure:
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            infrastructure.runs(job)
            await until(lambda: stage.record(job).state is JobState.RUNNING)
            infrastructure.ends(job)
            await until(lambda: infrastructure.cleaned == [job])
            assert stage.record(job).state is JobState.SUCCEEDED
            [spec] = infrastructure.launched
            assert spec.configuration == {"nice": 7, "who": "sales.load"}
            assert json.loads(spec.workload)["token"] == f"token of {job} for 60 s"
            assert spec.labels["work_queue"] == "default"

    play(scenario)


def test_a_call_makes_it_look_at_once():
    async def scenario(stage: Stage) -> None:
        worker = stage.worker()
        worker.times = replace(QUICK, claim=3600)
        async with working(worker) as infrastructure:
            await until(lambda: stage.store.run_state(now=stage.now).workers)
            job = stage.hand_over()
            worker.look_now()
            await until(lambda: [spec.job_id for spec in infrastructure.launched] == [job])

    play(scenario)


def test_the_end_of_a_job_makes_room_for_the_next_at_once():
    async def scenario(stage: Stage) -> None:
        stage.pools["etl"] = etl(concurrency_limit=1)
        first, second = stage.hand_over(), stage.hand_over()
        worker = stage.worker()
        worker.times = replace(QUICK, claim=3600)
        async with working(worker) as infrastructure:
            await until(lambda: infrastructure.launched)
            running = infrastructure.launched[0].job_id
            infrastructure.ends(running)
            await until(lambda: len(infrastructure.launched) == 2)
            assert {spec.job_id for spec in infrastructure.launched} == {first, second}

    play(scenario)


def test_a_launch_that_hangs_keeps_no_other_waiting():
    async def scenario(stage: Stage) -> None:
        hanging, other = stage.hand_over(), stage.hand_over()
        infrastructure = ScriptedInfrastructure(stage.platform)
        infrastructure.holds = lambda job: job == hanging
        async with working(stage.worker(infrastructure)):
            await until(lambda: stage.record(other).state is JobState.SUBMITTED)
            infrastructure.ends(other)
            later = stage.hand_over()
            await until(lambda: stage.record(later).state is JobState.SUBMITTED)
            assert stage.record(hanging).state is JobState.CLAIMED
            assert infrastructure.asked.count(hanging) == 1
            infrastructure.holds = lambda _: False
            await until(lambda: stage.record(hanging).state is JobState.SUBMITTED)

    play(scenario)


def test_no_more_is_claimed_than_can_be_launched_and_priority_decides_about_the_rest():
    async def scenario(stage: Stage) -> None:
        stage.pools["etl"] = etl(concurrency_limit=20)
        jobs = [stage.hand_over() for _ in range(8)]
        infrastructure = ScriptedInfrastructure(stage.platform)
        allowed: set[uuid.UUID] = set()
        infrastructure.holds = lambda job: job not in allowed
        worker = stage.worker(infrastructure)
        infrastructure.launches_in_flight = 4
        worker = replace(worker, times=replace(QUICK, claim=3600))
        async with working(worker):
            await until(lambda: len(infrastructure.asked) == 4)
            urgent = stage.hand_over(priority_weight=100)
            allowed.update(infrastructure.asked[:1])
            await until(lambda: infrastructure.launched)
            assert len(infrastructure.asked) == 4, "one claimed alone costs as much as several"
            allowed.update(infrastructure.asked[:2])
            await until(lambda: len(infrastructure.asked) == 6)
            assert infrastructure.asked[4] == urgent
            infrastructure.holds = lambda _: False
            await until(lambda: len(infrastructure.launched) == 9)
            assert {spec.job_id for spec in infrastructure.launched} == {urgent, *jobs}

    play(scenario)


def test_a_worker_that_ends_while_a_launch_hangs_leaves_the_job_to_the_next():
    async def scenario(stage: Stage) -> None:
        job = stage.hand_over()
        infrastructure = ScriptedInfrastructure(stage.platform)
        infrastructure.holds = lambda _: True
        async with working(stage.worker(infrastructure)):
            await until(lambda: infrastructure.asked)
        async with working(stage.worker()):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)

    play(scenario)


def test_never_more_run_than_the_pool_allows():
    async def scenario(stage: Stage) -> None:
        jobs = [stage.hand_over() for _ in range(7)]
        async with working(stage.worker()) as infrastructure:
            most = 0
            while any(stage.record(job).state is not JobState.SUCCEEDED for job in jobs):
                running = [job for job, seen in infrastructure.platform.items() if not seen.ended]
                most = max(most, len(running))
                for job in running:
                    infrastructure.ends(job)
                await asyncio.sleep(0.005)
            assert most == 2

    play(scenario)


def test_a_job_that_can_never_start_fails_with_the_reason():
    async def scenario(stage: Stage) -> None:
        infrastructure = ScriptedInfrastructure()
        infrastructure.launch_errors = [LaunchRejected("user 'nobody2' does not exist on here")]
        job = stage.hand_over()
        async with working(stage.worker(infrastructure)):
            await until(lambda: stage.record(job).state is JobState.FAILED)
            assert "user 'nobody2' does not exist" in (stage.record(job).reason or "")

    play(scenario)


def test_a_launch_that_may_work_later_is_tried_once_more_then_the_try_fails():
    async def scenario(stage: Stage) -> None:
        infrastructure = ScriptedInfrastructure()
        infrastructure.launch_errors = [InfrastructureUnavailable("no process could be forked")]
        job = stage.hand_over()
        async with working(stage.worker(infrastructure)):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            assert stage.record(job).start_attempts == 1
            infrastructure.ends(job)
            await until(lambda: stage.record(job).state is JobState.SUCCEEDED)
            infrastructure.launch_errors = [InfrastructureUnavailable("no process could be forked")] * 2
            other = stage.hand_over()
            await until(lambda: stage.record(other).state is JobState.FAILED)
            assert "no process could be forked (2 attempts)" in (stage.record(other).reason or "")

    play(scenario)


def test_a_surprise_in_a_launch_never_runs_a_job_twice():
    async def scenario(stage: Stage) -> None:
        infrastructure = ScriptedInfrastructure()
        infrastructure.fail_after_launch = [OSError("connection reset")]
        job = stage.hand_over()
        async with working(stage.worker(infrastructure)):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            assert len(infrastructure.launched) == 1

    play(scenario)


def test_reports_are_repeated_until_the_store_takes_them():
    async def scenario(stage: Stage) -> None:
        job = stage.hand_over()
        async with working(stage.worker()) as infrastructure:
            await until(lambda: infrastructure.launched)
            stage.store.failures["report"] = 5
            infrastructure.ends(job, 3, "exit code 3")
            await until(lambda: stage.record(job).state is JobState.FAILED)
            assert (stage.record(job).exit_code, stage.record(job).reason) == (3, "exit code 3")

    play(scenario)


def test_a_job_that_ends_soon_is_told_of_once():
    async def scenario(stage: Stage) -> None:
        told: list[list[JobState]] = []
        store_report = stage.store.report

        def report(worker_id: uuid.UUID, reports: Any, *, now: datetime) -> Any:
            told.append([report.state for report in reports])
            return store_report(worker_id, reports, now=now)

        stage.store.report = report  # type: ignore[method-assign]
        worker = stage.worker()
        worker.times = replace(QUICK, progress_delay=3600)
        job = stage.hand_over()
        async with working(worker) as infrastructure:
            await until(lambda: infrastructure.launched)
            infrastructure.runs(job)
            infrastructure.ends(job)
            await until(lambda: stage.record(job).state is JobState.SUCCEEDED)
        assert told == [[JobState.SUCCEEDED]]
        assert stage.record(job).handle is not None

    play(scenario)


def test_a_store_that_is_away_stops_nothing():
    async def scenario(stage: Stage) -> None:
        stage.store.failures = {"register": 2, "claim": 3}
        job = stage.hand_over()
        async with working(stage.worker()) as infrastructure:
            await until(lambda: infrastructure.launched)
            assert stage.record(job).worker_id is not None

    play(scenario)


def test_a_wish_to_cancel_stops_the_job_and_its_reason_stays():
    async def scenario(stage: Stage) -> None:
        job = stage.hand_over()
        async with working(stage.worker()) as infrastructure:
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            stage.store.request_cancel(job_ids=[job], reason="the task was cleared", now=stage.now)
            await until(lambda: stage.record(job).state is JobState.CANCELLED)
            assert infrastructure.stopped == [job]
            assert stage.record(job).reason == "the task was cleared"

    play(scenario)


def test_jobs_outlive_their_worker_and_the_next_one_adopts_them():
    async def scenario(stage: Stage) -> None:
        job = stage.hand_over()
        async with working(stage.worker()):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
        assert stage.record(job).state is JobState.SUBMITTED
        async with working(stage.worker()) as infrastructure:
            infrastructure.ends(job)
            await until(lambda: stage.record(job).state is JobState.SUCCEEDED)
            assert infrastructure.launched == []

    play(scenario)


def test_a_job_that_was_claimed_but_never_launched_is_launched_by_the_next_worker():
    async def scenario(stage: Stage) -> None:
        job = stage.hand_over()
        dead = stage.worker()
        dead.client.register(dead.record, now=stage.now)
        assert [claimed.id for claimed in dead.client.claim(dead.record.id, most=9, now=stage.now)] == [job]
        stage.now += timedelta(minutes=1)  # it has been silent since
        async with working(stage.worker()) as infrastructure:
            await until(lambda: [spec.job_id for spec in infrastructure.launched] == [job])
            assert stage.record(job).start_attempts == 1

    play(scenario)


def test_a_job_that_was_launched_but_never_reported_is_found_not_launched_again():
    async def scenario(stage: Stage) -> None:
        job = stage.hand_over()
        dead = stage.worker()
        dead.client.register(dead.record, now=stage.now)
        dead.client.claim(dead.record.id, most=9, now=stage.now)
        ScriptedInfrastructure(stage.platform).runs(job)
        stage.now += timedelta(minutes=1)
        async with working(stage.worker()) as infrastructure:
            await until(lambda: stage.record(job).state is JobState.RUNNING)
            assert infrastructure.launched == []
            infrastructure.ends(job, None, "nothing is left of it")
            await until(lambda: stage.record(job).state is JobState.FAILED)

    play(scenario)


def test_a_pool_that_vanishes_between_hand_over_and_launch_fails_the_job_with_the_reason():
    async def scenario(stage: Stage) -> None:
        job = stage.hand_over()
        worker = stage.worker()
        claim = stage.store.claim

        def claim_then_lose_the_pool(*args: Any, **kwargs: Any) -> Any:
            jobs = claim(*args, **kwargs)
            stage.pools.clear()
            return jobs

        stage.store.claim = claim_then_lose_the_pool  # type: ignore[method-assign]
        async with working(worker):
            await until(lambda: stage.record(job).state is JobState.FAILED)
            assert "'etl' does not exist any more" in (stage.record(job).reason or "")

    play(scenario)


@pytest.mark.parametrize("variables", [{"nice": "very"}, {"nicee": 1}])
def test_variables_that_no_longer_fit_the_template_fail_the_job_with_the_reason(variables):
    async def scenario(stage: Stage) -> None:
        job = stage.hand_over(**variables)
        async with working(stage.worker()):
            await until(lambda: stage.record(job).state is JobState.FAILED)
            assert "nice" in (stage.record(job).reason or "")

    play(scenario)


WITH_CONNECTION = {
    "variables": {"type": "object", "properties": {}},
    "job_configuration": {"env": {"DSN": "{{ conn.warehouse.login }}@{{ conn.warehouse.extra.region }}"}},
}


def test_a_template_gets_the_fields_of_connections_even_if_they_cannot_be_read_at_once():
    async def scenario(stage: Stage) -> None:
        stage.pools["etl"] = etl(base_job_template=WITH_CONNECTION)
        stage.connections["warehouse"] = {"login": "etl", "extra": {"region": "north"}}
        stage.store.failures["connections"] = 1
        job = stage.hand_over()
        async with working(stage.worker()) as infrastructure:
            await until(lambda: infrastructure.launched)
        assert infrastructure.launched[0].configuration == {"env": {"DSN": "etl@north"}}
        assert "etl@north" not in repr(stage.record(job))

    play(scenario)


def test_a_connection_that_is_missing_fails_the_job_with_the_reason():
    async def scenario(stage: Stage) -> None:
        stage.pools["etl"] = etl(base_job_template=WITH_CONNECTION)
        job = stage.hand_over()
        async with working(stage.worker()):
            await until(lambda: stage.record(job).state is JobState.FAILED)
        assert "no Airflow connection 'warehouse'" in (stage.record(job).reason or "")

    play(scenario)


def test_pools_that_are_invalid_or_of_another_kind_are_not_served():
    stage = Stage()
    stage.pools["broken"] = InvalidPool(name="broken", reason="x", source=PoolSource.DATABASE)
    stage.pools["pull"] = replace(etl(delivery="pull"), name="pull")
    assert set(stage.worker().client.pools()) == {"etl"}
