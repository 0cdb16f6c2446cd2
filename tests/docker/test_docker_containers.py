# SPDX-License-Identifier: Apache-2.0
"""What a job's container is like, on a real engine."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from airflow_workpools.errors import InfrastructureError
from airflow_workpools.infrastructure.base import LaunchSpec
from airflow_workpools.infrastructure.containers import JOB_ID_LABEL, WORKLOAD_DIRECTORY, WORKLOAD_PATH
from tests.containers import SMALL_IMAGE, WORKLOAD, DockerPlatform
from tests.docker.locked_down import rendered
from tests.unit.infrastructure_contract import follow, launch, run, wait_for_end, wait_for_running, working

pytestmark = pytest.mark.docker

FILE = f"stat -c '%a %u' {WORKLOAD_PATH} && cat {WORKLOAD_PATH}"


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[DockerPlatform]:
    with DockerPlatform(tmp_path) as platform:
        yield platform


def output_of(platform: DockerPlatform, script: str, **configuration: Any) -> str:
    """Run a job to its end, which must be a good one, and return what it wrote."""
    written: list[str] = []

    async def scenario() -> None:
        async with working(platform) as worker:
            handle = await launch(worker, platform.job(script, **configuration))
            seen = await wait_for_end(worker, handle)
            written.append((await follow(worker, handle)).decode())
            assert seen.exit_code == 0, (seen, written)

    run(scenario())
    return written[0]


# -- the workload -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "uid"), [(None, 0), ("root", 0), ("4711", 4711), ("4712:0", 4712), ("worker", 4711)]
)
def test_the_workload_is_a_file_that_only_the_containers_user_can_read(
    user: str | None, uid: int, platform: DockerPlatform
) -> None:
    assert output_of(platform, FILE, user=user, volumes=[]).splitlines()[-2:] == [f"600 {uid}", WORKLOAD]


def test_the_workload_reaches_a_container_that_can_write_to_nothing(platform: DockerPlatform) -> None:
    hardened = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
    written = output_of(
        platform,
        f"{FILE}; ! touch /tmp/x 2>/dev/null",
        user="4711",
        volumes=[],
        container_create_kwargs=hardened,
    )
    assert written.splitlines()[-2:] == ["600 4711", WORKLOAD]


def test_the_volume_of_a_read_only_container_goes_with_it(platform: DockerPlatform) -> None:
    async def scenario() -> None:
        spec = platform.job("true", container_create_kwargs={"read_only": True})
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            (volume,) = [
                mount["Name"]
                for mount in platform.container(spec).attrs["Mounts"]
                if mount["Destination"] == WORKLOAD_DIRECTORY
            ]
            await wait_for_end(worker, handle)
            await worker.cleanup(handle)
        assert volume not in [one.name for one in platform.engine.volumes.list()]

    run(scenario())


def test_the_token_is_in_nothing_that_can_be_looked_at(platform: DockerPlatform) -> None:
    async def scenario() -> None:
        spec = platform.waits()
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            await wait_for_running(worker, handle)
            container = platform.container(spec)
            assert "secret-token" not in json.dumps(container.attrs)
            assert "secret-token" not in json.dumps(container.top())
            assert "secret-token" not in json.dumps(handle.data)
            assert "secret-token" not in repr(spec)
            await worker.stop(handle, grace_seconds=0)
            await wait_for_end(worker, handle)

    run(scenario())


def test_the_locked_down_template_of_the_docs_runs(platform: DockerPlatform) -> None:
    local = {"image": SMALL_IMAGE, "image_pull_policy": "never", "registry_conn_id": None}
    configuration = rendered() | local | {"networks": [], "volumes": []}
    written = output_of(platform, f"{FILE}; echo; touch /tmp/x && echo may write there", **configuration)
    assert written.splitlines()[-3:] == ["600 50000", WORKLOAD, "may write there"]


# -- what it is made with -----------------------------------------------------------------------------------------


def inspected(platform: DockerPlatform, **configuration: Any) -> dict[str, Any]:
    """Return what the engine says of a container that was made like this."""
    spec = platform.job("true", **configuration)

    async def scenario() -> None:
        async with working(platform) as worker:
            await wait_for_end(worker, await launch(worker, spec))

    run(scenario())
    attrs: dict[str, Any] = platform.container(spec).attrs
    return attrs


def test_a_container_has_what_its_variables_say(platform: DockerPlatform) -> None:
    made = inspected(
        platform,
        env={"COLOUR": "red", "FROM_RUNTIME": None},
        labels={"team": "red"},
        mem_limit="64m",
        memswap_limit=128 * 1024 * 1024,
        cpus=0.5,
        working_dir="/tmp",
        container_create_kwargs={"shm_size": "32m", "hostname": None},
    )
    assert "COLOUR=red" in made["Config"]["Env"]
    assert "FROM_RUNTIME=yes" not in made["Config"]["Env"]
    assert made["Config"]["Labels"]["team"] == "red"
    assert made["Config"]["WorkingDir"] == "/tmp"
    host = made["HostConfig"]
    assert (host["Memory"], host["MemorySwap"]) == (64 * 1024 * 1024, 128 * 1024 * 1024)
    assert (host["NanoCpus"], host["ShmSize"], host["Init"]) == (500_000_000, 32 * 1024 * 1024, True)
    assert host["NetworkMode"] == "host"
    assert not host["Privileged"]


def test_a_container_says_by_its_labels_whose_it_is(platform: DockerPlatform) -> None:
    spec = platform.job("true", labels={"airflow.workpools/dag_id": "somebody else's"})

    async def scenario() -> None:
        async with working(platform) as worker:
            await wait_for_end(worker, await launch(worker, spec))

    run(scenario())
    labels = platform.container(spec).labels
    assert labels["airflow.workpools/job_id"] == str(spec.job_id)
    assert labels["airflow.workpools/dag_id"] == "etl"
    assert labels["airflow.workpools/run_id"].startswith("manual__2026-01-01T00_00_00_00_00-")


def test_a_text_as_command_is_split_as_a_shell_would(platform: DockerPlatform) -> None:
    assert output_of(platform, "", command="echo 'one two' three") == "one two three\n"


# -- attempts, keeping --------------------------------------------------------------------------------------------


def test_another_attempt_is_another_container_and_the_last_is_found(platform: DockerPlatform) -> None:
    async def scenario() -> None:
        first = platform.exits_with(1)
        second: LaunchSpec = dataclasses.replace(first, attempt=1)
        async with working(platform) as worker:
            one, two = await launch(worker, first), await launch(worker, second)
            await wait_for_end(worker, one)
            assert await worker.find([first.job_id]) == {first.job_id: two}
            assert two.data["name"] == f"{one.data['name']}-1"
            await wait_for_end(worker, two)

    run(scenario())


def test_a_container_that_is_not_to_be_removed_is_kept(platform: DockerPlatform) -> None:
    async def scenario() -> None:
        spec = platform.job("echo here", auto_remove=False)
        spec = replace(spec, labels={**spec.labels, "installation": "ours"})
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            await wait_for_end(worker, handle)
            await worker.cleanup(handle)
            soon = datetime.now(timezone.utc) + timedelta(minutes=10)
            assert await worker.left_behind("ours", before=soon) == []
        assert platform.container(spec).logs() == b"here\n"

    run(scenario())


def test_what_kubernetes_runs_on_the_same_engine_is_not_ours(platform: DockerPlatform) -> None:
    spec = platform.job("true")
    labels = {JOB_ID_LABEL: str(spec.job_id), "io.kubernetes.pod.name": "a-pod"}
    platform.engine.containers.create(SMALL_IMAGE, "true", name=f"k8s_POD_{spec.name}", labels=labels)

    async def scenario() -> None:
        async with working(platform) as worker:
            assert await worker.find([spec.job_id]) == {}
            handle = await launch(worker, spec)
            assert set(await worker.find([spec.job_id])) == {handle.job_id}

    try:
        run(scenario())
    finally:
        platform.engine.containers.get(f"k8s_POD_{spec.name}").remove()


# -- logs ---------------------------------------------------------------------------------------------------------


def test_output_and_errors_are_one_stream(platform: DockerPlatform) -> None:
    lines = output_of(platform, "; ".join(f"echo out {n}; echo err {n} >&2" for n in range(5))).splitlines()
    assert [line for line in lines if line.startswith("out")] == [f"out {n}" for n in range(5)]
    assert [line for line in lines if line.startswith("err")] == [f"err {n}" for n in range(5)]
    assert len(lines) == 10


def test_a_long_log_can_be_read_from_any_byte_on(platform: DockerPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            handle = await launch(worker, platform.job("seq 1 5000"))
            await wait_for_end(worker, handle)
            whole = b"".join(b"%d\n" % n for n in range(1, 5001))
            assert await follow(worker, handle) == whole
            for offset in (1, 4095, 16384, len(whole) - 1, len(whole)):
                assert await follow(worker, handle, offset=offset) == whole[offset:]

    run(scenario())


def test_reading_a_log_slowly_keeps_little_of_it_in_memory(platform: DockerPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            handle = await launch(worker, platform.job("seq 1 30000"))
            await wait_for_end(worker, handle)
            stream = worker.follow_log(handle, offset=0)  # type: ignore[attr-defined]
            assert await anext(stream)
            await stream.aclose()

    run(asyncio.wait_for(scenario(), 60))


def test_a_logging_driver_that_keeps_nothing_is_named(platform: DockerPlatform) -> None:
    async def scenario() -> None:
        spec = platform.job("echo here", container_create_kwargs={"log_config": {"Type": "none"}})
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            await wait_for_end(worker, handle)
            with pytest.raises(InfrastructureError, match="use json-file, local or journald"):
                await follow(worker, handle)

    run(scenario())
