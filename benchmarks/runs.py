# SPDX-License-Identifier: Apache-2.0
"""Runs of DAGs in a real Airflow, and how long they take."""

from __future__ import annotations

import time
from dataclasses import dataclass

from airflow_workpools.cli.local_airflow import LocalAirflow
from airflow_workpools.cli.local_records import LocalRecords, TaskTry


@dataclass(frozen=True)
class Runs:
    """Runs of one Airflow.

    :param records: of its database.
    """

    airflow: LocalAirflow
    records: LocalRecords

    def wait_for_dags(self, *dag_ids: str) -> None:
        """Wait until DAGs can be triggered."""
        for dag_id in dag_ids:
            self.airflow.wait_for(
                lambda dag_id=dag_id: self.airflow.api.has_dag(dag_id), timeout=60, what=f"DAG {dag_id}"
            )

    def wall_seconds(self, dag_id: str) -> float:
        """Run a DAG; return the seconds from its trigger to the end of its last task."""
        began = time.time()
        return max(task.ended_at or 0 for task in self.finish(dag_id)) - began

    def finish(self, dag_id: str) -> list[TaskTry]:
        """Run a DAG to its end and return its tasks, which have all succeeded."""
        run_id = self.airflow.api.trigger(dag_id)
        # Asked seldom: the question itself costs PostgreSQL's time.
        self.airflow.wait_for(
            lambda: self.records.run_state(dag_id, run_id) in ("success", "failed"),
            timeout=180,
            what=f"{dag_id} to end",
            interval=0.5,
        )
        tries = self.records.tries(dag_id, run_id)
        failed = [task for task in tries if task.state != "success"]
        if failed:
            raise SystemExit(f"{len(failed)} tasks did not succeed; nothing measured here means anything")
        return tries
