# SPDX-License-Identifier: Apache-2.0
"""A pool that always has work waiting: for how much of the time are its slots busy, in a real Airflow?

A slot is *busy* while a job that holds it runs: from ``started_at`` to ``ended_at`` of the job, which is when its
process began and when its end was reported. The rest is the time from one job's end to the next one's start. The time
that counts begins with the first start, and ends when fewer tasks are left to start than there are slots, because then
the pool is not full any more.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from airflow_workpools.cli.local_airflow import LocalAirflow, Ports
from airflow_workpools.cli.local_records import LocalRecords
from tests.migrated import migrate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.postgres import PostgresServer

DAGS = Path(__file__).parent / "dags"
Interval = tuple[float, float]
PHASES = {
    "pending": ("handed_over_at", "claimed_at"),
    "starting": ("claimed_at", "started_at"),
    "before the task": ("started_at", "start_date"),
    "task": ("start_date", "end_date"),
    "after the task": ("end_date", "ended_at"),
}
"""Where a job's time goes, from its hand-over to its end."""
_JOBS = """
SELECT handed_over_at, claimed_at, started_at, ended_at, workpool_job.state, start_date, end_date
FROM workpool_job JOIN task_instance ON task_instance.id = workpool_job.task_instance_id
WHERE started_at IS NOT NULL
"""


def measure_full_pool(
    server: PostgresServer, home: Path, *, tasks: int = 200, slots: int = 10, idle_sleep: float | None = None
) -> dict[str, Any]:
    """Run tasks of a second through a pool; return how busy its slots were.

    :param idle_sleep: how long the scheduler sleeps when it has found nothing to do; None is Airflow's default.
    """
    pool = {"conn_type": "workpool", "extra": {"type": "process", "concurrency_limit": slots}}
    url = server.create_database("full_pool")
    airflow = LocalAirflow(
        home=home,
        dags_folder=DAGS,
        executor="airflow_workpools.WorkPoolExecutor",
        database_url=url,
        ports=Ports.choose(),
        settings={
            "AIRFLOW__CORE__PARALLELISM": "64",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "AIRFLOW_CONN_FULL": json.dumps(pool),
            "BENCH_TASKS": str(tasks),
            **(
                {}
                if idle_sleep is None
                else {"AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": str(idle_sleep)}
            ),
        },
    )
    migrate(airflow)
    records = LocalRecords(url)
    with airflow:
        airflow.start()
        airflow.wait_ready()
        airflow.wait_for(lambda: airflow.api.has_dag("seconds"), timeout=120, what="DAG seconds")
        run_id = airflow.api.trigger("seconds")
        airflow.wait_for(
            lambda: records.run_state("seconds", run_id) in ("success", "failed"),
            timeout=60 + 3 * tasks,
            what="the tasks to end",
            interval=1,
        )
        # A task tells Airflow of its end before its process ends: the last jobs may not have ended yet.
        airflow.wait_for(lambda: not _unended(records), timeout=60, what="the jobs to end")
        with records.connect() as connection:
            jobs = connection.execute(sa.text(_JOBS)).all()
    failed = sum(job.state != "succeeded" for job in jobs)
    if failed or len(jobs) != tasks:
        raise SystemExit(
            f"{len(jobs)} of {tasks} jobs started, {failed} failed; nothing measured here means anything"
        )
    intervals = [(job.started_at.timestamp(), job.ended_at.timestamp()) for job in jobs]
    return {
        "busy": busy_part(intervals, slots),
        "busy_once_full": busy_part(intervals, slots, since=first_full(intervals, slots)),
        "seconds": {name: _median_seconds(jobs, *PHASES[name]) for name in PHASES},
        "empty": {name: _empty_seconds(jobs, name, slots) for name in ("claimed_at", "started_at")},
        "tasks": tasks,
        "slots": slots,
        "over_time": over_time(intervals),
    }


def _unended(records: LocalRecords) -> int:
    with records.connect() as connection:
        count = sa.text("SELECT count(*) FROM workpool_job WHERE ended_at IS NULL")
        return int(connection.scalar(count) or 0)


def _median_seconds(jobs: Sequence[Any], begin: str, end: str) -> float:
    return statistics.median((getattr(job, end) - getattr(job, begin)).total_seconds() for job in jobs)


def _empty_seconds(jobs: Sequence[Any], until: str, slots: int) -> float:
    """Return for how long a slot stays empty between two jobs: so many later, the next is claimed or starts."""
    ends = sorted(job.ended_at.timestamp() for job in jobs)
    following = sorted(getattr(job, until).timestamp() for job in jobs)[slots:]
    gaps = [began - ended for ended, began in zip(ends, following, strict=False)]
    return statistics.median(gaps) if gaps else 0.0


def busy_part(intervals: Sequence[Interval], slots: int, *, since: float | None = None) -> float:
    """Return the part of the slots' time in which jobs ran, as long as there was work for all of them.

    :param since: from when the time counts; None: from the first start.
    """
    starts = sorted(began for began, _ in intervals)
    first = starts[0] if since is None else since
    last = starts[-slots] if len(starts) > slots else starts[-1]
    busy = sum(max(0.0, min(ended, last) - max(began, first)) for began, ended in intervals)
    return busy / (slots * (last - first)) if last > first else 1.0


def first_full(intervals: Sequence[Interval], slots: int) -> float:
    """Return when so many jobs ran at once for the first time; the last start if they never did."""
    starts = sorted(began for began, _ in intervals)
    for at in starts:
        if sum(began <= at < ended for began, ended in intervals) >= slots:
            return at
    return starts[-1]


def over_time(intervals: Sequence[Interval], step: float = 0.25) -> list[tuple[float, int]]:
    """Return how many jobs ran at each moment, in seconds since the first began."""
    first, last = min(began for began, _ in intervals), max(ended for _, ended in intervals)
    moments = [number * step for number in range(int((last - first) / step) + 2)]
    return [(at, sum(began <= first + at < ended for began, ended in intervals)) for at in moments]
