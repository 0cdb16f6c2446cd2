# SPDX-License-Identifier: Apache-2.0
"""For tests of whatever uses this package: a job store in memory, and an infrastructure without anything behind it.

The same contract tests run on them as on the real ones. What the store cannot do is roll back: it ignores the
session it is given.
"""

from __future__ import annotations

from airflow_workpools.testing.fake_infrastructure import (
    FakeInfrastructure,
    FakeInfrastructureWithLog,
    FakePlatform,
)
from airflow_workpools.testing.memory_executor import ExecutorSide
from airflow_workpools.testing.memory_jobs import MemoryJobs, TaskInstanceFacts
from airflow_workpools.testing.memory_leftovers import LeftoverSide
from airflow_workpools.testing.memory_logs import LogSide
from airflow_workpools.testing.memory_run_time import RunTimeSide
from airflow_workpools.testing.memory_worker import WorkerSide

__all__ = [
    "FakeInfrastructure",
    "FakeInfrastructureWithLog",
    "FakePlatform",
    "MemoryStore",
    "TaskInstanceFacts",
]


class MemoryStore(ExecutorSide, WorkerSide, LeftoverSide, RunTimeSide, LogSide, MemoryJobs):
    """A :class:`~airflow_workpools.store.protocol.JobStore` in memory; threads may share one."""
