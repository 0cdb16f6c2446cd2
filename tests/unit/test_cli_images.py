# SPDX-License-Identifier: Apache-2.0
"""What ``airflow workpools image build`` refuses before anything is built."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.airflow_home import environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.airflow_home import AirflowHome

AIRFLOW = [sys.executable, "-m", "airflow"]
END_OF_FILE = "\x04"
"""What Ctrl-D types."""


@pytest.fixture
def dags(tmp_path: Path) -> Path:
    folder = tmp_path / "dags"
    folder.mkdir()
    return folder


REFUSED = {
    "": ["--tag"],
    "--tag No:1": ["'No:1'", "lower case"],
    "--tag x -r /nowhere/r.txt": ["/nowhere/r.txt", "No such file"],
    "--tag x --dags-folder /nowhere/dags": ["/nowhere/dags", "--dags-folder"],
    "--tag x --set-default none": ["no work pool 'none'"],
    "--tag x --set-default plain": ["'plain'", "type process", "'image'"],
    "--tag x --registry-conn-id none": ["connection 'none'", "--registry-conn-id"],
}


@pytest.mark.parametrize("options", REFUSED)
def test_what_is_wrong_is_said_before_anything_is_built(home: AirflowHome, dags: Path, options: str) -> None:
    home.ok("create plain")

    message = home.refused(f"image build --dags-folder {dags} {options}")

    for words in REFUSED[options]:
        assert words in message


def test_a_pool_that_is_not_ours_to_write_is_refused(home: AirflowHome, dags: Path) -> None:
    template = {
        "variables": {"type": "object", "properties": {"image": {"type": "string"}}},
        "job_configuration": {"image": "{{ image }}"},
    }
    definition = {"conn_type": "workpool", "extra": {"type": "process", "base_job_template": template}}

    message = home.refused(
        f"image build --tag x --dags-folder {dags} --set-default etl",
        environ={"AIRFLOW_CONN_ETL": json.dumps(definition)},
    )

    assert "read-only" in message


def test_a_registry_connection_without_a_password_is_refused(home: AirflowHome, dags: Path) -> None:
    connection = {"conn_type": "docker", "host": "registry.example.com", "login": "me"}

    message = home.refused(
        f"image build --tag x --dags-folder {dags} --registry-conn-id hub",
        environ={"AIRFLOW_CONN_HUB": json.dumps(connection)},
    )

    assert "'hub' has no password" in message


def test_an_engine_that_does_not_answer_is_said(home: AirflowHome, dags: Path, tmp_path: Path) -> None:
    message = home.refused(
        f"image build --tag x --dags-folder {dags}", environ={"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    )

    assert "no container engine answers" in message


def test_on_a_terminal_it_asks_for_what_is_left_open(home: AirflowHome, dags: Path, tmp_path: Path) -> None:
    (dags / "requirements.txt").write_text("-r missing.txt\n")
    home.ok("create plain")
    home.ok("create contained --type docker")
    answers = ["registry.example.com/dags:1", "base:2", "y", "n", "plain", "contained"]

    done = asked(home, f"--dags-folder {dags}", answers, DOCKER_HOST=f"unix://{tmp_path}/none.sock")

    for question in (
        "Name and tag of the image",
        "Image to build on (apache/airflow:",
        "requirements.txt lists?",
        "Push registry.example.com/dags:1",
        "Work pools whose jobs run in it from then on: contained (Enter: none)",
        "No such work pool: plain",
    ):
        assert question in done.stderr
    # It has taken the requirements, since it was told to.
    assert "missing.txt' cannot be read" in done.stderr
    assert done.returncode == 1


def test_who_wants_to_push_is_asked_for_a_login(home: AirflowHome, dags: Path) -> None:
    hub = {"conn_type": "docker", "host": "registry.example.com", "login": "me"}

    done = asked(home, f"--dags-folder {dags} -t x", ["", "y", "hub", ""], AIRFLOW_CONN_HUB=json.dumps(hub))

    assert "Airflow connection to log in there with (Enter: as docker login did)" in done.stderr
    assert "Error: the Airflow connection 'hub' has no password" in done.stderr


def test_what_the_command_line_says_is_not_asked(home: AirflowHome, dags: Path, tmp_path: Path) -> None:
    home.ok("create contained --type docker")
    (tmp_path / "r.txt").write_text("")
    given = (
        f"-t x --base-image base:2 -r {tmp_path}/r.txt --push --registry-conn-id none --set-default contained"
    )

    done = asked(home, f"--dags-folder {dags} {given}", [])

    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: there is no Airflow connection 'none'")


def test_a_terminal_that_is_closed_is_no_answer(home: AirflowHome, dags: Path) -> None:
    done = asked(home, f"--dags-folder {dags}", ["x", END_OF_FILE])

    assert done.stderr.splitlines()[-1].endswith("before all was answered; with --no-prompt nothing is asked")


def asked(
    home: AirflowHome, options: str, answers: list[str], **environ: str
) -> subprocess.CompletedProcess[str]:
    command = [*AIRFLOW, "workpools", "image", "build", *options.split()]
    return on_terminal(command, answers, {**environment(home.path), **environ})


def test_with_no_prompt_it_asks_nothing(home: AirflowHome, dags: Path) -> None:
    done = on_terminal(
        [*AIRFLOW, "workpools", "image", "build", "--no-prompt", "--dags-folder", str(dags)],
        [],
        environment(home.path),
    )

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: name the image with --tag")


def on_terminal(
    command: list[str], answers: list[str], environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command whose standard input is a terminal, where somebody has typed ahead."""
    ours, its = pty.openpty()
    try:
        os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
        return subprocess.run(
            command, stdin=its, env=dict(environ), capture_output=True, text=True, timeout=120, check=False
        )
    finally:
        os.close(ours)
        os.close(its)
