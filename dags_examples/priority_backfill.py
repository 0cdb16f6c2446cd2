# SPDX-License-Identifier: Apache-2.0
"""A daily DAG whose backfills never get in the way of today's run.

    airflow backfill create --dag-id priority_backfill --from-date 2026-01-01 --to-date 2026-01-31

The same function is two tasks, one in each work queue; a branch chooses by the kind of run. A backfill of a
month then waits in ``low``, behind the daily runs of this and every other DAG that uses more urgent queues of
the pool ``etl``.
"""

from __future__ import annotations

from datetime import datetime, timezone

from airflow.sdk import DAG, task

with DAG(
    "priority_backfill",
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    doc_md=__doc__,
    tags=["workpools"],
):

    @task.branch
    def choose(dag_run):
        """Return the task that loads the day."""
        return "load_in_backfill" if dag_run.run_type == "backfill" else "load"

    @task
    def load(ds):
        print(f"loading {ds}")

    # The one that was not chosen is skipped, and must not hold up what follows.
    @task(trigger_rule="none_failed_min_one_success")
    def publish(ds):
        print(f"{ds} is complete")

    (
        choose()
        >> [
            load.override(work_queue="etl/high")(),
            load.override(task_id="load_in_backfill", work_queue="etl/low")(),
        ]
        >> publish()
    )
