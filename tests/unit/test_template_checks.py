# SPDX-License-Identifier: Apache-2.0
"""Templates that no job could be launched with are refused where the pool is defined."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from airflow_workpools.core.pools import InvalidPool, PoolSource, parse_work_pool
from airflow_workpools.errors import InvalidWorkPool
from airflow_workpools.infrastructure.registry import default_templates, template_checks
from airflow_workpools.settings import PoolSettings
from airflow_workpools.store.pool_sources import Found
from airflow_workpools.store.pools import parse_found

CONTAINER = {"name": "task", "image": "{{ image }}"}
VARIABLES = {
    "type": "object",
    "properties": {name: {} for name in ("image", "containers", "pod", "kind", "name", "mode", "env")},
}


def manifest(**changes: Any) -> dict[str, Any]:
    job: dict[str, Any] = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "spec": {"template": {"spec": {"containers": [copy.deepcopy(CONTAINER)]}}},
    }
    return {"manifest": job | changes}


def with_pod(pod: Any) -> dict[str, Any]:
    return manifest(spec={"template": {"spec": pod}})


def define(type_: str, job_configuration: Any) -> None:
    template = {"variables": VARIABLES, "job_configuration": job_configuration}
    parse_work_pool(
        "prod",
        {"type": type_, "base_job_template": template},
        templates=default_templates(),
        source=PoolSource.DATABASE,
        template_checks=template_checks(),
    )


@pytest.mark.parametrize(
    ("type_", "job_configuration", "reason"),
    [
        ("kubernetes", with_pod({}), "leaves out the container"),
        ("kubernetes", with_pod({"containers": []}), "leaves out the container"),
        (
            "kubernetes",
            with_pod({"containers": {"name": "task"}}),
            "containers of the base job template must be",
        ),
        ("kubernetes", with_pod({"containers": [{"image": "i"}]}), r"containers\[0\].name .* is missing"),
        ("kubernetes", manifest(kind="Pod", apiVersion="v1"), "must be a Job of batch/v1, not Pod of v1"),
        ("kubernetes", manifest(spec={"backoffLimit": 3}), "backoffLimit of the base job template must be 0"),
        (
            "kubernetes",
            with_pod({"containers": [CONTAINER], "restartPolicy": "Always"}),
            "restartPolicy of the base job template must be 'Never'",
        ),
        ("kubernetes", {"env": "{{ env }}"}, "manifest: Field required"),
        ("kubernetes", manifest() | {"envv": {}}, "envv: Extra inputs"),
        ("kubernetes", [], "must be an object"),
        ("docker", {"env": "{{ env }}"}, "image: Field required"),
        ("docker", {"image": "Not An Image"}, "Not An Image"),
        ("docker", {"image": "{{ image }}", "mem": "1g"}, "mem: Extra inputs"),
        ("docker", {"image": "{{ image }}", "mem_limit": "lots"}, "mem_limit"),
        ("docker", {"image": "i", "volumes": ["relative"]}, "volumes"),
        (
            "docker",
            {"image": "i", "container_create_kwargs": {"auto_remove": True}},
            "container_create_kwargs.auto_remove may not be set",
        ),
    ],
)
def test_a_template_that_no_job_could_be_launched_with_is_refused_with_its_place(
    type_: str, job_configuration: Any, reason: str
) -> None:
    with pytest.raises(InvalidWorkPool, match=rf"work pool 'prod': base_job_template: .*{reason}"):
        define(type_, job_configuration)


@pytest.mark.parametrize(
    ("type_", "job_configuration"),
    [
        ("kubernetes", manifest()),
        ("kubernetes", manifest(kind="{{ kind }}")),
        ("kubernetes", with_pod("{{ pod }}")),
        ("kubernetes", with_pod({"containers": "{{ containers }}"})),
        ("kubernetes", with_pod({"containers": ["{{ containers }}"]})),
        ("kubernetes", with_pod({"containers": [{"name": "task-{{ name }}"}]})),
        ("kubernetes", {"manifest": "{{ pod }}"}),
        ("docker", {"image": "{{ image }}"}),
        ("docker", {"image": "registry.example.com/{{ name }}:1"}),
        ("docker", {"image": "i", "network_mode": "{{ mode }}", "networks": ["tasks"]}),
    ],
)
def test_what_depends_on_a_variable_is_left_to_the_launch(type_: str, job_configuration: Any) -> None:
    define(type_, job_configuration)


def test_a_pool_that_was_changed_elsewhere_is_invalid_with_that_reason() -> None:
    template = {"variables": VARIABLES, "job_configuration": with_pod({})}
    found = Found(
        name="prod",
        source=PoolSource.DATABASE,
        extra=json.dumps({"type": "kubernetes", "base_job_template": template}),
    )
    pool = parse_found(found, settings=PoolSettings(), templates=default_templates())
    assert isinstance(pool, InvalidPool)
    assert "leaves out the container" in pool.reason


@pytest.mark.parametrize("type_", ["kubernetes", "docker"])
def test_the_default_template_is_fine(type_: str) -> None:
    define_own = default_templates()[type_].to_json()
    assert list(template_checks()[type_](define_own["job_configuration"])) == []
