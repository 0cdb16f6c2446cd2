# SPDX-License-Identifier: Apache-2.0
"""Pulling images from a real registry that asks for a login."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.secrets.environment_variables import EnvironmentVariablesBackend

from airflow_workpools.errors import ImageError, LaunchRejected
from airflow_workpools.images.engine import Engine as ImageEngine
from airflow_workpools.images.engine import Login
from tests.containers import SMALL_IMAGE, DockerPlatform
from tests.engines import Registry, registry
from tests.unit.infrastructure_contract import launch, run, wait_for_end, working

pytestmark = [pytest.mark.docker, pytest.mark.registry]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as private:
        yield private


@pytest.fixture
def platform(tmp_path: Path, private: Registry) -> Iterator[DockerPlatform]:
    """Yield a platform whose registry has an image that the engine does not have."""
    with DockerPlatform(tmp_path) as platform:
        image = f"{private.address}/team/small:1"
        platform.engine.images.get(SMALL_IMAGE).tag(image)
        login = {"username": private.user, "password": private.password}
        pushed = platform.engine.images.push(image, auth_config=login, stream=True, decode=True)
        assert not [step for step in pushed if "error" in step]
        platform.engine.images.remove(image)
        yield platform
        if platform.engine.images.list(image):
            platform.engine.images.remove(image, force=True)


def login_of(private: Registry, **fields: Any) -> dict[str, Any]:
    host, _, port = private.address.partition(":")
    return {
        "conn_type": "docker",
        "host": host,
        "port": int(port),
        "login": private.user,
        "password": private.password,
    } | fields


def exit_code_of(
    platform: DockerPlatform, private: Registry, connection: Any = None, **configuration: Any
) -> int:
    codes: list[int | None] = []

    async def scenario() -> None:
        worker = platform.worker(**connection) if connection else platform.worker()
        await worker.open()
        try:
            job = platform.job(
                "exit 3",
                **{"image": f"{private.address}/team/small:1", "image_pull_policy": "always"} | configuration,
            )
            codes.append((await wait_for_end(worker, await launch(worker, job))).exit_code)
        finally:
            await worker.close()

    run(scenario())
    assert codes[0] is not None
    return codes[0]


def test_the_login_of_the_pools_connection_pulls(platform: DockerPlatform, private: Registry) -> None:
    assert exit_code_of(platform, private, login_of(private), image_pull_policy="if-not-present") == 3


def test_the_login_of_the_jobs_connection_pulls(
    platform: DockerPlatform, private: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES", json.dumps(login_of(private)))
    assert exit_code_of(platform, private, registry_conn_id="images") == 3


def test_a_registry_that_wants_a_login_is_quoted(platform: DockerPlatform, private: Registry) -> None:
    with pytest.raises(LaunchRejected) as refusal:
        exit_code_of(platform, private)
    assert str(refusal.value).startswith(
        f"image {private.address}/team/small:1 could not be pulled from {private.address}: "
    )
    assert "no basic auth credentials" in str(refusal.value)
    assert str(refusal.value).endswith("Check the image's name, and the login of registry_conn_id")


def test_a_login_that_the_registry_refuses_is_told_without_its_password(
    platform: DockerPlatform, private: Registry
) -> None:
    with pytest.raises(LaunchRejected, match="could not be pulled") as refusal:
        exit_code_of(platform, private, login_of(private, password="something else"))
    assert "something else" not in str(refusal.value)


def test_an_image_that_the_registry_does_not_have_is_quoted(
    platform: DockerPlatform, private: Registry
) -> None:
    with pytest.raises(LaunchRejected, match="manifest unknown"):
        exit_code_of(platform, private, login_of(private), image=f"{private.address}/team/small:2")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"host": "registry.example.com", "port": None},
            "is for registry registry.example.com, but the image comes",
        ),
        ({"conn_type": "postgres"}, "is of type 'postgres', not 'docker'"),
        ({"login": None}, "needs a host (the registry) and a login"),
    ],
)
def test_a_login_goes_to_no_other_registry(
    fields: dict[str, Any],
    said: str,
    platform: DockerPlatform,
    private: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES", json.dumps(login_of(private, **fields)))
    with pytest.raises(LaunchRejected) as refusal:
        exit_code_of(platform, private, registry_conn_id="images")
    assert said in str(refusal.value)


def test_a_connection_that_does_not_exist_is_named(
    platform: DockerPlatform, private: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "airflow.configuration.ensure_secrets_loaded", lambda: [EnvironmentVariablesBackend()]
    )
    with pytest.raises(LaunchRejected, match="there is no connection 'nowhere' where the worker runs"):
        exit_code_of(platform, private, registry_conn_id="nowhere")


def test_jobs_that_wait_for_the_same_image_share_one_pull(
    platform: DockerPlatform, private: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="airflow_workpools")

    async def scenario() -> None:
        async with working_with(platform, private) as worker:
            jobs = [
                platform.job(
                    "true", image=f"{private.address}/team/small:1", image_pull_policy="if-not-present"
                )
                for _ in range(4)
            ]
            handles = await asyncio.gather(*(launch(worker, job) for job in jobs))
            assert [(await wait_for_end(worker, handle)).exit_code for handle in handles] == [0] * 4

    run(scenario())
    assert len([record for record in caplog.records if "Pulling image" in record.message]) == 1


def working_with(platform: DockerPlatform, private: Registry) -> Any:
    class WithLogin:
        @staticmethod
        def worker() -> Any:
            return platform.worker(**login_of(private))

    return working(WithLogin())  # type: ignore[arg-type]


def test_what_was_built_here_is_pushed_with_a_login_and_found_under_the_digest_that_is_told(
    private: Registry, platform: DockerPlatform
) -> None:
    host, image = private.address, f"{private.address}/team/built:1"
    platform.engine.images.get(SMALL_IMAGE).tag(image)
    told: list[str] = []
    try:
        with ImageEngine.reached() as engine:
            with pytest.raises(ImageError, match=f"pushing {image} failed: .*no basic auth credentials"):
                engine.push(image, tell=told.append)
            engine.log_in(Login(registry=host, username=private.user, password=private.password))
            digest = engine.push(image, tell=told.append)
    finally:
        platform.engine.images.remove(image)
    assert told
    login = base64.b64encode(f"{private.user}:{private.password}".encode()).decode()
    manifest = urllib.request.Request(
        f"http://{host}/v2/team/built/manifests/1",
        method="HEAD",
        headers={
            "Authorization": f"Basic {login}",
            "Accept": "application/vnd.docker.distribution.manifest.v2+json",
        },
    )
    with urllib.request.urlopen(manifest) as answer:
        assert answer.headers["Docker-Content-Digest"] == digest
