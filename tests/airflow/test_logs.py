# SPDX-License-Identifier: Apache-2.0
"""Logs of jobs that do not write into Airflow's log folder, as Airflow's API shows them."""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.airflow.captured import FIRST_LINE, install
from tests.airflow.harness import ROOT, AirflowInstance
from tests.airflow.reading import ended, events, only, parts, read
from tests.postgres import postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.airflow

MOST_BEHIND_SECONDS = 5.0


@pytest.fixture(
    scope="module",
    # MariaDB keeps logs in the tests of the store: another Airflow would show nothing else.
    params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)],
)
def boxes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowInstance]:
    """An Airflow with a work pool ``boxes`` whose jobs write to standard output only."""
    home = tmp_path_factory.mktemp(f"logs-{request.param}")
    shutil.copytree(ROOT / "tests/airflow/dags_logs", home / "dags")
    with ExitStack() as stack:
        url = ""
        if request.param == "postgres":
            url = stack.enter_context(postgres_server()).create_database("airflow")
        instance = AirflowInstance(
            home,
            database_url=url,
            dags_folder=home / "dags",
            settings={"PYTHONPATH": os.pathsep.join([str(install(home / "packages")), str(ROOT)])},
        )
        instance.migrate()
        stack.callback(instance.stop)
        instance.start()
        instance.create_pool("boxes", type="captured")
        yield instance


def test_a_log_is_read_while_the_task_runs_and_when_nothing_else_is_left_of_it(
    boxes: AirflowInstance,
) -> None:
    run_id = boxes.trigger("talks")
    boxes.wait(lambda: boxes.running("talks", run_id), what="the task to run")
    task = only(boxes, "talks", run_id)
    line = re.compile(r"line (\d+) at ([\d.]+)")

    def behind() -> float | None:
        """Return how old the newest line is that can be read."""
        asked = time.time()
        found = [match for event in read(boxes, task) if (match := line.fullmatch(event["event"]))]
        return asked - float(found[-1][2]) if len(found) > 5 else None

    boxes.wait(
        lambda: (seconds := behind()) is not None and seconds < MOST_BEHIND_SECONDS, what="fresh lines"
    )
    sources, live = parts(boxes, task)
    numbers = [int(match[1]) for event in events(live) if (match := line.fullmatch(event))]
    assert numbers == list(range(len(numbers)))
    assert [source.partition(":")[0] for source in sources] == ["Metadata database"]

    Path(f"{boxes.trace}.stop").touch()
    boxes.wait_run("talks", run_id)
    boxes.wait(lambda: not list(boxes.local.home.glob("workpools/captured/*")), what="the box to be removed")

    sources, log = parts(boxes, task)
    assert [source.partition(":")[0] for source in sources] == ["Metadata database"]
    numbers = [int(match[1]) for event in events(log) if (match := line.fullmatch(event))]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 5
    assert events(log).count("printed at the end") == 1
    assert events(log)[0] == FIRST_LINE
    own = next(event for event in log if line.fullmatch(event["event"]))
    assert (own["level"], own["logger"]) == ("info", "my.own")
    assert own["timestamp"]
    assert "eyJ" not in str(log)
    assert "the password is ***" in events(log)


def test_every_try_has_its_own_log(boxes: AirflowInstance) -> None:
    task = ended(boxes, "fails_then_succeeds")

    first, second = read(boxes, task, 1), read(boxes, task, 2)

    assert events(first).count("this is try 1") == 1
    assert events(second).count("this is try 2") == 1
    assert "this is try 2" not in events(first)
    [failure] = [event for event in first if "error_detail" in event]
    assert failure["error_detail"][0]["exc_value"] == "not yet"


def test_the_rounds_of_a_try_follow_each_other(boxes: AirflowInstance) -> None:
    task = ended(boxes, "comes_back")

    assert events(read(boxes, task)).count("poke") == 2


def test_a_crash_shows_what_was_written_before_it_and_why(boxes: AirflowInstance) -> None:
    task = ended(boxes, "crashes", state="failed")

    # Which the scheduler adds when it is told of the end.
    log = boxes.wait(
        lambda: (log := read(boxes, task)) and "Work queue boxes" in str(log) and log, what="the reason"
    )

    assert events(log).count("going to crash") == 1
    assert log[-1]["level"] == "error"
    assert "SIGKILL" in log[-1]["event"]


def test_a_job_that_could_never_start_says_why(boxes: AirflowInstance) -> None:
    task = ended(boxes, "never_starts", state="failed")

    sources, log = parts(boxes, task)

    assert len(log) == 1
    assert "there is no such image" in log[0]["event"]
    assert not any("Could not read served logs" in source for source in sources)


def test_logs_of_processes_are_where_they_were(boxes: AirflowInstance) -> None:
    task = ended(boxes, "as_process")

    sources, log = parts(boxes, task)

    assert events(log).count("written into the log folder") == 1
    assert [Path(source).is_file() for source in sources] == [True]
    assert (
        boxes.rows(
            "select 1 from workpool_log l join workpool_job j on j.id = l.job_id where queue <> 'default'"
        )
        == []
    )
