# SPDX-License-Identifier: Apache-2.0
"""A backend for Airflow's metrics that remembers what it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from airflow.observability import stats
from airflow.observability.metrics.stats_utils import get_stats_factory


class Sent(NamedTuple):
    kind: str
    name: str
    value: Any
    tags: dict[str, str]


@dataclass
class RecordedStats:
    """Remembers every value; ``breaks`` makes it fail."""

    sent: list[Sent] = field(default_factory=list)
    breaks: bool = False

    def _note(self, kind: str, name: str, value: Any, tags: Any) -> None:
        if self.breaks:
            raise OSError("no route to host")
        self.sent.append(Sent(kind, name, value, dict(tags or {})))

    def incr(self, stat: str, count: int = 1, rate: float = 1, *, tags: Any = None) -> None:
        self._note("counter", stat, count, tags)

    def decr(self, stat: str, count: int = 1, rate: float = 1, *, tags: Any = None) -> None:
        self._note("counter", stat, -count, tags)

    def gauge(
        self, stat: str, value: float, rate: float = 1, delta: bool = False, *, tags: Any = None
    ) -> None:
        self._note("gauge", stat, value, tags)

    def timing(self, stat: str, dt: Any, *, tags: Any = None) -> None:
        self._note("timer", stat, dt, tags)

    def timer(self, *_: Any, **__: Any) -> Any:
        return nullcontext()

    def values(self, name: str) -> dict[tuple[str, ...], Any]:
        """Return the last value of a metric for each of its tags' values."""
        return {tuple(one.tags.values()): one.value for one in self.sent if one.name == name}

    def ours(self) -> list[Sent]:
        return [one for one in self.sent if one.name.startswith("workpools.")]


@contextmanager
def recorded_stats() -> Iterator[RecordedStats]:
    """Be Airflow's metrics backend. An executor that is made meanwhile would put its own in the place."""
    recorder = RecordedStats()
    stats.initialize(factory=lambda: recorder, export_legacy_names=False)
    try:
        yield recorder
    finally:
        stats.initialize(factory=get_stats_factory(), export_legacy_names=False)
