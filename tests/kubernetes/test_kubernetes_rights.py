# SPDX-License-Identifier: Apache-2.0
"""The Role in docs/kubernetes.md is enough, and no less is."""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_workpools.errors import LaunchRejected, WorkpoolsError
from airflow_workpools.infrastructure.base import Phase
from airflow_workpools.infrastructure.kubernetes import KubernetesInfrastructure
from tests.kubernetes.cluster import KubernetesPlatform
from tests.kubernetes.watching import until, until_ended
from tests.unit.infrastructure_contract import launch

pytestmark = pytest.mark.kubernetes

PAGE = Path(__file__).parents[2] / "docs/kubernetes.md"


def documented() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the Role and the RoleBinding of the page."""
    found = re.search(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    role, binding = yaml.safe_load_all(found.group(1))
    return role, binding


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[KubernetesPlatform]:
    with KubernetesPlatform(tmp_path) as platform:
        yield platform


def bind(platform: KubernetesPlatform, role: dict[str, Any]) -> None:
    """Give the user of the context `restricted` this Role, and nothing else."""
    _, binding = copy.deepcopy(documented())
    for one in (role, binding):
        one["metadata"]["namespace"] = platform.namespace
    binding["subjects"] = [{"kind": "User", "name": "restricted", "apiGroup": "rbac.authorization.k8s.io"}]
    platform.rbac.create_namespaced_role(platform.namespace, role)
    platform.rbac.create_namespaced_role_binding(platform.namespace, binding)


def restricted(platform: KubernetesPlatform) -> KubernetesInfrastructure:
    return platform.worker(cluster_context="restricted")


async def live(platform: KubernetesPlatform) -> None:
    """Do everything with jobs that a worker ever does."""
    worker = restricted(platform)
    await worker.open()
    try:
        handle = await launch(worker, platform.spec("echo hello; exit 3"))
        assert await worker.find([handle.job_id]) == {handle.job_id: handle}
        await worker.renew(handle, json.dumps({}))
        assert (await until_ended(worker, handle)).exit_code == 3
        assert b"".join([chunk async for chunk in worker.follow_log(handle, offset=0)]) == b"hello\n"
        await worker.cleanup(handle)
        stopped = await launch(worker, platform.waits())
        await until(worker, stopped, lambda seen: seen.phase is Phase.RUNNING)
        await worker.stop(stopped, grace_seconds=1)
        assert (await until_ended(worker, stopped)).exit_code != 0
        await worker.cleanup(stopped)
    finally:
        await worker.close()


def test_with_the_documented_rights_jobs_live_from_launch_to_cleanup(platform: KubernetesPlatform) -> None:
    bind(platform, documented()[0])
    asyncio.run(live(platform))
    assert platform.jobs() == []


def test_without_the_right_to_see_events_jobs_live_as_well(platform: KubernetesPlatform) -> None:
    role, _ = documented()
    role["rules"] = [rule for rule in role["rules"] if rule["resources"] != ["events"]]
    bind(platform, role)
    asyncio.run(live(platform))


@pytest.mark.parametrize("resource", ["jobs", "pods", "secrets"])
def test_a_right_that_is_missing_is_quoted_and_nothing_is_left(
    platform: KubernetesPlatform, resource: str
) -> None:
    role, _ = documented()
    role["rules"] = [rule for rule in role["rules"] if rule["resources"] != [resource]]
    bind(platform, role)

    async def scenario() -> WorkpoolsError:
        worker = restricted(platform)
        await worker.open()
        try:
            with pytest.raises(LaunchRejected) as refusal:
                await launch(worker, platform.spec("true"))
            return refusal.value
        finally:
            await worker.close()

    assert 'User "restricted" cannot ' in str(refusal := asyncio.run(scenario()))
    assert f'resource "{resource}"' in str(refusal)
    assert platform.jobs() == []


def test_no_right_is_to_read_secrets_or_reaches_beyond_the_namespace() -> None:
    role, binding = documented()
    assert (role["kind"], binding["kind"]) == ("Role", "RoleBinding")
    verbs = {resource: rule["verbs"] for rule in role["rules"] for resource in rule["resources"]}
    assert not {"get", "list", "watch", "*"} & set(verbs["secrets"])
