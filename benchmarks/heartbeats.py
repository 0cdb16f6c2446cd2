# SPDX-License-Identifier: Apache-2.0
"""What a heartbeat of the executor costs the scheduler: slot allocation, and all of ``sync``.

Through the executor's own ``sync`` and duties, on Airflow's real tables in PostgreSQL; only the worker is missing,
which is another process. Duties have paces of their own; here each is due in every heartbeat that is measured, as if
the scheduler looped once in the time of its pace.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from benchmarks.crowd import SCHEDULER
from benchmarks.measuring import milliseconds, statements_of, summary, transactions_with_writes

if TYPE_CHECKING:
    from airflow_workpools.duties import Duties
    from airflow_workpools.executor import WorkPoolExecutor

HANDED_OVER = 16
"""Tasks that the scheduler hands over in a loop, ``[scheduler] max_tis_per_query``; as many end."""
NEVER = float("-inf")


def measure_allocation(engine: sa.Engine, beats: int) -> dict[str, Any]:
    """Measure heartbeats of slot allocation: those that change nothing, and those in which tasks start and end."""
    duties, clock = _duties(), iter(range(1, 10_000_000))

    def beat() -> None:
        duties.allocate(now=datetime.now(timezone.utc), monotonic=float(next(clock)))

    first = milliseconds(beat)
    for _ in range(3):
        beat()
    before = transactions_with_writes(engine)
    quiet = [milliseconds(beat) for _ in range(beats)]
    wrote = transactions_with_writes(engine) - before
    busy = []
    for _ in range(beats):
        _tasks_move(engine)
        busy.append(milliseconds(beat))
    return {
        "first": first,
        "unchanged": summary(quiet),
        "changed": summary(busy),
        "transactions_that_wrote": wrote,
    }


def measure_sync(engine: sa.Engine, beats: int) -> dict[str, Any]:
    """Measure ``sync`` while jobs run: each second, and every few seconds, when jobs are also looked after."""
    from airflow import settings as airflow_settings

    executor = _executor()
    duties = executor._duties
    assert duties is not None

    def each_second() -> None:
        duties._allocated_at = duties._run_state_at = NEVER
        executor._ask_again_at = 0.0
        executor.sync()

    def with_everything() -> None:
        duties._looked_at = duties._counted_at = NEVER
        each_second()

    for _ in range(3):
        with_everything()
    duties._looked_at = duties._counted_at = time.monotonic() + 3600  # these are not due each second
    with statements_of(airflow_settings.engine) as sent:  # type: ignore[arg-type]
        each_second()
    seconds = [milliseconds(each_second) for _ in range(beats)]
    everything = [milliseconds(with_everything) for _ in range(beats)]
    return {
        "each_second": summary(seconds),
        "with_everything": summary(everything),
        "statements": len(sent),
        "running": len(executor.running),
    }


def _duties() -> Duties:
    from airflow_workpools.duties import Duties
    from airflow_workpools.settings import Settings
    from airflow_workpools.store import pools

    pools._shared.cache_clear()  # another crowd has other pools
    return Duties(settings=Settings(home=Path.cwd()), scheduler_job_id=SCHEDULER)


def _executor() -> WorkPoolExecutor:
    from airflow_workpools.executor import WorkPoolExecutor

    executor = WorkPoolExecutor(parallelism=100_000)
    executor.job_id = SCHEDULER
    executor._duties = _duties()
    return executor


def _tasks_move(engine: sa.Engine) -> None:
    """Let as many tasks end and start as in a busy loop of the scheduler."""
    with engine.begin() as connection:
        for before, after in (("running", "success"), ("scheduled", "running")):
            connection.execute(
                sa.text(
                    "UPDATE task_instance SET state = :after WHERE id IN"
                    " (SELECT id FROM task_instance WHERE state = :before ORDER BY random() LIMIT :number)"
                ),
                {"before": before, "after": after, "number": HANDED_OVER},
            )
