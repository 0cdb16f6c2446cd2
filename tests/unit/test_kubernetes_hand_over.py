# SPDX-License-Identifier: Apache-2.0
"""How a launch hands over the workload, and when it ends without. The API stands in a class here."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from airflow_workpools.core.templates import render
from airflow_workpools.infrastructure.base import Handle, LaunchSpec, Phase
from airflow_workpools.infrastructure.kubernetes import KubernetesInfrastructure, pod_mutation
from airflow_workpools.infrastructure.kubernetes import infrastructure as infrastructure_module
from airflow_workpools.infrastructure.kubernetes.answers import AlreadyExists, DoesNotExist, NotNow
from airflow_workpools.infrastructure.kubernetes.client import KubernetesApi
from airflow_workpools.infrastructure.kubernetes.namespace import NamespaceWatch
from airflow_workpools.infrastructure.registry import default_template


class Api:
    """Takes every Job, and what it is sent of Secrets, unless it is told otherwise."""

    def __init__(self) -> None:
        self.secrets: dict[str, Any] = {}
        self.answers: list[Exception] = []
        """What the next requests about Secrets are answered with."""
        self.has_room = True

    async def persist(
        self, method: str, path: str, *, bodies: Iterator[Any] | None = None, **options: Any
    ) -> Mapping[str, Any]:
        body = next(bodies) if bodies is not None else options.get("body")
        await asyncio.sleep(0)  # others make requests meanwhile
        if path.endswith("/jobs"):
            return {**body, "metadata": {**body["metadata"], "uid": f"uid of {body['metadata']['name']}"}}
        if self.answers:
            raise self.answers.pop(0)
        if method == "PATCH":
            raise DoesNotExist("no such Secret", 404)
        if not self.has_room:
            raise NotNow("exceeded quota")
        self.secrets[body["metadata"]["name"]] = body
        return {}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    async def listed(*_: object) -> None:
        pass

    api = Api()
    monkeypatch.setattr(KubernetesApi, "persist", lambda _, *args, **more: api.persist(*args, **more))
    monkeypatch.setattr(KubernetesApi, "namespace", "jobs")
    monkeypatch.setattr(NamespaceWatch, "start", lambda _: None)
    monkeypatch.setattr(NamespaceWatch, "listed_since", listed)
    monkeypatch.setattr(pod_mutation, "is_defined", lambda: False)
    monkeypatch.setattr("airflow_workpools.core.backoff.Backoff.next", lambda _: 0.01)
    monkeypatch.setattr(infrastructure_module, "_LOOK_SECONDS", 0.01)
    return api


def job() -> LaunchSpec:
    job_id = uuid.uuid4()
    configuration = render(default_template("kubernetes"), {"image": "etl:1"}, context=None, environ={})
    return LaunchSpec(
        job_id=job_id, configuration=configuration, workload="w", labels={"job_id": str(job_id)}
    )


class Launch:
    """A launch that goes on while the test does something else."""

    def __init__(self, worker: KubernetesInfrastructure) -> None:
        self._worker = worker
        self.handle: asyncio.Future[Handle] = asyncio.get_running_loop().create_future()
        self.over = asyncio.create_task(self._launch())

    async def _launch(self) -> None:
        async for handle in self._worker.launch(job()):
            self.handle.set_result(handle)


def test_a_launch_ends_when_its_job_was_taken_away_and_others_get_their_workloads(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infrastructure_module, "_HANDED_OVER_SECONDS", 0.0)

    async def test() -> None:
        worker = KubernetesInfrastructure(home=tmp_path)
        api.has_room = False
        lost, kept = Launch(worker), Launch(worker)
        handles = await asyncio.gather(lost.handle, kept.handle)
        assert handles[0].data["secret"] == handles[1].data["secret"]
        await worker.observe([handles[0]])
        await asyncio.wait_for(lost.over, 10)
        seen = await worker.observe([handles[0]])
        assert seen[handles[0].job_id].phase is Phase.GONE
        assert not kept.over.done()

        api.has_room = True
        await asyncio.wait_for(kept.over, 10)
        assert handles[1].data["key"] in api.secrets[handles[1].data["secret"]]["data"]
        await worker.close()

    asyncio.run(test())


def test_another_secret_is_made_when_the_one_that_was_there_has_just_gone(api: Api, tmp_path: Path) -> None:
    async def test() -> None:
        worker = KubernetesInfrastructure(home=tmp_path)
        api.answers = [AlreadyExists("it is there", 409), DoesNotExist("it is gone", 404)]
        launch = Launch(worker)
        handle = await launch.handle
        await launch.over
        assert handle.data["key"] in api.secrets[handle.data["secret"]]["data"]
        await worker.close()

    asyncio.run(test())
