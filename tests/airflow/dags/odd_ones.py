# SPDX-License-Identifier: Apache-2.0
"""DAGs that use work pools beside something else, or wrongly."""

from __future__ import annotations

import os

import traces
from airflow.sdk import DAG, task


@task
def say(text: str) -> str:
    traces.note("start")
    print(text)
    traces.note("end")
    return text


with DAG("beside", schedule=None) as beside:
    say.override(task_id="ours", work_queue="etl/high")("said in a work pool")
    say.override(task_id="theirs", executor="LocalExecutor")("said by LocalExecutor")

with DAG("new_pool", schedule=None) as new_pool:
    # An Airflow pool of its own, so that nothing but the work pool's definition is waited for.
    say.override(task_id="first", work_queue="brand-new", pool="wide")(
        "said in a pool that was made just now"
    )

with DAG("unknown_pool", schedule=None) as unknown_pool:
    say.override(task_id="lost", queue="nowhere/low")("never said")

with DAG("unknown_queue", schedule=None) as unknown_queue:
    say.override(task_id="lost", work_queue="etl/lwo")("never said")

with DAG("unknown_variable", schedule=None) as unknown_variable:
    say.override(task_id="lost", work_queue="etl/low", executor_config={"imgae": "x"})("never said")

with DAG("greeted", schedule=None) as greeted:

    @task(work_queue="greeting")
    def read_greeting() -> None:
        print(f"the job was told {os.environ['GREETING']}")

    read_greeting()

with DAG("long_talk", schedule=None) as long_talk:

    @task(work_queue="etl/high")
    def talk() -> None:
        print("said early")
        traces.work(15)
        print("said late")

    talk()
