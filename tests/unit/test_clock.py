# SPDX-License-Identifier: Apache-2.0
"""The clock that schedulers and workers share: it goes by the database, whatever happens to a machine's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

import pytest

from airflow_workpools.store import clock as clock_module
from airflow_workpools.store.clock import DatabaseClock

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


@dataclass
class Machine:
    """A machine, and a database somewhere else."""

    database: datetime = NOW
    monotonic: float = 1000.0
    asked: int = 0
    latency: float = 0.0
    clock: DatabaseClock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = DatabaseClock(self._ask, monotonic=lambda: self.monotonic)

    def _ask(self) -> datetime:
        self.asked += 1
        self.passes(self.latency)
        return self.database

    def passes(self, seconds: float) -> None:
        self.monotonic += seconds
        self.database += timedelta(seconds=seconds)


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forwards", "backwards"])
def test_a_jump_of_the_machines_own_clock_changes_nothing(
    jump: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine()
    machine.clock.refresh()
    host = clock_module.host_time
    monkeypatch.setattr(clock_module, "host_time", lambda: host() + jump)
    machine.passes(7)
    assert machine.clock() == NOW + timedelta(seconds=7)
    machine.passes(7)
    machine.clock.refresh()
    assert machine.clock() == NOW + timedelta(seconds=14)
    assert machine.clock.is_settled(10_000)


def test_machines_whose_clocks_differ_by_an_hour_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    host = clock_module.host_time
    one = Machine()
    monkeypatch.setattr(clock_module, "host_time", lambda: host() + HOUR)
    other = Machine()
    one.clock.refresh()
    other.clock.refresh()
    assert one.clock() == other.clock() == NOW


def test_the_database_is_asked_now_and_then() -> None:
    machine = Machine()
    for _ in range(100):
        machine.clock.refresh()
        machine.passes(0.5)
    assert machine.asked == 5


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forwards", "backwards"])
def test_a_jump_of_the_databases_clock_is_followed_and_told_and_nobody_is_judged_for_a_while(
    jump: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine()
    machine.clock.refresh()
    machine.database += jump
    machine.passes(10)
    machine.clock.refresh()
    assert machine.clock() == NOW + jump + timedelta(seconds=10)
    assert f"has jumped by {jump.total_seconds():+.0f} s" in caplog.text
    assert not machine.clock.is_settled(60)
    machine.passes(60)
    assert machine.clock.is_settled(60)


def test_a_slow_answer_is_no_jump(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    machine.clock.refresh()
    machine.passes(10)
    machine.latency = 30
    machine.clock.refresh()
    assert machine.clock.is_settled(60)
    assert "jumped" not in caplog.text


def test_a_clock_that_has_no_answer_goes_on() -> None:
    machine = Machine()
    machine.clock.refresh()

    def fail() -> datetime:
        raise ConnectionError

    machine.clock._ask = fail
    machine.passes(20)
    with pytest.raises(ConnectionError):
        machine.clock.refresh()
    assert machine.clock() == NOW + timedelta(seconds=20)
