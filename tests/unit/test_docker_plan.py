# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from airflow_workpools.core.templates import RenderContext, render
from airflow_workpools.errors import InvalidInput, LaunchRejected
from airflow_workpools.infrastructure.base import LaunchSpec, bound_to_host
from airflow_workpools.infrastructure.containers import DEFAULT_COMMAND
from airflow_workpools.infrastructure.docker import DockerInfrastructure
from airflow_workpools.infrastructure.docker.plan import API_URL, ContainerPlan, plan_container
from airflow_workpools.infrastructure.image_names import ImageName, registry_host
from airflow_workpools.infrastructure.registry import default_template

RUNTIME = {API_URL: "http://localhost:8080/execution/"}
JOB = uuid.UUID(int=7)


def plan(*, here: bool = True, **configuration: Any) -> ContainerPlan:
    spec = LaunchSpec(job_id=JOB, configuration={"image": "etl:1", **configuration}, workload="{}")
    return plan_container(spec, RUNTIME, engine_is_here=here)


def problem(**configuration: Any) -> str:
    with pytest.raises(LaunchRejected) as rejection:
        plan(**configuration)
    return str(rejection.value)


# -- images -------------------------------------------------------------------------------------------------------

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "repository", "registry", "tag"),
    [
        ("busybox", "busybox", "docker.io", "latest"),
        ("apache/airflow:3.3.2-python3.12", "apache/airflow", "docker.io", "3.3.2-python3.12"),
        ("registry.example.com/team/etl:v1", "registry.example.com/team/etl", "registry.example.com", "v1"),
        ("localhost/etl", "localhost/etl", "localhost", "latest"),
        ("127.0.0.1:5000/etl", "127.0.0.1:5000/etl", "127.0.0.1:5000", "latest"),
        (
            "Registry.Example.com:443/a__b/c-d:1",
            "Registry.Example.com:443/a__b/c-d",
            "registry.example.com:443",
            "1",
        ),
        (f"ghcr.io/a/b:1@{DIGEST}", "ghcr.io/a/b", "ghcr.io", DIGEST),
        ("docker.io/library/busybox:1", "docker.io/library/busybox", "docker.io", "1"),
    ],
)
def test_names_of_images_are_taken_apart(text: str, repository: str, registry: str, tag: str) -> None:
    assert ImageName.parse(text) == ImageName(repository=repository, registry=registry, tag=tag)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        (":1", "nothing stands before the tag"),
        ("Etl", "'Etl' is no part of a repository's name (letters must be lower-case)"),
        ("my image", "'my image' is no part of a repository's name"),
        ("etl:", "'' is no tag"),
        ("etl:a b", "'a b' is no tag"),
        ("etl:-1", "'-1' is no tag"),
        ("etl@sha256:123", "'sha256:123' is no digest like sha256:…"),
        ("https://registry.example.com/etl", "'https:' is no part of a repository's name"),
        ("a//b", "'' is no part of a repository's name"),
        ("registry.example.com/", "'' is no part of a repository's name"),
        ("a" * 256, "the repository's name has 256 characters, at most 255 are allowed"),
    ],
)
def test_malformed_names_of_images_say_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(InvalidInput) as error:
        ImageName.parse(text)
    assert str(error.value) == (
        f"image name {text!r} is malformed: {why}. It must look like registry.example.com/team/image:tag; "
        "registry and tag may be left out"
    )


@pytest.mark.parametrize("address", ["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"])
def test_docker_hub_has_one_name(address: str) -> None:
    assert registry_host(address) == "docker.io"


# -- what is made -------------------------------------------------------------------------------------------------


def test_the_default_template_makes_a_container_that_runs_its_workload() -> None:
    context = RenderContext(
        dag_id="d",
        task_id="t",
        run_id="r",
        map_index=-1,
        try_number=1,
        work_pool="p",
        work_queue="q",
        job_id=str(JOB),
    )
    configuration = render(default_template("docker"), {"image": "etl:1"}, context=context, environ={})
    planned = plan(**configuration)
    assert planned.arguments["image"] == "etl:1"
    assert planned.arguments["command"] == list(DEFAULT_COMMAND)
    assert planned.arguments["name"] == f"wp-{JOB}"
    assert planned.pull_policy == "if-not-present"


def test_where_localhost_is_the_container_the_engines_host_has_another_name() -> None:
    arguments = plan().arguments
    assert arguments["environment"][API_URL] == "http://host.docker.internal:8080/execution/"
    assert arguments["extra_hosts"] == {"host.docker.internal": "host-gateway"}


def test_other_names_of_hosts_are_kept() -> None:
    hosts = plan(container_create_kwargs={"extra_hosts": {"db": "10.0.0.1"}}).arguments["extra_hosts"]
    assert hosts == {"host.docker.internal": "host-gateway", "db": "10.0.0.1"}
    hosts = plan(container_create_kwargs={"extra_hosts": ["db:10.0.0.1"]}).arguments["extra_hosts"]
    assert hosts == ["host.docker.internal:host-gateway", "db:10.0.0.1"]


@pytest.mark.parametrize(
    ("here", "configuration", "url"),
    [
        (True, {"network_mode": "host"}, "http://localhost:8080/execution/"),
        (True, {"network_mode": "container:other"}, "http://localhost:8080/execution/"),
        (False, {}, "http://localhost:8080/execution/"),
        (True, {"env": {API_URL: "http://127.0.0.1:1/"}}, "http://127.0.0.1:1/"),
    ],
)
def test_localhost_stays_where_it_is_meant(here: bool, configuration: dict[str, Any], url: str) -> None:
    arguments = plan(here=here, **configuration).arguments
    assert arguments["environment"][API_URL] == url
    assert "extra_hosts" not in arguments


def test_the_first_network_is_joined_at_once_and_the_others_before_the_start() -> None:
    planned = plan(networks=["one", "two", "three"])
    assert planned.arguments["network"] == "one"
    assert planned.more_networks == ("two", "three")


# -- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("configuration", "said"),
    [
        ({"image": None}, "image: Field required"),
        ({"image": "No Image"}, "image name 'No Image' is malformed: "),
        ({"imgae": "x"}, "imgae: Extra inputs are not permitted"),
        ({"mem_limit": "lots"}, "mem_limit"),
        ({"memswap_limit": "1g"}, "memswap_limit needs mem_limit"),
        ({"cpus": 0}, "cpus: Input should be greater than 0"),
        (
            {"image_pull_policy": "sometimes"},
            "image_pull_policy: Input should be 'always', 'if-not-present' or",
        ),
        ({"volumes": ["/data"]}, "volumes.0: String should match pattern"),
        ({"volumes": ["/data:relative"]}, "volumes.0: String should match pattern"),
        ({"networks": ["a"], "network_mode": "host"}, "networks and network_mode can't be used together"),
        ({"command": "echo 'x"}, "can't be split into words: No closing quotation"),
        ({"container_create_kwargs": {"restart_policy": {"Name": "always"}}}, "a task would run twice"),
        ({"container_create_kwargs": {"auto_remove": True}}, "set the variable auto_remove"),
        ({"container_create_kwargs": {"image": "x"}}, "there is a variable of its own for that"),
    ],
)
def test_a_configuration_that_does_not_fit_says_what_is_wrong(
    configuration: dict[str, Any], said: str
) -> None:
    assert said in problem(**configuration)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    said = problem(networks=["a"], network_mode="host", container_create_kwargs={"name": "x", "user": "y"})
    assert "networks and network_mode" in said
    assert "container_create_kwargs.name may not be set: it is how the container is found again" in said
    assert "container_create_kwargs.user: there is a variable of its own" in said


@pytest.mark.parametrize(
    ("base_url", "bound"),
    [
        ("tcp://build.example.com:2376", False),
        ("ssh://etl@build.example.com", False),
        ("unix:///run/podman/podman.sock", True),
        ("tcp://localhost:2375", True),
        ("tcp://[::1]:2375", True),
        (None, True),
    ],
)
def test_jobs_of_an_engine_that_every_host_reaches_under_the_same_address_are_not_bound_to_a_host(
    base_url: str | None, bound: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the environment says, another host's may not.
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere.example.com:2376")
    connection = {"conn_id": "engine", "conn_type": "docker", "extra": {"base_url": base_url}}
    assert bound_to_host(DockerInfrastructure(home=tmp_path, connection=connection)) is bound
    assert bound_to_host(DockerInfrastructure(home=tmp_path)) is True
