# SPDX-License-Identifier: Apache-2.0
"""Airflow's own workloads in containers, against a stand-in for the Execution API."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_workpools.infrastructure.base import LaunchSpec
from airflow_workpools.infrastructure.docker import DockerInfrastructure
from tests.containers import DockerPlatform
from tests.images import task_image
from tests.unit.fake_execution_api import FakeExecutionApi, fake_execution_api
from tests.unit.infrastructure_contract import follow, launch, run, wait_for_end, working

pytestmark = pytest.mark.docker

DAG_FILE = """
import time
from airflow.sdk import DAG, BaseOperator, task

class Waits(BaseOperator):
    def execute(self, context):
        print("waiting for the end", flush=True)
        self.waits = True
        while self.waits:
            time.sleep(0.01)

    def on_kill(self):
        print("killed kindly", flush=True)
        self.waits = False

with DAG("d", schedule=None):
    @task
    def hello():
        print("hello from a container")

    @task
    def eats():
        bytearray(2 ** 30)

    hello(), eats()
    Waits(task_id="waits")
"""
TOKEN = "t0k3n-of-the-workload"


@dataclass(frozen=True, kw_only=True)
class Rig:
    platform: DockerPlatform
    api: FakeExecutionApi
    image: str

    def worker(self) -> DockerInfrastructure:
        environment = {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": self.api.url}
        return DockerInfrastructure(home=Path(), environment=lambda: environment)

    def task(self, task_id: str, **configuration: Any) -> LaunchSpec:
        job_id = uuid.uuid4()
        ti = {
            "id": str(job_id),
            "dag_version_id": str(uuid.uuid4()),
            "task_id": task_id,
            "dag_id": "d",
            "run_id": "r",
        }
        ti |= {"try_number": 1, "map_index": -1, "pool_slots": 1, "queue": "default", "priority_weight": 1}
        workload = {
            "type": "ExecuteTask",
            "token": TOKEN,
            "dag_rel_path": "d.py",
            "bundle_info": {"name": "dags-folder", "version": None},
            "log_path": f"dag_id=d/{task_id}.log",
            "ti": ti,
        }
        made_by = self.platform.job(
            "",
            image=self.image,
            command=None,
            volumes=[],
            **configuration,
        )
        return LaunchSpec(
            job_id=made_by.job_id, configuration=made_by.configuration, workload=json.dumps(workload)
        )


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    dags = tmp_path_factory.mktemp("dags")
    (dags / "d.py").write_text(DAG_FILE)
    return task_image(dags)


@pytest.fixture
def rig(tmp_path: Path, image: str) -> Iterator[Rig]:
    with DockerPlatform(tmp_path) as platform, fake_execution_api() as api:
        yield Rig(platform=platform, api=api, image=image)


def events(log: bytes) -> list[str]:
    """Return what the lines of a task's log say."""
    return [json.loads(line)["event"] for line in log.splitlines() if line.startswith(b"{")]


def test_the_default_command_runs_a_task_and_its_log_is_what_it_writes(rig: Rig) -> None:
    async def scenario() -> None:
        async with working(rig) as worker:  # type: ignore[arg-type]
            handle = await launch(worker, rig.task("hello"))
            seen = await wait_for_end(worker, handle)
            log = await follow(worker, handle)
        assert seen.exit_code == 0, log.decode()
        assert "hello from a container" in events(log)
        assert TOKEN not in log.decode()

    run(asyncio.wait_for(scenario(), 120))
    assert rig.api.tokens >= {f"Bearer {TOKEN}"}
    assert [body["state"] for body in rig.api.asked("/state")] == ["success"]


def test_a_task_that_is_stopped_can_clean_up(rig: Rig) -> None:
    async def scenario() -> None:
        async with working(rig) as worker:  # type: ignore[arg-type]
            handle = await launch(worker, rig.task("waits"))
            await follow(worker, handle, until=b"waiting for the end")
            await worker.stop(handle, grace_seconds=60)
            await wait_for_end(worker, handle)
            assert "killed kindly" in events(await follow(worker, handle))

    run(asyncio.wait_for(scenario(), 120))


def test_a_task_whose_process_runs_out_of_memory_is_told_so_by_its_container(rig: Rig) -> None:
    async def scenario() -> None:
        async with working(rig) as worker:  # type: ignore[arg-type]
            handle = await launch(worker, rig.task("eats", mem_limit="400m", memswap_limit="400m"))
            seen = await wait_for_end(worker, handle)
        assert seen.reason is not None
        assert "out of memory: mem_limit was 400 MB" in seen.reason

    run(asyncio.wait_for(scenario(), 120))
