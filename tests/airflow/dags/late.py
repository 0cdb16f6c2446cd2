# SPDX-License-Identifier: Apache-2.0
"""DAGs that are always late, each with a callback for that."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import deadline_callbacks
from airflow.sdk import DAG, DeadlineAlert, DeadlineReference, SyncCallback, task


def late(dag_id: str, callback: Callable[..., Any]) -> DAG:
    """Return a DAG with a deadline that has been missed when its run begins."""
    alert = DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(milliseconds=1),
        callback=SyncCallback(callback, kwargs={"name": dag_id}),
    )
    with DAG(dag_id, schedule=None, deadline=alert) as dag:

        @task
        def nothing() -> None:
            pass

        nothing()
    return dag


late_told = late("late_told", deadline_callbacks.tell)
late_fails = late("late_fails", deadline_callbacks.fail)
late_waits = late("late_waits", deadline_callbacks.wait)
late_queued = late("late_queued", deadline_callbacks.fail)
