# SPDX-License-Identifier: Apache-2.0
"""A DAG of many short tasks in the three queues of one pool; they note each sign of life that they give."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta

import traces
from airflow.sdk import DAG, task

BEAT_SECONDS = 0.2

# Airflow itself fails a try whose heartbeats do not come through, or that cannot write its log.
RETRIES = {"retries": 12, "retry_delay": timedelta(seconds=1)}


def toil(beats: int) -> None:
    """Take some time, and write down that one runs, in case that there is no end to write down."""
    traces.note("start")
    for _ in range(beats):
        time.sleep(BEAT_SECONDS)
        traces.note("beat")
    traces.note("end")


with DAG("storm", schedule=None, max_active_tasks=1000, default_args=RETRIES) as storm:
    for queue, count in json.loads(os.environ["WORKPOOLS_TEST_STORM"]).items():
        decorated = task(task_id=queue, work_queue=f"storm/{queue}")(toil)
        decorated.expand(beats=[4 + number % 4 for number in range(count)])
