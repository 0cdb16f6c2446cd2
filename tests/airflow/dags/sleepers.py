# SPDX-License-Identifier: Apache-2.0
"""DAGs of mapped tasks that take their time in one work queue."""

from __future__ import annotations

import traces
from airflow.sdk import DAG, task


def sleepers(dag_id: str, queue: str, *, count: int, seconds: float, **arguments: str) -> DAG:
    """Return a DAG of ``count`` tasks that wait for nothing but their work queue."""
    with DAG(dag_id, schedule=None, max_active_tasks=500) as dag:

        @task(task_id="sleep", work_queue=queue, **arguments)
        def sleep(number: int, seconds: float) -> None:
            traces.work(seconds)

        sleep.partial(seconds=seconds).expand(number=list(range(count)))
    return dag


def held(dag_id: str, queue: str, *, count: int) -> DAG:
    """Return a DAG of ``count`` tasks that run until a test releases them, by the DAG's name."""
    with DAG(dag_id, schedule=None, max_active_tasks=500) as dag:

        @task(task_id="wait", work_queue=queue)
        def wait(number: int) -> None:
            traces.work_until(dag_id)

        wait.expand(number=list(range(count)))
    return dag


# The example that everything must satisfy.
low = sleepers("low", "etl/low", count=40, seconds=2)
high = sleepers("high", "etl/high", count=9, seconds=2)
critical = sleepers("critical", "etl/critical", count=3, seconds=2)

# Pausing: they run until the test lets them end, however long a pause takes.
held_low = held("held_low", "etl/low", count=14)
held_high = held("held_high", "etl/high", count=6)

# Crashes: all of them run when it happens.
survivors = sleepers("survivors", "crash", count=8, seconds=6)

# A pull pool: whoever comes for its job.
far = sleepers("far", "far", count=1, seconds=0)

# Backlogs: the last one waits far longer than Airflow lets a task be queued. One waits as `scheduled`, for a
# slot of its work queue; the other, whose author chose an Airflow pool with room for all, waits as `queued`.
backlog = sleepers("backlog", "narrow", count=18, seconds=1)
queued_backlog = sleepers("queued_backlog", "thin", count=18, seconds=1, pool="wide")

# Bad input: pools that vanish while tasks wait in Airflow and in the store, rows changed by hand, a home that is
# read-only, a priority that cannot be told.
doomed = sleepers("doomed", "doomed", count=4, seconds=6)
doomed_in_store = sleepers("doomed_in_store", "doomed", count=3, seconds=1, pool="wide")
by_hand = sleepers("by_hand", "crash", count=4, seconds=10)
unwritable = sleepers("unwritable", "crash", count=3, seconds=0)
unranked = sleepers("unranked", "etl/critical", count=2, seconds=1)

# Two limits at once, and a task that needs most of its pool among small ones, which end one by one.
with DAG("two_limits", schedule=None, max_active_tasks=500) as two_limits:

    @task(work_queue="shared")
    def small(seconds: float) -> None:
        traces.work(seconds)

    @task(work_queue="shared", pool="db")
    def in_db(number: int) -> None:
        traces.work(1)

    @task(work_queue="shared", pool_slots=3, priority_weight=1000)
    def large() -> None:
        traces.work(1)

    small.expand(seconds=[1 + number % 5 * 0.37 for number in range(20)])
    in_db.expand(number=list(range(6)))
    small.override(task_id="opener", priority_weight=2000)(0.1) >> large()
