# SPDX-License-Identifier: Apache-2.0
"""The store in memory as workers use it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_workpools.core.jobs import ACTIVE, ENDED, JobState, sources_of
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.slots import WaitingJob
from airflow_workpools.errors import Conflict, NotFound
from airflow_workpools.store import capacity, claim_rules, rules
from airflow_workpools.store.records import (
    ClaimedJob,
    JobRecord,
    QueueRunState,
    Report,
    ReportOutcome,
    Wish,
    WorkerKind,
    WorkerRecord,
    WorkerState,
)
from airflow_workpools.testing.memory_jobs import IDENTITY, MemoryJobs, StoredJob, pick, requeue

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime
    from typing import Any

    from airflow_workpools.core.pools import WorkPool


class WorkerSide(MemoryJobs):
    """See :class:`~airflow_workpools.store.protocol.WorkerStore`."""

    def register_worker(
        self,
        worker: WorkerRecord,
        *,
        now: datetime,
        token_id: str | None = None,
        instead_of: str | None = None,
        call: int | None = None,
    ) -> None:
        with self._lock:
            known = self._tokens.get(worker.id, token_id)
            if known != token_id and (known is None or known != instead_of):
                raise Conflict(
                    f"worker {worker.id} has registered with another token; start it with a new id"
                )
            self._begin_call(worker.id, call)
            self._tokens[worker.id] = token_id
            self._workers[worker.id] = replace(
                worker,
                state=WorkerState.ONLINE,
                last_heartbeat_at=now,
                steady_since=now,
                token_id=token_id,
            )

    def worker(self, worker_id: uuid.UUID) -> WorkerRecord:
        with self._lock:
            return self._registered(worker_id)

    def _begin_call(self, worker_id: uuid.UUID, call: int | None) -> None:
        if call is not None:
            if call <= self._calls.get(worker_id, 0):
                raise Conflict(f"call {call} of worker {worker_id} was made before, or was overtaken")
            self._calls[worker_id] = call

    def heartbeat(
        self, worker_id: uuid.UUID, *, now: datetime, hindered: Mapping[str, str] | None = None
    ) -> WorkerState:
        with self._lock:
            worker = self._registered(worker_id)
            if worker.state is not WorkerState.STOPPED:
                hindered = worker.hindered if hindered is None else dict(hindered)
                steady_since = now if worker.silent(now) else worker.steady_since
                self._workers[worker_id] = replace(
                    worker, last_heartbeat_at=now, hindered=hindered, steady_since=steady_since
                )
            return worker.state

    def drain_worker(self, worker_id: uuid.UUID) -> None:
        with self._lock:
            worker = self._registered(worker_id)
            if worker.state is not WorkerState.STOPPED:
                self._workers[worker_id] = replace(worker, state=WorkerState.DRAINING)

    def resume_worker(self, worker_id: uuid.UUID) -> None:
        with self._lock:
            worker = self._registered(worker_id)
            if worker.state is WorkerState.DRAINING:
                self._workers[worker_id] = replace(worker, state=WorkerState.ONLINE)

    def stop_worker(self, worker_id: uuid.UUID, *, now: datetime) -> None:
        with self._lock:
            if worker := self._workers.get(worker_id):
                self._workers[worker_id] = replace(worker, state=WorkerState.STOPPED, last_heartbeat_at=now)

    def claim(
        self,
        worker_id: uuid.UUID,
        pools: Sequence[WorkPool],
        *,
        room: int,
        now: datetime,
        most: int | None = None,
        call: int | None = None,
    ) -> list[ClaimedJob]:
        wanted = claim_rules.wanted(room, most)
        with self._lock:
            worker = self._registered(worker_id)
            if worker.state is not WorkerState.ONLINE or wanted <= 0:
                return []
            room = min(room, capacity.free_slots(worker, self._holds()))
            wanted = min(wanted, room)
            if room <= 0:
                return []
            by_name = sorted(
                (pool for pool in pools if rules.serves(worker, pool)), key=lambda pool: pool.name
            )
            lines = [
                self._choose(pool, worker, room, wanted, now)
                for pool in by_name
                if not self._pools.get(pool.name)
            ]
            chosen = [self._jobs[job.id] for job in claim_rules.take_turns(lines, room=room, most=wanted)]
            if chosen:
                self._begin_call(worker_id, call)
            for job in chosen:
                job.change(JobState.CLAIMED, worker_id=worker_id, claimed_at=now)
            return [_claimed(job) for job in chosen]

    def waiting_jobs(self, pools: Collection[str]) -> dict[WorkQueueRef, int]:
        with self._lock:
            waiting = self._find(
                lambda job: job.record.state is JobState.PENDING and job.record.ref.pool in pools
            )
        return dict(Counter(job.record.ref for job in waiting))

    def wished_jobs(self, worker_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, set[uuid.UUID]]:
        with self._lock:
            wished = {id_: {job.record.id for job in self._held(id_) if job.is_wished} for id_ in worker_ids}
        return {id_: jobs for id_, jobs in wished.items() if jobs}

    def poll(self, refs: Collection[WorkQueueRef], *, now: datetime) -> None:
        with self._lock:
            for ref in refs:
                state = self._queues.get(ref, QueueRunState())
                if rules.poll_is_due(state.last_polled_at, now):
                    self._queues[ref] = state._replace(last_polled_at=now)

    def report(
        self, worker_id: uuid.UUID, reports: Sequence[Report], *, now: datetime
    ) -> list[ReportOutcome]:
        last = rules.last_reports(reports)
        with self._lock:
            outcomes = {id_: self._report(worker_id, report, now) for id_, report in last.items()}
        return [outcomes[report.job_id] for report in reports]

    def requeue(
        self,
        worker_id: uuid.UUID,
        job_ids: Collection[uuid.UUID],
        reason: str,
        *,
        now: datetime,
        start_attempts: Mapping[uuid.UUID, int] | None = None,
    ) -> int:
        of_claims = start_attempts or {}
        with self._lock:
            jobs = [
                job
                for job in self._given(job_ids)
                if job.record.worker_id == worker_id
                and job.record.state in sources_of(JobState.PENDING)
                and job.record.start_attempts == of_claims.get(job.record.id, job.record.start_attempts)
            ]
            for job in jobs:
                if job.is_wished or not self._is_newest(job):
                    _end_instead(job, now)
                else:
                    requeue(job, rules.fit_text(reason))
            return len(jobs)

    def wishes(self, worker_id: uuid.UUID) -> list[Wish]:
        with self._lock:
            return [Wish(job.record.id, job.record.reason) for job in self._held(worker_id) if job.is_wished]

    def mine(self, worker_id: uuid.UUID, *, call: int | None = None) -> list[ClaimedJob]:
        with self._lock:
            self._begin_call(worker_id, call)
            return [_claimed(job) for job in self._held(worker_id)]

    def revoked(self, start_attempts: Mapping[uuid.UUID, int]) -> list[uuid.UUID]:
        with self._lock:
            held = {
                job.record.id: job.record.start_attempts
                for job in self._given(start_attempts)
                if job.occupies and job.record.worker_id is not None
            }
        return rules.revoked(start_attempts, held)

    def renew(
        self, worker_id: uuid.UUID, job_ids: Collection[uuid.UUID], *, now: datetime
    ) -> list[ClaimedJob]:
        with self._lock:
            starting = [
                job
                for job in self._given(job_ids)
                if job.record.worker_id == worker_id
                and job.record.state in (JobState.CLAIMED, JobState.SUBMITTED)
                and not job.is_wished
            ]
            for job in starting:
                job.change(renewed_at=now)
            return [_claimed(job) for job in starting]

    def take_over(
        self,
        worker_id: uuid.UUID,
        hostname: str,
        *,
        now: datetime,
        roaming: Mapping[str, str] = rules.NOTHING_ROAMS,
        call: int | None = None,
    ) -> list[ClaimedJob]:
        with self._lock:
            self._begin_call(worker_id, call)
            me = self._registered(worker_id)
            if me.state is WorkerState.STOPPED:
                return []
            dead = self._dead(me, now)
            here = [other for other in dead if other.hostname == hostname]
            elsewhere = [other for other in dead if other not in here] if roaming else []
            for other in (*here, *elsewhere):
                self._workers[other.id] = replace(other, state=WorkerState.STOPPED)
            its_own = rules.pools_of_jobs(me)
            if its_own is not None:
                roaming = {pool: kind for pool, kind in roaming.items() if pool in its_own}
            left = sorted(
                (
                    job
                    for other in here
                    for job in self._held(other.id)
                    if its_own is None or job.record.ref.pool in its_own
                ),
                key=_by_claim,
            )
            left += sorted(
                (job for other in elsewhere for job in self._held(other.id) if _roams(job, roaming)),
                key=_by_claim,
            )
            for job in left:
                job.change(worker_id=worker_id)
            return [_claimed(job) for job in left]

    def pools_left_behind(self, *, now: datetime) -> set[str]:
        with self._lock:
            return {
                job.record.ref.pool
                for worker in self._workers.values()
                if worker.kind is WorkerKind.STANDALONE
                and (worker.state is WorkerState.STOPPED or worker.silent(now))
                for job in self._held(worker.id)
            }

    def _registered(self, worker_id: uuid.UUID) -> WorkerRecord:
        worker = self._workers.get(worker_id)
        if worker is None:
            raise NotFound(f"worker {worker_id} is not registered; it has to register before anything else")
        return worker

    def _dead(self, me: WorkerRecord, now: datetime) -> list[WorkerRecord]:
        may_judge = rules.may_judge(me, now)
        return [
            other
            for other in self._workers.values()
            if other.kind is me.kind
            and (me.kind is WorkerKind.STANDALONE or other.team_name == me.team_name)
            and other.id != me.id
            and (other.state is WorkerState.STOPPED or (may_judge and other.silent(now)))
        ]

    def _held(self, worker_id: uuid.UUID) -> list[StoredJob]:
        found = self._find(lambda job: job.occupies and job.record.worker_id == worker_id)
        return sorted(found, key=_by_claim)

    def _report(self, worker_id: uuid.UUID, report: Report, now: datetime) -> ReportOutcome:
        job = self._jobs.get(report.job_id)
        if job is None or job.record.worker_id != worker_id:
            return rules.outcome(report, None, None)
        repeated = report.state is job.record.state and report.state not in ENDED
        of_this_claim = report.start_attempts in (None, job.record.start_attempts)
        if of_this_claim and (repeated or job.record.state in sources_of(report.state)):
            _note(job, report, now)
        return rules.outcome(report, job.record.state, job.record.desired_state)

    # -- claim ----------------------------------------------------------------------------------------------

    def _choose(
        self, pool: WorkPool, worker: WorkerRecord, room: int, most: int, now: datetime
    ) -> list[WaitingJob]:
        online = [other for other in self._workers.values() if other.id != worker.id and other.online(now)]
        any_team = worker.kind is WorkerKind.STANDALONE
        teams = {other.team_name for other in online if other.kind is WorkerKind.EMBEDDED}
        in_pool = self._find(lambda job: job.record.ref.pool == pool.name and job.record.state in ACTIVE)
        held: dict[str, int] = defaultdict(int)
        for job in in_pool:
            if job.occupies:
                held[job.record.ref.queue] += job.record.pool_slots
        waiting = [
            _waiting(job.record)
            for job in in_pool
            if job.record.state is JobState.PENDING
            and (any_team or job.record.team_name in {worker.team_name, *teams})
            and not self._older_round_is_active(job)
        ]
        foreign = {
            job.id
            for job in waiting
            if not any_team and self._jobs[job.id].record.team_name != worker.team_name
        }
        takes_from = None
        if worker.queues is not None:
            refs = [WorkQueueRef(pool.name, queue.name) for queue in pool.queues]
            takes_from = {ref.queue for ref in refs if worker.takes_from(ref)}
            others = [one for one in online if rules.serves(one, pool) and one.can_use(pool.name, now)]
            pool = capacity.within_reach(pool, worker, others, held=held, holds=self._holds())
        paused = {ref.queue for ref, state in self._queues.items() if ref.pool == pool.name and state.paused}
        heads = claim_rules.heads(pool, paused=paused, held=held, most=most)
        first = {
            job
            for queue, head in heads.items()
            for job in _first(waiting, queue, head, room, most, foreign=foreign)
        }
        return claim_rules.choose_from(
            pool,
            first,
            paused=paused,
            held=held,
            room=room,
            overdue_since=now - self.reserve_after,
            foreign=foreign & {job.id for job in first},
            takes_from=takes_from,
        )

    def _holds(self) -> dict[uuid.UUID, int]:
        """Count the slots that workers' jobs hold."""
        holds: dict[uuid.UUID, int] = defaultdict(int)
        for job in self._find(lambda job: job.occupies):
            if job.record.worker_id is not None:
                holds[job.record.worker_id] += job.record.pool_slots
        return holds

    def _older_round_is_active(self, job: StoredJob) -> bool:
        return any(
            older.record.state in ACTIVE and older.record.round < job.record.round
            for older in self._rounds(job.record.task_instance_id)
        )


def _roams(job: StoredJob, roaming: Mapping[str, str]) -> bool:
    handle, kind = job.record.handle, roaming.get(job.record.ref.pool)
    stored = None if handle is None else {"kind": handle.kind, "data": dict(handle.data)}
    return kind is not None and rules.roams(stored, kind)


def _by_claim(job: StoredJob) -> Any:
    return job.record.claimed_at, job.record.id


def _first(
    waiting: Iterable[WaitingJob],
    queue: str,
    head: claim_rules.Head,
    room: int,
    most: int,
    *,
    foreign: Collection[uuid.UUID],
) -> Iterable[WaitingJob]:
    """Return the head of a queue's line, and of the line of those jobs that fit into the worker."""
    line = sorted(
        (
            job
            for job in waiting
            if job.queue == queue and (head.largest is None or job.slots <= head.largest)
        ),
        key=lambda job: (-job.priority_weight, job.handed_over_at, job.id),
    )
    yield from line[: head.length]
    yield from [job for job in line if job.slots <= room and job.id not in foreign][:most]


def _waiting(record: JobRecord) -> WaitingJob:
    return WaitingJob(
        id=record.id,
        queue=record.ref.queue,
        priority_weight=record.priority_weight,
        slots=record.pool_slots,
        handed_over_at=record.handed_over_at,
    )


def _claimed(job: StoredJob) -> ClaimedJob:
    more = ("job_variables", "handle", "desired_state", "start_timeout_seconds", "start_attempts", "reason")
    return ClaimedJob(**pick(job.record, *IDENTITY, *more), workload=job.workload)


def _end_instead(job: StoredJob, now: datetime) -> None:
    wish = job.record.desired_state
    reason = rules.HANDED_OVER_AGAIN if wish is None else job.record.reason
    job.change(wish or JobState.CANCELLED, reason=reason, ended_at=now)


def _note(job: StoredJob, report: Report, now: datetime) -> None:
    """Store a report that is allowed."""
    record = job.record
    values: dict[str, Any] = {"reason": _reason(record, report)}
    state = report.state
    if report.handle is not None:
        values["handle"] = report.handle
    if state is JobState.CANCELLED:
        state = record.desired_state or state
    if state is JobState.RUNNING:
        values["started_at"] = record.started_at or _start(record, report, now) or now
    if state in ENDED:
        values["started_at"] = record.started_at or _start(record, report, now)
        values["ended_at"] = now
        values["exit_code"] = record.exit_code if report.exit_code is None else report.exit_code
    job.change(state, **values)


def _start(record: JobRecord, report: Report, now: datetime) -> datetime | None:
    if report.started_at is None or record.claimed_at is None:
        return None
    return max(record.claimed_at, min(report.started_at, now))


def _reason(record: JobRecord, report: Report) -> str | None:
    said = rules.fit_text(report.reason) if report.reason else None
    if report.state is JobState.SUCCEEDED:
        return said
    if report.state is JobState.FAILED:
        return said or record.reason
    if report.state is JobState.CANCELLED:
        return (said or record.reason) if record.desired_state is None else (record.reason or said)
    return said if record.desired_state is None else record.reason
