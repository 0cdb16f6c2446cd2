# SPDX-License-Identifier: Apache-2.0
"""Processes for development, Kubernetes Jobs in production: one variable moves all tasks.

The Airflow variable ``forecast_pool`` holds the name of a work pool: ``dev`` runs processes, ``prod-k8s`` Jobs of
Kubernetes.
What a job gets there (image, processors, memory) are job variables; processes have none of these, so they are left out
where tasks run as processes. The mapped tasks come in two sizes, each with an image of its own.

The pools, once for each Airflow::

    airflow workpools create dev --type process --concurrency-limit 4
    airflow workpools create prod-k8s --type kubernetes --set image=registry.example.com/forecast/base:1
"""

from __future__ import annotations

from airflow.sdk import DAG, Variable, task

from airflow_workpools import work_queue

POOL = Variable.get("forecast_pool", default="dev")


def job(image, *, cpu, memory):
    """Return where a task runs, and in a container what it gets there."""
    if POOL == "dev":
        return work_queue(POOL)
    return work_queue(
        POOL,
        image=f"registry.example.com/forecast/{image}:1",
        cpu_request=cpu,
        memory_request=memory,
        memory_limit=memory,  # what uses more is killed, and its reason says so
    )


with DAG("containers_in_production", schedule=None, doc_md=__doc__, tags=["workpools"]):

    @task(**job("base", cpu="250m", memory="512Mi"))
    def countries(size):
        """Return the countries of this size; a real DAG would look into a table here."""
        return {"small": ["at", "ch", "li"], "big": ["us"]}[size]

    @task
    def forecast(country):
        print(f"forecast for {country}")

    jobs = {
        "small": job("statistics", cpu="500m", memory="1Gi"),
        "big": job("deep-learning", cpu="4", memory="16Gi"),
    }
    for size, its_job in jobs.items():
        found = countries.override(task_id=f"{size}_countries")(size)
        forecast.override(task_id=f"forecast_{size}", **its_job).expand(country=found)
