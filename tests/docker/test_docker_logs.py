# SPDX-License-Identifier: Apache-2.0
"""Logs of tasks in containers, as Airflow's API shows them."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import docker
import pytest

from airflow_workpools.infrastructure.containers import JOB_ID_LABEL
from tests.airflow.harness import ROOT, AirflowInstance
from tests.airflow.reading import ended, events, only, parts, read
from tests.images import base_image

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.airflow, pytest.mark.docker]


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowInstance]:
    """An Airflow whose work pool ``boxes`` runs containers."""
    home = tmp_path_factory.mktemp("logs-docker")
    shutil.copytree(ROOT / "tests/airflow/dags_logs", home / "dags")
    (home / "traces").mkdir(mode=0o777)
    instance = AirflowInstance(home, dags_folder=home / "dags")
    instance.trace = home / "traces" / "trace"
    try:
        instance.migrate()
        instance.start()
        instance.create_pool(
            "boxes",
            type="docker",
            job_variables={
                "image": base_image(),
                "network_mode": "host",
                "volumes": [f"{home}/dags:{home}/dags:ro", f"{home}/traces:{home}/traces"],
                "env": {
                    "AIRFLOW_HOME": "/tmp/airflow",
                    "AIRFLOW__CORE__DAGS_FOLDER": f"{home}/dags",
                    "WORKPOOLS_TEST_TRACE": str(instance.trace),
                },
            },
        )
        yield instance
    finally:
        instance.stop()


def test_a_containers_log_is_read_while_it_runs_and_when_it_is_gone(boxes: AirflowInstance) -> None:
    run_id = boxes.trigger("talks")
    boxes.wait(lambda: boxes.running("talks", run_id), timeout=120, what="the task to run")
    task = only(boxes, "talks", run_id)
    boxes.wait(lambda: any(event.startswith("line 5 ") for event in events(read(boxes, task))), what="lines")
    [job] = boxes.rows("select id from workpool_job where run_id = :run_id", run_id=run_id)
    label = f"{JOB_ID_LABEL}={uuid.UUID(str(job['id']))}"
    engine = docker.from_env()

    def containers() -> int:
        return len(engine.containers.list(all=True, filters={"label": label}, ignore_removed=True))

    assert containers() == 1
    Path(f"{boxes.trace}.stop").touch()
    boxes.wait_run("talks", run_id)
    boxes.wait(lambda: not containers(), what="the container to be removed")

    sources, log = parts(boxes, task)

    assert [source.partition(":")[0] for source in sources] == ["Metadata database"]
    numbers = [int(event.split()[1]) for event in events(log) if event.startswith("line ")]
    assert numbers == list(range(len(numbers)))
    assert events(log).count("printed at the end") == 1
    assert "eyJ" not in str(log)


def test_a_container_that_dies_shows_what_it_wrote_and_why(boxes: AirflowInstance) -> None:
    task = ended(boxes, "crashes", state="failed")

    log = boxes.wait(
        lambda: (log := read(boxes, task)) and "Work queue boxes" in str(log) and log, what="the reason"
    )

    assert events(log).count("going to crash") == 1
    assert log[-1]["level"] == "error"
