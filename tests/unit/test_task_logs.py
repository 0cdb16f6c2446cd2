# SPDX-License-Identifier: Apache-2.0
"""Which log of a try is shown: the one that is stored, that of the configured remote logging, or Airflow's own."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_workpools import telemetry
from airflow_workpools.airflow_private.task_logs import RemoteLog
from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.logs import LogChunk
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import PoolSource, parse_work_pool
from airflow_workpools.core.templates import BaseJobTemplate
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store.records import NewJob, Report, WorkerKind, WorkerRecord
from airflow_workpools.task_logs import TaskLogs
from airflow_workpools.testing import MemoryStore

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
TEMPLATE = BaseJobTemplate(variables={}, job_configuration={})
BOXES = parse_work_pool("boxes", {"type": "box"}, templates={"box": TEMPLATE}, source=PoolSource.DATABASE)
PATH = "dag_id=d/run_id=r/task_id=t/attempt=1.log"


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of jobs of the kind ``box`` the logs are stored; those of processes are files."""
    for module in ("task_logs", "telemetry"):
        monkeypatch.setattr(f"airflow_workpools.{module}.keeps_log", lambda kind: kind == "box")


@dataclass
class Stage:
    """A try that runs, and its jobs."""

    log_folder: Path
    store: MemoryStore = field(default_factory=MemoryStore)
    worker: uuid.UUID = field(default_factory=uuid.uuid4)
    task_instance_id: uuid.UUID = field(default_factory=uuid.uuid4)
    state: str = "running"

    def __post_init__(self) -> None:
        record = WorkerRecord(
            id=self.worker,
            name="w",
            hostname="h",
            kind=WorkerKind.EMBEDDED,
            started_at=NOW,
            last_heartbeat_at=NOW,
            heartbeat_seconds=1e6,
            version="1",
        )
        self.store.register_worker(record, now=NOW)

    @property
    def ti(self) -> Any:
        return SimpleNamespace(
            dag_id="d", task_id="t", run_id="r", map_index=-1, try_number=1, state=self.state
        )

    def job(self, *lines: str, kind: str = "box", after: float = 0) -> uuid.UUID:
        """Let the try's next job run and write something."""
        now = NOW + timedelta(seconds=after)
        new = NewJob(
            task_instance_id=self.task_instance_id,
            dag_id="d",
            task_id="t",
            run_id="r",
            map_index=-1,
            try_number=1,
            ref=WorkQueueRef("boxes"),
            pool_slots=1,
            priority_weight=1,
            workload="{}",
            scheduler_job_id=1,
            start_timeout_seconds=60,
        )
        id_ = self.store.hand_over(new, now=now, session=None)  # type: ignore[arg-type]
        self.store.claim(self.worker, [BOXES], room=10, now=now)
        handle = Handle(job_id=id_, kind=kind)
        self.store.report(self.worker, [Report(job_id=id_, state=JobState.RUNNING, handle=handle)], now=now)
        self.write(id_, *lines)
        return id_

    def write(self, job_id: uuid.UUID, *lines: str) -> None:
        data = "".join(f"{line}\n" for line in lines).encode()
        position = self.store.log_ends({job_id: 0})[job_id].position
        self.store.append_log(self.worker, [LogChunk(job_id=job_id, position=position, data=data)], now=NOW)

    def end(self, job_id: uuid.UUID, state: JobState = JobState.SUCCEEDED) -> None:
        self.store.report(self.worker, [Report(job_id=job_id, state=state, reason="why")], now=NOW)

    def read(self, configured: Any = None) -> tuple[list[str], list[str]]:
        """Return messages and the events that Airflow would show."""
        logs = TaskLogs(self.store, log_folder=str(self.log_folder))
        messages, streams = RemoteLog(configured, logs.read).stream(PATH, self.ti)
        return messages, [_event(line) for stream in streams for line in _lines(stream)]

    def while_running(self) -> list[str]:
        return TaskLogs(self.store, log_folder="").while_running(self.ti)


def _lines(stream: Any) -> list[str]:
    return stream.splitlines() if isinstance(stream, str) else list(stream)


def _event(line: str) -> str:
    return str(json.loads(line)["event"]) if line.startswith("{") else line


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


class Bucket:
    """A remote log as providers have them."""

    processors = ("one",)

    def __init__(self, *logs: str, error: Exception | None = None) -> None:
        self.logs = logs
        self.error = error
        self.asked: list[str] = []

    def read(self, relative_path: str, ti: Any) -> tuple[list[str], list[str] | None]:
        self.asked.append(relative_path)
        if self.error:
            raise self.error
        return ["from the bucket"], list(self.logs) or None

    def upload(self, path: str, ti: Any = None) -> str:
        return f"uploaded {path}"


class StreamingBucket(Bucket):
    def stream(self, relative_path: str, ti: Any) -> tuple[list[str], list[Any]]:
        messages, logs = self.read(relative_path, ti)
        return messages, [(line for line in log.splitlines()) for log in logs or ()]


def test_while_a_task_runs_what_is_stored_is_shown_and_only_the_executor_says_where_it_is_from(
    stage: Stage,
) -> None:
    job = stage.job("one", "two")

    assert stage.read() == ([], ["one", "two"])
    [source] = stage.while_running()
    assert str(job) in source


def test_while_a_task_runs_the_remote_log_is_not_asked(stage: Stage) -> None:
    stage.job("one")
    bucket = Bucket("the first part, from a round before")

    assert stage.read(bucket)[1] == ["one"]
    assert bucket.asked == []


def test_a_task_that_has_written_nothing_yet_is_not_looked_for_on_its_host(stage: Stage) -> None:
    stage.job()

    assert stage.read() == ([], [])
    assert len(stage.while_running()) == 1


def test_the_jobs_of_a_try_follow_each_other(stage: Stage) -> None:
    stage.end(stage.job("first round"))
    stage.job("second round", after=5)

    assert stage.read()[1] == ["first round", "second round"]


@pytest.mark.parametrize("bucket", [Bucket("remote\n"), StreamingBucket("remote\n")])
def test_after_the_end_the_remote_log_is_shown_instead_where_it_has_one(stage: Stage, bucket: Bucket) -> None:
    stage.end(stage.job("stored"))
    stage.state = "success"

    assert stage.read(bucket) == (["from the bucket"], ["remote"])
    assert bucket.asked == [PATH]


@pytest.mark.parametrize("bucket", [None, Bucket(), StreamingBucket()])
def test_after_the_end_what_is_stored_is_shown_where_the_remote_log_has_nothing(
    stage: Stage, bucket: Bucket | None
) -> None:
    job = stage.job("stored")
    stage.end(job)
    stage.state = "success"

    messages, lines = stage.read(bucket)

    assert lines == ["stored"]
    assert str(job) in messages[-1]


def test_of_a_job_that_crashed_what_is_stored_is_shown(stage: Stage) -> None:
    """It could not send its last words anywhere, and the reason stands here."""
    stage.end(stage.job("last words"), JobState.FAILED)
    stage.state = "failed"

    assert stage.read(Bucket("of the round before"))[1] == ["last words"]


def test_a_remote_log_that_cannot_be_read_hides_nothing(stage: Stage) -> None:
    stage.end(stage.job("stored"))
    stage.state = "success"

    messages, lines = stage.read(Bucket(error=ConnectionError("no bucket")))

    assert lines == ["stored"]
    assert "no bucket" in messages[0]


def test_what_a_triggerer_wrote_into_the_log_folder_is_shown_after_the_end(stage: Stage) -> None:
    path = stage.log_folder / f"{PATH}.trigger.7.log"
    path.parent.mkdir(parents=True)
    path.write_text('{"event": "triggered"}\n')
    stage.end(stage.job("stored"))

    assert stage.read()[1] == ["stored"]  # Airflow reads the log folder itself
    stage.state = "success"
    assert stage.read()[1] == ["stored", "triggered"]


@pytest.mark.parametrize("state", ["running", "success"])
def test_a_task_whose_log_is_not_stored_is_left_to_airflow(stage: Stage, state: str) -> None:
    stage.job(kind="process")
    stage.state = state

    with pytest.raises(NotImplementedError):
        stage.read()
    assert stage.read(Bucket("remote\n")) == (["from the bucket"], ["remote"])
    assert stage.while_running() == []


def test_a_store_that_is_away_hides_nothing_else(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.job("stored")
    stage.store.jobs_of_try = None  # type: ignore[assignment, method-assign]

    assert stage.read(Bucket("remote\n"))[1] == ["remote"]
    assert "can't be read" in caplog.text


def test_all_but_reading_is_left_to_the_remote_log() -> None:
    wrapped = RemoteLog(Bucket(), lambda *_: ([], []))

    assert wrapped.processors == ("one",)
    assert wrapped.upload("a.log") == "uploaded a.log"
    assert not hasattr(RemoteLog(None, lambda *_: ([], [])), "upload")


def test_reasons_go_where_the_log_of_the_job_is(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_log_folder", lambda: str(stage.log_folder))
    box = stage.job("work")
    ended = [
        SimpleNamespace(
            id=id_, dag_id="d", task_id="t", ref=WorkQueueRef(pool), state="failed", reason="r", log_path=path
        )
        for id_, pool, path in ((box, "boxes", "box.log"), (uuid.uuid4(), "etl", "process.log"))
    ]

    telemetry.write_reasons(
        ended,  # type: ignore[arg-type]
        stage.store,
        kinds={"boxes": "box", "etl": "process"},
        now=NOW,
    )

    assert stage.read()[1] == ["work", "Work queue boxes/default: r"]
    assert not (stage.log_folder / "box.log").exists()
    line = json.loads((stage.log_folder / "process.log").read_text())
    assert (line["event"], line["level"]) == ("Work queue etl/default: r", "error")


def test_the_plugin_says_so_when_the_api_server_asks_for_its_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow import logging_config

    from airflow_workpools.plugin import WorkpoolsPlugin

    monkeypatch.setattr(logging_config, "get_remote_task_log", lambda: None)

    assert "/workpools" in [app["url_prefix"] for app in WorkpoolsPlugin().fastapi_apps]
    assert isinstance(logging_config.get_remote_task_log(), RemoteLog)
