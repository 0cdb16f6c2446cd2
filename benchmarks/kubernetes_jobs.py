# SPDX-License-Identifier: Apache-2.0
"""Jobs of a Kubernetes cluster: how fast they are created, and what it takes to keep an eye on them.

No node fits their pods, so that none runs. What is measured is the way to the API, not what the machine can run.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from airflow_workpools.infrastructure.base import Handle, LaunchSpec, Phase
from airflow_workpools.infrastructure.containers import runtime_environment
from airflow_workpools.infrastructure.kubernetes import KubernetesInfrastructure
from airflow_workpools.infrastructure.kubernetes.manifest import SELECTOR, JobPlan
from airflow_workpools.infrastructure.kubernetes.pod_mutation import planned
from airflow_workpools.worker.times import WorkerTimes
from tests.kubernetes.cluster import KubernetesPlatform

NOWHERE = {"no.such/label": "here"}
WORKERS_IN_FLIGHT = KubernetesInfrastructure.launches_in_flight
"""How many jobs a worker launches at a time."""
BARE_IN_FLIGHT = (16, 32)
_CLEARED_SECONDS = 240.0


def measure_creation(jobs: int, rounds: int) -> dict[str, Any]:
    """Create Jobs through the infrastructure and with a bare loop, in turns; return the seconds of each.

    The bare loop makes the same Jobs, but no Secrets with workloads. A loop that makes both is measured beside it.
    """
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, KubernetesPlatform(Path(folder)) as platform:
        ways: dict[str, Callable[[Sequence[LaunchSpec]], Awaitable[float]]] = {
            "ours": lambda specs: _launch_all(platform, specs),
            **{f"bare_{count}": _bare(platform, count) for count in BARE_IN_FLIGHT},
            f"bare_{WORKERS_IN_FLIGHT}_with_secrets": _bare(platform, WORKERS_IN_FLIGHT, secrets=True),
        }
        for number in range(rounds):
            for name in list(ways) if number % 2 == 0 else list(reversed(ways)):
                seconds.setdefault(name, []).append(asyncio.run(ways[name](_specs(platform, jobs))))
                _clear(platform)
    rates = {name: jobs / statistics.median(times) for name, times in seconds.items()}
    return {"jobs": jobs, "seconds": seconds, "jobs_per_second": rates}


def _specs(platform: KubernetesPlatform, count: int) -> list[LaunchSpec]:
    return [platform.spec("true", node_selector=NOWHERE) for _ in range(count)]


async def _launch_all(platform: KubernetesPlatform, specs: Sequence[LaunchSpec]) -> float:
    async with _worker(platform) as worker:
        began = time.perf_counter()
        await _in_flight(WORKERS_IN_FLIGHT, [lambda spec=spec: _launch(worker, spec) for spec in specs])
        return time.perf_counter() - began


@asynccontextmanager
async def _worker(platform: KubernetesPlatform) -> AsyncIterator[KubernetesInfrastructure]:
    """Have an infrastructure that has launched a job before, as that of a worker mostly has."""
    worker = platform.worker()
    await worker.open()
    try:
        await worker.cleanup(await _launch(worker, platform.spec("true", node_selector=NOWHERE)))
        yield worker
    finally:
        await worker.close()


async def _launch(worker: KubernetesInfrastructure, spec: LaunchSpec) -> Handle:
    handles = [handle async for handle in worker.launch(spec)]
    return handles[-1]


def _bare(
    platform: KubernetesPlatform, in_flight: int, *, secrets: bool = False
) -> Callable[[Sequence[LaunchSpec]], Awaitable[float]]:
    """Return what creates Jobs, and Secrets if they are wanted, with nothing but the client."""

    async def create_all(specs: Sequence[LaunchSpec]) -> float:
        from kubernetes_asyncio import client, config

        await config.load_kube_config()
        environment = runtime_environment()
        plans = [await planned(spec, namespace=platform.namespace, environment=environment) for spec in specs]
        async with client.ApiClient() as api:
            batch, core = client.BatchV1Api(api), client.CoreV1Api(api)

            async def create(plan: JobPlan) -> None:
                job = await batch.create_namespaced_job(plan.namespace, plan.job)
                if secrets:
                    await core.create_namespaced_secret(plan.namespace, plan.secret(job.metadata.uid))

            await client.VersionApi(api).get_code()  # connected, as ours is
            began = time.perf_counter()
            await _in_flight(in_flight, [lambda plan=plan: create(plan) for plan in plans])
            return time.perf_counter() - began

    return create_all


async def _in_flight(most: int, steps: Sequence[Callable[[], Awaitable[object]]]) -> None:
    places = asyncio.Semaphore(most)

    async def take(step: Callable[[], Awaitable[object]]) -> None:
        async with places:
            await step()

    await asyncio.gather(*(take(step) for step in steps))


def _clear(platform: KubernetesPlatform) -> None:
    """Delete all Jobs, and wait until nothing of them is left that the cluster would be busy with."""
    platform.batch.delete_collection_namespaced_job(platform.namespace, propagation_policy="Background")
    # The cluster would take them along one by one, for minutes.
    platform.core.delete_collection_namespaced_secret(platform.namespace, label_selector=SELECTOR)
    platform.core.delete_collection_namespaced_pod(platform.namespace, grace_period_seconds=0)
    deadline = time.monotonic() + _CLEARED_SECONDS
    # Asked seldom, and for one at a time: the question costs the API server's time.
    while _has_pods(platform) or platform.secrets():
        if time.monotonic() > deadline:
            raise SystemExit(f"the Jobs in {platform.namespace} were not removed in time")
        time.sleep(1)


def _has_pods(platform: KubernetesPlatform) -> bool:
    return bool(platform.core.list_namespaced_pod(platform.namespace, limit=1).items)


def measure_observing(jobs: int, seconds: float) -> dict[str, Any]:
    """Look at this many Jobs for a while, whenever a worker would; return the requests that this took."""
    with tempfile.TemporaryDirectory() as folder, KubernetesPlatform(Path(folder)) as platform:
        found = asyncio.run(_observe(platform, _specs(platform, jobs), seconds))
        _clear(platform)
    return {"jobs": jobs, **found}


async def _observe(
    platform: KubernetesPlatform, specs: Sequence[LaunchSpec], seconds: float
) -> dict[str, Any]:
    async with _worker(platform) as worker:
        handles: list[Handle] = []

        async def launch(spec: LaunchSpec) -> None:
            handles.append(await _launch(worker, spec))

        await _in_flight(WORKERS_IN_FLIGHT, [lambda spec=spec: launch(spec) for spec in specs])
        before, began = worker.api.requests, time.monotonic()
        looks: list[float] = []
        phases: set[Phase] = set()
        while (took := time.monotonic() - began) < seconds:
            looked = time.perf_counter()
            phases |= {seen.phase for seen in (await worker.observe(handles)).values()}
            looks.append(time.perf_counter() - looked)
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(worker.wait_for_change(), timeout=WorkerTimes().observe)
        made = worker.api.requests - before
    if phases != {Phase.WAITING}:
        raise SystemExit(f"jobs were seen as {phases}; nothing measured here means anything")
    return {
        "seconds": took,
        "looks": len(looks),
        "look_ms": statistics.median(looks) * 1000,
        "requests": made,
        "requests_per_second": made / took,
    }
