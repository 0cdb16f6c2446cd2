# SPDX-License-Identifier: Apache-2.0
"""The job store in SQL."""

from __future__ import annotations

from airflow_workpools.store.executor_side import ExecutorSide
from airflow_workpools.store.run_time_side import RunTimeSide
from airflow_workpools.store.worker_side import WorkerSide


class SqlStore(ExecutorSide, WorkerSide, RunTimeSide):
    """Jobs, and the run-time state of pools, queues and workers, in Airflow's metadata database.

    Without state of its own: any number of processes may have one, and threads may share one.
    It is a :class:`~airflow_workpools.store.protocol.JobStore`.
    """
