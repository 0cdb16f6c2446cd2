# SPDX-License-Identifier: Apache-2.0
"""The page about Kubernetes says what the code does."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest

from airflow_workpools.core.templates import BaseJobTemplate, check_variables, render
from airflow_workpools.errors import InvalidJobVariables
from airflow_workpools.infrastructure.base import LaunchSpec
from airflow_workpools.infrastructure.kubernetes.manifest import KubernetesConfiguration, plan_job
from airflow_workpools.infrastructure.kubernetes.variables import JOB_CONFIGURATION, KubernetesVariables
from airflow_workpools.infrastructure.registry import default_template
from tests.unit.test_docs import ROOT
from tests.unit.test_docs_reference import names, rows, sections

PAGE = sections((ROOT / "docs/kubernetes.md").read_text(), "##")


def json_in(heading: str) -> Any:
    found = re.search(r"^```json\n(.*?)^```$", PAGE[heading], re.MULTILINE | re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


LOCKED_DOWN = BaseJobTemplate.parse(json_in("A locked-down template"))


def test_every_variable_is_described() -> None:
    described = [name for cells in rows(PAGE["Variables"]) for name in names(cells[0])]
    assert sorted(described) == sorted(KubernetesVariables.model_fields)


def test_every_variable_of_the_default_template_is_described_and_used() -> None:
    template = default_template("kubernetes")
    for name, schema in template.variables["properties"].items():
        assert schema["title"], name
        assert schema["description"].endswith("."), name
        assert f"{{{{ {name} }}}}" in json.dumps(JOB_CONFIGURATION), name


def test_what_may_stand_beside_the_manifest_is_listed() -> None:
    listed = re.search(
        r"Beside it may stand .*?: (.*?)\. The name", PAGE["A locked-down template"], re.DOTALL
    )
    assert listed is not None
    assert {"manifest", *names(listed.group(1))} == set(KubernetesConfiguration.model_fields)


def test_the_variables_for_gpus_fit_the_default_template() -> None:
    check_variables(default_template("kubernetes"), {"image": "i", **json_in("GPUs")})


def rendered(**variables: Any) -> dict[str, Any]:
    return dict(render(LOCKED_DOWN, variables, context=None, environ={}))


def test_the_locked_down_template_makes_a_job() -> None:
    spec = LaunchSpec(job_id=uuid.uuid4(), configuration=rendered(memory="2Gi"), workload="{}")
    plan = plan_job(spec, namespace="default", environment={"A": "1"})
    (container,) = plan.job["spec"]["template"]["spec"]["containers"]
    assert plan.namespace == "airflow-jobs"
    assert container["resources"]["limits"] == {"memory": "2Gi"}
    assert [one["name"] for one in container["env"]] == ["A", "DB_PASSWORD"]


@pytest.mark.parametrize(
    "variables",
    [
        {"image": "docker.io/library/busybox"},
        {"memory": "64Gi"},
        {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]},
        {"service_account_name": "admin"},
        {"host_network": True},
        {"namespace": "kube-system"},
    ],
)
def test_the_locked_down_template_locks_down(variables: dict[str, Any]) -> None:
    with pytest.raises(InvalidJobVariables):
        rendered(**variables)
