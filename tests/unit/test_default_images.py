# SPDX-License-Identifier: Apache-2.0
"""What becomes of a work pool whose jobs run in an image that was built here."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_workpools.core.pools import PoolSource, WorkPool, parse_work_pool
from airflow_workpools.infrastructure.containers import LEAN_COMMAND
from airflow_workpools.infrastructure.registry import default_templates
from airflow_workpools.store.default_images import changes_for

IMAGE = "registry.example.com/team/dags:1"
OWN = ["python", "-m", "mine"]


def pool(type_: str, **definition: Any) -> WorkPool:
    return parse_work_pool(
        "etl",
        {"type": type_, **definition},
        templates=default_templates(),
        source=PoolSource.DATABASE,
    )


def template(**properties: Any) -> dict[str, Any]:
    return {
        "variables": {"type": "object", "properties": {"image": {"type": "string"}, **properties}},
        "job_configuration": {name: f"{{{{ {name} }}}}" for name in ("image", *properties)},
    }


@pytest.mark.parametrize("type_", ["docker", "kubernetes"])
def test_its_jobs_start_the_short_way(type_: str) -> None:
    changes = changes_for(pool(type_), IMAGE)
    assert changes.set_variables == {"image": IMAGE, "command": list(LEAN_COMMAND)}
    once_more = pool(type_, job_variables=dict(changes.set_variables))
    assert once_more.job_variables["command"] == list(LEAN_COMMAND)


@pytest.mark.parametrize(
    "definition",
    [
        {"job_variables": {"command": OWN}},
        {"base_job_template": template()},
        {"base_job_template": template(command={"type": "array", "default": OWN})},
        {"base_job_template": template(command={"enum": ["a", "b"]})},
    ],
    ids=["set", "no such variable", "default", "not allowed"],
)
def test_a_command_of_its_own_stays(definition: dict[str, Any]) -> None:
    changes = changes_for(pool("docker", **definition), IMAGE)
    assert changes.set_variables == {"image": IMAGE}
