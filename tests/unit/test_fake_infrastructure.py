# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import uuid

import pytest

from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.base import Infrastructure, LaunchSpec, Phase
from airflow_workpools.testing import FakeInfrastructure, FakePlatform
from airflow_workpools.testing.fake_infrastructure import Step
from tests.unit.infrastructure_contract import (
    InfrastructureContract,
    LeftBehindContract,
    launch,
    observe,
    run,
    working,
)


class Rig:
    """A fake platform as the contract wants one."""

    def __init__(self) -> None:
        self.fake = FakePlatform()

    def worker(self) -> Infrastructure:
        return FakeInfrastructure(self.fake)

    def exits_with(self, code: int) -> LaunchSpec:
        return self.spec(exit_code=code)

    def waits(self) -> LaunchSpec:
        return self.spec()

    def cannot_start(self) -> LaunchSpec:
        return self.spec(rejected="there is no such image")

    def times_run(self, spec: LaunchSpec) -> int:
        return [launched.job_id for launched in self.fake.launches].count(spec.job_id)

    def spec(self, **configuration: object) -> LaunchSpec:
        return LaunchSpec(job_id=uuid.uuid4(), configuration=configuration, workload="{}")


class TestFakeInfrastructure(InfrastructureContract, LeftBehindContract):
    @pytest.fixture
    def platform(self) -> Rig:
        return Rig()


@pytest.mark.parametrize("step", [Step.BEFORE_LAUNCH, Step.AFTER_LAUNCH, Step.AFTER_HANDLE])
def test_a_launch_fails_once_where_it_is_told_to(step: Step) -> None:
    async def scenario() -> None:
        rig = Rig()
        worker, spec = FakeInfrastructure(rig.fake, fail_at=[step]), rig.waits()
        with pytest.raises(InfrastructureUnavailable, match=f"failed as told: {step.value}"):
            await launch(worker, spec)
        assert rig.times_run(spec) == (step is not Step.BEFORE_LAUNCH)
        assert (await observe(worker, await launch(worker, spec))).phase is Phase.RUNNING
        assert rig.times_run(spec) == 1

    run(scenario())


def test_every_other_step_fails_where_it_is_told_to() -> None:
    async def scenario() -> None:
        rig = Rig()
        steps = ["open", "observe", "find", "stop", "cleanup"]
        worker = FakeInfrastructure(rig.fake, fail_at=steps, error=OSError("no network"))
        handle = await launch(worker, rig.waits())
        for attempt in (
            worker.open,
            lambda: worker.observe([handle]),
            lambda: worker.find([handle.job_id]),
            lambda: worker.stop(handle, grace_seconds=1),
            lambda: worker.cleanup(handle),
        ):
            with pytest.raises(OSError, match="no network"):
                await attempt()
        assert worker.failures == []
        await worker.stop(handle, grace_seconds=7)
        assert worker.stops == [(handle, 7)]

    run(scenario())


def test_a_job_may_disappear() -> None:
    async def scenario() -> None:
        rig = Rig()
        async with working(rig) as worker:
            handle = await launch(worker, rig.waits())
            rig.fake.end(handle.job_id, None)
            assert (await observe(worker, handle)).phase is Phase.GONE
            rig.fake.end(handle.job_id, 0)
            assert (await observe(worker, handle)).phase is Phase.GONE

    run(scenario())
