# SPDX-License-Identifier: Apache-2.0
"""Jobs survive their runner, their worker, and whoever started those."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.base import Handle, Phase
from airflow_workpools.infrastructure.process import ProcessInfrastructure, ProcessRunner
from airflow_workpools.infrastructure.process import infrastructure as infrastructure_module
from airflow_workpools.infrastructure.process.proc import ProcessIdentity, all_stats
from tests.airflow.chaos.disk import small_disk
from tests.unit.infrastructure_contract import (
    launch,
    observe,
    wait_for_end,
    wait_until,
    wait_until_begun,
    working,
)
from tests.unit.process_platform import ProcessPlatform, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_workpools.infrastructure.base import Infrastructure, LaunchSpec


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[ProcessPlatform]:
    with ProcessPlatform(tmp_path) as platform:
        yield platform


def is_gone(identity: ProcessIdentity) -> bool:
    stat = identity.stat()
    return stat is None or stat.has_ended


def lives(pid: int) -> bool:
    identity = ProcessIdentity.of(pid)
    return identity is not None and not is_gone(identity)


async def kill_runner(platform: ProcessPlatform, which: int = 0) -> None:
    os.kill(platform.runners[which].pid, signal.SIGKILL)
    await asyncio.to_thread(eventually, lambda: is_gone(platform.runners[which]))


async def running_job(platform: ProcessPlatform, worker: Infrastructure) -> tuple[LaunchSpec, Handle]:
    spec = platform.waits()
    handle = await launch(worker, spec)
    await wait_until_begun(platform, spec)
    return spec, handle


# -- the disk is full ---------------------------------------------------------------------------------------


def test_a_job_that_succeeds_while_the_disk_is_full_has_succeeded(
    platform: ProcessPlatform, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            spec, handle = await running_job(platform, worker)
            disk.fill()
            await asyncio.to_thread(platform.release, spec)
            ended = await wait_for_end(worker, handle)
            assert platform.directory(spec).exit() is None, "the disk was not full"
            assert ended.exit_code == 0

    with small_disk(tmp_path / "home") as disk:
        if disk is None:
            pytest.skip("mounting is not permitted here")
        asyncio.run(scenario())


# -- the runner dies ----------------------------------------------------------------------------------------


def test_a_job_survives_its_runner_and_says_itself_how_it_ended(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            spec, handle = await running_job(platform, worker)
            await kill_runner(platform)
            assert (await observe(worker, handle)).phase is Phase.RUNNING
            await asyncio.to_thread(platform.release, spec)
            assert (await wait_for_end(worker, handle)).exit_code == 0
        exit_ = platform.directory(spec).exit()
        assert exit_ is not None
        assert exit_.exit_code == 0

    asyncio.run(scenario())


def test_when_the_runner_dies_whoever_waits_for_a_change_is_woken(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            waiter = asyncio.create_task(worker.wait_for_change())
            await kill_runner(platform)
            await asyncio.wait_for(waiter, 10)

    asyncio.run(scenario())


def test_after_the_runner_died_the_next_launch_starts_another(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            _, handle = await running_job(platform, worker)
            await kill_runner(platform)
            await asyncio.wait_for(worker.wait_for_change(), 10)
            assert (await wait_for_end(worker, await launch(worker, platform.exits_with(5)))).exit_code == 5
            assert len(platform.runners) == 2
            await worker.stop(handle, grace_seconds=5)
            assert (await wait_for_end(worker, handle)).ended

    asyncio.run(scenario())


def test_a_launch_during_which_the_runner_dies_may_be_tried_again(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            os.kill(platform.runners[0].pid, signal.SIGSTOP)
            spec = platform.exits_with(0)
            attempt = asyncio.create_task(launch(worker, spec))
            await asyncio.sleep(0)
            await kill_runner(platform)
            with pytest.raises(InfrastructureUnavailable):
                await attempt
            assert (await wait_for_end(worker, await launch(worker, spec))).exit_code == 0
        assert platform.times_run(spec) == 1

    asyncio.run(scenario())


def test_a_job_that_is_killed_when_its_runner_is_dead_is_gone_with_a_reason(
    platform: ProcessPlatform,
) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            _, handle = await running_job(platform, worker)
            await kill_runner(platform)
            pid = handle.data["process"]["pid"]
            await wait_until(worker, handle, lambda seen: seen.phase is Phase.RUNNING)
            os.kill(pid, signal.SIGKILL)
            seen = await wait_for_end(worker, handle)
            assert seen.phase is Phase.GONE
            assert seen.reason == (
                f"its process (pid {pid}) is gone without a trace: killed, and so was the runner that watched it"
            )

    asyncio.run(scenario())


def test_what_a_killed_job_had_started_dies_too_though_its_runner_is_dead(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        spec = platform.spec("start_others")
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            await asyncio.to_thread(eventually, lambda: len(platform.diary(spec)) == 2)
            await kill_runner(platform)
            await observe(worker, handle)
            os.kill(handle.data["process"]["pid"], signal.SIGKILL)
            await wait_for_end(worker, handle)
            pids = json.loads(platform.diary(spec)[1])
            await asyncio.to_thread(eventually, lambda: not [i for i in pids[:2] + pids[3:] if lives(i)])
            os.kill(pids[2], signal.SIGKILL)

    asyncio.run(scenario())


def test_a_stubborn_job_is_stopped_though_its_runner_is_dead_and_its_end_is_known(
    platform: ProcessPlatform,
) -> None:
    async def scenario() -> None:
        spec = platform.spec("wait_stubbornly")
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            await wait_until_begun(platform, spec)
            await kill_runner(platform)
            await asyncio.wait_for(worker.wait_for_change(), 10)
            await worker.stop(handle, grace_seconds=0.2)
            await wait_for_end(worker, handle)
            eventually(lambda: platform.directory(spec).exit() is not None)
        assert platform.diary(spec).count("asked to end") == 1

    asyncio.run(scenario())


def test_a_zombie_that_nobody_reaps_is_gone_after_a_while(
    platform: ProcessPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infrastructure_module, "_REAP_SECONDS", 0.3)

    async def scenario() -> None:
        async with working(platform) as first, working(platform) as second:
            _, handle = await running_job(platform, first)
            os.kill(platform.runners[0].pid, signal.SIGSTOP)  # it will not reap its job now
            await observe(second, handle)
            os.kill(handle.data["process"]["pid"], signal.SIGKILL)
            seen = await wait_for_end(second, handle)
            assert seen.phase is Phase.GONE
            os.kill(platform.runners[0].pid, signal.SIGCONT)
            assert (await wait_for_end(first, handle)).exit_code == -signal.SIGKILL

    asyncio.run(scenario())


# -- the worker goes ----------------------------------------------------------------------------------------


def test_a_runner_whose_worker_left_writes_down_how_its_last_job_ended_and_ends(
    platform: ProcessPlatform,
) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            spec, handle = await running_job(platform, worker)
        await asyncio.sleep(0)
        assert not is_gone(platform.runners[0])
        os.kill(handle.data["process"]["pid"], signal.SIGKILL)
        await asyncio.to_thread(eventually, lambda: is_gone(platform.runners[0]))
        exit_ = platform.directory(spec).exit()
        assert exit_ is not None
        assert exit_.exit_code == -signal.SIGKILL

    asyncio.run(scenario())


def test_a_runner_without_jobs_ends_with_its_worker(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            await wait_for_end(worker, await launch(worker, platform.exits_with(0)))
        await asyncio.to_thread(eventually, lambda: is_gone(platform.runners[0]))

    asyncio.run(scenario())


def test_a_stop_is_carried_out_though_the_worker_left_during_the_grace(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        spec = platform.spec("wait_stubbornly")
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            await wait_until_begun(platform, spec)
            await worker.stop(handle, grace_seconds=1)
            await asyncio.to_thread(eventually, lambda: "asked to end" in platform.diary(spec))
        await asyncio.to_thread(eventually, lambda: platform.directory(spec).exit() is not None)

    asyncio.run(scenario())


def test_the_next_worker_notices_at_once_how_a_job_of_the_last_one_ended(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            _, killed = await running_job(platform, worker)
            spec, ended = await running_job(platform, worker)
        async with working(platform) as later:
            for handle in (killed, ended):
                assert (await observe(later, handle)).phase is Phase.RUNNING
            os.kill(killed.data["process"]["pid"], signal.SIGKILL)
            assert (await wait_for_end(later, killed)).exit_code == -signal.SIGKILL
            await asyncio.to_thread(platform.release, spec)
            assert (await wait_for_end(later, ended)).exit_code == 0

    asyncio.run(scenario())


def test_a_job_survives_when_its_workers_whole_process_group_is_killed(platform: ProcessPlatform) -> None:
    """As when somebody presses Ctrl-C, or a supervisor kills the scheduler's group."""
    spec = platform.waits()
    told_read, told_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)

        async def be_a_worker() -> None:
            async with working(platform) as worker:
                await launch(worker, spec)
                os.write(told_write, str(platform.runners[0].pid).encode())
                await asyncio.Event().wait()

        asyncio.run(be_a_worker())
        os._exit(0)
    runner = ProcessIdentity.of(int(os.read(told_read, 100)))
    assert runner is not None
    platform.runners.append(runner)
    eventually(lambda: platform.times_run(spec))
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(told_read)
    os.close(told_write)

    async def scenario() -> None:
        async with working(platform) as later:
            handle = (await later.find([spec.job_id]))[spec.job_id]
            assert (await observe(later, handle)).phase is Phase.RUNNING
            await asyncio.to_thread(platform.release, spec)
            assert (await wait_for_end(later, handle)).exit_code == 0

    asyncio.run(scenario())
    eventually(lambda: is_gone(runner))


def test_interrupting_a_runner_does_not_end_it(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            await wait_for_end(worker, await launch(worker, platform.exits_with(0)))
            for number in (signal.SIGINT, signal.SIGHUP):
                os.kill(platform.runners[0].pid, number)
            assert (await wait_for_end(worker, await launch(worker, platform.exits_with(6)))).exit_code == 6
            assert len(platform.runners) == 1

    asyncio.run(scenario())


def test_a_runner_that_is_asked_to_end_ends_after_its_last_job(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            spec, handle = await running_job(platform, worker)
            os.kill(platform.runners[0].pid, signal.SIGTERM)
            await asyncio.wait_for(worker.wait_for_change(), 10)
            assert (await observe(worker, handle)).phase is Phase.RUNNING
            await asyncio.to_thread(platform.release, spec)
            assert (await wait_for_end(worker, handle)).exit_code == 0
            await asyncio.to_thread(eventually, lambda: is_gone(platform.runners[0]))

    asyncio.run(scenario())


# -- other homes, other machines ----------------------------------------------------------------------------


def test_a_job_is_seen_from_a_worker_with_another_home(platform: ProcessPlatform, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            spec, handle = await running_job(platform, worker)
        elsewhere = ProcessInfrastructure(home=tmp_path / "other", runner=platform.fork_runner())
        await elsewhere.open()
        assert (await observe(elsewhere, handle)).phase is Phase.RUNNING
        await asyncio.to_thread(platform.release, spec)
        assert (await wait_for_end(elsewhere, handle)).exit_code == 0
        await elsewhere.cleanup(handle)
        assert not platform.directory(spec).path.exists()
        await elsewhere.close()

    asyncio.run(scenario())


def test_cleaning_up_touches_nothing_that_is_no_jobs_directory(
    platform: ProcessPlatform, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            handle = await launch(worker, platform.exits_with(0))
            await wait_for_end(worker, handle)
            precious = tmp_path / "precious" / str(handle.job_id)
            precious.mkdir(parents=True)
            forged = Handle(job_id=handle.job_id, kind="process", data={"directory": str(precious)})
            await worker.cleanup(forged)
            assert precious.exists()

    asyncio.run(scenario())


def test_a_job_from_before_a_restart_is_gone_with_that_reason(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            _, handle = await running_job(platform, worker)
            process = {**handle.data["process"], "realm": "an earlier boot"}
            earlier = Handle(job_id=handle.job_id, kind="process", data={**handle.data, "process": process})
        async with working(platform) as later:
            seen = await observe(later, earlier)
            assert seen.phase is Phase.GONE
            assert seen.reason == "the machine or container that ran it was restarted while it ran"

    asyncio.run(scenario())


# -- many, and none left ------------------------------------------------------------------------------------


def test_two_hundred_jobs_leave_no_process_and_no_descriptor(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            first = await launch(worker, platform.exits_with(0))
            await wait_for_end(worker, first)
            await worker.cleanup(first)
            gc.collect()  # what earlier tests have left closes its descriptors now, and not in between
            before = descriptors_of(os.getpid()), descriptors_of(platform.runners[0].pid)
            handles = await asyncio.gather(*(launch(worker, platform.exits_with(i % 7)) for i in range(200)))
            for i, handle in enumerate(handles):
                assert (await wait_for_end(worker, handle)).exit_code == i % 7
                await worker.cleanup(handle)
            assert children_of(platform.runners[0].pid) == []
            assert (descriptors_of(os.getpid()), descriptors_of(platform.runners[0].pid)) == before
            assert list(platform.home.joinpath("jobs").iterdir()) == []
            assert isinstance(worker, ProcessInfrastructure)
            assert (worker._own, worker._exits) == ({}, {})

    asyncio.run(scenario())


def test_a_runner_that_waits_has_no_children(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            await wait_for_end(worker, await launch(worker, platform.exits_with(0)))
            await asyncio.to_thread(eventually, lambda: children_of(platform.runners[0].pid) == [])

    asyncio.run(scenario())


def test_a_worker_that_does_not_listen_does_not_hold_up_its_runner(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            specs = [platform.exits_with(0) for _ in range(30)]
            launches = [asyncio.create_task(launch(worker, spec)) for spec in specs]
            await asyncio.sleep(0)
            # Nothing of the event loop runs now; what the runner says piles up in the socket.
            eventually(lambda: all(platform.directory(spec).exit() for spec in specs))
            for task in launches:
                assert (await wait_for_end(worker, await task)).exit_code == 0

    asyncio.run(scenario())


def descriptors_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def children_of(pid: int) -> list[int]:
    return [stat.pid for stat in all_stats() if stat.parent == pid]


def test_a_spawned_runner_does_what_a_forked_one_does(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        runner = ProcessRunner.spawn("tests.unit.process_tasks:ScriptedTask")
        worker = ProcessInfrastructure(home=platform.home, runner=runner)
        await worker.open()
        assert (await wait_for_end(worker, await launch(worker, platform.exits_with(4)))).exit_code == 4
        identity = ProcessIdentity.of(runner.pid)
        assert identity is not None
        await worker.close()
        await asyncio.to_thread(eventually, lambda: is_gone(identity))
        os.waitpid(runner.pid, 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("runner_lives", [True, False])
def test_a_stop_may_be_hastened_and_the_job_is_still_asked_once(
    platform: ProcessPlatform, runner_lives: bool
) -> None:
    async def scenario() -> None:
        spec = platform.spec("wait_stubbornly")
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            await wait_until_begun(platform, spec)
            if not runner_lives:
                await kill_runner(platform)
                await asyncio.wait_for(worker.wait_for_change(), 10)
            for grace_seconds in (600, 0.3, 900):
                await worker.stop(handle, grace_seconds=grace_seconds)
            assert (await wait_for_end(worker, handle)).exit_code == -signal.SIGKILL
        assert platform.diary(spec).count("asked to end") == 1

    asyncio.run(scenario())


def test_a_stop_is_carried_out_though_the_runner_died_during_the_grace(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        spec = platform.spec("wait_stubbornly")
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            await wait_until_begun(platform, spec)
            await worker.stop(handle, grace_seconds=1)
            await asyncio.to_thread(eventually, lambda: "asked to end" in platform.diary(spec))
            await kill_runner(platform)
            assert (await wait_for_end(worker, handle)).exit_code == -signal.SIGKILL

    asyncio.run(scenario())


def test_what_a_worker_wanted_that_is_gone_is_not_launched_any_more(platform: ProcessPlatform) -> None:
    """Another worker has been asked for it since."""

    async def scenario() -> None:
        spec = platform.exits_with(0)
        async with working(platform) as worker:
            os.kill(platform.runners[0].pid, signal.SIGSTOP)
            launching = asyncio.create_task(launch(worker, spec))
            await asyncio.sleep(0.05)
        launching.cancel()
        os.kill(platform.runners[0].pid, signal.SIGCONT)
        await asyncio.to_thread(eventually, lambda: is_gone(platform.runners[0]))
        assert platform.times_run(spec) == 0
        assert not platform.directory(spec).path.exists()

    asyncio.run(scenario())


def test_stopping_jobs_the_moment_they_are_launched_stops_nothing_else(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            handles = await asyncio.gather(*(launch(worker, platform.waits()) for _ in range(30)))
            for handle in handles:
                await worker.stop(handle, grace_seconds=30)
            for handle in handles:
                assert (await wait_for_end(worker, handle)).exit_code == -signal.SIGTERM
            assert (await wait_for_end(worker, await launch(worker, platform.exits_with(2)))).exit_code == 2
            assert len(platform.runners) == 1

    asyncio.run(scenario())
