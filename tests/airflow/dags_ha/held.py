# SPDX-License-Identifier: Apache-2.0
"""A DAG whose tasks run until the test lets them go."""

from __future__ import annotations

import os
import time
from pathlib import Path

import traces
from airflow.sdk import DAG, task

with DAG("held", schedule=None) as held:

    @task(work_queue="held")
    def hold(number: int) -> None:
        traces.note("start")
        while not Path(os.environ["WORKPOOLS_TEST_RELEASE"]).exists():
            time.sleep(0.1)
        traces.note("end")

    hold.expand(number=list(range(8)))
