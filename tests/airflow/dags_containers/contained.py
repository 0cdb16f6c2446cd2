# SPDX-License-Identifier: Apache-2.0
"""DAGs whose tasks run in containers, and the same on a process pool: the conf of a run says where."""

from __future__ import annotations

import os
import time

from airflow.exceptions import AirflowException
from airflow.sdk import DAG, BaseOperator, task

HERE, THERE, PULLED = "here", "there", "pulled"
"""A pool of processes, one of containers, and one of containers that a worker elsewhere starts."""


class Waits(BaseOperator):
    """Says that it has begun, and waits until it is stopped; says so, too."""

    def execute(self, context: object) -> None:
        print("has begun to wait")
        time.sleep(600)

    def on_kill(self) -> None:
        print("was asked to end")


def who() -> None:
    """Say where the task runs."""
    print(f"runs in a container: {os.environ.get('WORKPOOLS_TEST_CONTAINER', 'no')}")


for pool in (HERE, THERE, PULLED):
    with DAG(f"moved_{pool}", schedule=None, default_args={"work_queue": pool}):
        task(who)()

with DAG("in_containers", schedule=None, default_args={"work_queue": THERE}, max_active_tasks=50):

    @task
    def double(number: int) -> int:
        return 2 * number

    @task
    def add(numbers: list[int]) -> None:
        print(f"the sum is {sum(numbers)}")

    add(double.expand(number=[1, 2, 3, 4, 5]))

with DAG("talks", schedule=None, default_args={"work_queue": THERE}):

    @task
    def talk() -> None:
        print("said early")
        time.sleep(20)
        print("said late")

    talk()

with DAG("long_wait", schedule=None, default_args={"work_queue": THERE}):
    Waits(task_id="wait")

for dag_id, pool in (("sleeps", THERE), ("sleeps_pulled", PULLED)):
    with DAG(dag_id, schedule=None, default_args={"work_queue": pool}):

        @task
        def sleep() -> None:
            print("has begun to sleep")
            time.sleep(25)

        sleep()

with DAG("fails", schedule=None, default_args={"work_queue": THERE}):

    @task
    def fail() -> None:
        raise AirflowException("this task fails on purpose")

    fail()

with DAG("no_image", schedule=None, default_args={"work_queue": THERE}):
    task(executor_config={"image": "127.0.0.1:9/workpools/no-such:1"})(who)()
