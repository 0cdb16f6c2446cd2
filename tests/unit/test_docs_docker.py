# SPDX-License-Identifier: Apache-2.0
"""The page about Docker says what the code does."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from airflow_workpools.errors import InvalidJobVariables
from airflow_workpools.infrastructure.base import LaunchSpec
from airflow_workpools.infrastructure.docker.plan import plan_container
from airflow_workpools.infrastructure.docker.variables import DockerVariables
from airflow_workpools.infrastructure.registry import default_template
from tests.docker.locked_down import JOB_ID, rendered
from tests.unit.test_docs import ROOT
from tests.unit.test_docs_reference import names, rows, sections

PAGE = sections((ROOT / "docs/docker.md").read_text(), "##")


def test_every_variable_is_described() -> None:
    described = [name for cells in rows(PAGE["Variables"]) for name in names(cells[0])]
    assert described == list(DockerVariables.model_fields)


def test_every_variable_of_the_default_template_is_described() -> None:
    for name, schema in default_template("docker").variables["properties"].items():
        assert schema["title"], name
        assert schema["description"].endswith("."), name


def test_the_locked_down_template_makes_a_container() -> None:
    spec = LaunchSpec(job_id=uuid.UUID(JOB_ID), configuration=rendered(), workload="{}")
    arguments = plan_container(spec, {}, engine_is_here=True).arguments
    assert arguments["image"] == "registry.example.com/team/etl:1"
    assert arguments["labels"]["dag"] == "d"
    assert arguments["read_only"] is True
    assert arguments["network"] == "tasks"


@pytest.mark.parametrize(
    "variables",
    [
        {"image": "docker.io/library/busybox"},
        {"volumes": ["/:/host"]},
        {"privileged": True},
        {"user": "0"},
        {"container_create_kwargs": {"privileged": True}},
        {"mem_limit": "64g"},
        {"cpus": 16},
    ],
)
def test_the_locked_down_template_locks_down(variables: dict[str, Any]) -> None:
    with pytest.raises(InvalidJobVariables):
        rendered(**variables)
