# SPDX-License-Identifier: Apache-2.0
"""Templates that no job could be launched with are refused where the pool is defined."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from airflow_workpools.core.pools import InvalidPool, PoolSource, parse_work_pool
from airflow_workpools.errors import InvalidWorkPool
from airflow_workpools.infrastructure.registry import default_templates, template_checks, variable_checks
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


def define(type_: str, job_configuration: Any, **keys: Any) -> None:
    template = {"variables": VARIABLES, "job_configuration": job_configuration}
    parse_work_pool(
        "prod",
        {"type": type_, "base_job_template": template, **keys},
        templates=default_templates(),
        source=PoolSource.DATABASE,
        template_checks=template_checks(),
        variable_checks=variable_checks(),
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
        (
            "kubernetes",
            with_pod({"containers": [CONTAINER], "initContainers": [{"name": "a", "image": "A B"}]}),
            r"initContainers\[0\].image: image name 'A B' is malformed",
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


@pytest.mark.parametrize(
    ("type_", "job_configuration"),
    [("docker", {"image": "registry.example.com/{{ name }}"}), ("kubernetes", manifest())],
)
def test_a_malformed_image_in_job_variables_of_pool_or_queue_is_refused_with_their_names(
    type_: str, job_configuration: Any
) -> None:
    name = "name" if type_ == "docker" else "image"
    of_queue = {"queues": {"slow": {"job_variables": {name: "E T L"}}}}
    with pytest.raises(
        InvalidWorkPool, match=rf"'prod': job variable '{name}': image name '.*' is malformed"
    ) as told:
        define(type_, job_configuration, job_variables={name: "E T L"}, queues={"slow": {}})
    assert len(told.value.problems) == 1
    with pytest.raises(
        InvalidWorkPool, match=rf"'slow': job variable '{name}': image name '.*' is malformed"
    ):
        define(type_, job_configuration, **of_queue)
    with pytest.raises(
        InvalidWorkPool, match=rf"'slow': job variable '{name}': image name '.*' is malformed"
    ):
        define(type_, job_configuration, job_variables={name: "etl"}, **of_queue)
    define(type_, job_configuration, job_variables={name: "etl"}, queues={"slow": {}})


def test_a_malformed_image_as_the_default_of_a_template_is_refused() -> None:
    variables = {"properties": {"image": {"type": "string", "default": "E T L"}}}
    template = {"variables": variables, "job_configuration": {"image": "{{ image }}"}}
    found = Found(
        name="prod",
        source=PoolSource.DATABASE,
        extra=json.dumps({"type": "docker", "base_job_template": template}),
    )
    pool = parse_found(found, settings=PoolSettings(), templates=default_templates())
    assert isinstance(pool, InvalidPool)
    assert "job variable 'image': image name 'E T L' is malformed" in pool.reason


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
