# SPDX-License-Identifier: Apache-2.0
"""Three work queues share the ten slots of one work pool.

    airflow workpools create etl --type process --concurrency-limit 10 \
        --queue critical:priority=1,limit=1 --queue high:priority=5,limit=3 --queue low:priority=10

Trigger the DAG and look at its grid: never more than ten tasks run, of them three ``high`` and one
``critical``. A task of a more urgent queue gets the next free slot, however long others have waited for it.
How many tasks there are, and how long each takes, is asked for when you trigger the DAG.
"""

from __future__ import annotations

import time

from airflow.sdk import DAG, Param, task

TASKS = {"low": 40, "high": 9, "critical": 3}

with DAG(
    "reference_example",
    schedule=None,
    catchup=False,
    max_active_tasks=1000,  # only the work pool shall say how many tasks run at once
    params={
        **{queue: Param(number, type="integer", minimum=0) for queue, number in TASKS.items()},
        "seconds": Param(3, type="number", minimum=0),
    },
    doc_md=__doc__,
    tags=["workpools"],
):

    @task
    def count(queue, params):
        """Return a number for each task that shall run in this queue."""
        return list(range(params[queue]))

    @task
    def work(number, params):
        time.sleep(params["seconds"])

    for queue in TASKS:
        numbers = count.override(task_id=f"count_{queue}")(queue)
        work.override(task_id=queue, work_queue=f"etl/{queue}").expand(number=numbers)
