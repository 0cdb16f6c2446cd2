# SPDX-License-Identifier: Apache-2.0
"""What a worker leaves behind that dies between storing the end of a job and removing the rest of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.templates import BaseJobTemplate
from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.base import LaunchSpec
from airflow_workpools.testing import FakeInfrastructure, FakePlatform
from airflow_workpools.testing.fake_infrastructure import Step
from airflow_workpools.worker.loop import Worker
from tests.unit.infrastructure_contract import launch
from tests.unit.test_worker_loop import QUICK, Stage, play, until

TEMPLATE = BaseJobTemplate.parse({"variables": {}, "job_configuration": {}})
GRACE = timedelta(seconds=QUICK.sweep_grace)


class Fake(FakeInfrastructure):
    kind = "process"

    def __init__(self, platform: FakePlatform, **options: Any) -> None:
        super().__init__(platform, **options)
        self.dies_at_cleanup = False
        self.at_cleanup = asyncio.Event()

    async def cleanup(self, handle: Any) -> None:
        if self.dies_at_cleanup:
            self.at_cleanup.set()
            await asyncio.Event().wait()
        await super().cleanup(handle)


def worker_on(stage: Stage, fake: Fake) -> Worker:
    worker = stage.worker()
    return replace(worker, infrastructures={"process": fake}, times=replace(QUICK, sweep=0.02))


@contextlib.asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[None]:
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await task


async def left_by_one_that_died(stage: Stage, platform: FakePlatform) -> UUID:
    """Have a worker launch a job, and be killed when its end is stored, right before the rest is removed."""
    stage.now = datetime.now(timezone.utc)
    job = stage.hand_over()
    fake = Fake(platform)
    fake.dies_at_cleanup = True
    task = asyncio.create_task(worker_on(stage, fake).run())
    await until(lambda: job in platform.jobs)
    platform.end(job)
    await fake.at_cleanup.wait()
    for each in asyncio.all_tasks():
        if each is not asyncio.current_task():
            each.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert stage.record(job).state is JobState.SUCCEEDED
    assert job in platform.jobs
    return job


def test_what_a_worker_left_that_died_before_it_could_remove_it_is_removed_by_the_next():
    async def scenario(stage: Stage) -> None:
        stage.pools["etl"] = replace(stage.pools["etl"], base_job_template=TEMPLATE)
        platform = FakePlatform()
        job = await left_by_one_that_died(stage, platform)
        fake = Fake(platform, fail_at=[Step.LEFT_BEHIND, Step.CLEANUP])  # and the sweep may fail, too
        async with working(worker_on(stage, fake)):
            await until(lambda: Step.LEFT_BEHIND not in fake.failures)
            assert job in platform.jobs, "somebody may still be fetching its log"
            stage.now += GRACE + timedelta(seconds=1)
            await until(lambda: job not in platform.jobs)

    play(scenario)


def test_the_one_who_sweeps_may_die_there_as_well():
    async def scenario(stage: Stage) -> None:
        stage.pools["etl"] = replace(stage.pools["etl"], base_job_template=TEMPLATE)
        platform = FakePlatform()
        job = await left_by_one_that_died(stage, platform)
        stage.now += GRACE + timedelta(seconds=1)
        for _ in range(2):
            fake = Fake(platform)
            fake.dies_at_cleanup = True
            task = asyncio.create_task(worker_on(stage, fake).run())
            await fake.at_cleanup.wait()
            for each in asyncio.all_tasks():
                if each is not asyncio.current_task():
                    each.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert job in platform.jobs
        async with working(worker_on(stage, Fake(platform))):
            await until(lambda: job not in platform.jobs)

    play(scenario)


@pytest.mark.parametrize("known", [False, True])
def test_what_still_runs_of_a_job_that_is_over_or_unknown_is_asked_to_end_first(known: bool):
    async def scenario(stage: Stage) -> None:
        stage.pools["etl"] = replace(stage.pools["etl"], base_job_template=TEMPLATE)
        platform, fake = FakePlatform(), None
        stage.now = datetime.now(timezone.utc)
        job = stage.hand_over() if known else uuid4()
        if known:
            stage.store.request_cancel(job_ids=[job], reason="not wanted", now=stage.now)
        fake = Fake(platform)
        await launch(fake, spec_of(job, str(stage.store.installation())))
        stage.now += GRACE + timedelta(seconds=1)
        async with working(worker_on(stage, fake)):
            await until(lambda: job not in platform.jobs)
        assert [handle.job_id for handle, _grace in fake.stops] == [job]

    play(scenario)


def test_jobs_of_another_airflow_and_jobs_that_go_on_are_left_alone():
    async def scenario(stage: Stage) -> None:
        stage.pools["etl"] = replace(stage.pools["etl"], base_job_template=TEMPLATE)
        stage.now = datetime.now(timezone.utc)
        platform = FakePlatform()
        other, nobodys, ours = spec_of(uuid4(), str(uuid4())), spec_of(uuid4(), ""), stage.hand_over()
        fake = Fake(platform)
        for spec in (other, nobodys):
            await launch(fake, spec)
        forgotten = spec_of(uuid4(), str(stage.store.installation()))
        await launch(fake, forgotten)
        async with working(worker_on(stage, fake)):
            await until(lambda: ours in platform.jobs)
            stage.now += GRACE + timedelta(seconds=1)
            await until(lambda: forgotten.job_id not in platform.jobs)
            assert set(platform.jobs) == {other.job_id, nobodys.job_id, ours}
            assert [handle.job_id for handle, _grace in fake.stops] == [forgotten.job_id]

    play(scenario)


def test_an_infrastructure_that_does_not_answer_keeps_no_other_from_being_swept():
    async def scenario(stage: Stage) -> None:
        stage.pools["etl"] = replace(stage.pools["etl"], base_job_template=TEMPLATE)
        stage.now = datetime.now(timezone.utc)
        silent, fine = Fake(FakePlatform(), fail_at=[]), Fake(FakePlatform())

        async def never(*_: Any, **__: Any) -> Any:
            raise InfrastructureUnavailable("no answer")

        silent.left_behind = never  # type: ignore[method-assign]
        silent.kind = "silent"  # type: ignore[misc]
        forgotten = spec_of(uuid4(), str(stage.store.installation()))
        await launch(fine, forgotten)
        stage.now += GRACE + timedelta(seconds=1)
        worker = replace(worker_on(stage, fine), infrastructures={"silent": silent, "process": fine})
        async with working(worker):
            await until(lambda: forgotten.job_id not in fine.platform.jobs)

    play(scenario)


def spec_of(job_id: UUID, installation: str) -> LaunchSpec:
    return LaunchSpec(job_id=job_id, configuration={}, workload="{}", labels={"installation": installation})
