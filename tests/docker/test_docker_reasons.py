# SPDX-License-Identifier: Apache-2.0
"""Why jobs end, each really caused on a real engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_workpools.errors import InfrastructureUnavailable, LaunchRejected
from airflow_workpools.infrastructure.base import Observation, Phase
from airflow_workpools.infrastructure.docker import infrastructure as module
from tests.containers import DockerPlatform
from tests.engines import OwnEngine, Relay
from tests.unit.infrastructure_contract import (
    follow,
    launch,
    observe,
    run,
    wait_for_end,
    wait_for_running,
    wait_until_begun,
    working,
)

pytestmark = pytest.mark.docker


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[DockerPlatform]:
    with DockerPlatform(tmp_path) as platform:
        yield platform


def end_of(platform: DockerPlatform, script: str, **configuration: object) -> Observation:
    """Run a job to its end."""
    seen: list[Observation] = []

    async def scenario() -> None:
        async with working(platform) as worker:
            seen.append(
                await wait_for_end(worker, await launch(worker, platform.job(script, **configuration)))
            )

    run(scenario())
    return seen[0]


def rejection_of(platform: DockerPlatform, script: str, **configuration: object) -> str:
    """Launch a job that is refused for good; nothing is left of it."""
    said: list[str] = []

    async def scenario() -> None:
        spec = platform.job(script, **configuration)
        async with working(platform) as worker:
            with pytest.raises(LaunchRejected) as rejection:
                await launch(worker, spec)
            assert await worker.find([spec.job_id]) == {}
        said.append(str(rejection.value))

    run(scenario())
    return said[0]


# -- ends of containers -------------------------------------------------------------------------------------------


def test_a_job_that_uses_more_memory_than_it_may_is_told_so(platform: DockerPlatform) -> None:
    seen = end_of(platform, "tail /dev/zero", mem_limit="16m", memswap_limit="16m")
    assert seen.exit_code != 0
    assert seen.reason == f"out of memory: mem_limit was 16 MB (exit code {seen.exit_code})"


def test_a_job_of_which_only_a_process_ran_out_of_memory_is_told_so(platform: DockerPlatform) -> None:
    seen = end_of(platform, "tail /dev/zero || exit 0", mem_limit="16m", memswap_limit="16m")
    assert (seen.phase, seen.exit_code) == (Phase.EXITED, 0)
    assert seen.reason is not None
    assert "a process of it was killed: out of memory: mem_limit was 16 MB" in seen.reason


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 125", "could not be started: the command that starts it failed (exit code 125)"),
        (
            "/plain-file",
            "could not be started: the command was found but may not be executed (exit code 126)",
        ),
        ("no-such-command", "could not be started: the command was not found (exit code 127)"),
        ("kill -TERM $$", "terminated: it was asked to end (SIGTERM, exit code 143)"),
    ],
)
def test_exit_codes_are_explained(platform: DockerPlatform, script: str, reason: str) -> None:
    assert end_of(platform, script).reason == reason


def test_a_container_that_is_killed_from_outside_is_told_so(platform: DockerPlatform) -> None:
    async def scenario() -> None:
        spec = platform.waits()
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            await wait_for_running(worker, handle)
            await asyncio.to_thread(platform.container(spec).kill)
            seen = await wait_for_end(worker, handle)
        assert (seen.phase, seen.exit_code) == (Phase.EXITED, 137)
        assert seen.reason == "killed: out of memory, or killed from outside (SIGKILL, exit code 137)"

    run(scenario())


def test_a_container_that_is_removed_from_outside_is_told_so(platform: DockerPlatform) -> None:
    async def scenario() -> None:
        spec = platform.waits()
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            await wait_for_running(worker, handle)
            await asyncio.to_thread(lambda: platform.container(spec).remove(force=True))
            seen = await wait_for_end(worker, handle)
            assert seen.reason is not None
            assert f"its container {spec.name} was removed from outside" in seen.reason
        async with working(platform) as later:
            seen = await observe(later, handle)
            assert seen.phase is Phase.GONE
            assert not seen.never_started
            assert seen.reason == (
                f"its container {spec.name} was removed from outside, before it was seen how it ended"
            )

    run(scenario())


def test_a_job_whose_container_was_pruned_right_after_its_end_has_ended_as_it_did(
    platform: DockerPlatform,
) -> None:
    async def scenario() -> None:
        spec = platform.exits_with(0)
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            await asyncio.to_thread(platform.container(spec).wait)
            await asyncio.to_thread(platform.container(spec).remove)
            seen = await wait_for_end(worker, handle)
        assert (seen.phase, seen.exit_code) == (Phase.EXITED, 0)

    run(scenario())


# -- starts -------------------------------------------------------------------------------------------------------


def test_a_command_that_is_not_in_the_image_is_refused(platform: DockerPlatform) -> None:
    said = rejection_of(platform, "", command=["no-such-command"], init=False)
    assert said.startswith("could not be started: the command was not found (exit code 127): ")
    assert '"no-such-command"' in said


def test_a_command_that_may_not_be_executed_is_refused(platform: DockerPlatform) -> None:
    said = rejection_of(platform, "", command=["/plain-file"], init=False)
    assert said.startswith(
        "could not be started: the command was found but may not be executed (exit code 126): "
    )


def test_a_command_that_is_not_in_the_image_ends_a_job_with_init(platform: DockerPlatform) -> None:
    seen = end_of(platform, "", command=["no-such-command"])
    assert seen.exit_code == 127
    assert seen.reason == "could not be started: the command was not found (exit code 127)"


def test_a_user_that_is_not_in_the_image_is_refused(platform: DockerPlatform) -> None:
    assert "nobody-knows-me" in rejection_of(platform, "true", user="nobody-knows-me")


def test_a_volume_that_the_engine_refuses_is_quoted(platform: DockerPlatform) -> None:
    said = rejection_of(
        platform,
        "true",
        container_create_kwargs={"mounts": [{"Type": "bind", "Source": "/no/such/path", "Target": "/data"}]},
    )
    assert said.startswith("the Docker Engine refused the container: ")
    assert "/no/such/path" in said


def test_a_network_that_does_not_exist_is_quoted(platform: DockerPlatform) -> None:
    assert "no-such-network" in rejection_of(
        platform, "true", network_mode=None, networks=["no-such-network"]
    )


def test_an_argument_that_the_sdk_does_not_know_is_refused(platform: DockerPlatform) -> None:
    assert "no_such_argument" in rejection_of(
        platform, "true", container_create_kwargs={"no_such_argument": 1}
    )


def test_an_image_that_is_not_there_and_may_not_be_pulled_is_refused(platform: DockerPlatform) -> None:
    said = rejection_of(platform, "true", image="workpools-no-such-image:1")
    assert said.startswith(
        "image workpools-no-such-image:1 is not on the engine, and image_pull_policy is never: "
    )


@pytest.mark.parametrize("policy", ["always", "if-not-present"])
def test_a_registry_that_does_not_answer_is_quoted_and_the_job_may_be_launched_again(
    platform: DockerPlatform, policy: str
) -> None:
    seen = end_of(platform, "true", image="127.0.0.1:9/team/image:1", image_pull_policy=policy)
    assert seen.never_started
    assert seen.reason is not None
    assert seen.reason.startswith("image 127.0.0.1:9/team/image:1 could not be pulled from 127.0.0.1:9: ")
    assert "connection refused" in seen.reason


def test_a_job_whose_container_was_never_made_has_no_log(platform: DockerPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            handle = await launch(
                worker, platform.job("true", image="127.0.0.1:9/team/image:1", image_pull_policy="always")
            )
            assert await follow(worker, handle) == b""

    run(scenario())


# -- launches that were interrupted -------------------------------------------------------------------------------


def made_by_hand(platform: DockerPlatform, spec: object) -> None:
    """Make a job's container as its worker would have, and do not start it."""

    async def scenario() -> None:
        async with working(platform) as worker:
            plan = module.plan_container(spec, {}, engine_is_here=True)  # type: ignore[arg-type]
            await worker._create(plan)  # type: ignore[attr-defined]

    run(scenario())


def test_a_container_that_nobody_starts_is_made_anew_by_who_launches_its_job(
    platform: DockerPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ABANDONED_SECONDS", 0.2)
    spec = platform.exits_with(0)
    made_by_hand(platform, spec)

    async def scenario() -> None:
        async with working(platform) as worker:
            assert (await wait_for_end(worker, await launch(worker, spec))).exit_code == 0
        assert platform.times_run(spec) == 1

    run(scenario())


def test_a_container_that_nobody_starts_is_removed_and_its_job_may_be_launched_again(
    platform: DockerPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = platform.exits_with(0)
    made_by_hand(platform, spec)

    async def scenario() -> None:
        async with working(platform) as worker:
            handle = (await worker.find([spec.job_id]))[spec.job_id]
            assert (await observe(worker, handle)).phase is Phase.WAITING
            monkeypatch.setattr(module, "_ABANDONED_SECONDS", -1)
            seen = await observe(worker, handle)
            assert seen.never_started
            assert seen.reason == (
                f"its launch was interrupted: its container {spec.name} was made, and never started"
            )
            assert await worker.find([spec.job_id]) == {}
        assert platform.times_run(spec) == 0

    run(scenario())


def test_a_container_that_is_stopped_before_its_start_never_runs(platform: DockerPlatform) -> None:
    spec = platform.exits_with(0)
    made_by_hand(platform, spec)

    async def scenario() -> None:
        async with working(platform) as worker:
            handle = (await worker.find([spec.job_id]))[spec.job_id]
            await worker.stop(handle, grace_seconds=5)
            assert (await observe(worker, handle)).ended
        assert platform.times_run(spec) == 0

    run(scenario())


# -- the engine ---------------------------------------------------------------------------------------------------


def test_an_engine_that_can_not_be_reached_says_nothing_of_its_jobs(
    platform: DockerPlatform, tmp_path: Path
) -> None:
    relay = Relay(tmp_path / "engine.sock")
    relay.up()

    async def scenario() -> None:
        with DockerPlatform(tmp_path, relay.url) as through_relay:
            worker = through_relay.worker()
        await worker.open()
        handle = await launch(worker, platform.waits())
        await wait_for_running(worker, handle)
        relay.down()
        await until(lambda: worker.hindrance() is not None)
        assert "does not answer: nobody listens at the socket" in str(worker.hindrance())
        with pytest.raises(InfrastructureUnavailable, match="does not answer: nobody listens at the socket"):
            await worker.observe([handle])
        with pytest.raises(InfrastructureUnavailable):
            await worker.stop(handle, grace_seconds=0)
        with pytest.raises(InfrastructureUnavailable):
            await launch(worker, platform.waits())
        relay.up()
        await until(lambda: worker.hindrance() is None)
        assert (await observe(worker, handle)).phase is Phase.RUNNING
        await worker.stop(handle, grace_seconds=0)
        assert (await wait_for_end(worker, handle)).exit_code == 137
        await worker.close()

    try:
        run(asyncio.wait_for(scenario(), 60))
    finally:
        relay.down()


@pytest.mark.own_engine
def test_jobs_that_died_with_their_engine_are_told_so(tmp_path: Path) -> None:
    seen = after_the_engine_was_killed(tmp_path)
    assert seen.phase is Phase.EXITED
    assert seen.reason == (
        f"the Docker Engine was stopped or restarted while it ran (exit code {seen.exit_code}); "
        "with the engine's option live-restore containers survive that"
    )


@pytest.mark.own_engine
def test_jobs_go_on_when_their_engine_restores_them(tmp_path: Path) -> None:
    assert after_the_engine_was_killed(tmp_path, "--live-restore").phase is Phase.RUNNING


def after_the_engine_was_killed(folder: Path, *options: str) -> Observation:
    """Kill an engine while a job runs, start it again, and say what is seen of the job."""
    seen: list[Observation] = []

    async def scenario(engine: OwnEngine, platform: DockerPlatform) -> None:
        async with working(platform) as worker:
            handle = await launch(worker, platform.waits())
            await wait_for_running(worker, handle)
            await asyncio.to_thread(engine.kill)
            await until(lambda: worker.hindrance() is not None)
            with pytest.raises(InfrastructureUnavailable):
                await worker.observe([handle])
            engine.up()  # here: the engine ends with the thread that started it
            await until(lambda: worker.hindrance() is None)
            seen.append(await observe(worker, handle))

    with OwnEngine(*options) as engine, DockerPlatform(folder, engine.url) as platform:
        run(scenario(engine, platform))
    return seen[0]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


# -- stopping -----------------------------------------------------------------------------------------------------


def test_a_job_that_is_stopped_is_asked_first(platform: DockerPlatform) -> None:
    async def scenario() -> None:
        spec = platform.job("trap 'exit 7' TERM; echo ready; while true; do sleep 0.1; done")
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            assert handle.data["stop_grace_seconds"] == 30
            async for chunk in worker.follow_log(handle, offset=0):
                if b"ready" in chunk:
                    break
            await worker.stop(handle, grace_seconds=60)
            assert (await wait_for_end(worker, handle)).exit_code == 7

    run(scenario())


def test_a_paused_container_can_be_stopped(platform: DockerPlatform) -> None:
    async def scenario() -> None:
        spec = platform.waits()
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            await wait_until_begun(platform, spec)
            await asyncio.to_thread(platform.container(spec).pause)
            assert (await observe(worker, handle)).phase is Phase.RUNNING
            await worker.stop(handle, grace_seconds=0.1)
            assert (await wait_for_end(worker, handle)).exit_code == 137

    run(scenario())
