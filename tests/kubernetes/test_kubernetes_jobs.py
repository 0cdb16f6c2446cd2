# SPDX-License-Identifier: Apache-2.0
"""What a job is given, what it leaves behind, and how it is stopped; on a real cluster."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from airflow_workpools.infrastructure.base import CanRenew, Handle, HasLog, MayBeHindered, Observation, Phase
from airflow_workpools.infrastructure.containers import WORKLOAD_DIRECTORY, WORKLOAD_PATH
from airflow_workpools.infrastructure.kubernetes import (
    KubernetesInfrastructure,
    infrastructure,
    parcels,
    stopping,
)
from airflow_workpools.infrastructure.kubernetes.manifest import KUEUE_LABEL, JobPlan
from tests.kubernetes.cluster import FOREVER, TOKEN, KubernetesPlatform, eventually
from tests.kubernetes.watching import PATIENCE_SECONDS, end_of, until, until_ended
from tests.unit.infrastructure_contract import launch, observe, wait_until_begun, working

pytestmark = pytest.mark.kubernetes


async def until_running(worker: KubernetesInfrastructure, handle: Handle) -> None:
    await until(worker, handle, lambda seen: seen.phase is Phase.RUNNING)


def as_json(platform: KubernetesPlatform, thing: object) -> str:
    return json.dumps(platform.api.sanitize_for_serialization(thing))


class TestTheWorkload:
    def test_is_a_file_that_only_its_owner_reads_and_stands_nowhere_else(
        self, cluster: KubernetesPlatform
    ) -> None:
        spec = cluster.spec(f"cat {WORKLOAD_PATH} >> /diary; sleep 300")
        template = spec.configuration["manifest"]["spec"]["template"]["spec"]
        template["securityContext"] = {"runAsUser": 0}

        async def scenario() -> None:
            async with working(cluster) as worker:
                handle = await launch(worker, spec)
                await until_running(worker, handle)
                await asyncio.to_thread(eventually, lambda: cluster.diary(spec))
                assert TOKEN not in as_json(cluster, cluster.jobs())
                assert TOKEN not in as_json(cluster, cluster.pods())
                await worker.stop(handle, grace_seconds=0)
                await until_ended(worker, handle)
                await worker.cleanup(handle)

        asyncio.run(scenario())
        assert json.loads(cluster.diary(spec)[0]) == {"token": TOKEN}

    def test_can_be_read_by_a_container_that_does_not_run_as_root(self, cluster: KubernetesPlatform) -> None:
        spec = cluster.spec(f"grep -q token {WORKLOAD_PATH}")
        template = spec.configuration["manifest"]["spec"]["template"]["spec"]
        template["securityContext"] = {"runAsUser": 4711, "runAsGroup": 4711}
        assert end_of(cluster, spec).exit_code == 0

    def test_goes_with_its_job(self, cluster: KubernetesPlatform) -> None:
        spec = cluster.exits_with(0)
        end_of(cluster, spec)
        eventually(lambda: spec.name not in {secret.metadata.name for secret in cluster.secrets()})
        eventually(lambda: not cluster.pods(spec))

    def test_of_a_job_that_waits_can_be_renewed(self, cluster: KubernetesPlatform) -> None:
        # Kueue's own queue needs Kueue; what waits for a node waits as well.
        spec = cluster.spec("cat {WORKLOAD_PATH} >> /diary", node_selector={"no.such": "node"})

        async def scenario() -> None:
            async with working(cluster) as worker:
                assert isinstance(worker, CanRenew)
                handle = await launch(worker, spec)
                await worker.renew(handle, json.dumps({"token": "another"}))
                secret = cluster.core.read_namespaced_secret(spec.name, cluster.namespace)
                assert "another" in _content(secret)
                await worker.stop(handle, grace_seconds=0)
                await worker.cleanup(handle)
                await worker.renew(handle, "too late")

        asyncio.run(scenario())

    def test_that_was_never_handed_over_ends_the_attempt(
        self, cluster: KubernetesPlatform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(infrastructure, "_HANDED_OVER_SECONDS", 1.0)

        async def scenario() -> Observation:
            async with working(cluster) as worker:
                handle = await anext(worker.launch(cluster.exits_with(0)))  # it dies between Job and Secret
            async with working(cluster) as later:
                seen = await until_ended_looking(later, handle)
                await later.cleanup(handle)
                return seen

        seen = asyncio.run(scenario())
        assert seen.never_started
        assert "before it had handed over the workload" in str(seen.reason)

    def test_is_handed_over_when_the_launch_is_repeated(self, cluster: KubernetesPlatform) -> None:
        spec = cluster.exits_with(3)

        async def scenario() -> int | None:
            async with working(cluster) as worker:
                await anext(worker.launch(spec))
            async with working(cluster) as later:
                handle = await launch(later, spec)
                return (await until_ended(later, handle)).exit_code

        assert asyncio.run(scenario()) == 3
        assert cluster.times_run(spec) == 1


class TestASharedSecret:
    """Jobs that are launched at the same time have one."""

    def test_shows_each_pod_its_own_workload_and_goes_with_the_last_job(
        self, cluster: KubernetesPlatform
    ) -> None:
        quick, lasts = (
            cluster.spec(
                f"ls {WORKLOAD_DIRECTORY} >> /diary; cat {WORKLOAD_PATH} >> /diary; {rest}", workload=name
            )
            for name, rest in (("quick", "exit 0"), ("lasts", "exec sleep 300"))
        )

        async def scenario() -> None:
            async with working(cluster) as worker:
                first, second = await asyncio.gather(launch(worker, quick), launch(worker, lasts))
                assert first.data["secret"] == second.data["secret"]
                await until_ended(worker, first)
                await until_running(worker, second)
                await worker.cleanup(first)
                await asyncio.to_thread(eventually, lambda: owners(cluster, second) == {lasts.name})
                await asyncio.to_thread(eventually, lambda: cluster.diary(lasts)[1:])
                await worker.stop(second, grace_seconds=0)
                await until_ended(worker, second)
                await worker.cleanup(second)
                await asyncio.to_thread(eventually, lambda: not owners(cluster, second))

        asyncio.run(scenario())
        assert (cluster.diary(quick), cluster.diary(lasts)) == (
            ["workload.json", "quick"],
            ["workload.json", "lasts"],
        )

    def test_takes_in_one_that_comes_late(
        self, cluster: KubernetesPlatform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parcels, "PATIENCE_SECONDS", 0.0)
        early, late = (cluster.spec("true", node_selector={"no.such": "node"}) for _ in range(2))

        async def scenario() -> None:
            async with working(cluster) as worker:
                may_create, create = asyncio.Event(), worker._objects.create_job

                async def create_late(plan: JobPlan, **given: Any) -> tuple[Mapping[str, Any], bool]:
                    if plan.name == late.name:
                        await may_create.wait()
                    return await create(plan, **given)

                monkeypatch.setattr(worker._objects, "create_job", create_late)
                second = asyncio.create_task(launch(worker, late))
                first = await launch(worker, early)
                assert owners(cluster, first) == {early.name}
                may_create.set()
                assert (await second).data["secret"] == first.data["secret"]
                assert owners(cluster, first) == {early.name, late.name}
                await asyncio.gather(*(worker.cleanup(handle) for handle in (first, await second)))

        asyncio.run(scenario())

    def test_that_was_never_sent_ends_the_attempts_of_all(
        self, cluster: KubernetesPlatform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(infrastructure, "_HANDED_OVER_SECONDS", 1.0)

        async def scenario() -> list[Observation]:
            async with working(cluster) as worker:
                launches = [worker.launch(cluster.exits_with(0)) for _ in range(3)]
                handles = await asyncio.gather(*(anext(one) for one in launches))
            async with working(cluster) as later:
                seen = [await until_ended_looking(later, handle) for handle in handles]
                await asyncio.gather(*(later.cleanup(handle) for handle in handles))
                return seen

        assert all(seen.never_started for seen in asyncio.run(scenario()))


def owners(cluster: KubernetesPlatform, handle: Handle) -> set[str]:
    """Return the names of the Jobs that own the Secret of a job; none if there is no such Secret."""
    return {
        owner.name
        for secret in cluster.secrets()
        if secret.metadata.name == handle.data["secret"]
        for owner in secret.metadata.owner_references
    }


async def until_ended_looking(worker: KubernetesInfrastructure, handle: Handle) -> Observation:
    """Look at a job again and again, as a worker does also when nothing changes."""

    async def look() -> Observation:
        while not (seen := await observe(worker, handle)).ended:
            await asyncio.sleep(0.2)
        return seen

    return await asyncio.wait_for(look(), PATIENCE_SECONDS)


def _content(secret: object) -> str:
    import base64

    (content,) = secret.data.values()  # type: ignore[attr-defined]
    return base64.b64decode(content).decode()


def assert_stopped(seen: Observation, exit_code: int) -> None:
    # Kubelets before 1.22 may forget how the container of a pod ended that is being deleted.
    assert (seen.phase, seen.exit_code) in ((Phase.EXITED, exit_code), (Phase.GONE, None))
    assert not seen.never_started
    assert seen.phase is Phase.EXITED or "it was stopped" in str(seen.reason)


class TestStopping:
    def test_asks_first_and_lets_the_job_say_how_it_ended(self, cluster: KubernetesPlatform) -> None:
        spec = cluster.spec(FOREVER, stop_grace_seconds=20)

        async def stop(worker: KubernetesInfrastructure, handle: Handle) -> None:
            await until_running(worker, handle)
            assert handle.data["stop_grace_seconds"] == 20
            await worker.stop(handle, grace_seconds=20)

        seen = end_of(cluster, spec, then=stop)
        assert_stopped(seen, 143)
        assert cluster.diary(spec) == ["begun", "ended"]

    def test_kills_what_does_not_listen_when_the_grace_is_over(self, cluster: KubernetesPlatform) -> None:
        spec = cluster.spec("trap '' TERM; echo begun >> /diary; while :; do sleep 0.1; done")

        async def stop(worker: KubernetesInfrastructure, handle: Handle) -> None:
            await until_running(worker, handle)
            await wait_until_begun(cluster, spec)
            await worker.stop(handle, grace_seconds=1)

        assert_stopped(end_of(cluster, spec, then=stop), 137)

    def test_a_job_without_a_pod_takes_it_away(self, cluster: KubernetesPlatform) -> None:
        spec = cluster.spec("true", node_selector={"no.such/label": "here"})

        async def stop(worker: KubernetesInfrastructure, handle: Handle) -> None:
            await worker.stop(handle, grace_seconds=20)

        assert end_of(cluster, spec, then=stop).ended
        assert cluster.times_run(spec) == 0

    def test_a_job_that_its_node_is_still_bringing_up_does_not_wait_for_the_node(
        self, cluster: KubernetesPlatform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stopping, "BRINGS_UP_SECONDS", 1.0)
        spec = cluster.exits_with(0)

        async def scenario() -> Observation:
            async with working(cluster) as worker:
                graces, delete = [], worker._objects.delete_pod

                async def delete_pod(*pod: str, grace_seconds: int) -> None:
                    graces.append(grace_seconds)
                    await delete(*pod, grace_seconds=grace_seconds)

                monkeypatch.setattr(worker._objects, "delete_pod", delete_pod)
                # Without its workload, the node tries to bring it up for longer than that.
                handle = await anext(worker.launch(spec))
                await until(worker, handle, lambda seen: "MountVolume" in str(seen.reason))
                await worker.stop(handle, grace_seconds=20)
                seen = await until_ended(worker, handle)
                await worker.cleanup(handle)
                assert graces == [20, 0]
                return seen

        assert asyncio.run(scenario()).never_started
        assert cluster.times_run(spec) == 0


class TestTheLog:
    def test_is_followed_while_the_job_runs_and_again_from_any_byte(
        self, cluster: KubernetesPlatform
    ) -> None:
        spec = cluster.spec("echo first; while ! test -s /diary; do sleep 0.1; done; echo last >&2")

        async def scenario() -> None:
            async with working(cluster) as worker:
                assert isinstance(worker, HasLog)
                handle = await launch(worker, spec)
                log = worker.follow_log(handle, offset=0)
                assert await first(log) == b"first\n"
                assert (await observe(worker, handle)).phase is Phase.RUNNING
                cluster.write(spec, "go on")
                assert await rest(log) == b"last\n"
                await until_ended(worker, handle)
                for offset in (0, 3, 6, 11, 99):
                    again = await rest(worker.follow_log(handle, offset=offset))
                    assert again == b"first\nlast\n"[offset:]
                await worker.cleanup(handle)
                assert await rest(worker.follow_log(handle, offset=0)) == b""

        asyncio.run(scenario())

    def test_of_a_job_that_never_starts_is_empty(self, cluster: KubernetesPlatform) -> None:
        async def scenario() -> bytes:
            async with working(cluster) as worker:
                handle = await launch(worker, cluster.spec("true", image="no-such-image:1"))
                log, _ = await asyncio.gather(
                    rest(worker.follow_log(handle, offset=0)), until_ended_looking(worker, handle)
                )
                await worker.cleanup(handle)
                return log

        assert asyncio.run(scenario()) == b""

    def test_of_a_job_that_is_stopped_has_its_last_words(self, cluster: KubernetesPlatform) -> None:
        spec = cluster.spec("trap 'echo farewell; exit 143' TERM; echo hello; while :; do sleep 0.1; done")

        async def scenario() -> bytes:
            async with working(cluster) as worker:
                handle = await launch(worker, spec)
                log = worker.follow_log(handle, offset=0)
                assert await first(log) == b"hello\n"
                await worker.stop(handle, grace_seconds=20)
                words, _ = await asyncio.gather(rest(log), until_ended(worker, handle))
                await worker.cleanup(handle)
                return words

        words = asyncio.run(scenario())
        assert words == b"farewell\n", words


async def first(log: AsyncIterator[bytes]) -> bytes:
    return await asyncio.wait_for(anext(log), PATIENCE_SECONDS)


async def rest(log: AsyncIterator[bytes]) -> bytes:
    async def read() -> bytes:
        return b"".join([chunk async for chunk in log])

    return await asyncio.wait_for(read(), PATIENCE_SECONDS)


class TestMany:
    def test_are_launched_at_once_and_watched_by_a_handful_of_requests(
        self, cluster: KubernetesPlatform
    ) -> None:
        specs = [cluster.spec("true", node_selector={"no.such/label": "here"}) for _ in range(60)]

        async def scenario() -> None:
            async with working(cluster) as worker:
                handles = await asyncio.gather(*(launch(worker, spec) for spec in specs))
                before = worker.api.requests
                for _ in range(20):
                    seen = await worker.observe(handles)
                    assert {one.phase for one in seen.values()} == {Phase.WAITING}
                assert worker.api.requests == before
            async with working(cluster) as later:
                found = await later.find([handle.job_id for handle in handles])
                assert sorted(found.values(), key=lambda one: str(one.job_id)) == sorted(
                    handles, key=lambda one: str(one.job_id)
                )
                before = later.api.requests
                await later.observe(handles)
                # Jobs, pods and warnings, each listed and watched: whatever the number of jobs.
                assert later.api.requests - before <= 6
                await asyncio.gather(*(later.cleanup(handle) for handle in handles))

        asyncio.run(scenario())

    def test_namespaces_are_remembered_for_the_next_worker(
        self, cluster: KubernetesPlatform, tmp_path: Path
    ) -> None:
        with KubernetesPlatform(tmp_path) as elsewhere:
            spec = elsewhere.spec("true", namespace=elsewhere.namespace)

            async def scenario() -> None:
                async with working(cluster) as worker:
                    handle = await launch(worker, spec)
                async with working(cluster) as later:
                    assert await later.find([spec.job_id, uuid.uuid4()]) == {spec.job_id: handle}
                    assert (await until_ended(later, handle)).exit_code == 0
                    await later.cleanup(handle)

            asyncio.run(scenario())


class TestKueue:
    def test_finds_its_label_on_the_job(self, cluster: KubernetesPlatform) -> None:
        spec = cluster.spec("true", kueue_queue_name="gpus", node_selector={"no.such/label": "here"})

        async def scenario() -> None:
            async with working(cluster) as worker:
                handle = await launch(worker, spec)
                job = cluster.batch.read_namespaced_job(spec.name, cluster.namespace)
                assert job.metadata.labels[KUEUE_LABEL] == "gpus"
                if job.spec.suspend:  # clusters before 1.21 know nothing of it
                    await until(worker, handle, lambda seen: seen.phase is Phase.QUEUED)
                    admitted = {"spec": {"suspend": False}}
                    cluster.batch.patch_namespaced_job(spec.name, cluster.namespace, admitted)
                    await until(worker, handle, lambda seen: seen.phase is Phase.WAITING)
                await worker.stop(handle, grace_seconds=0)
                await worker.cleanup(handle)

        asyncio.run(scenario())


class TestAttempts:
    def test_do_not_take_each_other_for_the_same(self, cluster: KubernetesPlatform) -> None:
        spec = cluster.spec("echo begun >> /diary")

        async def scenario() -> None:
            async with working(cluster) as worker:
                first_handle = await launch(worker, spec)
                second_handle = await launch(worker, dataclasses.replace(spec, attempt=1))
                assert first_handle != second_handle
                for handle in (first_handle, second_handle):
                    assert (await until_ended(worker, handle)).exit_code == 0
                assert isinstance(worker, MayBeHindered)
                assert worker.hindrance() is None
                for handle in (first_handle, second_handle):
                    await worker.cleanup(handle)

        asyncio.run(scenario())
        assert cluster.times_run(spec) == 2
