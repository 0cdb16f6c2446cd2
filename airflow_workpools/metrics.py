# SPDX-License-Identifier: Apache-2.0
"""The metrics, and how they are sent through Airflow's own: to StatsD, Datadog or OpenTelemetry, whichever is on.

Every metric is declared here once; ``docs/reference/metrics.md`` is checked against the declarations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from airflow_workpools.core.ends import EndCause
from airflow_workpools.core.pools import PoolStatus, QueueStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import timedelta
    from uuid import UUID

    from airflow_workpools.store.overview import PoolOverview, QueueOverview
    from airflow_workpools.store.records import EndedJob

GAUGE_SECONDS = 10.0
"""Time between two rounds of gauges."""
MAX_GAUGES = 500
"""Most gauges that are sent in one loop of the scheduler; the rest of the round follows in the next ones."""
MAX_REMEMBERED = 10_000
"""How many jobs are remembered as measured: the end of one may have to be told twice."""
NO_LIMIT = -1
"""What the gauge of a limit says where there is none, as for Airflow's own pools."""

GAUGE, TIMER, COUNTER = "gauge", "timer", "counter"
_POOL, _QUEUE = ("pool",), ("pool", "queue")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric, as the reference describes it."""

    name: str
    kind: str
    tags: tuple[str, ...]
    unit: str


POOL_LIMIT = Metric(name="workpools.pool.limit", kind=GAUGE, tags=_POOL, unit="slots")
POOL_RUNNING = Metric(name="workpools.pool.running", kind=GAUGE, tags=_POOL, unit="slots")
POOL_PENDING = Metric(name="workpools.pool.pending", kind=GAUGE, tags=_POOL, unit="jobs")
POOL_SCHEDULED = Metric(name="workpools.pool.scheduled", kind=GAUGE, tags=_POOL, unit="tasks")
POOL_READY = Metric(name="workpools.pool.ready", kind=GAUGE, tags=_POOL, unit="0 or 1")
POOL_PAUSED = Metric(name="workpools.pool.paused", kind=GAUGE, tags=_POOL, unit="0 or 1")
POOL_WORKERS = Metric(name="workpools.pool.workers_online", kind=GAUGE, tags=_POOL, unit="workers")
POOL_CAPACITY = Metric(name="workpools.pool.capacity", kind=GAUGE, tags=_POOL, unit="slots")
POOL_CAPACITY_FREE = Metric(name="workpools.pool.capacity_free", kind=GAUGE, tags=_POOL, unit="slots")

QUEUE_LIMIT = Metric(name="workpools.queue.limit", kind=GAUGE, tags=_QUEUE, unit="slots")
QUEUE_RUNNING = Metric(name="workpools.queue.running", kind=GAUGE, tags=_QUEUE, unit="slots")
QUEUE_PENDING = Metric(name="workpools.queue.pending", kind=GAUGE, tags=_QUEUE, unit="jobs")
QUEUE_SCHEDULED = Metric(name="workpools.queue.scheduled", kind=GAUGE, tags=_QUEUE, unit="tasks")
QUEUE_READY = Metric(name="workpools.queue.ready", kind=GAUGE, tags=_QUEUE, unit="0 or 1")
QUEUE_PAUSED = Metric(name="workpools.queue.paused", kind=GAUGE, tags=_QUEUE, unit="0 or 1")

JOB_SCHEDULED = Metric(name="workpools.job.scheduled_duration", kind=TIMER, tags=_QUEUE, unit="milliseconds")
JOB_PENDING = Metric(name="workpools.job.pending_duration", kind=TIMER, tags=_QUEUE, unit="milliseconds")
JOB_STARTING = Metric(name="workpools.job.starting_duration", kind=TIMER, tags=_QUEUE, unit="milliseconds")
JOB_RUNNING = Metric(name="workpools.job.running_duration", kind=TIMER, tags=_QUEUE, unit="milliseconds")

JOB_ENDED = Metric(name="workpools.job.ended", kind=COUNTER, tags=(*_QUEUE, "cause"), unit="jobs")
JOB_EXITED = Metric(name="workpools.job.exit_code", kind=COUNTER, tags=(*_QUEUE, "exit_code"), unit="jobs")

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order of the reference."""

_PHASES = {"pending": JOB_PENDING, "starting": JOB_STARTING, "running": JOB_RUNNING}


class Sample(NamedTuple):
    """One value of a metric."""

    metric: Metric
    value: float | timedelta
    tags: Mapping[str, str]


def send(samples: Iterable[Sample]) -> None:
    """Send values to where Airflow sends its own."""
    # Not the task SDK's module of the same name: that one is set up in the processes of tasks.
    from airflow.observability import stats

    for metric, value, tags in samples:
        if metric.kind == GAUGE:
            stats.gauge(metric.name, value, tags=dict(tags))
        elif metric.kind == TIMER:
            stats.timing(metric.name, value, tags=dict(tags))
        else:
            stats.incr(metric.name, value, tags=dict(tags))


# -- what is now ---------------------------------------------------------------------------------------------


def gauges(pools: Iterable[PoolOverview]) -> Iterator[Sample]:
    """Return how pools and queues are doing."""
    for pool in pools:
        yield from _pool_gauges(pool)
        for queue in pool.queues:
            yield from _queue_gauges(queue)


def _pool_gauges(pool: PoolOverview) -> Iterator[Sample]:
    values: dict[Metric, float] = {
        POOL_LIMIT: NO_LIMIT if pool.limit is None else pool.limit,
        POOL_RUNNING: pool.occupied,
        POOL_PENDING: sum(queue.pending for queue in pool.queues),
        POOL_SCHEDULED: sum(queue.scheduled for queue in pool.queues),
        POOL_READY: pool.status is PoolStatus.READY,
        POOL_PAUSED: pool.paused,
        POOL_WORKERS: pool.workers_online,
        POOL_CAPACITY: _or_no_limit(pool.capacity.total),
        POOL_CAPACITY_FREE: _or_no_limit(pool.capacity.free),
    }
    tags = {"pool": pool.pool.name}
    return (Sample(metric, int(value), tags) for metric, value in values.items())


def _or_no_limit(slots: int | None) -> int:
    return NO_LIMIT if slots is None else slots


def _queue_gauges(overview: QueueOverview) -> Iterator[Sample]:
    limit = overview.queue.concurrency_limit
    values: dict[Metric, float] = {
        QUEUE_LIMIT: NO_LIMIT if limit is None else limit,
        QUEUE_RUNNING: overview.occupied,
        QUEUE_PENDING: overview.pending,
        QUEUE_SCHEDULED: overview.scheduled,
        QUEUE_READY: overview.status is QueueStatus.READY,
        QUEUE_PAUSED: overview.paused,
    }
    tags = {"pool": overview.ref.pool, "queue": overview.ref.queue}
    return (Sample(metric, int(value), tags) for metric, value in values.items())


@dataclass
class GaugeRounds:
    """Sends gauges at a calm pace, and never so many at once that the scheduler's loop would feel it."""

    _next_at: float = float("-inf")
    _left: Iterator[Sample] = field(default_factory=lambda: iter(()))

    def step(self, look: Callable[[], Sequence[PoolOverview]], *, monotonic: float) -> None:
        """Send some gauges of the round that goes on, or begin the next one when it is due.

        :param look: returns how pools and queues are doing; called once for each round.
        """
        if monotonic >= self._next_at:
            self._next_at = monotonic + GAUGE_SECONDS
            self._left = gauges(look())
        left, self._left = self._left, iter(())  # if sending fails, the round is over
        send(islice(left, MAX_GAUGES))
        self._left = left


# -- what has been -------------------------------------------------------------------------------------------


def of_end(job: EndedJob) -> Iterator[Sample]:
    """Return what there is to measure of a job that has ended."""
    tags = {"pool": job.ref.pool, "queue": job.ref.queue}
    yield Sample(JOB_ENDED, 1, {**tags, "cause": str(job.cause)})
    if job.cause in (EndCause.EXIT_CODE, EndCause.KILLED):
        yield Sample(JOB_EXITED, 1, {**tags, "exit_code": str(job.exit_code)})
    if job.scheduled_at is not None and job.scheduled_at <= job.handed_over_at:
        yield Sample(JOB_SCHEDULED, job.handed_over_at - job.scheduled_at, tags)
    for phase in job.phases:
        if phase.passed:
            yield Sample(_PHASES[phase.name], phase.ended_at - phase.began_at, tags)


@dataclass
class EndMeasures:
    """Measures the end of each job once, also when Airflow has to be told of it again."""

    _measured: dict[UUID, None] = field(default_factory=dict)

    def first_told(self, jobs: Iterable[EndedJob]) -> list[EndedJob]:
        """Return the jobs that have not been measured here, and remember them."""
        new = [job for job in jobs if job.id not in self._measured]
        self._measured.update(dict.fromkeys(job.id for job in new))
        for id_ in list(islice(self._measured, max(0, len(self._measured) - MAX_REMEMBERED))):
            del self._measured[id_]
        return new
