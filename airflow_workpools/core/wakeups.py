# SPDX-License-Identifier: Apache-2.0
"""Who of the workers that wait for work is told that there may be some. Pure: counts in, workers out.

For work that is new, as many are woken as can take it, those first that have waited longest. Work that stays where it
is may be held by a limit or a pause: then one is woken from time to time to try, so that a long line which nobody may
take costs no more than a short one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from uuid import UUID

    from airflow_workpools.core.names import WorkQueueRef

FIRST_TRY_SECONDS = 0.25
LONGEST_TRY_SECONDS = 1.0
"""Longest time between two tries to take work that nobody has taken."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Waiter:
    """A worker that waits for work."""

    worker_id: UUID
    pools: frozenset[str]
    queues: frozenset[str] | None = None
    """Those to which it restricts itself, as ``pool/queue``; None: all of its pools."""
    most: int
    """How many jobs it could take."""

    def wants(self, ref: WorkQueueRef) -> bool:
        return self.most > 0 and ref.pool in self.pools and (self.queues is None or str(ref) in self.queues)


@dataclass
class _Line:
    """A queue's waiting jobs, as they were when somebody was woken for them last."""

    jobs: int
    try_at: float
    delay: float = FIRST_TRY_SECONDS


@dataclass
class Wakeups:
    """Remembers for what somebody has been woken."""

    _lines: dict[WorkQueueRef, _Line] = field(default_factory=dict)

    def choose(
        self, waiting: Mapping[WorkQueueRef, int], waiters: Iterable[Waiter], now: float
    ) -> list[Waiter]:
        """Return who is to be woken.

        :param waiting: jobs that wait, by queue, in the pools of those who wait.
        :param waiters: those who wait, the one that has waited longest first.
        :param now: seconds that never go back.
        """
        idle = list(waiters)
        pools = {pool for waiter in idle for pool in waiter.pools}
        self._lines = {
            ref: line for ref, line in self._lines.items() if ref in waiting or ref.pool not in pools
        }
        woken: list[Waiter] = []
        for ref in sorted(waiting):
            interested = [waiter for waiter in idle if waiter.wants(ref)]
            if not interested:
                continue
            wanted = self._wanted(ref, waiting[ref], now)
            for waiter in interested:
                if wanted <= 0:
                    break
                wanted -= waiter.most
                idle.remove(waiter)
                woken.append(waiter)
        return woken

    def _wanted(self, ref: WorkQueueRef, jobs: int, now: float) -> int:
        """Return how many jobs of a queue somebody is to be woken for now."""
        line = self._lines.get(ref)
        if line is None or jobs > line.jobs:
            self._lines[ref] = _Line(jobs, now + FIRST_TRY_SECONDS)
            return jobs - (line.jobs if line else 0)
        if jobs < line.jobs:  # some were taken: more may be
            line.jobs, line.delay, line.try_at = jobs, FIRST_TRY_SECONDS, min(line.try_at, now)
        if now < line.try_at:
            return 0
        line.try_at = now + line.delay
        line.delay = min(2 * line.delay, LONGEST_TRY_SECONDS)
        return 1
