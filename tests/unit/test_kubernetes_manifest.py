# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import copy
import json
import uuid
from collections.abc import Mapping
from typing import Any

import pytest

from airflow_workpools.core.templates import BaseJobTemplate, RenderContext, render
from airflow_workpools.errors import InvalidJobVariables, LaunchRejected
from airflow_workpools.infrastructure.base import LaunchSpec
from airflow_workpools.infrastructure.kubernetes.manifest import (
    KUEUE_LABEL,
    MANAGED_BY_LABEL,
    JobPlan,
    plan_job,
    with_template,
    workload_place,
)
from airflow_workpools.infrastructure.registry import default_template

JOB_ID = uuid.UUID("0198a3f2-0000-7000-8000-000000000001")
WORKLOAD = json.dumps({"token": "s3cr3t"})
ENVIRONMENT = {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://airflow:8080/execution/"}


def planned(
    *, configuration: Any = None, identity: Mapping[str, str] | None = None, **variables: Any
) -> JobPlan:
    """Return what is planned for a job with these variables, through the default template or another one."""
    if configuration is None:
        given = {"image": "etl:1", **variables}
        configuration = render(default_template("kubernetes"), given, context=None, environ={})
    spec = LaunchSpec(
        job_id=JOB_ID,
        configuration=configuration,
        workload=WORKLOAD,
        labels=identity or {"job_id": str(JOB_ID), "dag_id": "etl", "task_id": "load"},
    )
    return plan_job(spec, namespace="jobs", environment=ENVIRONMENT)


def pod_of(plan: JobPlan) -> dict[str, Any]:
    pod: dict[str, Any] = plan.job["spec"]["template"]["spec"]
    return pod


def container_of(plan: JobPlan) -> dict[str, Any]:
    container: dict[str, Any] = pod_of(plan)["containers"][0]
    return container


def template_without(*path: str | int) -> dict[str, Any]:
    """Return the default job configuration, rendered, with something left out."""
    configuration = render(default_template("kubernetes"), {"image": "etl:1"}, context=None, environ={})
    parent = configuration
    for step in path[:-1]:
        parent = parent[step]
    del parent[path[-1]]
    return dict(configuration)


def changed_template(value: Any, *path: str | int) -> dict[str, Any]:
    configuration = render(default_template("kubernetes"), {"image": "etl:1"}, context=None, environ={})
    parent = configuration
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    return dict(configuration)


class TestTheJob:
    def test_runs_one_pod_once(self) -> None:
        job = planned().job
        assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
        assert job["spec"]["backoffLimit"] == 0
        assert pod_of(planned())["restartPolicy"] == "Never"

    def test_has_the_name_of_the_launch_and_the_namespace_of_the_connection(self) -> None:
        plan = planned()
        assert (plan.name, plan.namespace) == (f"wp-{JOB_ID}", "jobs")
        assert planned(namespace="etl").namespace == "etl"

    def test_says_only_what_was_asked_for(self) -> None:
        plan = planned()
        assert "suspend" not in plan.job["spec"]
        assert "activeDeadlineSeconds" not in plan.job["spec"]
        assert "serviceAccountName" not in pod_of(plan)
        assert "hostNetwork" not in pod_of(plan)
        assert container_of(plan)["resources"] == {"requests": {}, "limits": {}}

    def test_gets_what_the_variables_say(self) -> None:
        toleration = {"key": "gpu", "operator": "Exists"}
        affinity = {"nodeAffinity": {}}
        volume, mount = {"name": "data", "emptyDir": {}}, {"name": "data", "mountPath": "/data"}
        plan = planned(
            image_pull_policy="Always", service_account_name="etl", node_selector={"disk": "ssd"},
            tolerations=[toleration], affinity=affinity, priority_class_name="high", host_network=True,
            volumes=[volume], volume_mounts=[mount], image_pull_secrets=["registry"], finished_job_ttl=60,
            active_deadline_seconds=5, stop_grace_seconds=7, cpu_request="500m", cpu_limit="2",
            memory_request="512Mi", memory_limit="1Gi", gpu_count=2, gpu_resource="amd.com/gpu",
            annotations={"why": "test"}, labels={"team": "a"},
        )  # fmt: skip
        job, pod, container = plan.job, pod_of(plan), container_of(plan)
        assert (job["spec"]["ttlSecondsAfterFinished"], job["spec"]["activeDeadlineSeconds"]) == (60, 5)
        assert (
            job["metadata"]["annotations"]["why"] == job["spec"]["template"]["metadata"]["annotations"]["why"]
        )
        assert (
            job["metadata"]["labels"]["team"] == job["spec"]["template"]["metadata"]["labels"]["team"] == "a"
        )
        assert (pod["serviceAccountName"], pod["priorityClassName"]) == ("etl", "high")
        assert (pod["nodeSelector"], pod["tolerations"], pod["affinity"]) == (
            {"disk": "ssd"},
            [toleration],
            affinity,
        )
        assert (pod["hostNetwork"], pod["terminationGracePeriodSeconds"]) == (True, 7)
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
        assert volume in pod["volumes"]
        assert mount in container["volumeMounts"]
        assert (container["image"], container["imagePullPolicy"]) == ("etl:1", "Always")
        assert container["resources"] == {
            "requests": {"cpu": "500m", "memory": "512Mi"},
            "limits": {"cpu": "2", "memory": "1Gi", "amd.com/gpu": "2"},
        }

    def test_can_be_selected_by_what_identifies_it_and_keeps_the_full_values(self) -> None:
        long = "ein langer Name/" * 10
        plan = planned(identity={"job_id": str(JOB_ID), "dag_id": long})
        metadata = plan.job["metadata"]
        assert metadata["labels"]["airflow.workpools/job_id"] == str(JOB_ID)
        assert len(metadata["labels"]["airflow.workpools/dag_id"]) <= 63
        assert metadata["annotations"]["airflow.workpools/dag_id"] == long
        assert plan.job["spec"]["template"]["metadata"]["labels"][MANAGED_BY_LABEL] == "airflow-workpools"

    def test_does_not_let_variables_say_whose_it_is(self) -> None:
        mine = {"airflow.workpools/job_id": "another", MANAGED_BY_LABEL: "me"}
        labels = planned(labels=mine).job["metadata"]["labels"]
        assert labels["airflow.workpools/job_id"] == str(JOB_ID)
        assert labels[MANAGED_BY_LABEL] == "airflow-workpools"

    def test_waits_suspended_in_a_queue_of_kueue(self) -> None:
        plan = planned(kueue_queue_name="gpus")
        assert plan.job["metadata"]["labels"][KUEUE_LABEL] == "gpus"
        assert plan.job["spec"]["suspend"] is True

    def test_leaves_what_it_is_made_of_alone(self) -> None:
        configuration = template_without("gpu_resource")
        before = json.dumps(configuration)
        planned(configuration=configuration)
        assert json.dumps(configuration) == before


class TestTheContainer:
    def test_runs_the_workload(self) -> None:
        args = container_of(planned())["args"]
        assert args[:3] == ["python", "-m", "airflow.sdk.execution_time.execute_workload"]
        mount = container_of(planned())["volumeMounts"][-1]
        assert args[-1].startswith(mount["mountPath"])

    @pytest.mark.parametrize("command", ["run --it 'all at once'", ["run", "--it", "all at once"]])
    def test_runs_another_command(self, command: Any) -> None:
        assert container_of(planned(command=command))["args"] == ["run", "--it", "all at once"]

    def test_keeps_the_command_of_the_template(self) -> None:
        configuration = changed_template(
            {"name": "main", "image": "i", "command": ["run"]},
            "manifest", "spec", "template", "spec", "containers", 0,
        )  # fmt: skip
        container = container_of(planned(configuration=configuration))
        assert container["command"] == ["run"]
        assert "args" not in container

    def test_knows_the_execution_api(self) -> None:
        env = {one["name"]: one["value"] for one in container_of(planned(env={"STAGE": "prod"}))["env"]}
        assert env == {**ENVIRONMENT, "STAGE": "prod"}

    def test_does_not_get_what_null_takes_away(self) -> None:
        assert container_of(planned(env=dict.fromkeys(ENVIRONMENT)))["env"] == []

    def test_keeps_the_environment_of_the_template_unless_the_variable_says_otherwise(self) -> None:
        password = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}
        written = [password, {"name": "STAGE", "value": "dev"}]
        configuration = changed_template(
            written, "manifest", "spec", "template", "spec", "containers", 0, "env"
        )
        configuration["env"] = {"STAGE": "prod"}
        env = container_of(planned(configuration=configuration))["env"]
        assert password in env
        assert [one["value"] for one in env if one["name"] == "STAGE"] == ["prod"]


class TestTheWorkload:
    def test_is_nowhere_but_in_the_secret(self) -> None:
        plan = planned()
        assert "s3cr3t" not in json.dumps(plan.job)
        secret = plan.secret("a-uid")
        (content,) = secret["data"].values()
        assert base64.b64decode(content).decode() == WORKLOAD
        assert "s3cr3t" not in json.dumps(secret["metadata"])

    def test_belongs_to_the_job(self) -> None:
        owner = planned().secret("a-uid")["metadata"]["ownerReferences"]
        assert owner == [{"apiVersion": "batch/v1", "kind": "Job", "name": f"wp-{JOB_ID}", "uid": "a-uid"}]

    def test_is_mounted_for_the_task_alone(self) -> None:
        sidecar = {"name": "sidecar", "image": "i"}
        main = {"name": "main", "image": "i"}
        configuration = changed_template(
            [main, sidecar], "manifest", "spec", "template", "spec", "containers"
        )
        first, second = pod_of(planned(configuration=configuration))["containers"]
        assert [mount["readOnly"] for mount in first["volumeMounts"]] == [True]
        assert "volumeMounts" not in second

    @pytest.mark.parametrize(
        ("context", "mode"),
        [({"runAsUser": 0}, 0o400), ({"fsGroup": 1000}, 0o440), ({"runAsUser": 50000}, 0o444), (None, 0o444)],
    )
    def test_can_be_read_by_whoever_runs_the_container_and_by_no_more(
        self, context: Mapping[str, int] | None, mode: int
    ) -> None:
        configuration = changed_template(context, "manifest", "spec", "template", "spec", "securityContext")
        volume = pod_of(planned(configuration=configuration))["volumes"][-1]
        assert volume["secret"]["secretName"] == f"wp-{JOB_ID}"
        assert volume["secret"]["defaultMode"] == mode

    def test_is_the_only_one_that_its_pod_sees_of_a_shared_secret(self) -> None:
        plan = planned()
        shared = plan.sharing("wp-another")
        assert workload_place(shared.job) == ("wp-another", plan.name)
        assert workload_place(plan.job) == (plan.name, plan.name)
        (item,) = pod_of(shared)["volumes"][-1]["secret"]["items"]
        assert item == {"key": plan.name, "path": "workload.json"}

    def test_of_a_job_of_an_earlier_version_is_all_that_its_secret_has(self) -> None:
        job = json.loads(json.dumps(planned().job))
        del job["spec"]["template"]["spec"]["volumes"][-1]["secret"]["items"]
        assert workload_place(job) == (f"wp-{JOB_ID}", "workload.json")

    @pytest.mark.parametrize("volume", [{"emptyDir": {}}, "scratch"])
    def test_can_be_shared_beside_a_volume_that_only_the_api_can_refuse(self, volume: Any) -> None:
        configuration = changed_template([volume], "manifest", "spec", "template", "spec", "volumes")
        plan = planned(configuration=configuration)
        shared = plan.sharing("wp-another")
        assert workload_place(shared.job) == ("wp-another", plan.name)
        assert pod_of(shared)["volumes"][0] == volume

    @pytest.mark.parametrize("volumes", [None, [], [{"name": "theirs", "emptyDir": {}}]])
    def test_of_somebody_elses_job_with_our_labels_is_looked_for_under_its_name(self, volumes: Any) -> None:
        job = json.loads(json.dumps(planned().job))
        job["spec"]["template"]["spec"]["volumes"] = volumes
        assert workload_place(job) == (f"wp-{JOB_ID}", "workload.json")

    def test_survives_a_mutated_pod_template(self) -> None:
        plan = planned()
        bare = {"spec": {"containers": [{"name": "other", "image": "i"}]}}
        pod = pod_of(with_template(plan, bare))
        assert pod["restartPolicy"] == "Never"
        assert pod["volumes"][-1]["secret"]["secretName"] == plan.name
        assert pod["containers"][0]["volumeMounts"]
        assert bare == {"spec": {"containers": [{"name": "other", "image": "i"}]}}


class TestBadTemplates:
    @pytest.mark.parametrize(
        ("configuration", "path"),
        [
            (template_without("manifest"), "manifest"),
            (
                template_without("manifest", "spec", "template", "spec", "containers"),
                "$.job_configuration.manifest.spec.template.spec.containers",
            ),
            (
                changed_template([], "manifest", "spec", "template", "spec", "containers"),
                "$.job_configuration.manifest.spec.template.spec.containers",
            ),
            (
                template_without("manifest", "spec", "template", "spec", "containers", 0, "name"),
                "$.job_configuration.manifest.spec.template.spec.containers[0].name",
            ),
            (
                template_without("manifest", "spec"),
                "$.job_configuration.manifest.spec.template.spec.containers",
            ),
            (
                changed_template("all", "manifest", "spec", "template"),
                "$.job_configuration.manifest.spec.template",
            ),
            (changed_template("Pod", "manifest", "kind"), "Pod"),
            (
                changed_template(3, "manifest", "spec", "backoffLimit"),
                "$.job_configuration.manifest.spec.backoffLimit",
            ),
            (
                changed_template(2, "manifest", "spec", "parallelism"),
                "$.job_configuration.manifest.spec.parallelism",
            ),
            (
                changed_template("OnFailure", "manifest", "spec", "template", "spec", "restartPolicy"),
                "$.job_configuration.manifest.spec.template.spec.restartPolicy",
            ),
            (changed_template({}, "manifests"), "manifests"),
        ],
    )
    def test_are_refused_with_the_path(self, configuration: Mapping[str, Any], path: str) -> None:
        with pytest.raises(LaunchRejected) as refusal:
            planned(configuration=configuration)
        assert path in str(refusal.value)

    def test_wrong_amounts_are_refused_before_anything_is_launched(self) -> None:
        with pytest.raises(InvalidJobVariables, match="memory_limit"):
            planned(memory_limit="lots")

    def test_the_default_template_asks_for_an_image(self) -> None:
        template = default_template("kubernetes")
        with pytest.raises(InvalidJobVariables, match="image"):
            render(template, context=None, environ={})

    def test_a_locked_down_template_takes_facts_of_the_job(self) -> None:
        default = default_template("kubernetes")
        locked = copy.deepcopy(dict(default.job_configuration))
        locked["manifest"]["metadata"]["namespace"] = "team-{{ ctx.work_pool }}"
        template = BaseJobTemplate.parse({"variables": default.variables, "job_configuration": locked})
        context = RenderContext(
            dag_id="d", task_id="t", run_id="r", map_index=-1, try_number=1,
            work_pool="etl", work_queue="default", job_id=str(JOB_ID),
        )  # fmt: skip
        configuration = render(template, {"image": "i"}, context=context, environ={})
        assert planned(configuration=configuration).namespace == "team-etl"
