# SPDX-License-Identifier: Apache-2.0
"""Only some jobs are busy with their start at a time; the others wait in the runner, in their order."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.process import runner as runner_module
from tests.unit.fake_execution_api import fake_execution_api
from tests.unit.infrastructure_contract import launch, wait_for_end, wait_until_begun, working
from tests.unit.process_platform import ProcessPlatform
from tests.unit.test_process_workload import Rig

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path
    from typing import Any

    from airflow_workpools.infrastructure.base import LaunchSpec
    from airflow_workpools.infrastructure.process import ProcessInfrastructure

FAR_AWAY = 3600.0


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[ProcessPlatform]:
    with ProcessPlatform(tmp_path) as platform:
        yield platform


@pytest.fixture(autouse=True)
def two_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner inherits it when it is forked."""
    monkeypatch.setattr(runner_module, "MAX_STARTING", 2)
    monkeypatch.setattr(runner_module, "MAX_START_SECONDS", FAR_AWAY)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


def slow_to_start(platform: ProcessPlatform, count: int) -> list[LaunchSpec]:
    """Return jobs that never say that their start is over, and wait."""
    return [platform.spec("wait", tells_that_it_begins=False) for _ in range(count)]


async def fill(platform: ProcessPlatform, worker: ProcessInfrastructure) -> list[LaunchSpec]:
    starting = slow_to_start(platform, 2)
    for spec in starting:
        await launch(worker, spec)
        await wait_until_begun(platform, spec)
    return starting


def test_jobs_that_have_begun_keep_no_other_from_starting(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            specs = [platform.waits() for _ in range(5)]
            handles = [await launch(worker, spec) for spec in specs]
            for spec in specs:
                await wait_until_begun(platform, spec)
            for spec in specs:
                platform.release(spec)
            for handle in handles:
                assert (await wait_for_end(worker, handle)).exit_code == 0

    run(scenario())


def test_while_enough_jobs_start_the_next_waits_until_one_of_them_ends(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            starting = await fill(platform, worker)
            waiting = platform.exits_with(0)
            launched = asyncio.create_task(launch(worker, waiting))
            assert not (await asyncio.wait({launched}, timeout=0.5))[0], (
                "a third job starts beside two others"
            )
            platform.release(starting[0])
            assert (await wait_for_end(worker, await launched)).exit_code == 0
            assert platform.diary(waiting) == ["begun"]
            platform.release(starting[1])

    run(scenario())


def test_those_that_wait_start_in_the_order_in_which_they_came(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            starting = await fill(platform, worker)
            waiting = slow_to_start(platform, 3)
            launched = [asyncio.create_task(launch(worker, spec)) for spec in waiting]
            platform.release(starting[0])
            await launched[0]
            assert not launched[1].done()
            platform.release(starting[1])
            await launched[1]
            assert not launched[2].done()
            platform.release(waiting[0])
            await launched[2]
            for spec in waiting[1:]:
                platform.release(spec)

    run(scenario())


def test_a_start_that_takes_long_keeps_no_other_waiting(
    platform: ProcessPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "MAX_START_SECONDS", 0.2)

    async def scenario() -> None:
        async with working(platform) as worker:
            starting = await fill(platform, worker)
            assert (await wait_for_end(worker, await launch(worker, platform.exits_with(0)))).exit_code == 0
            for spec in starting:
                platform.release(spec)

    run(scenario())


def test_jobs_that_cannot_start_keep_no_place(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            for _ in range(3):
                with pytest.raises(InfrastructureUnavailable):
                    await launch(worker, platform.altered(platform.exits_with(0), die_in="prepare"))
            assert (await wait_for_end(worker, await launch(worker, platform.exits_with(0)))).exit_code == 0

    run(scenario())


def test_what_waits_is_not_launched_any_more_when_the_worker_is_gone(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            starting = await fill(platform, worker)
            waiting = platform.exits_with(0)
            launched = asyncio.create_task(launch(worker, waiting))
            await asyncio.sleep(0)  # it is asked for
        launched.cancel()
        async with working(platform) as worker:
            [first, second] = [(await worker.find([spec.job_id]))[spec.job_id] for spec in starting]
            for spec, handle in zip(starting, (first, second), strict=True):
                platform.release(spec)
                assert (await wait_for_end(worker, handle)).exit_code == 0
            # The old runner has ended with its last job; had it kept what waited, that would have run by now.
            os.waitpid(platform.runners[0].pid, 0)
            assert platform.times_run(waiting) == 0
            assert (await wait_for_end(worker, await launch(worker, waiting))).exit_code == 0
            assert platform.times_run(waiting) == 1

    run(scenario())


def test_a_task_says_that_it_begins_before_its_code_runs_and_not_earlier(tmp_path: Path) -> None:
    program = """
import json, os, sys
from pathlib import Path
from airflow_workpools.airflow_private import workloads
workloads.warm_up_for_workloads()
note = Path(os.environ["NOTE"])
seen = []
workloads.run_workload(
    workloads.parse_workload(sys.argv[1]), server=sys.argv[2], on_begun=lambda: seen.append(note.exists())
)
print(seen, note.exists())
"""
    with fake_execution_api() as api:
        rig = Rig(tmp_path, api)
        environment = {
            **os.environ,
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
            "NOTE": str(rig.note),
        }
        said = subprocess.run(
            [sys.executable, "-c", program, rig.spec("facts").workload, api.url],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        rig.loop.close()
    assert said.stdout.splitlines()[-1:] == ["[False] True"], said.stdout + said.stderr
    paths = [path.rpartition("/")[2] for _, path, _ in api.requests]
    assert paths.index("run") < paths.index("state")
