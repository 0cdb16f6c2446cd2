# SPDX-License-Identifier: Apache-2.0
"""Job variables of mapped tasks: what all of them share, and what differs from one to the next.

Job variables are a task's ``executor_config``. Airflow stores that once for a task, not for each of its map
indexes: what is given to ``.partial()`` holds for all, and it can't be given to ``.expand()``. There are two
ways to make a difference.
"""

from __future__ import annotations

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, task

from airflow_workpools import work_queue

with DAG("mapped_job_variables", schedule=None, doc_md=__doc__, tags=["workpools"]):
    # 1. The operator's own arguments can be mapped: all have the same job, each command its own environment.
    BashOperator.partial(
        task_id="export",
        bash_command='echo "exporting $COUNTRY for $STAGE"',
        append_env=True,
        work_queue="etl/low",
        executor_config={"env": {"STAGE": "test"}},
    ).expand(env=[{"COUNTRY": country} for country in ("at", "ch", "de")])

    # 2. One mapped task for each kind of job: small files share small jobs, big ones get what they need.
    @task
    def files(size):
        """Return the files of this size; a real DAG would list a bucket here."""
        return {"small": ["a.csv", "b.csv", "c.csv"], "big": ["all.parquet"]}[size]

    @task
    def load(file):
        print(f"loading {file}")

    jobs = {
        "small": work_queue("etl/low", env={"THREADS": "1"}),
        "big": work_queue("etl/high", env={"THREADS": "8"}),
    }
    for size, job in jobs.items():
        found = files.override(task_id=f"{size}_files")(size)
        load.override(task_id=f"load_{size}", **job).expand(file=found)
