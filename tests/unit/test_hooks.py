# SPDX-License-Identifier: Apache-2.0
"""The Test button of Airflow's connection form, and what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from pydantic import BaseModel

from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.hooks import WorkPoolHook
from airflow_workpools.infrastructure import registry

if TYPE_CHECKING:
    from collections.abc import Iterator


class CloudVariables(BaseModel):
    region: str = "north"


class Cloud:
    """An infrastructure far away, as the hook meets it."""

    kind = "cloud"
    variables = CloudVariables
    seen: ClassVar[list[Any]] = []

    def __init__(self, *, home: Any, connection: Mapping[str, Any] | None) -> None:
        self.connection = connection

    @classmethod
    def default_job_configuration(cls) -> Mapping[str, Any]:
        return {"region": "{{ region }}"}

    async def open(self) -> None:
        self.seen.append(self.connection)
        if self.connection and self.connection["host"] == "down":
            raise InfrastructureUnavailable("no answer from down")

    async def close(self) -> None:
        self.seen.append("closed")


@pytest.fixture(autouse=True)
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Install the type ``cloud``; gives what it has seen."""
    point = EntryPoint("cloud", f"{__name__}:Cloud", registry.GROUP)
    points = {**registry._entry_points(), "cloud": point}
    monkeypatch.setattr(registry, "_entry_points", lambda: points)
    cached = (registry.infrastructure_class, registry.default_template, registry.default_templates)
    for function in cached:
        function.cache_clear()
    Cloud.seen.clear()
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


@pytest.mark.docker
def test_an_engine_that_answers_passes(connect: Any) -> None:
    connect("etl", extra={"type": "docker"})

    assert WorkPoolHook("etl").test_connection() == (True, "The definition is valid and docker answers.")
