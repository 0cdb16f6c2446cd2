# SPDX-License-Identifier: Apache-2.0
"""Containers of a Docker Engine: what a pool adds to the start of one, and the CPU of a task in one."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import statistics
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from airflow_workpools.infrastructure.base import LaunchSpec, Observation
from airflow_workpools.infrastructure.docker import DockerInfrastructure
from tests.containers import SMALL_IMAGE, DockerPlatform
from tests.images import task_image
from tests.unit.fake_execution_api import fake_execution_api
from tests.unit.infrastructure_contract import follow

AIRFLOWS = "airflow.sdk.execution_time.execute_workload"
"""What KubernetesExecutor's pods run, too."""
OURS = "airflow_workpools.execute_workload"
NOOP = ("sh", "-c", ":")
DAG_FILE = """
from airflow.sdk import dag, task

@dag(schedule=None)
def d():
    @task
    def t():
        pass

    t()

d()
"""
_WORKLOAD = "/airflow-workpools/workload.json"


def measure_start(times: int) -> dict[str, Any]:
    """Run a command that does nothing in containers, through the infrastructure and with ``docker run``, in turns."""
    seconds: dict[str, list[float]] = {"ours": [], "ours_until_ended": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder, DockerPlatform(Path(folder)) as platform:
        asyncio.run(_starts(platform, times, seconds))
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {"seconds": seconds, "median": medians, "more": medians["ours"] - medians["bare"]}


async def _starts(platform: DockerPlatform, times: int, seconds: dict[str, list[float]]) -> None:
    worker = platform.worker()
    await worker.open()
    try:
        for number in range(times + 1):
            began = time.perf_counter()
            await asyncio.to_thread(_docker_run)
            bare = time.perf_counter() - began
            began = time.perf_counter()
            spec = platform.job("", command=list(NOOP), volumes=[])
            handle, seen = await _run(worker, spec)
            ended = time.perf_counter() - began
            await worker.cleanup(handle)
            ours = time.perf_counter() - began
            if seen.exit_code != 0:
                raise SystemExit(f"the job failed: {seen.reason}; nothing measured here means anything")
            if number:  # the first of each warms up
                for name, taken in (("bare", bare), ("ours", ours), ("ours_until_ended", ended)):
                    seconds[name].append(taken)
    finally:
        await worker.close()


def _docker_run() -> None:
    command = ["docker", "run", "--rm", "--network", "host", SMALL_IMAGE, *NOOP]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


async def _run(worker: DockerInfrastructure, spec: LaunchSpec) -> tuple[Any, Observation]:
    """Launch a job and wait for its end as a worker does."""
    handle = [handle async for handle in worker.launch(spec)][-1]
    while not (seen := (await worker.observe([handle]))[handle.job_id]).ended:
        await worker.wait_for_change()
    return handle, seen


def measure_cpu(times: int) -> dict[str, Any]:
    """Run a task that does nothing in containers of an image from ``image build``, with both modules, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        dags = Path(folder, "dags")
        dags.mkdir()
        (dags / "d.py").write_text(DAG_FILE)
        image = task_image(dags)
        with DockerPlatform(Path(folder)) as platform, fake_execution_api() as api:
            environment = {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": api.url}
            worker = DockerInfrastructure(home=Path(folder), environment=lambda: environment)
            found = asyncio.run(_tasks(worker, platform, image, times))
            states = [body["state"] for body in api.asked("/state")]
    if states != ["success"] * len(states) or len(states) != 2 * (times + 1):
        raise SystemExit(f"tasks ended as {states}; nothing measured here means anything")
    medians = {name: {key: statistics.median(of[key]) for key in of} for name, of in found.items()}
    ratio = medians["ours"]["cpu_seconds"] / medians["airflows"]["cpu_seconds"]
    return {"tasks": found, "median": medians, "cpu_ratio": ratio}


async def _tasks(
    worker: DockerInfrastructure, platform: DockerPlatform, image: str, times: int
) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    await worker.open()
    try:
        for number in range(times + 1):
            for name, module in (("airflows", AIRFLOWS), ("ours", OURS)):
                began = time.perf_counter()
                handle, seen = await _run(worker, _task(platform, image, module))
                took = time.perf_counter() - began
                log = (await follow(worker, handle)).decode()
                await worker.cleanup(handle)
                if seen.exit_code != 0:
                    raise SystemExit(f"the task failed: {seen.reason}\n{log}")
                if number:  # the first of each fills the page cache
                    of = found.setdefault(name, {"cpu_seconds": [], "seconds": []})
                    of["cpu_seconds"].append(cpu_seconds(log))
                    of["seconds"].append(took)
    finally:
        await worker.close()
    return found


def _task(platform: DockerPlatform, image: str, module: str) -> LaunchSpec:
    """Return a task whose container says in the end what CPU its processes took."""
    command = shlex.join(("python", "-m", module, "--json-path", _WORKLOAD))
    script = f"{command}; code=$?; echo; times; exit $code"
    made = platform.job("", image=image, command=["sh", "-c", script], volumes=[])
    ti = {"id": str(made.job_id), "dag_version_id": str(uuid.uuid4()), "dag_id": "d", "task_id": "t"}
    ti |= {"run_id": "r", "try_number": 1, "map_index": -1, "pool_slots": 1, "queue": "default"}
    workload = {
        "type": "ExecuteTask",
        "token": "t",
        "dag_rel_path": "d.py",
        "bundle_info": {"name": "dags-folder", "version": None},
        "log_path": f"dag_id=d/{made.job_id}.log",
        "ti": ti | {"priority_weight": 1},
    }
    return LaunchSpec(
        job_id=made.job_id,
        configuration=made.configuration,
        workload=json.dumps(workload),
        labels=made.labels,
    )


def cpu_seconds(log: str) -> float:
    """Return the CPU time of a shell's children, user and system, from what its ``times`` wrote last."""
    children = log.rstrip().splitlines()[-1]
    parts = re.fullmatch(r"(\d+)m([\d.]+)s (\d+)m([\d.]+)s", children)
    if parts is None:
        raise SystemExit(f"the container did not say what CPU it took: {children!r}")
    user_minutes, user, system_minutes, system = map(float, parts.groups())
    return (user_minutes + system_minutes) * 60 + user + system
