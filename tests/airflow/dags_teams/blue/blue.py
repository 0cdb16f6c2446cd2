# SPDX-License-Identifier: Apache-2.0
"""DAGs of team blue."""

from __future__ import annotations

import time

from airflow.sdk import DAG, task

with DAG("blue_at_home", schedule=None):

    @task(work_queue="blue-pool/high")
    def own() -> None:
        print("in the team's own pool")

    own()

with DAG("blue_crowd", schedule=None, max_active_tasks=64):

    @task(work_queue="shared/high")
    def many(number: int) -> None:
        time.sleep(0.3)
        print(f"number {number}")

    many.expand(number=list(range(12)))
