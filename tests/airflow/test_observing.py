# SPDX-License-Identifier: Apache-2.0
"""Metrics and spans as they leave a running Airflow, and the dump that a signal makes its scheduler write.

Through OpenTelemetry, which Airflow always brings along; its StatsD client is an extra of Airflow's.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from airflow_workpools.cli.local_airflow import SCHEDULER
from airflow_workpools.metrics import METRICS
from tests.airflow.harness import ROOT, AirflowInstance
from tests.otlp import Collector, Span, collector

pytestmark = pytest.mark.airflow

QUEUE = {"pool": "thin", "queue": "default"}
NOT_HERE = {"workpools.job.exit_code"}
"""What is sent of jobs that fail."""


class Observed(NamedTuple):
    airflow: AirflowInstance
    collected: Collector


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    with ExitStack() as stack:
        collected = stack.enter_context(collector())
        instance = AirflowInstance(
            tmp_path_factory.mktemp("observed"),
            dags_folder=ROOT / "tests/airflow/dags",
            settings=collected.environment,
        )
        instance.migrate()
        stack.callback(instance.stop)
        instance.start()
        instance.create_pool("thin", concurrency_limit=2)
        instance.api.create("pools", {"name": "wide", "slots": 50})
        yield Observed(instance, collected)


def test_a_run_is_seen_in_gauges_timers_counters_and_spans(observed: Observed) -> None:
    airflow, collected = observed
    run_id = airflow.trigger("queued_backlog")

    def gauges() -> tuple[float | None, ...]:
        names = ("limit", "running", "workers_online", "ready")
        return tuple(collected.value(f"workpools.pool.{name}", pool="thin") for name in names)

    # All of its tasks are handed over at once, to wait in the store.
    airflow.wait(lambda: gauges() == (2, 2, 1, 1), what="the gauges of a full pool")
    airflow.wait(lambda: collected.value("workpools.queue.pending", **QUEUE), what="jobs that wait")
    tries = airflow.wait_run("queued_backlog", run_id)
    assert len(tries) == 18

    airflow.wait(
        lambda: collected.value("workpools.job.ended", **QUEUE, cause="succeeded") == 18,
        what="the count of the jobs",
    )
    for part in ("scheduled", "pending", "starting", "running"):
        name = f"workpools.job.{part}_duration"
        airflow.wait(lambda name=name: collected.value(name, **QUEUE) == 18, what=name)
    airflow.wait(lambda: gauges() == (2, 0, 1, 1), what="the gauges of an empty pool")
    kinds = {"gauge": "gauge", "timer": "exponential_histogram", "counter": "sum"}
    assert collected.kinds() == {one.name: kinds[one.kind] for one in METRICS if one.name not in NOT_HERE}

    spans = airflow.wait(lambda: _of_a_task(collected, run_id), what="the spans of a task")
    task, job = spans["task_run.sleep[7]"], spans["workpool.sleep[7]"]
    assert job.trace_id == task.trace_id
    assert job.parent_id == spans["worker.sleep[7]"].parent_id == task.span_id
    assert job.attributes["workpools.cause"] == "succeeded"
    parts = [spans[f"workpool.{name}"] for name in ("pending", "starting", "running")]
    assert {part.parent_id for part in parts} == {job.span_id}
    assert parts[0].begin == job.begin
    assert [part.end for part in parts] == [parts[1].begin, parts[2].begin, job.end]


def _of_a_task(collected: Collector, run_id: str) -> dict[str, Span] | None:
    """Return Airflow's spans of one task, and those of its job; None until all are there."""
    spans = list(collected.spans)
    named = {span.name: span for span in spans if span.attributes.get("airflow.dag_run.run_id") == run_id}
    if not {"task_run.sleep[7]", "worker.sleep[7]", "workpool.sleep[7]"} <= named.keys():
        return None
    job = named["workpool.sleep[7]"]
    parts = {span.name: span for span in spans if span.parent_id == job.span_id}
    return {**named, **parts} if len(parts) == 3 else None


def test_a_worker_that_is_started_again_does_not_repeat_what_its_scheduler_told(observed: Observed) -> None:
    airflow, collected = observed
    killed = airflow.worker_pid()
    os.kill(killed, signal.SIGKILL)
    airflow.wait(lambda: _other_worker(airflow, killed), what="another embedded worker")
    airflow.run("queued_backlog")
    airflow.wait(
        lambda: collected.value("workpools.job.ended", **QUEUE, cause="succeeded") == 36,
        what="the count of all jobs",
    )
    counts = collected.told["airflow.workpools.job.ended"]
    assert counts == sorted(counts)


def _other_worker(airflow: AirflowInstance, killed: int) -> bool:
    names = airflow.rows("select name from workpool_worker where state = 'online'")
    return any(not row["name"].endswith(f":{killed}") for row in names)


def test_a_signal_makes_the_scheduler_tell_what_it_holds(observed: Observed) -> None:
    airflow = observed.airflow
    os.kill(airflow.local.process(SCHEDULER).pid, signal.SIGUSR2)
    said: dict[str, Any] = airflow.wait(lambda: _dumped(airflow), what="the debug dump")
    print(json.dumps(said, indent=1))
    assert said["pools"]["thin"]["limit"] == 2
    assert said["failures"] == {}
    assert [worker["online"] for worker in said["workers"]] == [True]
    assert said["embedded_worker"]["pid"] == airflow.worker_pid()
    assert any("process runner" in title for title in said["embedded_worker"]["children"].values())
    assert said["seconds_since"]["reconciliation"] < 60


def test_what_sends_all_this_leaves_the_process_runner_alone(observed: Observed) -> None:
    log = (observed.airflow.local.logs / f"{SCHEDULER}.log").read_text()
    assert "threads, though a process that forks should have one" not in log


def _dumped(airflow: AirflowInstance) -> dict[str, Any] | None:
    """Return the dump from the scheduler's log, where it is whole."""
    _, begin, rest = (airflow.local.logs / f"{SCHEDULER}.log").read_text().partition("Work pools\n{")
    try:
        return dict(json.JSONDecoder().raw_decode(begin[-1] + rest)[0]) if begin else None
    except ValueError:
        return None
