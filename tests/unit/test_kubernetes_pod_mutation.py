# SPDX-License-Identifier: Apache-2.0
"""Airflow's ``pod_mutation_hook``, as platform teams define it, on the pods of jobs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.policies import make_plugin_from_local_settings
from airflow.settings import get_policy_plugin_manager

from airflow_workpools.core.templates import render
from airflow_workpools.errors import LaunchRejected
from airflow_workpools.infrastructure.base import LaunchSpec
from airflow_workpools.infrastructure.kubernetes import pod_mutation
from airflow_workpools.infrastructure.kubernetes.manifest import JobPlan
from airflow_workpools.infrastructure.kubernetes.pod_mutation import planned
from airflow_workpools.infrastructure.registry import default_template

Define = Callable[[Callable[[Any], None]], None]


@pytest.fixture
def define() -> Iterator[Define]:
    """Give what defines a hook, as ``airflow_local_settings.py`` does."""
    manager, before = get_policy_plugin_manager(), set(get_policy_plugin_manager().get_plugins())

    def as_local_settings(hook: Callable[[Any], None]) -> None:
        module = SimpleNamespace(pod_mutation_hook=hook)
        make_plugin_from_local_settings(manager, module, {"pod_mutation_hook"})

    yield as_local_settings
    for plugin in set(manager.get_plugins()) - before:
        manager.unregister(plugin)


def plan() -> JobPlan:
    given = {"image": "etl:1", "volumes": [{"name": "data", "emptyDir": {}}], "host_network": True}
    configuration = render(default_template("kubernetes"), given, context=None, environ={})
    spec = LaunchSpec(
        job_id=uuid.uuid4(), configuration=configuration, workload="{}", labels={"dag_id": "etl"}
    )
    return asyncio.run(planned(spec, namespace="jobs", environment={"A": "1"}))


def test_without_a_hook_nothing_is_done() -> None:
    assert not pod_mutation.is_defined()
    assert plan().job["spec"]["template"]["spec"]["containers"][0]["image"] == "etl:1"


def test_a_hook_sees_the_whole_pod_and_changes_it(define: Define) -> None:
    seen = []

    def hook(pod: Any) -> None:
        seen.append(
            (pod.metadata.namespace, pod.metadata.labels["airflow.workpools/dag_id"], pod.spec.host_network)
        )
        pod.metadata.labels["team"] = "platform"
        pod.spec.node_selector = {"disk": "ssd"}
        pod.spec.containers[0].image = "mirror/etl:1"

    define(hook)
    job = plan().job
    template = job["spec"]["template"]
    assert seen == [("jobs", "etl", True)]
    assert template["metadata"]["labels"]["team"] == "platform"
    assert template["spec"]["nodeSelector"] == {"disk": "ssd"}
    assert template["spec"]["containers"][0]["image"] == "mirror/etl:1"
    assert {"name": "data", "emptyDir": {}} in template["spec"]["volumes"]
    assert job["spec"]["backoffLimit"] == 0


def test_a_hook_can_not_take_the_workload_away(define: Define) -> None:
    def hook(pod: Any) -> None:
        pod.spec.volumes = []
        pod.spec.containers[0].volume_mounts = None

    define(hook)
    made = plan()
    pod = made.job["spec"]["template"]["spec"]
    assert [volume["secret"]["secretName"] for volume in pod["volumes"]] == [made.name]
    assert len(pod["containers"][0]["volumeMounts"]) == 1


def test_a_hook_that_fails_refuses_the_job_with_its_words(define: Define) -> None:
    def hook(pod: Any) -> None:
        raise ValueError("no pods today")

    define(hook)
    with pytest.raises(LaunchRejected, match="pod_mutation_hook failed: ValueError: no pods today"):
        plan()
