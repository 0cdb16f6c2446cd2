# SPDX-License-Identifier: Apache-2.0
"""The store in memory as scheduler, API, CLI and UI use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_workpools.core.jobs import ACTIVE, JobState
from airflow_workpools.errors import Conflict, NotFound
from airflow_workpools.store import rules
from airflow_workpools.store.records import JobCount, JobFilter, JobRecord, Purged, QueueRunState, RunState
from airflow_workpools.testing.memory_jobs import MemoryJobs, StoredJob

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Collection
    from datetime import datetime

    from airflow_workpools.core.names import WorkQueueRef
    from airflow_workpools.store.records import WorkerRecord


class RunTimeSide(MemoryJobs):
    """See :class:`~airflow_workpools.store.protocol.RunTimeStore`."""

    def set_pool_paused(self, name: str, paused: bool) -> None:
        with self._lock:
            self._pools[name] = paused

    def set_queue_paused(self, ref: WorkQueueRef, paused: bool) -> None:
        with self._lock:
            self._queues[ref] = self._queues.get(ref, QueueRunState())._replace(paused=paused)

    def run_state(self, *, now: datetime) -> RunState:
        with self._lock:
            workers = sorted(self._workers.values(), key=lambda worker: (worker.started_at, worker.id))
            return RunState(
                as_of=now, pools=dict(self._pools), queues=dict(self._queues), workers=tuple(workers)
            )

    def counts(self, pools: Collection[str] | None = None) -> dict[WorkQueueRef, dict[JobState, JobCount]]:
        result: dict[WorkQueueRef, dict[JobState, JobCount]] = {}
        with self._lock:
            for job in self._find(lambda job: job.record.state in ACTIVE):
                record = job.record
                if pools is None or record.ref.pool in pools:
                    states = result.setdefault(record.ref, {})
                    jobs, slots = states.get(record.state, JobCount(0, 0))
                    states[record.state] = JobCount(jobs + 1, slots + record.pool_slots)
        return result

    def jobs(self, which: JobFilter | None = None, *, limit: int = 100, offset: int = 0) -> list[JobRecord]:
        with self._lock:
            found = [job.record for job in self._find(lambda job: _passes(job.record, which or JobFilter()))]
        found.sort(key=lambda record: record.id)
        found.sort(key=lambda record: record.handed_over_at, reverse=True)
        return found[offset : offset + limit]

    def line(self, ref: WorkQueueRef, *, limit: int) -> list[JobRecord]:
        with self._lock:
            found = [job.record for job in self._find(lambda job: self._is_in_line(job, ref))]
        found.sort(key=lambda record: (-record.priority_weight, record.handed_over_at, record.id))
        return found[:limit]

    def _is_in_line(self, job: StoredJob, ref: WorkQueueRef) -> bool:
        if job.record.state is not JobState.PENDING or job.record.ref != ref:
            return False
        return not any(other.occupies for other in self._rounds(job.record.task_instance_id))

    def worker_counts(self) -> dict[uuid.UUID, JobCount]:
        result: dict[uuid.UUID, JobCount] = {}
        with self._lock:
            for job in self._find(lambda job: job.record.state in ACTIVE):
                if (worker_id := job.record.worker_id) is not None:
                    jobs, slots = result.get(worker_id, JobCount(0, 0))
                    result[worker_id] = JobCount(jobs + 1, slots + job.record.pool_slots)
        return result

    def job(self, job_id: uuid.UUID) -> JobRecord:
        with self._lock:
            if job_id not in self._jobs:
                raise NotFound(rules.unknown_job(job_id))
            return self._jobs[job_id].record

    def forget_pool(self, name: str) -> None:
        with self._lock:
            self._refuse_if_active(f"work pool '{name}'", lambda ref: ref.pool == name)
            self._pools.pop(name, None)
            for ref in [ref for ref in self._queues if ref.pool == name]:
                del self._queues[ref]

    def forget_queue(self, ref: WorkQueueRef) -> None:
        with self._lock:
            self._refuse_if_active(f"work queue '{ref}'", lambda other: other == ref)
            self._queues.pop(ref, None)

    def purge(self, *, before: datetime, limit: int) -> Purged:
        with self._lock:
            old = [
                (record.ended_at, record.id)
                for record in self._old(before)
                if self._rounds(record.task_instance_id)[-1].record is record
            ]
            idle = [(worker.last_heartbeat_at, worker.id) for worker in self._idle(before)]
            gone = [job_id for _, job_id in sorted(old)[:limit]]
            log_chunks = sum(len(self._logs.pop(job_id, ())) for job_id in gone)
            for job_id in gone:
                del self._jobs[job_id]
            for _, worker_id in sorted(idle)[:limit]:
                del self._workers[worker_id]
            return Purged(len(gone), len(idle[:limit]), log_chunks)

    def purgeable(self, *, before: datetime) -> Purged:
        with self._lock:
            old = self._old(before)
            ids = {record.id for record in old}
            going = [
                record
                for record in old
                if all(
                    other.record.id in ids
                    for other in self._rounds(record.task_instance_id)
                    if other.record.round > record.round
                )
            ]
            return Purged(len(going), len(self._idle(before)))

    def _old(self, before: datetime) -> list[JobRecord]:
        """Find jobs that ended long ago, and whose try is over."""
        return [
            job.record
            for job in self._jobs.values()
            if job.record.ended_at is not None
            and job.record.ended_at < before
            and self._is_over(job.record.task_instance_id)
        ]

    def _is_over(self, task_instance_id: uuid.UUID) -> bool:
        facts = self.task_instances.get(task_instance_id)
        return facts is None or facts.state in rules.OVER

    def _idle(self, since: datetime) -> list[WorkerRecord]:
        busy = {job.record.worker_id for job in self._find(lambda job: job.record.state in ACTIVE)}
        return [
            worker
            for worker in self._workers.values()
            if worker.last_heartbeat_at < since and worker.id not in busy
        ]

    def _refuse_if_active(self, what: str, matches: Callable[[WorkQueueRef], bool]) -> None:
        def is_active(job: StoredJob) -> bool:
            return job.record.state in ACTIVE and matches(job.record.ref)

        if active := len(self._find(is_active)):
            raise Conflict(rules.has_active_jobs(what, active))


def _passes(record: JobRecord, which: JobFilter) -> bool:
    among = (
        (record.ref.pool, which.pools),
        (record.ref, which.queues),
        (record.state, which.states),
        (record.id, which.job_ids),
        (record.task_instance_id, which.task_instance_ids),
        (record.worker_id, which.worker_ids),
    )
    equal = (
        (record.dag_id, which.dag_id),
        (record.task_id, which.task_id),
        (record.run_id, which.run_id),
    )
    return all(allowed is None or value in allowed for value, allowed in among) and all(
        wanted is None or value == wanted for value, wanted in equal
    )
