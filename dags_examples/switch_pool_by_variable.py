# SPDX-License-Identifier: Apache-2.0
"""From development to production by one variable: the DAG stays as it is, its tasks run somewhere else.

The Airflow variable ``etl_pool`` holds the name of a work pool. The pool for development and the one for
production differ in limits, in what jobs get, or in what runs them; the queues are the same.

The DAG file is read often, so set the variable in the environment of the DAG processor and of what runs tasks
(``AIRFLOW_VAR_ETL_POOL=etl_production``): there it costs nothing. A variable in Airflow's database works too,
with one query each time the file is read.
"""

from __future__ import annotations

from airflow.sdk import DAG, Variable, task

POOL = Variable.get("etl_pool", default="etl")

with DAG(
    "switch_pool_by_variable",
    schedule=None,
    default_args={"work_queue": f"{POOL}/low"},  # where every task goes that says nothing else
    doc_md=__doc__,
    tags=["workpools"],
):

    @task
    def extract():
        return [1, 2, 3]

    @task(work_queue=f"{POOL}/critical")
    def load(rows):
        print(f"loaded {len(rows)} rows")

    load(extract())
