# SPDX-License-Identifier: Apache-2.0
"""DAGs whose tasks are interfered with, or hand themselves over several times."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import traces
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG, task


def _second_look(task_reschedule_count: int, **_: Any) -> bool:
    return task_reschedule_count > 0


with DAG("stubborn", schedule=None) as stubborn:

    @task(work_queue="moving")
    def sleep() -> None:
        traces.work(120)

    sleep()

with DAG("waits_behind", schedule=None) as waits_behind:

    @task(
        work_queue="one-by-one", pool="wide"
    )  # an Airflow pool with room: the second waits in the job store
    def wait(number: int) -> None:
        traces.work(120)

    wait.expand(number=[1, 2])

with DAG("rounds", schedule=None) as rounds:
    PythonSensor(
        task_id="reschedules",
        python_callable=_second_look,
        mode="reschedule",
        poke_interval=1,
        work_queue="moving",
    )
    TimeDeltaSensor(task_id="defers", delta=timedelta(seconds=10), deferrable=True, work_queue="moving")

with DAG("never_starts", schedule=None) as never_starts:

    @task(work_queue="slow-start")
    def unreachable() -> None:
        traces.work(0)

    unreachable()
