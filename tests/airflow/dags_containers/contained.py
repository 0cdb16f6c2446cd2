# SPDX-License-Identifier: Apache-2.0
"""DAGs whose tasks run in containers, and the same on a process pool."""

from __future__ import annotations

import os
import signal
import time

from airflow.exceptions import AirflowException
from airflow.sdk import DAG, BaseOperator, Variable, task

HERE, THERE, NARROW, PULLED = "here", "there", "narrow", "pulled"
"""A pool of processes, one of containers, one with a limit, and one of containers that a worker elsewhere starts."""


class Waits(BaseOperator):
    """Says that it has begun, and waits until it is stopped; says so, too."""

    def execute(self, context: object) -> None:
        self.stopped = False
        print("has begun to wait")
        while not self.stopped:
            time.sleep(0.1)

    def on_kill(self) -> None:
        print("was asked to end")
        self.stopped = True


def who() -> None:
    """Say where the task runs."""
    print(f"runs in a container: {os.environ.get('WORKPOOLS_TEST_CONTAINER', 'no')}")


def talk(name: str) -> None:
    """Say something, and something else when the test has said so, by an Airflow variable of this name."""
    print("said early")
    while Variable.get(name, default=None) is None:
        time.sleep(0.5)
    print("said late")


for pool in (HERE, THERE, PULLED):
    with DAG(f"moved_{pool}", schedule=None, default_args={"work_queue": pool}):
        task(who)()

with DAG("in_containers", schedule=None, default_args={"work_queue": NARROW}, max_active_tasks=50):

    @task
    def double(number: int) -> int:
        return 2 * number

    @task
    def add(numbers: list[int]) -> None:
        print(f"the sum is {sum(numbers)}")

    add(double.expand(number=[1, 2, 3]))

for dag_id in ("talks", "stays", "lasts"):
    with DAG(dag_id, schedule=None, default_args={"work_queue": THERE}):
        task(talk)(dag_id)

with DAG("sleeps_pulled", schedule=None, default_args={"work_queue": PULLED}):

    @task
    def sleep() -> None:
        print("has begun to sleep")
        time.sleep(15)

    sleep()

for dag_id in ("long_wait", "long_wait_of_a_dag_that_goes"):
    with DAG(dag_id, schedule=None, default_args={"work_queue": THERE}):
        Waits(task_id="wait")

with DAG("fails", schedule=None, default_args={"work_queue": THERE}):

    @task
    def fail() -> None:
        raise AirflowException("this task fails on purpose")

    fail()

with DAG("crashes", schedule=None, default_args={"work_queue": THERE}):

    @task
    def kill_supervisor() -> None:
        print("going to crash")
        time.sleep(0.5)  # so that it is read
        os.kill(os.getppid(), signal.SIGKILL)

    kill_supervisor()

with DAG("no_image", schedule=None, default_args={"work_queue": THERE}):
    task(executor_config={"image": "127.0.0.1:9/workpools/no-such:1"})(who)()
