# SPDX-License-Identifier: Apache-2.0
"""Which work queue a task is handed over to, and what its author is told when it can't be."""

from __future__ import annotations

import json
import uuid

import pytest
from airflow.executors.workloads import ExecuteTask
from airflow.executors.workloads.base import BundleInfo
from airflow.executors.workloads.task import TaskInstanceDTO

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import InvalidPool, PoolSource, parse_work_pool
from airflow_workpools.handover import Refusal, examine, new_job
from airflow_workpools.infrastructure.registry import default_templates

DEFAULT = WorkQueueRef("default")


def pool(name: str, **definition):
    return parse_work_pool(
        name, {"type": "process", **definition}, templates=default_templates(), source=PoolSource.DATABASE
    )


POOLS = {
    "default": pool("default"),
    "etl": pool("etl", queues={"critical": {"priority": 1}}, start_timeout=60),
    "broken": InvalidPool(name="broken", reason="concurrency_limit is -1", source=PoolSource.DATABASE),
}


def workload(queue: str = "default", **variables) -> ExecuteTask:
    return ExecuteTask(
        ti=TaskInstanceDTO(
            id=uuid.uuid4(),
            dag_version_id=uuid.uuid4(),
            task_id="load",
            dag_id="sales",
            run_id="today",
            try_number=1,
            map_index=-1,
            pool_slots=2,
            queue=queue,
            priority_weight=7,
            executor_config=variables,
        ),
        dag_rel_path="sales.py",
        token="very secret",
        bundle_info=BundleInfo(name="dags"),
        log_path="dag_id=sales/attempt=1.log",
    )


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        ("default", "default/default"),
        ("celery-queue", "default/default"),
        ("etl/critical", "etl/critical"),
        ("etl/default", "etl/default"),
    ],
)
def test_a_task_goes_to_the_queue_it_names_or_to_the_default_one(queue, expected):
    ref, found = examine(workload(queue), POOLS, default=DEFAULT)
    assert str(ref) == expected
    assert found is POOLS[ref.pool]


@pytest.mark.parametrize(
    ("queue", "variables", "words"),
    [
        ("nope/critical", {}, ["'nope'", "does not exist", "airflow workpools create nope", "etl"]),
        ("etl/nope", {}, ["'etl'", "no work queue 'nope'", "queue create etl/nope", "critical"]),
        ("etl//x", {}, ["pool/queue"]),
        ("broken/x", {}, ["'broken'", "not valid", "concurrency_limit is -1"]),
        ("etl/critical", {"nicee": 3}, ["'etl'", "nicee", "nice"]),
        ("etl/critical", {"nice": "low"}, ["'etl'", "nice"]),
    ],
)
def test_a_task_that_asks_for_what_is_not_there_is_told_what_and_the_way_out(queue, variables, words):
    with pytest.raises(Refusal) as refusal:
        examine(workload(queue, **variables), POOLS, default=DEFAULT)
    for word in words:
        assert word in str(refusal.value)


def test_a_required_variable_that_nobody_gave_is_missed_at_hand_over():
    template = {
        "variables": {
            "type": "object",
            "properties": {"image": {"type": "string"}},
            "required": ["image"],
        },
        "job_configuration": {"env": {"IMAGE": "{{ image }}"}},
    }
    pools = {"default": pool("default", base_job_template=template)}
    with pytest.raises(Refusal, match="image"):
        examine(workload(), pools, default=DEFAULT)
    assert examine(workload(image="x"), pools, default=DEFAULT)[0] == DEFAULT


KUBERNETES_TEMPLATE = {
    "variables": {
        "type": "object",
        "properties": {
            "team": {"type": "string"},
            "version": {"default": 1},
            "sidecars": {"type": "array", "default": []},
            "pod": {"type": "object"},
        },
    },
    "job_configuration": {
        "manifest": {
            "spec": {
                "template": {
                    "spec": {
                        "containers": [
                            {"name": "task", "image": "{{ $REGISTRY }}/{{ team }}:{{ version }}"},
                            {"name": "more", "image": "registry.example.com/{{ team }}:{{ version }}"},
                        ],
                        "initContainers": "{{ sidecars }}",
                    }
                }
            }
        }
    },
}


@pytest.mark.parametrize(
    ("definition", "variables", "words"),
    [
        (
            {"type": "docker"},
            {"image": "Team/ETL:1 "},
            ["'prod'", "job variable 'image': image name 'Team/ETL:1 ' is malformed", "lower-case"],
        ),
        (
            {"type": "kubernetes"},
            {"image": "etl:one:two"},
            ["job variable 'image': image name 'etl:one:two'"],
        ),
        (
            {"type": "kubernetes", "base_job_template": KUBERNETES_TEMPLATE},
            {"team": "E T L"},
            ["job variables 'team', 'version': image name 'registry.example.com/E T L:1' is malformed"],
        ),
        (
            {"type": "kubernetes", "base_job_template": KUBERNETES_TEMPLATE},
            {
                "team": "etl",
                "sidecars": [{"name": "a", "image": "fine"}, {"name": "b", "image": "{{ team }}"}],
            },
            ["job variable 'sidecars': image name '{{ team }}' is malformed"],
        ),
    ],
)
def test_a_malformed_image_is_told_at_hand_over_with_the_variable_it_comes_from(definition, variables, words):
    pools = {"prod": pool("prod", **definition)}
    with pytest.raises(Refusal) as refusal:
        examine(workload("prod/default", **variables), pools, default=DEFAULT)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("definition", "variables"),
    [
        ({"type": "docker"}, {"image": "localhost:5000/team/etl@sha256:" + "0" * 64}),
        ({"type": "kubernetes"}, {"image": "etl"}),
        # What only the worker knows is left to it, and what is no text to the schema.
        ({"type": "kubernetes", "base_job_template": KUBERNETES_TEMPLATE}, {"team": "etl"}),
        (
            {"type": "kubernetes", "base_job_template": KUBERNETES_TEMPLATE},
            {"team": "etl", "sidecars": [3, {}]},
        ),
    ],
)
def test_images_that_may_be_there_are_handed_over(definition, variables):
    pools = {"prod": pool("prod", **definition)}
    assert examine(workload("prod/default", **variables), pools, default=DEFAULT)[1] is pools["prod"]


def test_the_token_never_reaches_the_store():
    job = new_job(workload(nice=3), DEFAULT, scheduler_job_id=1, start_timeout_seconds=60)
    assert "very secret" not in job.workload
    assert json.loads(job.workload)["ti"]["task_id"] == "load"
    assert job.job_variables == {"nice": 3}
    assert (job.pool_slots, job.priority_weight, job.map_index) == (2, 7, -1)
