# SPDX-License-Identifier: Apache-2.0
"""What was read of the past is good for a while: pages ask for it every few seconds."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from airflow_workpools.store.usage import Buckets, slots_used

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from datetime import datetime

    from sqlalchemy.orm import Session

T = TypeVar("T")

POINTS = 60
HOUR = timedelta(hours=1)


@dataclass
class Kept(Generic[T]):
    """Keeps answers for some time; threads share it. Who finds one too old asks, and the others take the old one.

    :param seconds: how long an answer is good.
    :param monotonic: seconds that never go back.
    """

    seconds: float
    most: int = 200
    monotonic: Callable[[], float] = time.monotonic
    _answers: OrderedDict[Hashable, tuple[float, T]] = field(default_factory=OrderedDict)
    _asking: set[Hashable] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: Hashable, ask: Callable[[], T]) -> T:
        """Return the answer for a key; ask anew if there is none, or it is too old."""
        with self._lock:
            known = self._answers.get(key)
            fresh = known is not None and self.monotonic() - known[0] < self.seconds
            if known is not None and (fresh or key in self._asking):
                return known[1]
            self._asking.add(key)
        try:
            answer = ask()
            with self._lock:
                self._answers[key] = self.monotonic(), answer
                self._answers.move_to_end(key)
                if len(self._answers) > self.most:
                    self._answers.popitem(last=False)
            return answer
        finally:
            with self._lock:
                self._asking.discard(key)


@dataclass(frozen=True)
class Sparklines:
    """Slots used by each pool over the last hour."""

    kept: Kept[dict[str, list[float]]] = field(default_factory=lambda: Kept(30.0))

    def of_all(self, session: Session, now: datetime) -> dict[str, list[float]]:
        """Return the points of every pool that was used."""
        return self.kept.get("all", lambda: _read(session, now))


def _read(session: Session, now: datetime) -> dict[str, list[float]]:
    points: dict[str, list[float]] = {}
    for ref, usage in slots_used(session, None, Buckets.until_now(now, HOUR, POINTS)).items():
        line = points.setdefault(ref.pool, [0.0] * POINTS)
        points[ref.pool] = [a + b for a, b in zip(line, usage.slots, strict=True)]
    return {name: [round(point, 2) for point in line] for name, line in points.items()}


def flat(points: dict[str, list[float]], pool: str) -> list[Any]:
    """Return the points of a pool; of one that was not used, as many of nothing."""
    return points.get(pool) or [0.0] * POINTS
