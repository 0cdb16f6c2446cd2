# SPDX-License-Identifier: Apache-2.0
"""What is said to people whose engine can't be reached, or whose machine lacks what is needed."""

from __future__ import annotations

import asyncio
import grp
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.docker import DockerInfrastructure
from tests.engines import Certificates, OwnEngine, Relay, free_address

NOBODY = 65534


def failure_of(connection: Mapping[str, Any] | None) -> str:
    """Return why a worker can't be ready."""

    async def scenario() -> str:
        infrastructure = DockerInfrastructure(home=Path("/nowhere"), connection=connection)
        with pytest.raises(InfrastructureUnavailable) as failure:
            await infrastructure.open()
        await infrastructure.close()
        return str(failure.value)

    return asyncio.run(scenario())


def at(url: str, **extra: str) -> dict[str, Any]:
    return {"conn_id": "engine", "conn_type": "docker", "extra": {"base_url": url, **extra}}


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    socket = tmp_path / "none.sock"
    assert failure_of(at(f"unix://{socket}")) == (
        f"the Docker Engine at unix://{socket} does not answer: there is no socket {socket}. "
        "Is the engine running, and on this host? DOCKER_HOST names another"
    )


def test_an_engine_that_nobody_is_behind() -> None:
    said = failure_of(at("tcp://127.0.0.1:9"))
    assert said.startswith("the Docker Engine at tcp://127.0.0.1:9 does not answer: ")
    assert "Connection refused" in said


def test_the_engine_of_the_environment_is_used_where_no_connection_names_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    for connection in (None, {"conn_id": "registry", "conn_type": "docker", "extra": {}}):
        assert failure_of(connection).startswith("the Docker Engine at tcp://127.0.0.1:9 does not answer: ")


def test_a_connection_of_another_type() -> None:
    assert failure_of({"conn_id": "warehouse", "conn_type": "postgres", "extra": {}}) == (
        "connection 'warehouse' is of type 'postgres'; a docker work pool needs one of type 'docker'"
    )


def test_an_address_that_is_none() -> None:
    assert failure_of(at("gopher://engine")).startswith(
        "the Docker Engine at gopher://engine does not answer: "
    )


def test_tls_that_is_not_whole() -> None:
    assert failure_of(at("tcp://127.0.0.1:9", tls_ca_cert="/ca.pem")) == (
        "connection 'engine' has tls_ca_cert in its extra, but not tls_client_cert, tls_client_key: "
        "TLS needs all three"
    )


def test_a_certificate_that_is_not_there() -> None:
    files = {"tls_ca_cert": "/no/ca.pem", "tls_client_cert": "/no/cert.pem", "tls_client_key": "/no/key.pem"}
    assert "tls_" not in failure_of(at("tcp://127.0.0.1:9", **files))
    assert failure_of(at("tcp://127.0.0.1:9", **files)).startswith(
        "the Docker Engine at tcp://127.0.0.1:9 does not answer: "
    )


@pytest.fixture
def forbidden_socket(tmp_path: Path) -> Iterator[Path]:
    """Yield an engine's socket that root and a group may use."""
    socket = tmp_path / "engine.sock"
    relay = Relay(socket)
    relay.up()
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder != Path("/") and not folder.stat().st_mode & 1:
            folder.chmod(folder.stat().st_mode | 0o011)
    os.chown(socket, 0, grp.getgrnam("adm").gr_gid)
    socket.chmod(0o660)
    yield socket
    relay.down()


_TRY = """
import asyncio, os, pathlib, sys
from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.docker import DockerInfrastructure
import docker
if len(sys.argv) > 1:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    asyncio.run(DockerInfrastructure(home=pathlib.Path("/nowhere"), connection=None).open())
except InfrastructureUnavailable as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_user_who_may_not_use_the_socket_is_told_the_way(forbidden_socket: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", _TRY, "nobody"],
        env={**os.environ, "DOCKER_HOST": f"unix://{forbidden_socket}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    assert said.strip() == (
        f"the Docker Engine at unix://{forbidden_socket} does not answer: no permission for the socket "
        f"{forbidden_socket}. Add the worker's user to group adm (usermod -aG adm USER), and start the worker anew"
    )


@pytest.mark.parametrize(
    ("missing", "connection", "said"),
    [
        ("docker", "None", "the Docker SDK is not installed"),
        (
            "airflow.providers.docker",
            "dict(conn_id='e', conn_type='docker', extra=dict(base_url='tcp://127.0.0.1:9', tls_ca_cert='a', "
            "tls_client_cert='b', tls_client_key='c'))",
            "the Docker provider is not installed",
        ),
    ],
)
def test_what_is_not_installed_names_the_extra(missing: str, connection: str, said: str) -> None:
    program = _TRY.replace("import docker\n", f"sys.modules[{missing!r}] = None\n")
    program = program.replace("connection=None", f"connection={connection}")
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert told.startswith(said)
    assert told.strip().endswith('Install it: pip install "airflow-provider-workpools[docker]"')


def test_the_kind_is_known_without_the_sdk() -> None:
    program = (
        "import sys; sys.modules['docker'] = None\n"
        "from airflow_workpools.infrastructure.registry import default_template\n"
        "print(sorted(default_template('docker').variables['required']))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert told.stdout.strip() == "['image']"


# -- an engine elsewhere, with TLS --------------------------------------------------------------------------------


@pytest.mark.docker
@pytest.mark.own_engine
def test_an_engine_with_tls_is_reached_by_who_has_its_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates, address = Certificates(tmp_path), free_address()
    certificates.make()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificates.of_client["tls_client_cert"])  # meant for the web
    with OwnEngine(f"--host=tcp://{address}", *certificates.of_server):

        async def answers() -> None:
            connection = at(f"tcp://{address}", **certificates.of_client)
            infrastructure = DockerInfrastructure(home=tmp_path, connection=connection)
            await infrastructure.open()
            assert await infrastructure.find([]) == {}
            await infrastructure.close()

        asyncio.run(answers())
        assert f"the Docker Engine at tcp://{address} does not answer: " in failure_of(at(f"tcp://{address}"))
        strangers = {**certificates.of_client, "tls_ca_cert": f"{tmp_path}/client.pem"}
        assert "certificate verify failed" in failure_of(at(f"tcp://{address}", **strangers))
