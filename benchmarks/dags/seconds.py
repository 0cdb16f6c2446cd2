# SPDX-License-Identifier: Apache-2.0
"""Tasks of a second each, more than a pool can run at once."""

from __future__ import annotations

import os
import time

from airflow.sdk import dag, task

TASKS = int(os.environ.get("BENCH_TASKS", "200"))


@dag(schedule=None, max_active_tasks=1000, catchup=False)
def seconds():
    """Mapped tasks in one work pool."""

    @task(queue="full/default")
    def second(number: int) -> None:
        """Take a second."""
        time.sleep(1)

    second.expand(number=list(range(TASKS)))


seconds()
