# SPDX-License-Identifier: Apache-2.0
"""DAGs of no team."""

from __future__ import annotations

from airflow.sdk import DAG, task

with DAG("nobodys_own", schedule=None):

    @task(work_queue="shared/high")
    def shared() -> None:
        print("in a pool of no team")

    shared()

with DAG("nobodys_trespass", schedule=None):

    @task(work_queue="red-pool")
    def trespass() -> None:
        print("never said")

    trespass()
