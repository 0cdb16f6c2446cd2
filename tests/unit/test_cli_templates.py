# SPDX-License-Identifier: Apache-2.0
"""Base job templates on the command line, and the jobs that they make."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.airflow_home import AirflowHome

TEMPLATE = {
    "variables": {
        "type": "object",
        "required": ["image"],
        "properties": {
            "image": {"type": "string"},
            "cpus": {"type": "integer", "default": 1},
            "env": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    },
    "job_configuration": {
        "image": "{{ image }}",
        "cpus": "{{ cpus }}",
        "env": "{{ env }}",
        "name": "{{ ctx.dag_id }}-{{ ctx.work_queue }}",
        "cache": "{{ $CACHE_DIR }}/wheels",
        "token": "{{ conn.registry.password }}",
    },
}


def rendered(home: AirflowHome, line: str) -> dict[str, Any]:
    return dict(json.loads(home.ok(f"render-job {line}")))


def test_the_default_template_of_a_type_can_be_edited_and_used(home: AirflowHome) -> None:
    template = json.loads(home.ok("get-default-base-job-template -t process"))
    template["variables"]["properties"]["nice"]["default"] = 7

    home.ok("create etl -b -", stdin=json.dumps(template))

    assert rendered(home, "etl")["nice"] == 7


def test_the_default_template_can_be_written_to_a_file(home: AirflowHome, tmp_path: Path) -> None:
    home.ok(f"get-default-base-job-template --file {tmp_path / 'template.json'}")

    home.ok(f"create etl -b {tmp_path / 'template.json'}")

    assert "No such file" in home.refused("get-default-base-job-template -f /nowhere/template.json")


def test_an_unknown_type_has_no_template(home: AirflowHome) -> None:
    message = home.refused("get-default-base-job-template --type quantum")

    assert "'quantum'" in message
    assert "process" in message


def test_a_job_is_rendered_from_template_pool_queue_and_given_variables(home: AirflowHome) -> None:
    home.ok(
        'create etl -b - --set cpus=2 --set \'env={"A": "pool", "B": "pool"}\'', stdin=json.dumps(TEMPLATE)
    )
    home.ok('queue create etl/big --set cpus=8 --set \'env={"B": "queue"}\'')

    job = rendered(home, 'etl/big --set image=python:3.12 --set \'env={"C": "task"}\'')

    assert (job["image"], job["cpus"]) == ("python:3.12", 8)
    assert job["env"] == {"A": "pool", "B": "queue", "C": "task"}
    assert rendered(home, "etl -s image=a")["cpus"] == 2


def test_what_only_a_real_job_knows_stays_a_placeholder(home: AirflowHome) -> None:
    home.ok("create etl -b -", stdin=json.dumps(TEMPLATE))

    job = rendered(home, "etl --set image=a")

    assert job["name"] == "{{ ctx.dag_id }}-default"
    assert job["cache"] == "{{ $CACHE_DIR }}/wheels"
    assert job["token"] == "{{ conn.registry.password }}"


def test_a_job_can_be_rendered_as_yaml(home: AirflowHome) -> None:
    home.ok("create etl -b -", stdin=json.dumps(TEMPLATE))

    assert "image: python:3.12" in home.ok("render-job etl --set image=python:3.12 -o yaml")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ("", ["image"]),
        ("--set image=a --set colour=red", ["colour", "cpus, env, image"]),
        ("--set image=a --set cpus=two", ["cpus", "whole number"]),
        ("--set image=a --set cpus='\"2\"'", ["cpus", "whole number"]),
    ],
)
def test_variables_that_do_not_fit_are_refused_as_a_task_would_be(
    home: AirflowHome, variables: str, words: list[str]
) -> None:
    home.ok("create etl -b - --set image=a", stdin=json.dumps(TEMPLATE))
    home.ok("update etl --unset image")

    message = home.refused(f"render-job etl {variables}")

    assert "'etl'" in message
    for word in words:
        assert word in message


def test_an_unknown_pool_or_queue_is_named(home: AirflowHome) -> None:
    assert "no work pool 'etl'" in home.refused("render-job etl")
    assert "no work queue 'big'; it has: default" in home.refused("render-job default/big")
