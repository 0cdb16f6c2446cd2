# SPDX-License-Identifier: Apache-2.0
"""Tasks for a worker elsewhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from airflow.sdk import DAG, task

sys.path.insert(0, str(Path(__file__).parents[1] / "dags"))
import traces


def holding(dag_id: str) -> DAG:
    """Return a DAG of one task that says that it runs, and goes on until a test releases it."""
    with DAG(dag_id, schedule=None) as dag:

        @task(work_queue="elsewhere")
        def hold() -> None:
            print("this task runs in process", os.getpid())
            traces.work_until(dag_id)
            print("this task was released")

        hold()
    return dag


with DAG("quick", schedule=None) as quick:

    @task(work_queue="elsewhere")
    def say(number: int) -> None:
        traces.note("start")
        secret = [name for name in os.environ if "TOKEN" in name or "JWT" in name or "FERNET" in name]
        print(f"number {number} was here; secrets: {secret}")
        traces.note("end")

    say.expand(number=list(range(4)))

stopped = holding("stopped")
killed = holding("killed")
cut_off_and_killed = holding("cut_off_and_killed")
goes_on = holding("goes_on")
ends_meanwhile = holding("ends_meanwhile")
dies_meanwhile = holding("dies_meanwhile")
rotated = holding("rotated")
encrypted = holding("encrypted")
