# SPDX-License-Identifier: Apache-2.0
"""Tasks that run longer than any test, and others that wait for their slots."""

from __future__ import annotations

import time

from airflow.sdk import DAG, task


def hold(dag_id: str, queue: str, tasks: int) -> DAG:
    with DAG(dag_id, schedule=None) as made:

        @task(work_queue=queue, retries=0, executor_config={"env": {"API_PASSWORD": "hunter2"}})
        def load(number: int) -> None:
            time.sleep(600)

        load.expand(number=list(range(tasks)))
    return made


hourly_reports = hold("hourly_reports", "etl/high", 3)
backfill = hold("backfill", "etl/low", 2)
short = hold("short", "narrow", 2)

with DAG("quick", schedule=None) as quick:

    @task(work_queue="etl/critical")
    def done() -> None: ...

    done()
