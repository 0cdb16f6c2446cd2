# SPDX-License-Identifier: Apache-2.0
"""The scheduler's housekeeping: what is old goes, a bounded number of rows at a time, every few minutes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from airflow_workpools import duties as duties_module
from airflow_workpools.duties import MAX_PURGED, PURGE_SECONDS, Duties
from airflow_workpools.settings import Settings
from tests.store.rigs import NOW, Rig, memory_rig, new_job

DAY = timedelta(days=1)


@pytest.fixture
def rig() -> Rig:
    return memory_rig()


def duties_of(rig: Rig, keep_days: int | None = 30) -> Duties:
    settings = Settings(home=Path("/nowhere"), keep_finished_jobs_days=keep_days, reconcile_seconds=5)
    return Duties(settings, None, store=rig.store)


def finished(rig: Rig, number: int) -> None:
    """Leave jobs that ended at :data:`NOW`."""
    tries = [new_job() for _ in range(number)]
    ids = rig.hand_over(*tries)
    rig.store.request_cancel(job_ids=ids, reason="x", now=NOW)
    rig.airflow.put("success", NOW, *tries)


def left(rig: Rig) -> int:
    return len(rig.store.jobs(limit=10 * MAX_PURGED))


def test_jobs_and_workers_go_when_they_are_older_than_the_setting_says(rig: Rig) -> None:
    duties = duties_of(rig, keep_days=7)
    finished(rig, 3)
    rig.worker()

    duties.purge(now=NOW + 7 * DAY, monotonic=0)
    assert left(rig) == 3
    duties.purge(now=NOW + 7 * DAY + timedelta(seconds=1), monotonic=PURGE_SECONDS)
    assert left(rig) == 0
    assert rig.store.run_state(now=NOW).workers == ()


def test_without_an_age_everything_is_kept(rig: Rig) -> None:
    duties = duties_of(rig, keep_days=None)
    finished(rig, 3)
    duties.purge(now=NOW + 9999 * DAY, monotonic=0)
    assert left(rig) == 3


def test_a_look_is_taken_every_few_minutes_only(rig: Rig) -> None:
    duties = duties_of(rig)
    duties.purge(now=NOW + 99 * DAY, monotonic=0)
    finished(rig, 3)
    duties.purge(now=NOW + 99 * DAY, monotonic=PURGE_SECONDS - 1)
    assert left(rig) == 3
    duties.purge(now=NOW + 99 * DAY, monotonic=PURGE_SECONDS)
    assert left(rig) == 0


def test_a_backlog_goes_in_bounded_portions_a_few_seconds_apart(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duties_module, "MAX_PURGED", 20)
    duties = duties_of(rig)
    finished(rig, 50)

    seen = []
    for monotonic in (0, 1, 5, 6, 10, 15, PURGE_SECONDS + 10):
        duties.purge(now=NOW + 99 * DAY, monotonic=monotonic)
        seen.append(left(rig))

    assert seen == [30, 30, 10, 10, 0, 0, 0]
