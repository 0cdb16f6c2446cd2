# SPDX-License-Identifier: Apache-2.0
"""What the store in memory remembers, and how it changes."""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_workpools.core.jobs import OCCUPYING, TRANSITIONS, JobState
from airflow_workpools.settings import MAX_LOG_BYTES, RESERVE_AFTER
from airflow_workpools.store.records import JobRecord, JobSummary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from airflow_workpools.core.logs import LogChunk
    from airflow_workpools.core.names import WorkQueueRef
    from airflow_workpools.store.records import QueueRunState, WorkerRecord


class TaskInstanceFacts(NamedTuple):
    """What reconciliation has to know of a task instance in Airflow."""

    state: str | None
    updated_at: datetime
    scheduled_at: datetime | None = None


class StoredJob:
    """A job's record, and the workload that goes with it."""

    def __init__(self, record: JobRecord, workload: str) -> None:
        self.record = record
        self.workload = workload

    def change(self, state: JobState | None = None, **values: Any) -> None:
        """Set some of the record, and its state if that may follow."""
        if state is not None and state is not self.record.state:
            assert state in TRANSITIONS[self.record.state], f"{self.record.state} → {state}"
            values["state"] = state
        self.record = replace(self.record, **values)

    @property
    def occupies(self) -> bool:
        return self.record.state in OCCUPYING

    @property
    def is_wished(self) -> bool:
        return self.record.desired_state is not None


class MemoryJobs:
    """Rows, as it were, and one lock in place of transactions."""

    def __init__(self) -> None:
        self.task_instances: dict[uuid.UUID, TaskInstanceFacts] = {}
        """Airflow's task instances. A hand-over makes one ``queued``; a test says what else happens."""
        self.ended_tries: dict[uuid.UUID, datetime] = {}
        """When tries ended that have left ``task_instances`` for Airflow's history."""
        self.living_tasks: set[uuid.UUID] = set()
        """Task instances that have said lately that they run."""
        self.reserve_after = RESERVE_AFTER
        """How long a job waits until slots are kept for it, if it needs more than are free."""
        self.max_log_bytes = MAX_LOG_BYTES
        """How much is kept of what one job writes."""
        self._installation = uuid.uuid4()
        self._jobs: dict[uuid.UUID, StoredJob] = {}
        self._logs: dict[uuid.UUID, list[LogChunk]] = {}
        self._workers: dict[uuid.UUID, WorkerRecord] = {}
        self._tokens: dict[uuid.UUID, str | None] = {}
        self._calls: dict[uuid.UUID, int] = {}
        self._pools: dict[str, bool] = {}
        self._queues: dict[WorkQueueRef, QueueRunState] = {}
        self._lock = threading.RLock()

    def _given(self, job_ids: Iterable[uuid.UUID]) -> list[StoredJob]:
        return [self._jobs[id_] for id_ in dict.fromkeys(job_ids) if id_ in self._jobs]

    def _rounds(self, task_instance_id: uuid.UUID) -> list[StoredJob]:
        """Return the jobs of a task instance, the newest last."""
        found = [job for job in self._jobs.values() if job.record.task_instance_id == task_instance_id]
        return sorted(found, key=lambda job: job.record.round)

    def _is_newest(self, job: StoredJob) -> bool:
        return self._rounds(job.record.task_instance_id)[-1] is job

    def _find(self, matches: Callable[[StoredJob], bool]) -> list[StoredJob]:
        return [job for job in self._jobs.values() if matches(job)]

    def _cancel(
        self,
        jobs: Iterable[StoredJob],
        reason: str,
        now: datetime,
        *,
        desired_state: JobState = JobState.CANCELLED,
    ) -> int:
        """Cancel what waits and wish the end of what has started; return how many jobs this changed."""
        changed = 0
        for job in jobs:
            if job.record.state is JobState.PENDING:
                job.change(JobState.CANCELLED, reason=reason, ended_at=now)
                changed += 1
            elif job.occupies and not job.is_wished:
                job.change(desired_state=desired_state, reason=reason)
                changed += 1
        return changed


IDENTITY = (
    "id",
    "task_instance_id",
    "dag_id",
    "task_id",
    "run_id",
    "map_index",
    "try_number",
    "ref",
    "state",
)
"""What every record of a job says."""


def pick(record: JobRecord, *names: str) -> dict[str, Any]:
    """Return some of a record's values."""
    return {name: getattr(record, name) for name in names}


def requeue(job: StoredJob, reason: str) -> None:
    """Let a job wait again that did not start."""
    job.change(
        JobState.PENDING,
        worker_id=None,
        claimed_at=None,
        renewed_at=None,
        handle=None,
        start_attempts=job.record.start_attempts + 1,
        reason=reason,
    )


def summary(job: StoredJob) -> JobSummary:
    return JobSummary(**pick(job.record, *IDENTITY))
