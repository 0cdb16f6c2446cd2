# SPDX-License-Identifier: Apache-2.0
"""The job store in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_workpools.settings import MAX_LOG_BYTES, RESERVE_AFTER
from airflow_workpools.store.executor_side import ExecutorSide
from airflow_workpools.store.leftover_side import LeftoverSide
from airflow_workpools.store.log_side import LogSide
from airflow_workpools.store.lost_side import LostSide
from airflow_workpools.store.run_time_side import RunTimeSide
from airflow_workpools.store.sessions import SessionFactory, airflow_session
from airflow_workpools.store.worker_side import WorkerSide

if TYPE_CHECKING:
    from datetime import timedelta


class SqlStore(ExecutorSide, LostSide, WorkerSide, LeftoverSide, RunTimeSide, LogSide):
    """Jobs, and the run-time state of pools, queues and workers, in Airflow's metadata database.

    Without state of its own: any number of processes may have one, and threads may share one.
    It is a :class:`~airflow_workpools.store.protocol.JobStore`.

    :param session_factory: where sessions come from.
    :param reserve_after: how long a job waits until slots are kept for it, if it needs more than are free.
    :param max_log_bytes: how much is kept of what one job writes.
    """

    def __init__(
        self,
        session_factory: SessionFactory = airflow_session,
        *,
        reserve_after: timedelta = RESERVE_AFTER,
        max_log_bytes: int = MAX_LOG_BYTES,
    ) -> None:
        super().__init__(session_factory)
        self._max_log_bytes = max_log_bytes
        self._reserve_after = reserve_after
