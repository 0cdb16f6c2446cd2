# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_workpools import metrics
from airflow_workpools.core.ends import EndCause
from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import InvalidPool, PoolSource
from airflow_workpools.store.overview import PoolOverview, put_together
from airflow_workpools.store.records import EndedJob, JobCount, QueueRunState, RunState
from tests.stats import RecordedStats, Sent, recorded_stats
from tests.store.rigs import new_worker, work_pool
from tests.unit.test_docs import ROOT

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.utc)
TAGS = {"pool": "etl", "queue": "high"}


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def ended_job(state: JobState = JobState.SUCCEEDED, **values: Any) -> EndedJob:
    id_ = uuid.uuid4()
    defaults: dict[str, Any] = {
        "id": id_,
        "task_instance_id": id_,
        "dag_id": "dag",
        "task_id": "task",
        "run_id": "run",
        "map_index": -1,
        "try_number": 1,
        "state": state,
        "reason": None,
        "exit_code": 0 if state is JobState.SUCCEEDED else None,
        "ref": WorkQueueRef("etl", "high"),
        "latest": True,
        "desired_state": None,
        "scheduled_at": at(-10),
        "handed_over_at": NOW,
        "claimed_at": at(2),
        "started_at": at(5),
        "ended_at": at(65),
    }
    return EndedJob(**{**defaults, **values})


@pytest.fixture
def stats() -> Iterator[RecordedStats]:
    with recorded_stats() as recorder:
        yield recorder


def sent_of(stats: RecordedStats, job: EndedJob) -> list[Sent]:
    stats.sent.clear()
    metrics.send(metrics.of_end(job))
    return stats.sent


# -- ends -----------------------------------------------------------------------------------------------------


def test_a_job_that_has_ended_is_counted_and_each_part_of_its_life_timed(stats: RecordedStats) -> None:
    assert sent_of(stats, ended_job()) == [
        Sent("counter", "workpools.job.ended", 1, {**TAGS, "cause": "succeeded"}),
        Sent("timer", "workpools.job.scheduled_duration", timedelta(seconds=10), TAGS),
        Sent("timer", "workpools.job.pending_duration", timedelta(seconds=2), TAGS),
        Sent("timer", "workpools.job.starting_duration", timedelta(seconds=3), TAGS),
        Sent("timer", "workpools.job.running_duration", timedelta(seconds=60), TAGS),
    ]


def test_what_is_not_known_is_not_sent(stats: RecordedStats) -> None:
    job = ended_job(
        JobState.CANCELLED, claimed_at=None, started_at=None, scheduled_at=None, reason="not wanted"
    )
    assert sent_of(stats, job) == [Sent("counter", "workpools.job.ended", 1, {**TAGS, "cause": "cancelled"})]
    # Scheduled anew since: the row of the task instance speaks of another hand-over.
    names = [one.name for one in sent_of(stats, ended_job(scheduled_at=at(100)))]
    assert "workpools.job.scheduled_duration" not in names


@pytest.mark.parametrize(("code", "cause"), [(1, EndCause.EXIT_CODE), (-9, EndCause.KILLED)])
def test_exit_codes_are_counted_one_by_one(stats: RecordedStats, code: int, cause: EndCause) -> None:
    sent = sent_of(stats, ended_job(JobState.FAILED, exit_code=code))
    assert sent[:2] == [
        Sent("counter", "workpools.job.ended", 1, {**TAGS, "cause": str(cause)}),
        Sent("counter", "workpools.job.exit_code", 1, {**TAGS, "exit_code": str(code)}),
    ]


def test_a_job_is_measured_once_and_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_REMEMBERED", 3)
    measures, jobs = metrics.EndMeasures(), [ended_job() for _ in range(5)]
    assert measures.first_told(jobs[:2]) == jobs[:2]
    assert measures.first_told(jobs) == jobs[2:]
    assert measures.first_told(jobs[2:]) == []
    assert len(measures._measured) == 3


# -- gauges ---------------------------------------------------------------------------------------------------


def overviews() -> list[PoolOverview]:
    high, default = WorkQueueRef("etl", "high"), WorkQueueRef("etl")
    return put_together(
        {
            "etl": work_pool("etl", 10, high=(5, 3)),
            "free": work_pool("free"),
            "bad": InvalidPool(name="bad", reason="no JSON", source=PoolSource.DATABASE),
        },
        run_state=RunState(
            as_of=NOW,
            pools={"free": True},
            queues={high: QueueRunState(False, NOW), default: QueueRunState(True, NOW)},
            workers=(new_worker(last_heartbeat_at=NOW), new_worker(last_heartbeat_at=at(-600))),
        ),
        jobs={
            high: {
                JobState.PENDING: JobCount(4, 8),
                JobState.CLAIMED: JobCount(1, 1),
                JobState.RUNNING: JobCount(1, 2),
            }
        },
        scheduled={"etl.high": 7, "etl": 2},
        airflow_slots={},
    )


def test_gauges_tell_how_every_pool_and_queue_is_doing(stats: RecordedStats) -> None:
    metrics.send(metrics.gauges(overviews()))
    assert {one.kind for one in stats.sent} == {"gauge"}
    pools = {name: stats.values(f"workpools.pool.{name}") for name in ("limit", "running", "pending")}
    assert pools == {
        "limit": {("etl",): 10, ("free",): -1, ("bad",): -1},
        "running": {("etl",): 3, ("free",): 0, ("bad",): 0},
        "pending": {("etl",): 4, ("free",): 0, ("bad",): 0},
    }
    assert stats.values("workpools.pool.scheduled") == {("etl",): 9, ("free",): 0, ("bad",): 0}
    assert stats.values("workpools.pool.ready") == {("etl",): 1, ("free",): 0, ("bad",): 0}
    assert stats.values("workpools.pool.paused") == {("etl",): 0, ("free",): 1, ("bad",): 0}
    assert stats.values("workpools.pool.workers_online") == {("etl",): 1, ("free",): 1, ("bad",): 0}

    high, default, free = ("etl", "high"), ("etl", "default"), ("free", "default")
    assert stats.values("workpools.queue.limit") == {high: 3, default: -1, free: -1}
    assert stats.values("workpools.queue.running") == {high: 3, default: 0, free: 0}
    assert stats.values("workpools.queue.pending") == {high: 4, default: 0, free: 0}
    assert stats.values("workpools.queue.scheduled") == {high: 7, default: 2, free: 0}
    assert stats.values("workpools.queue.ready") == {high: 1, default: 0, free: 0}
    assert stats.values("workpools.queue.paused") == {high: 0, default: 1, free: 0}


def test_gauges_are_sent_calmly_and_some_at_a_time(
    stats: RecordedStats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_GAUGES", 24)
    whole = len(list(metrics.gauges(overviews())))
    assert whole > 24
    looks: list[float] = []

    def step(seconds: float) -> int:
        before = len(stats.sent)
        rounds.step(lambda: looks.append(seconds) or overviews(), monotonic=seconds)  # type: ignore[func-returns-value]
        return len(stats.sent) - before

    rounds = metrics.GaugeRounds()
    assert [step(0), step(0.1), step(0.2), step(9.9)] == [24, whole - 24, 0, 0]
    assert [step(10), step(10.1)] == [24, whole - 24]
    assert looks == [0, 10]


# -- the reference --------------------------------------------------------------------------------------------


def reference() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Return the rows of the reference's tables: name, type, tags, unit."""
    text = (ROOT / "docs/reference/metrics.md").read_text()
    rows = re.findall(r"^\| `(workpools\.[\w.]+)` \| (\w+) \| (.*?) \| (.*?) \| .+ \|$", text, re.MULTILINE)
    return [(name, kind, tuple(re.findall(r"`(\w+)`", tags)), unit) for name, kind, tags, unit in rows]


def test_the_reference_lists_every_metric_as_it_is() -> None:
    declared = [(one.name, one.kind, one.tags, one.unit) for one in metrics.METRICS]
    assert len(declared) > 15
    assert reference() == declared


def test_the_reference_lists_every_cause() -> None:
    text = (ROOT / "docs/reference/metrics.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| [A-Z]", text, re.MULTILINE) == [str(cause) for cause in EndCause]


def test_what_is_sent_has_the_declared_tags() -> None:
    samples = [*metrics.gauges(overviews()), *metrics.of_end(ended_job(JobState.FAILED, exit_code=3))]
    assert {sample.metric for sample in samples} == set(metrics.METRICS)
    assert [sample for sample in samples if tuple(sample.tags) != sample.metric.tags] == []
