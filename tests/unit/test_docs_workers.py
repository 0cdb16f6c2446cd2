# SPDX-License-Identifier: Apache-2.0
"""The page about standalone workers: its files are valid, and the commands in them exist."""

from __future__ import annotations

import configparser
import shlex
from typing import Any

import pytest
import yaml
from airflow.cli.cli_parser import get_parser

from tests.unit.test_docs import ROOT, blocks

PAGE = blocks(ROOT / "docs/workers.md")


def in_language(language: str) -> list[str]:
    return [block.text for block in PAGE if block.language == language]


def manifests(page: str) -> list[dict[str, Any]]:
    texts = [block.text for block in blocks(ROOT / page) if block.language == "yaml"]
    return [one for text in texts for one in yaml.safe_load_all(text) if isinstance(one, dict)]


def parsed(words: list[str]) -> Any:
    assert words[0].rpartition("/")[2] == "airflow"
    return get_parser().parse_args(words[1:])


def test_the_unit_of_systemd_starts_a_worker_whose_jobs_outlive_it() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(in_language("ini")[0])
    assert parsed(shlex.split(unit["Service"]["ExecStart"])).pool == ["gpu"]
    assert unit["Service"]["KillMode"] == "process"


def test_the_compose_file_starts_a_worker_that_goes_on_with_its_jobs() -> None:
    [compose] = [one for one in manifests("docs/workers.md") if "services" in one]
    worker = compose["services"]["worker"]
    arguments = parsed(shlex.split(worker["command"]))
    assert arguments.with_healthcheck
    assert arguments.name == worker["hostname"]
    assert arguments.token_file == "/run/secrets/token"


def test_the_deployment_starts_a_worker_with_a_health_check_that_can_be_reached() -> None:
    [deployment] = [one for one in manifests("docs/workers.md") if one.get("kind") == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    arguments = parsed([*container["command"], *container["args"]])
    assert arguments.with_healthcheck
    assert arguments.healthcheck_address == (
        "0.0.0.0",
        container["livenessProbe"]["httpGet"]["port"],
    )


@pytest.mark.parametrize("page", ["docs/workers.md"])
def test_the_rights_of_the_worker_are_those_that_are_tested(page: str) -> None:
    def rules(where: str) -> Any:
        [role] = [one for one in manifests(where) if one.get("kind") == "Role"]
        return role["rules"]

    assert rules(page) == rules("docs/kubernetes.md")
