# SPDX-License-Identifier: Apache-2.0
"""Parts of the cluster are killed while jobs run: nothing is lost, and nothing runs twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.base import Handle, Phase
from airflow_workpools.infrastructure.kubernetes import KubernetesInfrastructure, job_objects, status
from airflow_workpools.infrastructure.kubernetes.answers import Outdated
from airflow_workpools.infrastructure.kubernetes.reflector import Reflector
from tests.kubernetes.cluster import KubernetesPlatform
from tests.kubernetes.testbed import killed
from tests.kubernetes.watching import PATIENCE_SECONDS, until
from tests.unit.infrastructure_contract import launch, observe, wait_until_begun, working

pytestmark = [pytest.mark.kubernetes, pytest.mark.breakable_kubernetes]

WAITS_TO_END = "echo begun >> /diary; while ! grep -q go /diary; do sleep 0.1; done; exit 3"


async def eventually(condition: Callable[[], object]) -> None:
    async def look() -> None:
        while not condition():
            await asyncio.sleep(0.1)

    await asyncio.wait_for(look(), PATIENCE_SECONDS)


async def until_it_can_be_told(worker: KubernetesInfrastructure, handle: Handle) -> int | None:
    """Look at a job as a worker does, which takes no answer for nothing new; return how it ended."""

    async def look() -> int | None:
        while True:
            try:
                if (seen := await observe(worker, handle)).ended:
                    return seen.exit_code
            except InfrastructureUnavailable:
                pass
            await asyncio.sleep(0.2)

    return await asyncio.wait_for(look(), PATIENCE_SECONDS)


def test_while_the_api_server_is_away_jobs_go_on_and_their_ends_are_told_afterwards(
    cluster: KubernetesPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_objects, "_CREATE_SECONDS", 1.0)
    goes_on, ends = cluster.spec(WAITS_TO_END), cluster.spec(WAITS_TO_END)

    async def scenario() -> None:
        async with working(cluster) as worker, working(cluster) as other:
            handles = [await launch(worker, spec) for spec in (goes_on, ends)]
            for spec, handle in zip((goes_on, ends), handles, strict=True):
                await wait_until_begun(cluster, spec)
                await until(worker, handle, lambda seen: seen.phase is Phase.RUNNING)
            with killed("kube-apiserver"):
                await eventually(worker.hindrance)
                assert "does not answer" in str(worker.hindrance())
                with pytest.raises(InfrastructureUnavailable, match="does not answer"):
                    await launch(worker, cluster.exits_with(0))
                # What is known stays known, and what is not known is not said to be gone.
                assert (await observe(worker, handles[0])).phase is Phase.RUNNING
                with pytest.raises(InfrastructureUnavailable):
                    await observe(other, handles[0])
                cluster.write(ends, "begun\ngo\n")
            assert await until_it_can_be_told(worker, handles[1]) == 3
            await eventually(lambda: worker.hindrance() is None)
            assert (await observe(worker, handles[0])).phase is Phase.RUNNING
            cluster.write(goes_on, "begun\ngo\n")
            assert await until_it_can_be_told(other, handles[0]) == 3
            for handle in handles:
                await worker.cleanup(handle)
        assert [cluster.times_run(spec) for spec in (goes_on, ends)] == [1, 1]

    asyncio.run(scenario())


def test_a_job_that_is_launched_while_etcd_is_away_runs_once_when_it_is_back(
    cluster: KubernetesPlatform,
) -> None:
    runs = cluster.spec(WAITS_TO_END)
    late = cluster.exits_with(5)

    async def scenario() -> None:
        async with working(cluster) as worker:
            handle = await launch(worker, runs)
            await wait_until_begun(cluster, runs)
            with killed("etcd"):
                launching = asyncio.create_task(launch(worker, late))
                await asyncio.sleep(0.5)
                assert not launching.done()
            late_handle = await asyncio.wait_for(launching, PATIENCE_SECONDS)
            assert await until_it_can_be_told(worker, late_handle) == 5
            cluster.write(runs, "begun\ngo\n")
            assert await until_it_can_be_told(worker, handle) == 3
            for one in (handle, late_handle):
                await worker.cleanup(one)
        assert cluster.times_run(late) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("wished", [True, False])
def test_a_job_whose_node_is_lost_ends_with_that_reason(
    cluster: KubernetesPlatform, monkeypatch: pytest.MonkeyPatch, wished: bool
) -> None:
    monkeypatch.setattr(status, "NODE_PATIENCE_SECONDS", 5.0)
    spec = cluster.spec(WAITS_TO_END)

    async def scenario() -> str | None:
        async with working(cluster) as worker:
            handle = await launch(worker, spec)
            await until(worker, handle, lambda seen: seen.phase is Phase.RUNNING)
            await wait_until_begun(cluster, spec)
            with killed("kubelet"):
                if wished:
                    await worker.stop(handle, grace_seconds=1)
                else:
                    # What a cluster does with the pods of a node that it holds for lost, if not all of them are.
                    name = cluster.pod(spec).metadata.name
                    cluster.core.delete_namespaced_pod(name, cluster.namespace, grace_period_seconds=1)
                seen = await until(worker, handle, lambda seen: seen.ended)
            assert not seen.never_started
            await worker.cleanup(handle)
            return seen.reason

    assert str(asyncio.run(scenario())).startswith("node lost: ")
    assert cluster.times_run(spec) == 1


def test_a_watch_from_too_long_ago_is_refused_and_begun_anew(cluster: KubernetesPlatform) -> None:
    async def scenario() -> None:
        async with working(cluster) as worker:
            pods = Reflector(
                api=worker.api,
                path=f"/api/v1/namespaces/{cluster.namespace}/pods",
                selectors={},
                on_list=lambda items, since: None,
                on_event=lambda type_, item: None,
            )
            with pytest.raises(Outdated):
                await pods._watch_from("1")

    asyncio.run(scenario())
