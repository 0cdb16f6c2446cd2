# SPDX-License-Identifier: Apache-2.0
"""Launching a job and looking at it, as a worker does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from airflow_workpools.infrastructure.base import Handle, LaunchSpec, Observation
from airflow_workpools.infrastructure.kubernetes import KubernetesInfrastructure
from tests.kubernetes.cluster import KubernetesPlatform
from tests.unit.infrastructure_contract import launch, observe, working

PATIENCE_SECONDS = 150.0

Act = Callable[[KubernetesInfrastructure, Handle], Awaitable[object]]


async def until(
    worker: KubernetesInfrastructure, handle: Handle, condition: Callable[[Observation], object]
) -> Observation:
    """Return what is seen of a job as soon as the condition holds."""

    async def look() -> Observation:
        while not condition(seen := await observe(worker, handle)):
            await worker.wait_for_change()
        return seen

    return await asyncio.wait_for(look(), PATIENCE_SECONDS)


async def until_ended(worker: KubernetesInfrastructure, handle: Handle) -> Observation:
    return await until(worker, handle, lambda seen: seen.ended)


def end_of(platform: KubernetesPlatform, spec: LaunchSpec, *, then: Act | None = None) -> Observation:
    """Launch a job, do something to it, wait for its end, clean up; return how it ended."""

    async def scenario() -> Observation:
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            if then is not None:
                await then(worker, handle)
            seen = await until_ended(worker, handle)
            await worker.cleanup(handle)
            return seen

    return asyncio.run(scenario())


def first_seen(
    platform: KubernetesPlatform, spec: LaunchSpec, condition: Callable[[Observation], object]
) -> Observation:
    """Launch a job, wait until the condition holds, and clean up; return what was seen then."""

    async def scenario() -> Observation:
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            seen = await until(worker, handle, condition)
            await worker.stop(handle, grace_seconds=0)
            await worker.cleanup(handle)
            return seen

    return asyncio.run(scenario())
