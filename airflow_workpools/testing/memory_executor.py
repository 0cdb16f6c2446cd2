# SPDX-License-Identifier: Apache-2.0
"""The store in memory as the executor uses it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.jobs import ACTIVE, ENDED, JobState, job_id_for
from airflow_workpools.core.lost import NEVER_LAUNCHED, lost_reason
from airflow_workpools.errors import InvalidJobVariables
from airflow_workpools.store import rules
from airflow_workpools.store.records import (
    EndedJob,
    GivenUp,
    JobRecord,
    JobSummary,
    NewJob,
    Reconciled,
    WorkerState,
)
from airflow_workpools.testing.memory_jobs import (
    IDENTITY,
    MemoryJobs,
    StoredJob,
    TaskInstanceFacts,
    pick,
    requeue,
    summary,
)

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from airflow_workpools.store.records import WorkerRecord


class ExecutorSide(MemoryJobs):
    """See :class:`~airflow_workpools.store.protocol.ExecutorStore`."""

    def hand_over(self, job: NewJob, *, now: datetime, session: Any = None) -> uuid.UUID:
        job = replace(job, job_variables=rules.checked_variables(job))
        with self._lock:
            older = self._rounds(job.task_instance_id)
            self._cancel(
                [one for one in older if one.record.state is JobState.PENDING], rules.HANDED_OVER_AGAIN, now
            )
            record = _new_record(job, len(older), now)
            self._jobs[record.id] = StoredJob(record, job.workload)
            self.task_instances[job.task_instance_id] = TaskInstanceFacts("queued", now)
            return record.id

    def hand_over_failed(self, job: NewJob, reason: str, *, now: datetime, session: Any = None) -> uuid.UUID:
        with self._lock:
            try:
                job_id = self.hand_over(job, now=now)
            except InvalidJobVariables:
                job_id = self.hand_over(replace(job, job_variables={}), now=now)
            self._jobs[job_id].change(JobState.FAILED, reason=rules.fit_text(reason), ended_at=now)
            return job_id

    def adopt(
        self,
        task_instance_ids: Collection[uuid.UUID],
        scheduler_job_id: int,
        *,
        session: Any = None,
        team_name: str | None = None,
    ) -> dict[uuid.UUID, JobSummary]:
        adopted = {}
        with self._lock:
            for task_instance_id in task_instance_ids:
                rounds = self._rounds(task_instance_id)
                if not rounds:
                    continue
                rounds[-1].change(reported_at=None)
                for job in rounds:
                    if job.record.reported_at is None:
                        job.change(scheduler_job_id=scheduler_job_id, team_name=team_name)
                adopted[task_instance_id] = summary(rounds[-1])
        return adopted

    def ended(
        self, scheduler_job_id: int, *, limit: int, traced: bool = False, team_name: str | None = None
    ) -> list[EndedJob]:
        with self._lock:
            found = [
                job
                for job in self._of(scheduler_job_id, team_name)
                if job.record.state in ENDED and job.record.reported_at is None
            ]
            found.sort(key=lambda job: (job.record.ended_at, job.record.id))
            return [self._ended(job, traced=traced) for job in found[:limit]]

    def mark_reported(self, job_ids: Collection[uuid.UUID], *, now: datetime) -> None:
        with self._lock:
            for job in self._given(job_ids):
                if job.record.state in ENDED:
                    job.change(reported_at=now)

    def active(self, scheduler_job_id: int, *, team_name: str | None = None) -> list[JobSummary]:
        with self._lock:
            found = [job for job in self._of(scheduler_job_id, team_name) if job.record.state in ACTIVE]
            found.sort(key=lambda job: (job.record.handed_over_at, job.record.id))
            return [summary(job) for job in found]

    def active_count(self, scheduler_job_id: int, *, team_name: str | None = None) -> int:
        return len(self.active(scheduler_job_id, team_name=team_name))

    def request_cancel(
        self,
        *,
        job_ids: Collection[uuid.UUID] = (),
        task_instance_ids: Collection[uuid.UUID] = (),
        reason: str,
        now: datetime,
    ) -> int:
        with self._lock:
            of_task_instances = [job for id_ in task_instance_ids for job in self._rounds(id_)]
            return self._cancel([*self._given(job_ids), *of_task_instances], rules.fit_text(reason), now)

    def stop_cleared(self) -> int:
        with self._lock:
            cleared = [job for job in self._started_unwished() if self._state(job) == "restarting"]
            for job in cleared:
                job.change(desired_state=JobState.CANCELLED, reason=self._now_it_is(job))
            return len(cleared)

    def reconcile(self, *, now: datetime, grace_seconds: float, by_time: bool = True) -> Reconciled:
        finishing_since = now - timedelta(seconds=grace_seconds)
        with self._lock:
            if not by_time:
                return Reconciled(
                    stale=sum(self._cancel([job], self._now_it_is(job), now) for job in self._stale())
                )
            return Reconciled(
                worker_lost=self._fail_lost(now),
                stale=sum(self._cancel([job], self._now_it_is(job), now) for job in self._stale()),
                moved_on=sum(
                    self._cancel([job], self._now_it_is(job), now) for job in self._moved_on(finishing_since)
                ),
                not_started=sum(
                    self._cancel([job], _not_started(job.record), now, desired_state=JobState.FAILED)
                    for job in self._late(now)
                ),
                superseded=self._cancel(self._superseded(now), rules.SUPERSEDED, now),
                untold=self._tell_again(now),
            )

    def give_up_lost(
        self, lost: Collection[WorkerRecord], *, bound: Mapping[str, int], now: datetime, grace_seconds: float
    ) -> GivenUp:
        failed = requeued = 0
        with self._lock:
            for worker in sorted(lost, key=lambda one: one.id):
                found = self._find(partial(self._is_given_up, worker, bound))
                known = self._workers.get(worker.id)
                stopped = known is not None and known.state is WorkerState.STOPPED
                if not found or known is None:
                    continue
                if not stopped and known.last_heartbeat_at != worker.last_heartbeat_at:
                    continue
                self._workers[worker.id] = replace(known, state=WorkerState.STOPPED)
                reason = lost_reason(
                    worker.name,
                    worker.hostname,
                    last_heartbeat_at=worker.last_heartbeat_at,
                    grace_seconds=grace_seconds,
                )
                for job in found:
                    record = job.record
                    if self._state(job) == "queued" and rules.starts_again(
                        record.state.value, record.handle, record.start_attempts, bound[record.ref.pool]
                    ):
                        requeue(job, NEVER_LAUNCHED)
                        requeued += 1
                    else:
                        job.change(JobState.FAILED, reason=_joined(reason, record.reason), ended_at=now)
                        failed += 1
        return GivenUp(failed, requeued)

    def _is_given_up(self, worker: WorkerRecord, bound: Mapping[str, int], job: StoredJob) -> bool:
        alive = self.living_tasks
        return (
            job.occupies
            and not job.is_wished
            and job.record.worker_id == worker.id
            and job.record.ref.pool in bound
            and job.record.task_instance_id not in alive
        )

    def _of(self, scheduler_job_id: int, team_name: str | None) -> list[StoredJob]:
        executor = scheduler_job_id, team_name
        return self._find(lambda job: (job.record.scheduler_job_id, job.record.team_name) == executor)

    def _ended(self, job: StoredJob, *, traced: bool) -> EndedJob:
        ended_at, facts = job.record.ended_at, self._facts(job)
        assert ended_at is not None
        return EndedJob(
            **pick(job.record, *IDENTITY, "reason", "exit_code", "desired_state"),
            **pick(job.record, "handed_over_at", "claimed_at", "started_at"),
            ended_at=ended_at,
            scheduled_at=facts.scheduled_at if facts else None,
            context_carrier=rules.context_carrier(job.workload) if traced else None,
            log_path=None if job.record.state is JobState.SUCCEEDED else rules.log_path(job.workload),
            latest=self._is_newest(job),
        )

    # -- what reconciliation looks for ----------------------------------------------------------------------

    def _facts(self, job: StoredJob) -> TaskInstanceFacts | None:
        return self.task_instances.get(job.record.task_instance_id)

    def _state(self, job: StoredJob) -> str | None:
        facts = self._facts(job)
        return facts.state if facts else None

    def _now_it_is(self, job: StoredJob) -> str:
        return rules.TASK_INSTANCE_IS_NOW + (self._state(job) or rules.CLEARED_OR_GONE)

    def _started_unwished(self) -> list[StoredJob]:
        return self._find(lambda job: job.occupies and not job.is_wished)

    def _stale(self) -> list[StoredJob]:
        return self._find(
            lambda job: job.record.state is JobState.PENDING and self._state(job) not in rules.WAITED_FOR
        )

    def _moved_on(self, finishing_since: datetime) -> list[StoredJob]:
        def has_moved_on(job: StoredJob) -> bool:
            facts = self._facts(job)
            if facts is None:
                ended_at = self.ended_tries.get(job.record.task_instance_id)
                return ended_at is None or ended_at <= finishing_since
            if facts.state is None or facts.state in rules.STOP_AT_ONCE:
                return True
            return facts.state not in rules.WANTED and facts.updated_at <= finishing_since

        return [job for job in self._started_unwished() if has_moved_on(job)]

    def _late(self, now: datetime) -> list[StoredJob]:
        def is_late(record: JobRecord) -> bool:
            assert record.starting_since is not None
            return now - record.starting_since > timedelta(seconds=record.start_timeout_seconds)

        return [
            job
            for job in self._started_unwished()
            if is_late(job.record) and self._state(job) == "queued" and self._is_newest(job)
        ]

    def _superseded(self, now: datetime) -> list[StoredJob]:
        def keeps_waiting(job: StoredJob) -> bool:
            return any(
                newer.record.state is JobState.PENDING
                and newer.record.round > job.record.round
                and newer.record.handed_over_at < now - rules.SUPERSEDED_AFTER
                for newer in self._rounds(job.record.task_instance_id)
            )

        return [job for job in self._started_unwished() if keeps_waiting(job)]

    def _tell_again(self, now: datetime) -> int:
        def is_untold(job: StoredJob) -> bool:
            told_at = job.record.reported_at
            told_long_ago = told_at is not None and told_at < now - rules.TOLD_FOR
            return told_long_ago and self._is_newest(job) and self._state(job) == "queued"

        untold = self._find(is_untold)
        for job in untold:
            job.change(reported_at=None)
        return len(untold)

    def _fail_lost(self, now: datetime) -> int:
        alive = {
            worker.id
            for worker in self._workers.values()
            if abs(worker.last_heartbeat_at - now) <= rules.WORKER_LOST_AFTER
        }
        lost = self._find(lambda job: job.occupies and job.is_wished and job.record.worker_id not in alive)
        for job in lost:
            reason = _joined(rules.WORKER_LOST, job.record.reason)
            job.change(JobState.FAILED, reason=reason, ended_at=now)
        return len(lost)


def _not_started(record: JobRecord) -> str:
    reason = rules.start_timeout_reason(record.ref.pool, record.start_timeout_seconds)
    return _joined(reason, record.reason)


def _joined(reason: str, more: str | None) -> str:
    return reason if more is None else f"{reason}: {more}"


def _new_record(job: NewJob, round_: int, now: datetime) -> JobRecord:
    return JobRecord(
        id=job_id_for(job.task_instance_id, round_),
        task_instance_id=job.task_instance_id,
        round=round_,
        dag_id=job.dag_id,
        task_id=job.task_id,
        run_id=job.run_id,
        map_index=job.map_index,
        try_number=job.try_number,
        ref=job.ref,
        pool_slots=job.pool_slots,
        priority_weight=job.priority_weight,
        state=JobState.PENDING,
        desired_state=None,
        reason=None,
        exit_code=None,
        job_variables=job.job_variables,
        handle=None,
        worker_id=None,
        scheduler_job_id=job.scheduler_job_id,
        start_timeout_seconds=job.start_timeout_seconds,
        start_attempts=0,
        team_name=job.team_name,
        handed_over_at=now,
        claimed_at=None,
        started_at=None,
        ended_at=None,
        reported_at=None,
    )
