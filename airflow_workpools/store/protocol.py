# SPDX-License-Identifier: Apache-2.0
"""What every job store does: :class:`~airflow_workpools.store.jobs.SqlStore` and its twin for tests.

A state changes only where :data:`~airflow_workpools.core.jobs.TRANSITIONS` allows it; what is not allowed
changes nothing. ``now`` is always given: a store reads no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from airflow_workpools.store import rules

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.core.jobs import JobState
    from airflow_workpools.core.logs import LogChunk, LogEnd, LogMark
    from airflow_workpools.core.names import WorkQueueRef
    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.store.records import (
        ClaimedJob,
        EndedJob,
        GivenUp,
        JobCount,
        JobFilter,
        JobRecord,
        JobSummary,
        NewJob,
        Purged,
        Reconciled,
        Report,
        ReportOutcome,
        RunState,
        TryKey,
        Wish,
        WorkerRecord,
        WorkerState,
    )


class ExecutorStore(Protocol):
    """The executor's side.

    Where a ``session`` is asked for, it is the scheduler's transaction: never committed here.
    """

    def hand_over(self, job: NewJob, *, now: datetime, session: Session) -> uuid.UUID:
        """Store a job as pending and return its id.

        If this try has been handed over before, this is its next round: an older round that still waits is
        cancelled, one that was claimed must end before the new one is claimed.
        """
        ...

    def hand_over_failed(self, job: NewJob, reason: str, *, now: datetime, session: Session) -> uuid.UUID:
        """Store a job that has failed already: what it asks for cannot be."""
        ...

    def adopt(
        self,
        task_instance_ids: Collection[uuid.UUID],
        scheduler_job_id: int,
        *,
        session: Session,
        team_name: str | None = None,
    ) -> dict[uuid.UUID, JobSummary]:
        """Make a scheduler's executor the one that hears of these task instances' jobs.

        If the newest job of one has ended, its end is told again. Returns the newest job of each task
        instance that has one.
        """
        ...

    def ended(
        self, scheduler_job_id: int, *, limit: int, traced: bool = False, team_name: str | None = None
    ) -> list[EndedJob]:
        """Return ended jobs of this scheduler that Airflow has not heard of, oldest end first.

        :param traced: also return the trace of each one's task.
        :param team_name: of which of the scheduler's executors: it has one for each team.
        """
        ...

    def mark_reported(self, job_ids: Collection[uuid.UUID], *, now: datetime) -> None:
        """Remember that Airflow has heard of the end of these jobs."""
        ...

    def active(self, scheduler_job_id: int, *, team_name: str | None = None) -> list[JobSummary]:
        """Return the jobs of this scheduler's executor of a team that have not ended, oldest first."""
        ...

    def active_count(self, scheduler_job_id: int, *, team_name: str | None = None) -> int:
        """Count the jobs of this scheduler's executor of a team that have not ended."""
        ...

    def request_cancel(
        self,
        *,
        job_ids: Collection[uuid.UUID] = (),
        task_instance_ids: Collection[uuid.UUID] = (),
        reason: str,
        now: datetime,
    ) -> int:
        """Cancel jobs: waiting ones at once, the others by a wish to their worker.

        A wish that is there already stays, with its reason. Returns how many jobs this changed.
        """
        ...

    def stop_cleared(self) -> int:
        """Wish that started jobs stop whose task instance was cleared while it ran; return how many.

        A part of :meth:`reconcile` that costs next to nothing, however many jobs there are.
        """
        ...

    def reconcile(self, *, now: datetime, grace_seconds: float, by_time: bool = True) -> Reconciled:
        """Bring jobs and Airflow's task instances together again.

        Stops jobs whose task instance has moved on (after the grace, where their process may just be
        finishing), jobs that did not start in time, and older rounds that keep a newer one waiting; fails
        jobs that should be stopped but whose worker has been silent for minutes; makes ends to be told again
        that Airflow has heard of but not acted on. Mends rows that were changed by hand.

        :param by_time: whether to judge by how long something has lasted; not while times can't be compared.
        """
        ...

    def give_up_lost(
        self, lost: Collection[WorkerRecord], *, bound: Mapping[str, int], now: datetime, grace_seconds: float
    ) -> GivenUp:
        """End what lost workers have that nobody else can look after.

        A job that was claimed but never launched waits again, unless it has been given back too often; the others fail.
        One whose task still says that it lives is left alone, and so are all jobs of a worker that comes back while
        this goes on.

        :param lost: workers as they were when they were found to be lost; they are marked as stopped.
        :param bound: pools whose jobs only a worker of the same host can look after, and how often a job of each is
            launched at most.
        :param grace_seconds: for how long they have been waited for, and a task must have said nothing.
        """
        ...


class WorkerStore(Protocol):
    """The worker's side."""

    def register_worker(
        self,
        worker: WorkerRecord,
        *,
        now: datetime,
        token_id: str | None = None,
        instead_of: str | None = None,
        call: int | None = None,
    ) -> None:
        """Make a worker known, or known again, as online from now.

        :param token_id: of the token that it has shown; only with that one it may come again.
        :param instead_of: of the token with which it came before, if that opens nothing any more.
        :param call: the number of this call, see :meth:`claim`.
        :raises Conflict: if it registered with another token, or the call was overtaken.
        """
        ...

    def worker(self, worker_id: uuid.UUID) -> WorkerRecord:
        """Return one worker.

        :raises NotFound: if it is not registered.
        """
        ...

    def heartbeat(
        self, worker_id: uuid.UUID, *, now: datetime, hindered: Mapping[str, str] | None = None
    ) -> WorkerState:
        """Say that a worker lives; returns the state that it should be in.

        :param hindered: work pools whose jobs it can't launch now, and why; None: as before.
        :raises NotFound: if it is not registered.
        """
        ...

    def drain_worker(self, worker_id: uuid.UUID) -> None:
        """Wish that a worker claims nothing more.

        :raises NotFound: if it is not registered.
        """
        ...

    def resume_worker(self, worker_id: uuid.UUID) -> None:
        """Let a worker that drains claim again.

        :raises NotFound: if it is not registered.
        """
        ...

    def stop_worker(self, worker_id: uuid.UUID, *, now: datetime) -> None:
        """Say that a worker has ended. Its jobs stay its own until another worker takes them over."""
        ...

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
        """Take waiting jobs of these pools, of at most ``room`` slots, within every limit.

        Within a pool, :func:`~airflow_workpools.core.slots.choose` decides; pools take turns.
        A worker that drains or has stopped gets nothing. Jobs of other teams are left to their workers, but
        keep their place in the line and what they hold, as long as one of those is online.

        :param most: most jobs to take, whatever their slots.
        :param call: the number of this call, where its answer may be lost, or it may come twice: it gives jobs only if
            the worker has not made one of this or a higher number before.
        :raises NotFound: if the worker is not registered.
        :raises Conflict: if the call was made before, or was overtaken.
        """
        ...

    def waiting_jobs(self, pools: Collection[str]) -> dict[WorkQueueRef, int]:
        """Count the jobs that wait in these pools, by queue; a queue without any is absent."""
        ...

    def wished_jobs(self, worker_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, set[uuid.UUID]]:
        """Return which jobs of these workers should be stopped; a worker without any is absent."""
        ...

    def poll(self, refs: Collection[WorkQueueRef], *, now: datetime) -> None:
        """Remember that a worker asks for jobs of these queues. Written at most every 10 s for each queue."""
        ...

    def report(
        self, worker_id: uuid.UUID, reports: Sequence[Report], *, now: datetime
    ) -> list[ReportOutcome]:
        """Store what a worker says of its jobs; one outcome per report, in order.

        The last report counts where there are several of a job. A job that should be cancelled may still be
        reported as succeeded or failed, if it ended before it could be stopped.
        """
        ...

    def requeue(
        self,
        worker_id: uuid.UUID,
        job_ids: Collection[uuid.UUID],
        reason: str,
        *,
        now: datetime,
        start_attempts: Mapping[uuid.UUID, int] | None = None,
    ) -> int:
        """Let jobs wait again that were not seen running.

        Those that should be stopped end instead, and those whose try has been handed over again since.
        Returns how many jobs this changed.

        :param start_attempts: of which claim of a job this is said. What comes late, when the job has been claimed
            again, even by the same worker, changes nothing.
        """
        ...

    def wishes(self, worker_id: uuid.UUID) -> list[Wish]:
        """Return the worker's jobs that should be stopped."""
        ...

    def mine(self, worker_id: uuid.UUID, *, call: int | None = None) -> list[ClaimedJob]:
        """Return the worker's jobs that have not ended, oldest claim first.

        :param call: the number of this call, see :meth:`claim`; what was called before gives no jobs after it.
        """
        ...

    def revoked(self, start_attempts: Mapping[uuid.UUID, int]) -> list[uuid.UUID]:
        """Return the jobs that must be stopped by the worker that made these claims: nobody has them any more.

        The worker was silent for so long that its job was given up, or given to another to be started anew. What
        another worker has taken over as it is, is not among them: it goes on.

        :param start_attempts: which claim of each job it is.
        """
        ...

    def renew(
        self, worker_id: uuid.UUID, job_ids: Collection[uuid.UUID], *, now: datetime
    ) -> list[ClaimedJob]:
        """Let the start timeout of a worker's jobs begin anew: they could not start, for no fault of their own.

        Returns those whose timeout has; not one that runs, has ended or is to be stopped.
        """
        ...

    def take_over(
        self,
        worker_id: uuid.UUID,
        hostname: str,
        *,
        now: datetime,
        roaming: Mapping[str, str] = rules.NOTHING_ROAMS,
        call: int | None = None,
    ) -> list[ClaimedJob]:
        """Become the owner of the jobs of dead workers of the same kind on this host.

        :param roaming: of these work pools also those of dead workers of other hosts, if they are on this kind of
            infrastructure: any worker can look after them.

        Dead is who has stopped or is silent; the silent are marked as stopped, so that what they still say is
        refused. Each job gets exactly one new owner. A worker that has itself been stopped gets none.

        :raises NotFound: if the worker is not registered.
        """
        ...

    def pools_left_behind(self, *, now: datetime) -> set[str]:
        """Return the pools in which standalone workers have jobs that have stopped or are silent.

        Who asks to take them over may get none all the same: they may be on another host.
        """
        ...


class LeftoverStore(Protocol):
    """What is asked before something is removed of which no worker knows any more."""

    def installation(self) -> uuid.UUID:
        """Return which Airflow this is: always the same for one metadata database, and another for every other."""
        ...

    def over(self, job_ids: Collection[uuid.UUID], *, before: datetime) -> set[uuid.UUID]:
        """Return those of these jobs that ended before this time, or are not known, or not any more."""
        ...


class RunTimeStore(Protocol):
    """Run-time state of pools and queues, for scheduler, API, CLI and UI."""

    def set_pool_paused(self, name: str, paused: bool) -> None:
        """Pause a pool, so that no job of it is claimed, or resume it."""
        ...

    def set_queue_paused(self, ref: WorkQueueRef, paused: bool) -> None:
        """Pause a queue, so that no job of it is claimed, or resume it."""
        ...

    def run_state(self, *, now: datetime) -> RunState:
        """Return the run-time state of all pools, queues and workers."""
        ...

    def counts(self, pools: Collection[str] | None = None) -> dict[WorkQueueRef, dict[JobState, JobCount]]:
        """Count the jobs that have not ended, by queue and state; a state without jobs is absent."""
        ...

    def jobs(self, which: JobFilter | None = None, *, limit: int = 100, offset: int = 0) -> list[JobRecord]:
        """List jobs, newest hand-over first."""
        ...

    def line(self, ref: WorkQueueRef, *, limit: int) -> list[JobRecord]:
        """Return the jobs that wait in a queue, in the order in which they would be claimed.

        A job whose older round still runs is not among them: it waits for that.
        """
        ...

    def worker_counts(self) -> dict[uuid.UUID, JobCount]:
        """Count the jobs that each worker has and that have not ended; a worker without any is absent."""
        ...

    def job(self, job_id: uuid.UUID) -> JobRecord:
        """Return one job.

        :raises NotFound: if there is none.
        """
        ...

    def forget_pool(self, name: str) -> None:
        """Remove a pool's run-time state.

        :raises Conflict: if it has jobs that have not ended; the message says how many.
        """
        ...

    def forget_queue(self, ref: WorkQueueRef) -> None:
        """Remove a queue's run-time state.

        :raises Conflict: if it has jobs that have not ended; the message says how many.
        """
        ...

    def purge(self, *, before: datetime, limit: int) -> Purged:
        """Delete old rows: up to ``limit`` ended jobs with their logs, and as many silent workers that have no job.

        A job stays as long as its try is not over for Airflow, which may not have heard of the job's end, or
        may hand the same try over once more. Of several rounds of a try the newest goes first.
        """
        ...

    def purgeable(self, *, before: datetime) -> Purged:
        """Count what purging again and again would delete."""
        ...


class LogStore(Protocol):
    """What jobs write, where Airflow's log folder does not have it; see :mod:`airflow_workpools.core.logs`."""

    def append_log(
        self, worker_id: uuid.UUID, new: Sequence[LogChunk], *, now: datetime
    ) -> dict[uuid.UUID, LogEnd]:
        """Store what is new of these chunks, and say for each job from where on to go on.

        The chunks of a job are of one attempt and in order. Storing them again changes nothing. A job that the
        worker does not have is not in the answer, and nothing of it is stored; one that has ended is still its own.
        """
        ...

    def log_ends(self, attempts: Mapping[uuid.UUID, int]) -> dict[uuid.UUID, LogEnd]:
        """Say how far the logs of these attempts to start jobs are stored."""
        ...

    def add_reasons(self, lines: Mapping[uuid.UUID, bytes]) -> None:
        """Store the line that says why a job never started or was ended; the first that is stored of each stays."""
        ...

    def read_log(
        self, job_id: uuid.UUID, *, after: LogMark | None = None, limit: int = 100
    ) -> list[LogChunk]:
        """Return so many chunks of a job's log, in the order in which they are read."""
        ...

    def with_log(self, job_ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
        """Return those of these jobs that have a log here, or a reason."""
        ...

    def jobs_of_try(self, key: TryKey) -> list[JobRecord]:
        """Return the jobs of a try, the oldest first, whether Airflow holds it to be the latest or not."""
        ...


class JobStore(ExecutorStore, WorkerStore, LeftoverStore, RunTimeStore, LogStore, Protocol):
    """All of it."""
