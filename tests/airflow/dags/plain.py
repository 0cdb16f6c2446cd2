# SPDX-License-Identifier: Apache-2.0
"""A DAG that knows nothing of work pools."""

from __future__ import annotations

import traces
from airflow.sdk import DAG, task

with DAG("no_work_queue", schedule=None):

    @task
    def plain() -> None:
        traces.note("start")
        print("said without a work queue")
        traces.note("end")

    plain()
