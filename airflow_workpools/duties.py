# SPDX-License-Identifier: Apache-2.0
"""What the executor does in the scheduler's loop, each duty at its own pace and with a bounded number of statements."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from airflow_workpools import metrics, tracing
from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import Delivery, InvalidPool, WorkPool
from airflow_workpools.core.teams import minder
from airflow_workpools.core.untaken import Offers
from airflow_workpools.core.weights import combined_weight
from airflow_workpools.dags.executors import work_pool_executor
from airflow_workpools.lost_workers import give_up_lost
from airflow_workpools.store import airflow_pools, blocked_tasks, capacity, jobless, reasons
from airflow_workpools.store.ahead import look_ahead
from airflow_workpools.store.clock import DatabaseClock
from airflow_workpools.store.jobs import SqlStore
from airflow_workpools.store.overview import PoolOverview, overview_in_loop
from airflow_workpools.store.pools import work_pools
from airflow_workpools.store.records import JobFilter
from airflow_workpools.telemetry import write_reasons

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from opentelemetry.trace import TracerProvider
    from sqlalchemy.orm import Session

    from airflow_workpools.settings import Settings
    from airflow_workpools.store.pools import Pools
    from airflow_workpools.store.protocol import JobStore
    from airflow_workpools.store.records import EndedJob, JobSummary, RunState

log = logging.getLogger(__name__)

FINISHING_GRACE_SECONDS = 30.0
"""How long a task's process may go on after its task instance has reached its end.

Airflow itself gives listeners and callbacks ``[core] task_success_overtime`` (20 s) before it ends the
process.
"""
MAX_STRANDED = 500
"""Most jobs of a deleted queue that are cancelled at a time."""
PURGE_SECONDS = 300.0
"""Time between two looks for rows that are old enough to be deleted."""
MAX_PURGED = 500
"""Most jobs, and most workers, whose rows are deleted at a time; what is left over follows a few seconds later."""
ALLOCATE_SECONDS = 0.2
"""Shortest time between two allocations: a busy scheduler loops many times a second."""
JOBLESS_AFTER_SECONDS = 60.0
"""A task that has been queued for so long without a job is handed over again: its job's row was deleted."""
MOVE_SECONDS = 30.0
"""Time between two looks for waiting tasks whose weight is not that of their queue, though no priority has changed.

There are some if the priority of their queue could not be told when they came to be.
"""
CLEARED_SECONDS = 1.0
"""Time between two looks for tasks that were cleared while they ran: who clears one waits for it to run anew."""
CLOCK_NOTICED_SECONDS = 60.0
"""After a jump of the database's clock, all schedulers and workers have noticed it after this time."""
RUN_STATE_SECONDS = 1.0
"""Age at which what is known of paused queues and online workers is read again."""


@dataclass
class Duties:
    """Keeps slots, priorities and jobs in line with what Airflow and the operators want."""

    settings: Settings
    scheduler_job_id: int | None
    team_name: str | None = None
    """Team of the executor whose duties these are."""
    parallelism: int | None = None
    """How many tasks the executor may have; None: any number."""
    store: JobStore = field(default_factory=SqlStore)
    clock: DatabaseClock = field(default_factory=DatabaseClock)
    _run_state: RunState | None = None
    _run_state_at: float = float("-inf")
    _limits: capacity.WorkerLimits = field(default_factory=capacity.WorkerLimits)
    _allocated_at: float = float("-inf")
    _settled: object = None
    """For what pools it is known that no slot has to be moved as long as no task waits."""
    _offers: Offers = field(default_factory=Offers)
    _memory: airflow_pools.Memory = field(default_factory=airflow_pools.Memory)
    _looked_at: float = float("-inf")
    _cleared_at: float = float("-inf")
    _counted_at: float = float("-inf")
    _moved_at: float = float("-inf")
    _purge_at: float = float("-inf")
    _ranks: Mapping[str, int] = field(default_factory=dict)
    _known_problems: Mapping[str, str] = field(default_factory=dict)
    _gauges: metrics.GaugeRounds = field(default_factory=metrics.GaugeRounds)
    _measures: metrics.EndMeasures = field(default_factory=metrics.EndMeasures)

    def pools(self, *, fresh: bool = False) -> Mapping[str, WorkPool | InvalidPool]:
        """Return the work pools as they were defined a few seconds ago at most, or as they are now."""
        return work_pools(self.settings, fresh=fresh)

    def mine(self, pools: Mapping[str, WorkPool | InvalidPool]) -> dict[str, WorkPool | InvalidPool]:
        """Return those of the work pools that this executor looks after, not one of another team."""
        teams = _executor_teams()
        return {name: pool for name, pool in pools.items() if minder(pool.team_name, teams) == self.team_name}

    @property
    def leads(self) -> bool:
        """Whether this executor does what one of a scheduler's executors has to do for all."""
        return _executor_teams()[0] == self.team_name

    # -- ends of jobs ---------------------------------------------------------------------------------------

    def ended(self, *, limit: int, now: datetime) -> Sequence[EndedJob]:
        """Return jobs whose end the scheduler has not been told, and remember that it is being told.

        A scheduler that dies before it has acted on it is no harm: adoption makes the ends to be told again.
        """
        if self.scheduler_job_id is None:
            return []
        tracer_provider = tracing.provider()
        ended = self.store.ended(
            self.scheduler_job_id, limit=limit, traced=tracer_provider is not None, team_name=self.team_name
        )
        if ended:
            self.store.mark_reported([job.id for job in ended], now=now)
            self._measure(ended, tracer_provider)
            try:
                self._file_reasons([job for job in ended if job.reason and job.latest], now)
            except Exception:  # they are on record as told now: tell them
                log.exception("The reasons of %d ended jobs could not be filed", len(ended))
        return ended

    def _measure(self, ended: Sequence[EndedJob], tracer_provider: TracerProvider | None) -> None:
        """Send what is to be counted of jobs; if that fails, the numbers are lost, not the ends."""
        try:
            new = self._measures.first_told(ended)
            metrics.send(sample for job in new for sample in metrics.of_end(job))
            if tracer_provider is not None:
                tracing.emit(new, tracer_provider)
        except Exception:
            log.exception("%d ended jobs could not be measured", len(ended))

    def _file_reasons(self, failed: Sequence[EndedJob], now: datetime) -> None:
        """Write why tasks never started, or ended otherwise than by themselves, where people look for it."""
        if not failed:
            return
        from airflow.utils.net import get_hostname
        from airflow.utils.session import create_session

        kinds = {pool.name: pool.type for pool in self.pools().values() if isinstance(pool, WorkPool)}
        write_reasons(failed, self.store, kinds=kinds, now=now)
        with create_session(scoped=False) as session:
            reasons.file_reasons(session, failed, hostname=get_hostname(), now=now)

    def active(self) -> Sequence[JobSummary]:
        """Return this scheduler's jobs that have not ended."""
        if self.scheduler_job_id is None:
            return []
        return self.store.active(self.scheduler_job_id, team_name=self.team_name)

    def count_is_due(self, monotonic: float) -> bool:
        """Say, every few seconds, that the jobs should be counted."""
        if monotonic - self._counted_at < self.settings.reconcile_seconds:
            return False
        self._counted_at = monotonic
        return True

    def active_count(self) -> int:
        """Count this scheduler's jobs that have not ended."""
        if self.scheduler_job_id is None:
            return 0
        return self.store.active_count(self.scheduler_job_id, team_name=self.team_name)

    def adopt(self, task_instance_ids: Sequence[UUID], *, session: Session) -> set[UUID]:
        """Take over the jobs of these task instances; return the task instances that have one."""
        if self.scheduler_job_id is None:
            return set()
        adopted = self.store.adopt(
            task_instance_ids, self.scheduler_job_id, team_name=self.team_name, session=session
        )
        return set(adopted)

    # -- gate 1 ---------------------------------------------------------------------------------------------

    def allocate(self, *, now: datetime, monotonic: float) -> None:
        """Give the Airflow pools their slots, a few times a second at most."""
        from airflow.utils.session import create_session

        if monotonic - self._allocated_at < ALLOCATE_SECONDS:
            return
        self._allocated_at = monotonic
        run_state = self._current_run_state(now, monotonic)
        everybodys = self.pools()
        pools: Pools = self.mine(everybodys)
        served = served_pools(pools, run_state)
        pools = self._limits.lower(pools, run_state, self.store)
        paused = run_state.pools, {ref for ref, queue in run_state.queues.items() if queue.paused}
        with create_session(scoped=False) as session:
            settled = self._settled == (pools, served, paused)
            if settled and not airflow_pools.anything_waits(session, pools, self._memory):
                return
            held_back = self._held_back(run_state)
            plan = airflow_pools.allocate_slots(
                session,
                pools,
                run_state,
                served,
                held_back,
                overdue_since=now - self.settings.reserve_after,
                rooms=partial(self._offers.rooms, monotonic=monotonic),
                minds=_Minds(frozenset(pools), frozenset(everybodys), self.leads),
                ahead=partial(
                    look_ahead, pools=pools, now=now, idle_seconds=self.settings.scheduler_idle_seconds
                ),
                parallelism=self.parallelism,
                memory=self._memory,
            )
        self._settled = None if plan or self._memory.lines.any_waits else (pools, served, paused)
        self._note_problems(pools, plan.taken)

    def _held_back(self, run_state: RunState) -> dict[WorkQueueRef, int]:
        """Return the slots of jobs that wait in the store because their queue is paused."""
        paused = [ref for ref, queue in run_state.queues.items() if queue.paused]
        if not paused:
            return {}
        counts = self.store.counts({ref.pool for ref in paused})
        return {
            ref: states[JobState.PENDING].slots
            for ref, states in counts.items()
            if ref in paused and JobState.PENDING in states
        }

    def _current_run_state(self, now: datetime, monotonic: float) -> RunState:
        if self._run_state is None or monotonic - self._run_state_at >= RUN_STATE_SECONDS:
            self._run_state = self.store.run_state(now=now)
            self._run_state_at = monotonic
        return self._run_state

    def _note_problems(self, pools: Mapping[str, WorkPool | InvalidPool], taken: frozenset[str]) -> None:
        """Log what is wrong with pools, once for each problem."""
        problems = {name: pool.reason for name, pool in pools.items() if isinstance(pool, InvalidPool)}
        problems |= {
            name: f"an Airflow pool named like one of its queues ('{name}' or '{name}.<queue>') belongs to somebody "
            "else; rename or delete that Airflow pool, or name the work pool otherwise"
            for name in taken
        }
        for name, reason in problems.items():
            if self._known_problems.get(name) != reason:
                log.error("Work pool '%s' can't be used: %s", name, reason)
        self._known_problems = problems

    # -- every few seconds ----------------------------------------------------------------------------------

    def stop_cleared(self, *, monotonic: float) -> None:
        """Have jobs stopped whose task was cleared while it ran, once a second."""
        if monotonic - self._cleared_at < CLEARED_SECONDS or not self.leads:
            return
        self._cleared_at = monotonic
        self.store.stop_cleared()

    def look_after(self, *, now: datetime, monotonic: float) -> None:
        """Compare jobs with task instances, priorities with queues, and tasks with pools, every few seconds."""
        if monotonic - self._looked_at < self.settings.reconcile_seconds:
            return
        self._looked_at = monotonic
        pools = self.pools()
        self._move_waiting_tasks(pools, now, monotonic)
        if not self.leads:
            return
        self._cancel_stranded(now)
        # A job that was claimed before the clock jumped seems to be late, or to have been claimed just now.
        longest = max(
            (pool.start_timeout_seconds for pool in pools.values() if isinstance(pool, WorkPool)), default=0
        )
        settled = self.clock.is_settled(longest + CLOCK_NOTICED_SECONDS)
        self.store.reconcile(now=now, grace_seconds=FINISHING_GRACE_SECONDS, by_time=settled)
        if settled:
            workers = self._current_run_state(now, monotonic).workers
            give_up_lost(self.store, workers, pools, settings=self.settings, now=now)

    def _move_waiting_tasks(
        self, pools: Mapping[str, WorkPool | InvalidPool], now: datetime, monotonic: float
    ) -> None:
        from airflow.utils.session import create_session

        mine = self.mine(pools)
        ranks = ranks_of(mine)
        executor = work_pool_executor()
        unusable = {name for name, pool in pools.items() if isinstance(pool, InvalidPool)}
        with create_session(scoped=False) as session:
            if ranks != self._ranks or monotonic - self._moved_at >= MOVE_SECONDS:
                moved = airflow_pools.reprioritise(session, ranks)
                self._moved_at = monotonic
                if moved or ranks != self._ranks:
                    log.info("%d waiting tasks were moved to the priority of their work queue", moved)
            if executor is not None:
                names = sorted(executor.names)
                blocked_tasks.unblock_foreign(
                    session, names, ours_is_default=executor.is_default, pools=mine.values()
                )
                if self.leads and self.scheduler_job_id is not None:
                    jobless.schedule_again(
                        session,
                        names,
                        ours_is_default=executor.is_default,
                        scheduler_job_id=self.scheduler_job_id,
                        queued_before=now - timedelta(seconds=JOBLESS_AFTER_SECONDS),
                    )
                if self.leads:
                    blocked_tasks.unblock_unmapped(
                        session,
                        names,
                        ours_is_default=executor.is_default,
                        queues=sorted(ranks_of(pools)),
                        waiting_pools=sorted(unusable | self._known_problems.keys()),
                    )
        self._ranks = ranks

    def _cancel_stranded(self, now: datetime) -> None:
        """Cancel waiting jobs whose work pool or queue was deleted: no worker would ever take them."""
        waiting = [ref for ref, states in self.store.counts().items() if JobState.PENDING in states]
        if not any(missing(self.pools(), ref) for ref in waiting):
            return
        pools = self.pools(fresh=True)
        for ref in waiting:
            if reason := missing(pools, ref):
                which = JobFilter(queues=(ref,), states=frozenset({JobState.PENDING}))
                jobs = self.store.jobs(which, limit=MAX_STRANDED)
                self.store.request_cancel(job_ids=[job.id for job in jobs], reason=reason, now=now)

    def purge(self, *, now: datetime, monotonic: float) -> None:
        """Delete rows of jobs that ended long ago, and of workers that are gone, some at a time."""
        days = self.settings.keep_finished_jobs_days
        if days is None or monotonic < self._purge_at or not self.leads:
            return
        if not self.clock.is_settled(PURGE_SECONDS):
            return
        self._purge_at = monotonic + PURGE_SECONDS
        purged = self.store.purge(before=now - timedelta(days=days), limit=MAX_PURGED)
        if purged.total:
            log.info("Purged %d jobs and %d workers older than %d days", purged.jobs, purged.workers, days)
        if max(purged) >= MAX_PURGED:  # chunks of logs, too: a job with a long one goes after several times
            self._purge_at = monotonic + self.settings.reconcile_seconds

    # -- for operators --------------------------------------------------------------------------------------

    def send_gauges(self, *, now: datetime, monotonic: float) -> None:
        """Send how pools and queues are doing, every few seconds."""
        if not self.leads:
            return
        self._gauges.step(lambda: self.overview(self._current_run_state(now, monotonic)), monotonic=monotonic)

    def overview(self, run_state: RunState) -> list[PoolOverview]:
        """Return how pools and queues are doing, with few statements; Airflow pools' slots are not among it."""
        return overview_in_loop(self.pools(), self.store, run_state)

    def problems(self) -> Mapping[str, str]:
        """Return what is wrong with work pools, as it was when slots were allocated last."""
        return dict(self._known_problems)

    def ages(self, monotonic: float) -> dict[str, float | None]:
        """Return how many seconds ago each duty with a pace of its own was begun last; None if never."""
        begun = {
            "allocation": self._allocated_at,
            "reconciliation": self._looked_at,
            "count": self._counted_at,
            "run state": self._run_state_at,
        }
        return {name: round(monotonic - at, 1) if at > float("-inf") else None for name, at in begun.items()}


@dataclass(frozen=True)
class _Minds:
    """Says of a work pool, also of one that is deleted, whether its Airflow pools are an executor's to change."""

    its_own: frozenset[str]
    everybodys: frozenset[str]
    leads: bool

    def __call__(self, name: str) -> bool:
        # What is left of deleted pools has no team any more: the leading executor removes it.
        return name in self.its_own or (self.leads and name not in self.everybodys)


def _executor_teams() -> tuple[str | None, ...]:
    executor = work_pool_executor()
    return (None,) if executor is None else executor.teams


def served_pools(pools: Mapping[str, WorkPool | InvalidPool], run_state: RunState) -> dict[str, bool]:
    """Say for each pool whether a worker is there to take its jobs."""
    return {
        name: run_state.workers_online(name, push=pool.delivery is Delivery.PUSH, team_name=pool.team_name)
        > 0
        for name, pool in pools.items()
        if isinstance(pool, WorkPool)
    }


def missing(pools: Mapping[str, WorkPool | InvalidPool], ref: WorkQueueRef) -> str | None:
    """Say what is missing of a work queue, or None if it is there, or may be as soon as its pool is valid."""
    pool = pools.get(ref.pool)
    if pool is None:
        return f"Work pool '{ref.pool}' was deleted while the job waited in it"
    if isinstance(pool, InvalidPool) or pool.find_queue(ref.queue) is not None:
        return None
    return f"Work queue '{ref}' was deleted while the job waited in it"


def ranks_of(pools: Mapping[str, WorkPool | InvalidPool]) -> dict[str, int]:
    """Return each queue's part of the priority weight."""
    return {
        str(WorkQueueRef(pool.name, queue.name)): combined_weight(queue.priority, own=0)
        for pool in pools.values()
        if isinstance(pool, WorkPool)
        for queue in pool.queues
    }
