# SPDX-License-Identifier: Apache-2.0
"""What a run of the demo showed, computed from the intervals in which its tasks ran; no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True)
class Interval:
    """The time in which a task ran, and where."""

    start: float
    end: float
    queue: str
    slots: int = 1


@dataclass(frozen=True)
class Limits:
    """How many slots may be taken at once: in the pool, and in those of its queues that have a limit."""

    pool: int
    queues: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """What is written to ``report.json``."""

    tasks: int
    succeeded: int
    wall_seconds: float
    limits: Limits
    max_running: Limits

    def to_json(self) -> dict[str, Any]:
        return {
            "tasks": self.tasks,
            "succeeded": self.succeeded,
            "wall_seconds": round(self.wall_seconds, 3),
            "limits": {"pool": self.limits.pool, "queues": dict(self.limits.queues)},
            "max_running": {"pool": self.max_running.pool, "queues": dict(self.max_running.queues)},
        }


def max_concurrency(intervals: Iterable[Interval]) -> int:
    """Return the most slots that were taken at the same time.

    An interval holds its start and not its end: a slot given back and taken in the same instant counts
    once.
    """
    changes = [change for i in intervals for change in ((i.start, i.slots), (i.end, -i.slots))]
    highest = running = 0
    for _, slots in sorted(changes):
        running += slots
        highest = max(highest, running)
    return highest


def summarise(intervals: Sequence[Interval], *, tasks: int, succeeded: int, limits: Limits) -> DemoReport:
    """Compute the report of a run from what its tasks say of themselves."""
    queues = sorted({interval.queue for interval in intervals} | set(limits.queues))
    by_queue = {
        queue: max_concurrency(interval for interval in intervals if interval.queue == queue)
        for queue in queues
    }
    wall = max((i.end for i in intervals), default=0.0) - min((i.start for i in intervals), default=0.0)
    return DemoReport(
        tasks=tasks,
        succeeded=succeeded,
        wall_seconds=wall,
        limits=limits,
        max_running=Limits(max_concurrency(intervals), by_queue),
    )


def problems(report: DemoReport, *, expected_tasks: int) -> list[str]:
    """Return what did not go as it must: a limit broken, a task lost, the pool never full."""
    found = []
    if report.tasks != expected_tasks or report.succeeded != expected_tasks:
        found.append(
            f"{expected_tasks} tasks should have succeeded, {report.succeeded} of {report.tasks} did"
        )
    seen, limits = report.max_running, report.limits
    if seen.pool > limits.pool:
        found.append(f"the pool ran {seen.pool} tasks at once, its limit is {limits.pool}")
    found += [
        f"queue {queue!r} ran {seen.queues[queue]} tasks at once, its limit is {limit}"
        for queue, limit in limits.queues.items()
        if seen.queues.get(queue, 0) > limit
    ]
    if seen.pool < limits.pool:
        found.append(f"the pool was never full: at most {seen.pool} of {limits.pool} tasks ran at once")
    return found


def order_of_starts(intervals: Iterable[Interval]) -> str:
    """Return in which order the queues' tasks started, as ``6 low, 1 high, …``."""
    started = [interval.queue for interval in sorted(intervals, key=lambda interval: interval.start)]
    return ", ".join(f"{len(list(run))} {queue}" for queue, run in groupby(started))
