# SPDX-License-Identifier: Apache-2.0
"""The Test button of Airflow's connection form, and what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from pydantic import BaseModel

from airflow_workpools.errors import InfrastructureUnavailable, LaunchRejected
from airflow_workpools.hooks import WorkPoolHook
from airflow_workpools.infrastructure import registry
from airflow_workpools.infrastructure.base import LaunchSpec

if TYPE_CHECKING:
    from collections.abc import Iterator


class CloudVariables(BaseModel):
    region: str = "north"


class Cloud:
    """An infrastructure far away, as the hook meets it. It takes no jobs in the south."""

    kind = "cloud"
    variables = CloudVariables
    seen: ClassVar[list[Any]] = []
    spec: ClassVar[list[LaunchSpec]] = []

    def __init__(self, *, home: Any, connection: Mapping[str, Any] | None) -> None:
        self.connection = connection

    @classmethod
    def default_job_configuration(cls) -> Mapping[str, Any]:
        return {"region": "{{ region }}"}

    async def open(self) -> None:
        self.seen.append(self.connection)
        if self.connection and self.connection["host"] == "down":
            raise InfrastructureUnavailable("no answer from down")

    async def try_out(self, spec: LaunchSpec) -> str:
        self.spec.append(spec)
        if spec.configuration["region"] == "south":
            raise LaunchRejected("no region south")
        return f"It has room in the {spec.configuration['region']}."

    async def close(self) -> None:
        self.seen.append("closed")


@pytest.fixture(autouse=True)
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Install the type ``cloud``; gives what it has seen."""
    point = EntryPoint("cloud", f"{__name__}:Cloud", registry.GROUP)
    points = {**registry._entry_points(), "cloud": point}
    monkeypatch.setattr(registry, "_entry_points", lambda: points)
    cached = (
        registry.infrastructure_class,
        registry.default_template,
        registry.default_templates,
        registry.template_checks,
        registry.variable_checks,
    )
    for function in cached:
        function.cache_clear()
    Cloud.seen.clear()
    Cloud.spec.clear()
    yield Cloud.seen
    for function in cached:
        function.cache_clear()


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Any:
    def connect(name: str, conn_type: str = "workpool", **fields: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": conn_type, **fields}))

    return connect


def test_a_valid_definition_of_a_process_pool_passes(connect: Any) -> None:
    connect("etl", extra={"type": "process", "concurrency_limit": 3})

    ok, message = WorkPoolHook("etl").test_connection()

    assert ok, message
    assert "valid" in message


def test_a_broken_definition_fails_with_all_its_problems(connect: Any) -> None:
    connect("etl", extra={"type": "process", "concurrency_limit": -1, "delivry": "pull"})

    ok, message = WorkPoolHook("etl").test_connection()

    assert not ok
    assert "concurrency_limit" in message
    assert "delivry" in message


def test_an_unknown_type_fails_with_those_that_are_known(connect: Any) -> None:
    connect("etl", extra={"type": "quantum"})

    ok, message = WorkPoolHook("etl").test_connection()

    assert not ok
    assert "quantum" in message
    assert "process" in message


def test_the_infrastructure_is_reached_with_its_own_connection(connect: Any, cloud: list[Any]) -> None:
    connect("my_cloud", "http", host="up", login="me", password="secret", port=443, extra={"a": 1})
    connect("etl", extra={"type": "cloud", "infrastructure_conn_id": "my_cloud"})

    ok, message = WorkPoolHook("etl").test_connection()

    assert ok, message
    assert cloud == [
        {
            "conn_id": "my_cloud",
            "conn_type": "http",
            "host": "up",
            "port": 443,
            "login": "me",
            "password": "secret",
            "schema": None,
            "extra": {"a": 1},
        },
        "closed",
    ]


def test_an_infrastructure_that_does_not_answer_fails_with_its_words(connect: Any) -> None:
    connect("my_cloud", "http", host="down")
    connect("etl", extra={"type": "cloud", "infrastructure_conn_id": "my_cloud"})

    ok, message = WorkPoolHook("etl").test_connection()

    assert not ok
    assert message == "The definition is valid, but cloud cannot be reached: no answer from down"


def test_an_infrastructure_connection_that_is_missing_is_named(connect: Any) -> None:
    connect("etl", extra={"type": "cloud", "infrastructure_conn_id": "my_cloud"})

    ok, message = WorkPoolHook("etl").test_connection()

    assert not ok
    assert "my_cloud" in message


def test_the_infrastructure_of_a_pull_pool_is_its_workers_affair(connect: Any, cloud: list[Any]) -> None:
    connect("etl", extra={"type": "cloud", "delivery": "pull", "infrastructure_conn_id": "unknown_here"})

    ok, message = WorkPoolHook("etl").test_connection()

    assert ok, message
    assert cloud == []


def test_an_engine_that_is_not_there_is_told_with_the_way_out(connect: Any) -> None:
    connect("engine", "docker", extra={"base_url": "unix:///nowhere/docker.sock"})
    connect("etl", extra={"type": "docker", "infrastructure_conn_id": "engine"})

    ok, message = WorkPoolHook("etl").test_connection()

    assert not ok
    assert message == (
        "The definition is valid, but docker cannot be reached: the Docker Engine at unix:///nowhere/docker.sock does "
        "not answer: there is no socket /nowhere/docker.sock. Is the engine running, and on this host? "
        "DOCKER_HOST names another"
    )


def test_a_job_with_the_pools_defaults_is_tried(connect: Any, cloud: list[Any]) -> None:
    connect(
        "etl",
        extra={"type": "cloud", "job_variables": {"region": "east"}, "queues": {"slow": {}}},
    )

    assert WorkPoolHook("etl").test_connection() == (
        True,
        "The definition is valid and cloud answers. It has room in the east.",
    )

    (spec,) = Cloud.spec
    assert spec.labels["work_pool"] == "etl"
    assert spec.labels["job_id"] == str(spec.job_id)
    assert cloud[-1] == "closed"


def test_a_job_that_the_infrastructure_would_not_take_fails_with_its_words(
    connect: Any, cloud: list[Any]
) -> None:
    connect("etl", extra={"type": "cloud", "job_variables": {"region": "south"}})

    assert WorkPoolHook("etl").test_connection() == (
        False,
        "The definition is valid and cloud answers, but it would not take a job with the pool's defaults: "
        "no region south",
    )

    assert cloud[-1] == "closed"


def template(region: str, **variables: Any) -> dict[str, Any]:
    return {
        "variables": {"properties": {"size": {}}, **variables},
        "job_configuration": {"region": region, "size": "{{ size }}"},
    }


@pytest.mark.parametrize(
    ("definition", "why"),
    [
        (
            template("north", required=["size"]),
            "tasks have to give what is required and has no default: size.",
        ),
        (
            template("{{ $NO_SUCH_REGION }}"),
            "the environment of the worker has to give $NO_SUCH_REGION, and that of this server does not.",
        ),
    ],
    ids=["required", "environment"],
)
def test_where_more_is_needed_than_the_pool_says_no_job_is_tried(
    connect: Any, definition: dict[str, Any], why: str
) -> None:
    connect("etl", extra={"type": "cloud", "base_job_template": definition})

    ok, message = WorkPoolHook("etl").test_connection()

    assert (ok, message) == (
        True,
        f"The definition is valid and cloud answers. No job was tried, since {why}",
    )
    assert not Cloud.spec


def test_what_the_template_takes_from_connections_and_environment_is_in_the_job(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_REGION", "west")
    connect("sizes", "http", host="large")
    definition = template("{{ $MY_REGION }}")
    definition["job_configuration"]["size"] = "{{ conn.sizes.host }}"
    connect("etl", extra={"type": "cloud", "base_job_template": definition})

    ok, message = WorkPoolHook("etl").test_connection()

    assert ok, message
    assert Cloud.spec[0].configuration == {"region": "west", "size": "large"}


def test_a_connection_that_the_template_asks_for_and_that_is_missing_is_named(connect: Any) -> None:
    connect("etl", extra={"type": "cloud", "base_job_template": template("{{ conn.nowhere.host }}")})

    ok, message = WorkPoolHook("etl").test_connection()

    assert not ok
    assert "would not take a job" in message
    assert "nowhere" in message


@pytest.mark.docker
def test_an_engine_that_answers_passes(connect: Any) -> None:
    connect("etl", extra={"type": "docker"})

    assert WorkPoolHook("etl").test_connection() == (
        True,
        "The definition is valid and docker answers. No job was tried, since tasks have to give what is required "
        "and has no default: image.",
    )


@pytest.mark.docker
@pytest.mark.parametrize(
    ("image", "policy", "ok", "words"),
    [
        ("{there}", "never", True, "docker answers. Image {there} is there."),
        ("{there}", "if-not-present", True, "docker answers. Image {there} is there."),
        ("{there}", "always", True, "docker answers. Image {there} is pulled for each job."),
        (
            "workpools/nowhere:1",
            "if-not-present",
            True,
            "docker answers. Image workpools/nowhere:1 is not there yet: the first job pulls it.",
        ),
        (
            "workpools/nowhere:1",
            "never",
            False,
            "docker answers, but it would not take a job with the pool's defaults: image workpools/nowhere:1 is not on "
            "the engine, and image_pull_policy is never",
        ),
    ],
)
def test_an_engine_says_where_the_image_comes_from(
    connect: Any, image: str, policy: str, ok: bool, words: str
) -> None:
    from tests.containers import SMALL_IMAGE, client, ensure_small_image

    ensure_small_image(client())
    variables = {"image": image.format(there=SMALL_IMAGE), "image_pull_policy": policy}
    connect("etl", extra={"type": "docker", "job_variables": variables})

    assert WorkPoolHook("etl").test_connection() == (
        ok,
        f"The definition is valid and {words.format(there=SMALL_IMAGE)}",
    )


@pytest.mark.docker
def test_a_login_that_is_for_another_registry_is_told(connect: Any) -> None:
    connect("team_registry", "docker", host="registry.example.com", login="etl", password="secret")
    variables = {"image": "elsewhere.example.com/etl:1", "registry_conn_id": "team_registry"}
    connect("etl", extra={"type": "docker", "job_variables": variables})

    ok, message = WorkPoolHook("etl").test_connection()

    assert not ok
    assert "is for registry registry.example.com, but the image comes from elsewhere.example.com" in message
