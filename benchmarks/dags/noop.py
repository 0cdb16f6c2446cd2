# SPDX-License-Identifier: Apache-2.0
"""DAGs that do nothing, to see what it costs to run them."""

from __future__ import annotations

from airflow.sdk import dag, task


@dag(schedule=None, max_active_tasks=200, catchup=False)
def hundred():
    """A hundred mapped tasks that may all run at once."""

    @task
    def nothing(number: int) -> None:
        """Do nothing."""

    nothing.expand(number=list(range(100)))


@dag(schedule=None, catchup=False)
def single():
    """One task, to see how long it takes to start."""

    @task
    def nothing() -> None:
        """Do nothing."""

    nothing()


hundred()
single()
