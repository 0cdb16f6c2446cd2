# SPDX-License-Identifier: Apache-2.0
"""DAGs of team red: one that stays at home, and those that name a work pool of team blue's."""

from __future__ import annotations

import time

from airflow.sdk import DAG, task

with DAG("red_at_home", schedule=None):

    @task(work_queue="red-pool")
    def own() -> None:
        print("in the team's own pool")

    @task(work_queue="red-vars/urgent")
    def from_environment() -> None:
        print("in the pool that a variable defines for the team")

    @task(work_queue="shared/high")
    def shared() -> None:
        print("in a pool of no team")

    @task
    def plain() -> None:
        print("without a work queue")

    own()
    from_environment()
    shared()
    plain()

with DAG("red_trespasses", schedule=None):

    @task(work_queue="blue-pool")
    def trespass() -> None:
        print("never said")

    @task(work_queue="blue-pool/high", pool="wide")
    def trespass_through_an_airflow_pool() -> None:
        print("never said")

    trespass()
    trespass_through_an_airflow_pool()

with DAG("red_crowd", schedule=None, max_active_tasks=64):

    @task(work_queue="shared/low")
    def many(number: int) -> None:
        time.sleep(0.3)
        print(f"number {number}")

    many.expand(number=list(range(12)))
