# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from airflow_workpools.core.ends import EndCause, end_cause, phases
from airflow_workpools.core.jobs import JobState

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.utc)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("state", "wished", "exit_code", "claimed", "started", "cause"),
    [
        ("succeeded", None, 0, True, True, "succeeded"),
        ("succeeded", "cancelled", 0, True, True, "succeeded"),  # it ended well before it could be stopped
        ("cancelled", "cancelled", -15, True, True, "cancelled"),
        ("cancelled", None, None, False, False, "cancelled"),
        ("failed", None, None, False, False, "refused"),
        ("failed", "failed", -15, True, True, "start_timeout"),
        ("failed", "failed", None, True, False, "start_timeout"),
        ("failed", None, -9, True, True, "killed"),
        ("failed", None, 137, True, True, "killed"),
        ("failed", None, 1, True, True, "exit_code"),
        ("failed", None, -11, True, False, "exit_code"),
        ("failed", None, None, True, False, "could_not_start"),
        ("failed", None, None, True, True, "lost"),
        ("failed", "cancelled", None, True, True, "lost"),
        ("failed", "cancelled", None, True, False, "lost"),
        ("failed", "cancelled", 2, True, True, "exit_code"),
    ],
)
def test_every_end_has_a_cause(
    state: str, wished: str | None, exit_code: int | None, claimed: bool, started: bool, cause: str
) -> None:
    found = end_cause(
        JobState(state),
        desired_state=JobState(wished) if wished else None,
        exit_code=exit_code,
        claimed_at=NOW if claimed else None,
        started_at=NOW if started else None,
    )
    assert found is EndCause(cause)


def parts(claimed: float | None, started: float | None, ended: float) -> list[tuple[str, float, bool]]:
    found = phases(
        handed_over_at=NOW,
        claimed_at=None if claimed is None else at(claimed),
        started_at=None if started is None else at(started),
        ended_at=at(ended),
    )
    assert found[0].began_at == NOW
    return [(part.name, (part.ended_at - part.began_at).total_seconds(), part.passed) for part in found]


def test_a_life_has_three_parts() -> None:
    assert parts(3, 5, 65) == [("pending", 3, True), ("starting", 2, True), ("running", 60, True)]


def test_what_was_cut_short_has_not_been_passed() -> None:
    assert parts(None, None, 4) == [("pending", 4, False)]
    assert parts(3, None, 10) == [("pending", 3, True), ("starting", 7, False)]


def test_clocks_that_disagree_make_no_time_negative() -> None:
    assert parts(-2, 1, 0.5) == [("pending", 0, True), ("starting", 3, True), ("running", 0, True)]
