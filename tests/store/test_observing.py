# SPDX-License-Identifier: Apache-2.0
"""What the executor lets operators see, on real databases: metrics, spans, and the debug dump."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from airflow.utils.state import TaskInstanceState
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from airflow_workpools import dump as dump_module
from airflow_workpools.airflow_private.tries import key_of_workload
from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.executor import WorkPoolExecutor
from airflow_workpools.store.records import Report
from tests.stats import RecordedStats, recorded_stats
from tests.store.rigs import SCHEDULER, new_worker, work_pool
from tests.store.schedulers import Scheduler, scheduler, statements_of, writes

SUCCESS = TaskInstanceState.SUCCESS
HIGH, DEFAULT = ("etl", "high"), ("etl", "default")
CARRIER = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


@pytest.fixture
def stage(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    with scheduler(engine, tmp_path / "logs", monkeypatch) as made:
        made.pool("etl", concurrency_limit=10, queues={"high": {"concurrency_limit": 3}})
        yield made


@pytest.fixture
def executor(stage: Scheduler) -> WorkPoolExecutor:
    return stage.executor()


@pytest.fixture
def stats(executor: WorkPoolExecutor) -> Iterator[RecordedStats]:
    with recorded_stats() as recorder:
        yield recorder


def now() -> datetime:
    return datetime.now(timezone.utc)


def next_round(executor: WorkPoolExecutor) -> None:
    """Sync as after some seconds: what is done now and then is due."""
    duties = executor._started()
    duties._looked_at = duties._counted_at = duties._run_state_at = duties._allocated_at = float("-inf")
    duties._gauges._next_at = float("-inf")
    executor.sync()


def ends(stage: Scheduler, *job_ids: uuid.UUID, state: JobState, **values: Any) -> None:
    worker = stage.rig.worker()
    pool = work_pool("etl", high=(1, None))
    assert {job.id for job in stage.rig.claim(worker, pool, room=100)} == set(job_ids)
    for one in (JobState.RUNNING, state):
        reports = [Report(job_id=id_, state=one, **(values if one is state else {})) for id_ in job_ids]
        stage.rig.store.report(worker, reports, now=now())


def counted(stats: RecordedStats) -> list[tuple[str, str]]:
    return [(one.tags["queue"], one.tags["cause"]) for one in stats.sent if one.name == "workpools.job.ended"]


# -- metrics --------------------------------------------------------------------------------------------------


def test_the_gauges_of_a_scheduler_tell_what_is_in_the_database(
    stage: Scheduler, executor: WorkPoolExecutor, stats: RecordedStats
) -> None:
    stage.rig.store.register_worker(new_worker(heartbeat_seconds=3600), now=now())
    stage.rig.store.set_queue_paused(WorkQueueRef("etl"), True)
    waiting, running = stage.workload("etl/high"), stage.workload("etl/high", pool_slots=2)
    stage.hand_over(executor, running)
    stage.rig.claim(stage.rig.worker(), work_pool("etl", high=(1, None)))
    stage.hand_over(executor, waiting)
    for _ in range(3):
        stage.task("etl/default", "scheduled")
    next_round(executor)
    assert stats.values("workpools.pool.limit")["etl",] == 10
    assert stats.values("workpools.pool.workers_online")["etl",] == 1
    assert stats.values("workpools.pool.ready")["etl",] == 1
    assert stats.values("workpools.pool.running")["etl",] == 2
    assert stats.values("workpools.queue.running") == {HIGH: 2, DEFAULT: 0, ("default", "default"): 0}
    assert stats.values("workpools.queue.pending")[HIGH] == 1
    assert stats.values("workpools.queue.scheduled")[DEFAULT] == 3
    assert stats.values("workpools.queue.paused")[DEFAULT] == 1


def test_gauges_of_two_schedulers_agree(stage: Scheduler, executor: WorkPoolExecutor) -> None:
    other = stage.executor(SCHEDULER + 1)
    stage.hand_over(executor, stage.workload("etl/high"), stage.workload())
    sent = []
    for one in (executor, other):
        with recorded_stats() as recorder:
            next_round(one)
        sent.append([gauge for gauge in recorder.ours() if gauge.kind == "gauge"])
    assert sent[0] == sent[1]
    assert len(sent[0]) > 20


def test_a_round_of_gauges_takes_few_statements_and_writes_nothing(
    stage: Scheduler, executor: WorkPoolExecutor, stats: RecordedStats
) -> None:
    duties = executor._started()
    counts = []
    for number in (2, 100):
        for _ in range(number):
            stage.hand_over(executor, stage.workload("etl/high"))
        duties._gauges._next_at = float("-inf")
        duties._run_state_at = time.monotonic()
        duties._run_state = duties.store.run_state(now=now())
        with statements_of(stage.engine) as sent:
            duties.send_gauges(now=now(), monotonic=time.monotonic())
        counts.append(len(sent))
        assert writes(sent) == []
    assert counts == [2, 2]
    assert stats.values("workpools.queue.pending")[HIGH] == 102


def test_an_end_is_measured_once_however_often_it_is_told(
    stage: Scheduler, executor: WorkPoolExecutor, stats: RecordedStats
) -> None:
    good = stage.workload("etl/high", scheduled_dttm=now() - timedelta(seconds=60))
    refused = stage.workload("etl/nowhere")
    stage.hand_over(executor, good, refused)
    ends(stage, good.ti.id, state=JobState.SUCCEEDED, exit_code=0)
    next_round(executor)
    assert sorted(counted(stats)) == [("high", "succeeded"), ("nowhere", "refused")]
    assert stats.values("workpools.job.scheduled_duration")[HIGH] >= timedelta(seconds=60)
    for part in ("pending", "starting", "running"):
        assert list(stats.values(f"workpools.job.{part}_duration")) == [HIGH]

    with stage.transaction() as session:  # told again, for whatever reason
        executor._started().adopt([good.ti.id, refused.ti.id], session=session)
    executor.event_buffer.clear()
    executor._ask_again_at = 0
    next_round(executor)
    assert executor.event_buffer.keys() == {key_of_workload(good), key_of_workload(refused)}
    assert len(counted(stats)) == 2


def test_a_metrics_backend_that_fails_keeps_no_end_from_being_told(
    stage: Scheduler, executor: WorkPoolExecutor, stats: RecordedStats
) -> None:
    stats.breaks = True
    workload = stage.workload("etl/high")
    stage.hand_over(executor, workload)
    ends(stage, workload.ti.id, state=JobState.SUCCEEDED)
    next_round(executor)
    assert executor.event_buffer == {key_of_workload(workload): (SUCCESS, None)}
    assert "sending metrics" in executor._failures
    stats.breaks = False
    next_round(executor)
    assert executor._failures == {}
    assert "workpools.pool.limit" in {one.name for one in stats.sent}


# -- traces ---------------------------------------------------------------------------------------------------


def _traced(stage: Scheduler, executor: WorkPoolExecutor) -> Any:
    workload = stage.workload("etl/high")
    traced = workload.model_copy(update={"ti": workload.ti.model_copy(update={"context_carrier": CARRIER})})
    stage.hand_over(executor, traced)
    ends(stage, traced.ti.id, state=JobState.SUCCEEDED)
    return traced


def test_with_tracing_on_an_end_becomes_spans_of_its_tasks_trace(
    stage: Scheduler, executor: WorkPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    workload = _traced(stage, executor)
    next_round(executor)
    spans = exporter.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in spans} == {CARRIER["traceparent"].split("-")[1]}
    assert {span.name for span in spans} >= {f"workpool.{workload.ti.task_id}", "workpool.running"}


def test_with_tracing_off_no_workload_is_read(stage: Scheduler, executor: WorkPoolExecutor) -> None:
    _traced(stage, executor)
    (job,) = executor._started().ended(limit=9, now=now())
    assert job.context_carrier is None


# -- the debug dump -------------------------------------------------------------------------------------------


def dumped(executor: WorkPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(executor.log, "info", lambda message, *args: said.append(message % args))
        executor.debug_dump()
    (entry,) = [text for text in said if text.startswith("Work pools\n")]
    return dict(json.loads(entry.partition("\n")[2]))


def test_the_debug_dump_says_all_that_is_known_in_one_entry(
    stage: Scheduler, executor: WorkPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.pool("broken", extra="{")
    stage.rig.store.register_worker(new_worker(name="old"), now=now() - timedelta(seconds=300))
    stage.rig.store.set_pool_paused("etl", True)
    stage.rig.hand_over()
    stage.hand_over(executor, stage.workload("etl/high"))
    stage.task("etl/default", "scheduled")
    with monkeypatch.context() as broken:
        broken.setattr(executor._started().store, "reconcile", lambda **_: 1 / 0)
        for _ in range(3):
            next_round(executor)

    said = dumped(executor, monkeypatch)
    assert said["scheduler_job_id"] == SCHEDULER
    assert said["tasks_of_this_scheduler"] == 1
    assert said["seconds_since"]["allocation"] >= 0
    assert said["seconds_since"]["reconciliation"] >= 0
    assert said["failures"]["looking after jobs"]["last_failure"] == "ZeroDivisionError: division by zero"
    assert said["failures"]["looking after jobs"]["failures"] == 3
    assert said["failures"]["looking after jobs"]["in_a_row_now"] == 3
    etl = said["pools"]["etl"]
    assert (etl["status"], etl["paused"], etl["limit"], etl["held"], etl["waiting"]) == (
        *("paused", True, 10),
        *(0, 2),
    )
    assert (etl["queues"]["high"]["pending"], etl["queues"]["default"]["scheduled"]) == (1, 1)
    assert said["pools"]["broken"]["status"] == "invalid"
    assert said["pools"]["broken"]["reason"]
    assert "broken" in said["problems"]
    (worker,) = said["workers"]
    assert (worker["name"], worker["online"]) == ("old", False)
    assert worker["heartbeat_seconds_ago"] >= 300
    assert said["embedded_worker"]["pid"] == 1

    next_round(executor)
    failure = dumped(executor, monkeypatch)["failures"]["looking after jobs"]
    assert (failure["failures"], failure["in_a_row_now"]) == (3, 0)


def test_a_debug_dump_does_not_hang_where_the_database_does(
    stage: Scheduler, executor: WorkPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump_module, "READ_SECONDS", 0.01)
    answers = threading.Event()
    store = executor._started().store
    monkeypatch.setattr(store, "run_state", lambda **_: answers.wait() and 1 / 0)
    said = dumped(executor, monkeypatch)
    answers.set()
    assert said["pools"] == "not read: the database did not answer within 0.01 s"
    assert said["scheduler_job_id"] == SCHEDULER

    monkeypatch.setattr(dump_module, "READ_SECONDS", 60)
    assert dumped(executor, monkeypatch)["pools"] == "not read: ZeroDivisionError: division by zero"
