# SPDX-License-Identifier: Apache-2.0
"""Every reason for which a job ends or waits, really caused."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_workpools.errors import InfrastructureUnavailable, LaunchRejected
from airflow_workpools.infrastructure.base import Handle, LaunchSpec, Observation, Phase
from airflow_workpools.infrastructure.kubernetes import KubernetesInfrastructure, job_objects
from tests.kubernetes.cluster import FOREVER, KubernetesPlatform, eventually
from tests.kubernetes.watching import end_of, first_seen, until, until_ended
from tests.unit.infrastructure_contract import launch, working

pytestmark = pytest.mark.kubernetes


@pytest.fixture
def own_namespace(tmp_path: Path) -> Iterator[KubernetesPlatform]:
    """A namespace for one test, which restricts it."""
    with KubernetesPlatform(tmp_path) as platform:
        yield platform


async def until_running(worker: KubernetesInfrastructure, handle: Handle) -> None:
    await until(worker, handle, lambda seen: seen.phase is Phase.RUNNING)


def refusal_of(platform: KubernetesPlatform, spec: LaunchSpec, **connection: Any) -> str:
    """Return the reason for which a launch is refused for good."""

    async def scenario() -> str:
        worker = platform.worker(**connection)
        await worker.open()
        try:
            with pytest.raises(LaunchRejected) as refusal:
                await launch(worker, spec)
            return str(refusal.value)
        finally:
            await worker.close()

    return asyncio.run(scenario())


def assert_never_started(seen: Observation, pattern: str) -> None:
    assert seen.ended
    assert seen.never_started
    assert seen.reason
    assert re.search(pattern, seen.reason), seen.reason


@pytest.fixture(scope="module", autouse=True)
def filling(cluster: KubernetesPlatform) -> Handle:
    """A job that fills its disk. Nodes look at that seldom, so the other tests go on meanwhile."""
    spec = cluster.spec("dd if=/dev/zero of=/scratch/full bs=1M count=20; sleep 300")
    pod = spec.configuration["manifest"]["spec"]["template"]["spec"]
    pod["volumes"].append({"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}})
    pod["containers"][0]["volumeMounts"].append({"name": "scratch", "mountPath": "/scratch"})
    pod["terminationGracePeriodSeconds"] = 1

    async def scenario() -> Handle:
        async with working(cluster) as worker:
            return await launch(worker, spec)

    return asyncio.run(scenario())


class TestTheContainer:
    def test_that_uses_too_much_memory_is_killed(self, cluster: KubernetesPlatform) -> None:
        hungry = "python3 -c 'x = bytearray(300 << 20); print(sum(x))'"
        seen = end_of(cluster, cluster.spec(hungry, memory_limit="64Mi"))
        assert seen.exit_code == 137
        assert seen.reason == (
            "out of memory: it used more than its memory limit of 64Mi, and was killed (exit code 137)"
        )

    @pytest.mark.parametrize(("code", "words"), [(126, "may not be executed"), (143, "terminated")])
    def test_that_ends_with_an_exit_code_says_what_it_means(
        self, cluster: KubernetesPlatform, code: int, words: str
    ) -> None:
        seen = end_of(cluster, cluster.exits_with(code))
        assert (seen.exit_code, seen.never_started) == (code, False)
        assert words in str(seen.reason)

    def test_whose_command_is_not_there_never_starts(self, cluster: KubernetesPlatform) -> None:
        seen = end_of(cluster, cluster.spec("", command=["no-such-program"]))
        assert_never_started(seen, "could not be started: .*no-such-program")

    def test_that_needs_a_config_map_which_is_not_there_never_starts(
        self, cluster: KubernetesPlatform
    ) -> None:
        spec = cluster.spec("true", start_patience_seconds=2)
        container = spec.configuration["manifest"]["spec"]["template"]["spec"]["containers"][0]
        container["env"] = [
            {"name": "STAGE", "valueFrom": {"configMapKeyRef": {"name": "nowhere", "key": "stage"}}}
        ]
        assert_never_started(end_of(cluster, spec), "can't be started: .*nowhere")

    def test_that_takes_longer_than_its_deadline_is_ended(self, cluster: KubernetesPlatform) -> None:
        seen = end_of(cluster, cluster.spec(FOREVER, active_deadline_seconds=3, stop_grace_seconds=1))
        assert re.match(r"deadline exceeded: .* 3 s", str(seen.reason))


class TestTheImage:
    def test_that_is_not_on_the_node_and_may_not_be_pulled_ends_the_attempt(
        self, cluster: KubernetesPlatform
    ) -> None:
        seen = end_of(cluster, cluster.spec("true", image="no-such-image:1"))
        assert_never_started(seen, "not on the node, .* is Never: no-such-image:1")

    def test_that_can_not_be_pulled_ends_the_attempt_after_a_while(self, cluster: KubernetesPlatform) -> None:
        seen = end_of(
            cluster,
            cluster.spec(
                "true",
                image="127.0.0.1:1/no/image:1",
                image_pull_policy="IfNotPresent",
                start_patience_seconds=3,
            ),
        )
        assert_never_started(seen, r"can't be pulled: 127.0.0.1:1/no/image:1 \(.*connection refused")

    def test_whose_name_is_malformed_ends_the_attempt(self, cluster: KubernetesPlatform) -> None:
        seen = end_of(cluster, cluster.spec("true", image="No Such//Image"))
        assert_never_started(seen, "malformed: No Such//Image")


class TestFromOutside:
    def test_a_pod_that_is_deleted_ends_its_job_and_no_more_pods_are_wanted(
        self, cluster: KubernetesPlatform
    ) -> None:
        spec = cluster.waits()

        async def scenario() -> tuple[Observation, Any]:
            async with working(cluster) as worker:
                handle = await launch(worker, spec)
                await until_running(worker, handle)
                name = cluster.pod(spec).metadata.name
                cluster.core.delete_namespaced_pod(name, cluster.namespace, grace_period_seconds=1)
                seen = await until_ended(worker, handle)
                # The cluster may have been quicker to make another one, in which Airflow lets no task start.
                job = cluster.batch.read_namespaced_job(spec.name, cluster.namespace)
                await worker.cleanup(handle)
                return seen, job

        seen, job = asyncio.run(scenario())
        assert str(seen.reason).startswith("its pod was deleted from outside")
        assert job.spec.parallelism == 0

    def test_a_pod_that_vanishes_at_once_ends_its_job(self, cluster: KubernetesPlatform) -> None:
        spec = cluster.waits()

        async def delete_pod(worker: KubernetesInfrastructure, handle: Handle) -> None:
            await until_running(worker, handle)
            name = cluster.pod(spec).metadata.name
            cluster.core.delete_namespaced_pod(name, cluster.namespace, grace_period_seconds=0)

        seen = end_of(cluster, spec, then=delete_pod)
        assert (seen.phase, seen.reason) == (Phase.GONE, "its pod was deleted from outside")

    def test_a_job_that_is_deleted_ends(self, cluster: KubernetesPlatform) -> None:
        spec = replace(cluster.waits())

        async def delete_job(worker: KubernetesInfrastructure, handle: Handle) -> None:
            await until_running(worker, handle)
            cluster.batch.delete_namespaced_job(spec.name, cluster.namespace, propagation_policy="Background")

        seen = end_of(cluster, spec, then=delete_job)
        assert str(seen.reason).startswith("its Job was deleted from outside")

    def test_a_job_that_was_deleted_while_nobody_looked_is_gone(self, cluster: KubernetesPlatform) -> None:
        spec = cluster.waits()

        async def scenario() -> Observation:
            async with working(cluster) as worker:
                handle = await launch(worker, spec)
            await asyncio.to_thread(
                cluster.batch.delete_namespaced_job,
                spec.name, cluster.namespace, propagation_policy="Background",
            )  # fmt: skip
            # The node would take its time.
            await asyncio.to_thread(cluster.delete_pods_of, spec.name)
            await asyncio.to_thread(eventually, lambda: not cluster.pods(spec))
            async with working(cluster) as later:
                return (await later.observe([handle]))[handle.job_id]

        seen = asyncio.run(scenario())
        assert seen.phase is Phase.GONE
        assert "is gone: deleted from outside" in str(seen.reason)


class TestRoom:
    def test_a_pod_that_fits_nowhere_waits_with_the_words_of_the_scheduler(
        self, cluster: KubernetesPlatform
    ) -> None:
        seen = first_seen(
            cluster,
            cluster.spec("true", node_selector={"no.such/label": "here"}),
            lambda seen: "unschedulable" in str(seen.reason),
        )
        assert seen.phase is Phase.WAITING
        assert re.match(r"unschedulable: 0/1 nodes are available", str(seen.reason))

    def test_a_quota_of_pods_holds_a_job_back_and_is_quoted(self, own_namespace: KubernetesPlatform) -> None:
        own_namespace.restrict_quota({"pods": "0"})
        seen = first_seen(
            own_namespace, own_namespace.waits(), lambda seen: "exceeded quota" in str(seen.reason)
        )
        assert seen.phase is Phase.WAITING
        assert re.match(
            r"its pod can't be created: .* exceeded quota: few, requested: pods=1", str(seen.reason)
        )

    def test_a_quota_of_jobs_is_waited_for_and_quoted(
        self, own_namespace: KubernetesPlatform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own_namespace.restrict_quota({"count/jobs.batch": "0"})
        monkeypatch.setattr(job_objects, "_CREATE_SECONDS", 1.0)

        async def scenario() -> str:
            async with working(own_namespace) as worker:
                with pytest.raises(InfrastructureUnavailable) as problem:
                    await launch(worker, own_namespace.exits_with(0))
                return str(problem.value)

        assert "exceeded quota: few, requested: count/jobs.batch=1" in asyncio.run(scenario())

    def test_a_quota_that_is_lifted_lets_the_launch_go_on(self, own_namespace: KubernetesPlatform) -> None:
        own_namespace.restrict_quota({"count/jobs.batch": "0"})

        async def scenario() -> int | None:
            async with working(own_namespace) as worker:
                launching = asyncio.create_task(launch(worker, own_namespace.exits_with(3)))
                await asyncio.sleep(0)
                own_namespace.core.delete_namespaced_resource_quota("few", own_namespace.namespace)
                handle = await launching
                return (await until(worker, handle, lambda seen: seen.ended)).exit_code

        assert asyncio.run(scenario()) == 3

    def test_a_limit_range_refuses_a_pod_and_is_quoted(self, own_namespace: KubernetesPlatform) -> None:
        limit = {"type": "Container", "max": {"memory": "64Mi"}}
        own_namespace.core.create_namespaced_limit_range(
            own_namespace.namespace, {"metadata": {"name": "small"}, "spec": {"limits": [limit]}}
        )
        seen = end_of(
            own_namespace, own_namespace.spec("true", memory_limit="128Mi", start_patience_seconds=1)
        )
        assert_never_started(seen, "can't be created: .* maximum memory usage per Container is 64Mi")


class TestRefusals:
    def test_an_invalid_manifest_is_refused_with_the_path_of_the_field(
        self, cluster: KubernetesPlatform
    ) -> None:
        refusal = refusal_of(cluster, cluster.cannot_start())
        assert "spec.template.spec.containers[0].resources.requests" in refusal
        assert "must be less than or equal to memory limit" in refusal

    def test_a_namespace_that_does_not_exist_is_named(self, cluster: KubernetesPlatform) -> None:
        assert 'namespaces "nowhere" not found' in refusal_of(
            cluster, cluster.spec("true", namespace="nowhere")
        )

    def test_missing_rights_are_quoted_with_the_way_out(self, cluster: KubernetesPlatform) -> None:
        refusal = refusal_of(cluster, cluster.exits_with(0), cluster_context="restricted")
        assert re.search(r'User "restricted" cannot list resource "(jobs|pods)"', refusal)
        assert "docs/kubernetes.md" in refusal
        assert cluster.namespace in refusal


def test_a_container_that_fills_its_disk_is_evicted(cluster: KubernetesPlatform, filling: Handle) -> None:
    async def scenario() -> Observation:
        async with working(cluster) as worker:
            seen = await until_ended(worker, filling)
            await worker.cleanup(filling)
            return seen

    seen = asyncio.run(scenario())
    assert re.match(r'evicted: .*"scratch"', str(seen.reason)), seen
    assert not seen.never_started
