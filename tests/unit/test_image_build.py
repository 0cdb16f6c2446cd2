# SPDX-License-Identifier: Apache-2.0
"""Images are built by a real engine, and run tasks."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.images import base_image, docker_client, task_image
from tests.unit.fake_execution_api import fake_execution_api

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.airflow_home import AirflowHome

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

DAG = """
from airflow.sdk import dag, task
from lib.words import WORD

@dag
def d():
    @task(work_queue="etl/critical")
    def t():
        import humanize
        print("said", WORD, humanize.naturalsize(1000))
    t()
d()
"""

AIRFLOWS = "airflow.sdk.execution_time.execute_workload"
OURS = "airflow_workpools.execute_workload"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with DAG files, requirements and a secret."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "dags/lib").mkdir(parents=True)
    (folder / "dags/d.py").write_text(DAG)
    (folder / "dags/lib/words.py").write_text('WORD = "hello"\n')
    (folder / "dags/prod.env").write_text("SECRET=1\n")
    (folder / "requirements.txt").write_text("humanize\n")
    return folder


@pytest.fixture(scope="module")
def image(folder: Path) -> str:
    """Return an image with these DAG files."""
    return task_image(folder / "dags", requirements=[folder / "requirements.txt"])


@dataclass(frozen=True)
class Ran:
    """What became of a container."""

    exit_code: int
    output: str


def run(image: str, *command: str, environment: dict[str, str] | None = None, mount: str = "") -> Ran:
    with docker_client() as client:
        host = client.create_host_config(network_mode="host", binds=[mount] if mount else [])
        made = client.create_container(image, list(command), environment=environment or {}, host_config=host)
        try:
            client.start(made)
            exit_code = client.wait(made)["StatusCode"]
            return Ran(exit_code, client.logs(made).decode())
        finally:
            client.remove_container(made, force=True)


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    """Return a file with the workload of the task."""
    task_instance = {
        "id": str(uuid.uuid4()),
        "dag_version_id": str(uuid.uuid4()),
        "task_id": "t",
        "dag_id": "d",
        "run_id": "r",
        "try_number": 1,
        "map_index": -1,
        "pool_slots": 1,
        "queue": "default",
        "priority_weight": 1,
    }
    whole = {
        "type": "ExecuteTask",
        "token": "t",
        "dag_rel_path": "d.py",
        "bundle_info": {"name": "dags-folder", "version": None},
        "log_path": "dag_id=d/attempt=1.log",
        "ti": task_instance,
    }
    path = tmp_path / "workload.json"
    path.write_text(json.dumps(whole))
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("module", [AIRFLOWS, OURS])
def test_a_task_runs_in_the_image_and_tells_the_execution_api(
    image: str, workload: Path, module: str
) -> None:
    with fake_execution_api() as api:
        ran = run(
            image,
            *("python", "-m", module, "--json-path", "/workload.json"),
            environment={"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": api.url},
            mount=f"{workload}:/workload.json:ro",
        )
        states = [body["state"] for _, _, body in api.requests if isinstance(body, dict) and "state" in body]

    assert ran.exit_code == 0, ran.output
    assert states == ["running", "success"], ran.output
    assert "said hello 1.0 kB" in ran.output
    # Only where tasks are started ours notices the end at once, and so without a heartbeat.
    assert any(path.endswith("/heartbeat") for _, path, _ in api.requests) == (module == AIRFLOWS)


def test_everything_in_the_image_is_compiled(image: str) -> None:
    program = """
import importlib.util, pathlib, airflow, humanize, airflow_workpools
for folder in (airflow.__path__[0], humanize.__path__[0], airflow_workpools.__path__[0], "/%s"):
    for path in pathlib.Path(folder).rglob("*.py"):
        if not pathlib.Path(importlib.util.cache_from_source(str(path))).exists():
            print("not compiled:", path)
"""
    with docker_client() as client:
        environment = client.inspect_image(image)["Config"]["Env"]
    (dags,) = [
        entry.partition("=")[2] for entry in environment if entry.startswith("AIRFLOW__CORE__DAGS_FOLDER=")
    ]

    ran = run(image, "python", "-c", program % dags)

    assert (ran.exit_code, ran.output) == (0, "")


def test_no_secret_of_the_folder_and_nothing_of_the_build_is_in_the_image(image: str) -> None:
    ran = run(
        image,
        "sh",
        "-c",
        "find / -xdev -name prod.env -o -xdev -name 'workpools-build*' -o -xdev -name pip.json",
    )

    assert ran.output.strip() == ""


def test_pip_s_settings_are_not_in_the_image_s_history(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_RETRIES", "17")
    tag = task_image(folder / "dags")

    with docker_client() as client:
        assert "PIP_RETRIES" not in json.dumps([client.history(tag), client.inspect_image(tag)])


def test_a_changed_dag_file_makes_only_the_last_layer_new(folder: Path, image: str) -> None:
    requirements = [folder / "requirements.txt"]
    words = folder / "dags/lib/words.py"
    before = words.read_text()
    words.write_text('WORD = "other"\n')
    try:
        other = task_image(folder / "dags", requirements=requirements)
    finally:
        words.write_text(before)

    old, new = layers(image), layers(other)
    assert old[:-1] == new[:-1]
    assert old[-1] != new[-1]


def layers(image: str) -> list[Any]:
    with docker_client() as client:
        return list(client.inspect_image(image)["RootFS"]["Layers"])


def test_requirements_do_not_change_airflow_s_version(home: AirflowHome, tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "r.txt").write_text("apache-airflow-core<3\n")

    done = home.workpools(
        f"image build --tag wp-never --base-image {base_image()} --dags-folder {tmp_path / 'dags'} --network host "
        f"-r {tmp_path / 'r.txt'}"
    )

    assert done.exit_code == 1
    assert "pip install failed" in done.stderr.splitlines()[-1]
    assert "conflicting dependencies" in done.stderr


@pytest.fixture
def tag() -> Iterator[str]:
    """Return a name for an image that is removed afterwards."""
    name = f"127.0.0.1:9/wp-{uuid.uuid4().hex[:8]}:1"
    yield name
    with docker_client() as client:
        client.remove_image(name, force=True)


def test_the_command_builds_and_sets_the_default_of_a_pool(home: AirflowHome, folder: Path, tag: str) -> None:
    template = {
        "variables": {"type": "object", "properties": {"image": {"type": "string"}}},
        "job_configuration": {"image": "{{ image }}"},
    }
    home.ok("create etl -b -", stdin=json.dumps(template))

    done = home.workpools(
        f"image build --tag {tag} --base-image {base_image()} --dags-folder {folder / 'dags'} --network host "
        "--set-default etl --no-prompt"
    )

    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"Jobs of work pool 'etl' run in {tag} from now on"
    assert "Step 1/" in done.stderr
    assert home.inspected("etl")["job_variables"] == {"image": tag}
    events = home.sql("SELECT event FROM log WHERE event LIKE 'cli_workpools_image%'")
    assert ("cli_workpools_image_build",) in events


def test_a_push_that_no_registry_takes_is_an_error(home: AirflowHome, folder: Path, tag: str) -> None:
    done = home.workpools(
        f"image build --tag {tag} --base-image {base_image()} --dags-folder {folder / 'dags'} --network host --push"
    )

    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith(f"Error: pushing {tag} failed: ")


def test_a_base_that_cannot_be_had_is_named(home: AirflowHome, tmp_path: Path) -> None:
    done = home.workpools(
        f"image build --tag x --base-image 127.0.0.1:9/none:1 --dags-folder {tmp_path} --network host"
    )

    assert done.exit_code == 1
    assert "base image '127.0.0.1:9/none:1' is not here and can't be pulled" in done.stderr
