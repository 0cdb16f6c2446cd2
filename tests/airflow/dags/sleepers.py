# SPDX-License-Identifier: Apache-2.0
"""DAGs of mapped tasks that take their time in one work queue."""

from __future__ import annotations

import traces
from airflow.sdk import DAG, task


def sleepers(dag_id: str, queue: str, *, count: int, seconds: float) -> DAG:
    """Return a DAG of ``count`` tasks that wait for nothing but their work queue."""
    with DAG(dag_id, schedule=None, max_active_tasks=500) as dag:

        @task(task_id="sleep", work_queue=queue)
        def sleep(number: int, seconds: float) -> None:
            traces.work(seconds)

        sleep.partial(seconds=seconds).expand(number=list(range(count)))
    return dag


low = sleepers("low", "etl/low", count=40, seconds=2)
high = sleepers("high", "etl/high", count=9, seconds=2)
critical = sleepers("critical", "etl/critical", count=3, seconds=2)
