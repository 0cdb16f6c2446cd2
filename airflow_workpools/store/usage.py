# SPDX-License-Identifier: Apache-2.0
"""How pools were used over a time: slots held, jobs claimed, how long they waited. Read from the jobs' own times."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from airflow_workpools.core.jobs import OCCUPYING, JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.store.statements import usage as statements

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime, timedelta
    from typing import Any

    from sqlalchemy import Row
    from sqlalchemy.orm import Session

WAIT_SAMPLE = 10_000
"""Most jobs of which wait times are read: the newest."""
_CLAIMED_STATES = (*sorted(OCCUPYING), JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Buckets(NamedTuple):
    """A time, cut into parts of the same length."""

    since: datetime
    until: datetime
    number: int

    @property
    def seconds(self) -> float:
        """Length of one."""
        return (self.until - self.since).total_seconds() / self.number

    @classmethod
    def until_now(cls, now: datetime, window: timedelta, number: int) -> Buckets:
        return cls(now - window, now, number)


@dataclass(frozen=True)
class QueueUsage:
    """How a queue was used; one value for each bucket."""

    slots: list[float]
    """Slots held, on average over the bucket."""
    claimed: list[int]
    """Jobs claimed in it."""


class Wait(NamedTuple):
    """A job that was claimed."""

    queue: str
    claimed_at: datetime
    seconds: float


@dataclass
class _Steps:
    """What changed in the slots of a queue, by bucket; before the first is -1."""

    slots: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    slot_seconds: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    """Slots times the moment of the change, in seconds since the first bucket began."""
    claimed: dict[int, int] = field(default_factory=lambda: defaultdict(int))


def slots_used(
    session: Session, pools: Collection[str] | None, buckets: Buckets
) -> dict[WorkQueueRef, QueueUsage]:
    """Return how the queues of pools were used, with two statements; None is of all pools.

    A queue that had no job then is absent.
    """
    steps: dict[WorkQueueRef, _Steps] = defaultdict(_Steps)
    taken = session.execute(statements.claims(pools, buckets.since, buckets.seconds))
    given_back = session.execute(statements.ends(pools, buckets.since, buckets.seconds))
    for sign, rows in ((1, taken), (-1, given_back)):
        for row in rows:
            _add(steps[WorkQueueRef(row.pool, row.queue)], row, sign, buckets)
    return {ref: _usage(of_queue, buckets) for ref, of_queue in steps.items()}


def _add(steps: _Steps, row: Row[Any], sign: int, buckets: Buckets) -> None:
    # What is written by another machine may be a little ahead of now.
    bucket = min(int(row.bucket), buckets.number - 1)
    steps.slots[bucket] += sign * float(row.slots)
    steps.slot_seconds[bucket] += sign * float(row.slot_seconds)
    if sign > 0:
        steps.claimed[bucket] += int(row.jobs)


def _usage(steps: _Steps, buckets: Buckets) -> QueueUsage:
    level, length = steps.slots[-1], buckets.seconds
    slots: list[float] = []
    for bucket in range(buckets.number):
        # Of a change, what is left of the bucket after it counts.
        ends_at = (bucket + 1) * length
        changed = steps.slots[bucket] * ends_at - steps.slot_seconds[bucket]
        slots.append(round(max(0.0, level + changed / length), 3))
        level += steps.slots[bucket]
    return QueueUsage(slots, [steps.claimed[bucket] for bucket in range(buckets.number)])


def waits(session: Session, pool: str, *, since: datetime, limit: int = WAIT_SAMPLE) -> list[Wait]:
    """Return how long jobs of a pool waited that were claimed since then: the newest, at most so many."""
    rows = [
        row
        for state in _CLAIMED_STATES
        for row in session.execute(statements.waits(pool, state, since, limit))
    ]
    rows.sort(key=lambda row: row.handed_over_at, reverse=True)
    return [
        Wait(row.queue, row.claimed_at, max(0.0, (row.claimed_at - row.handed_over_at).total_seconds()))
        for row in rows[:limit]
    ]


def percentile(values: Iterable[float], part: float) -> float | None:
    """Return the least value that so large a part of the values does not exceed; None if there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else None


def percentiles_by_bucket(
    waits: Sequence[Wait], buckets: Buckets, parts: Sequence[float]
) -> Mapping[float, list[float | None]]:
    """Return a percentile of the wait times of the jobs that were claimed in each bucket, for each part."""
    groups: dict[int, list[float]] = defaultdict(list)
    for wait in waits:
        at = (wait.claimed_at - buckets.since).total_seconds() / buckets.seconds
        groups[min(int(at), buckets.number - 1)].append(wait.seconds)
    return {
        part: [percentile(groups.get(bucket, ()), part) for bucket in range(buckets.number)] for part in parts
    }
