# SPDX-License-Identifier: Apache-2.0
"""Why a task waits: the facts read from Airflow's tables and the store's, judged by ``core.explain``.

Read-only, and a fixed number of statements, whatever the number of tasks; what decides nothing at the gate where
the task is, is not read. What it waits for before it is scheduled, Airflow says itself: its own dependencies
are evaluated, on the DAG as it was stored for the run.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_workpools import airflow_private
from airflow_workpools.core import explain as core
from airflow_workpools.core.explain import Stage, stage_of
from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.names import is_managed_description
from airflow_workpools.core.task_facts import (
    ActiveLimit,
    AirflowPoolFacts,
    Dependencies,
    ExecutorFacts,
    JobFacts,
    RunFacts,
    SchedulerLoad,
    TaskFacts,
    TaskState,
    Upstream,
)
from airflow_workpools.core.teams import foreign_pool, may_use
from airflow_workpools.core.wording import did_you_mean
from airflow_workpools.dags.executors import WorkPoolExecutorNames, work_pool_executor
from airflow_workpools.errors import InvalidInput, NotFound
from airflow_workpools.store import airflow_statements, blocked_tasks, explain_statements
from airflow_workpools.store.explain_queue import queue_named, read_queue
from airflow_workpools.store.records import JobFilter, WorkerState
from airflow_workpools.store.rows import worker_record
from airflow_workpools.store.sessions import airflow_session
from airflow_workpools.store.statements import run_time as statements
from airflow_workpools.store.statements import worker as worker_statements

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

    from airflow_workpools.core.explain import Explanation
    from airflow_workpools.core.names import WorkQueueRef
    from airflow_workpools.core.task_facts import TaskRef, WorkQueueFacts
    from airflow_workpools.settings import Settings
    from airflow_workpools.store.explain_queue import NamedQueue
    from airflow_workpools.store.pools import Pools
    from airflow_workpools.store.protocol import RunTimeStore
    from airflow_workpools.store.records import JobRecord, WorkerRecord
    from airflow_workpools.store.sessions import SessionFactory

DEPENDENCIES_DECIDE = (None, "up_for_retry", "up_for_reschedule")
"""States of a task instance that the scheduler makes ``scheduled`` as soon as its dependencies are met."""

MAX_SHOWN = 20
"""Most names that an error message lists."""

_TASK_LIMITS = ("max_active_tis_per_dag", "max_active_tis_per_dagrun")


class _Found(NamedTuple):
    """The rows of a task instance."""

    ti: TaskInstance
    run: DagRun
    dag: DagModel


class _Ahead(NamedTuple):
    """What goes before a job in its queue."""

    jobs: int = 0
    overdue_slots: int = 0
    """Slots of the largest of those for which slots may be kept."""


def explain_task(
    ref: TaskRef,
    *,
    pools: Pools,
    store: RunTimeStore,
    settings: Settings,
    now: datetime,
    session_factory: SessionFactory = airflow_session,
) -> Explanation:
    """Say at which gate a task instance is, and why.

    :raises NotFound: if there is no such DAG, run, task or map index; the message names those there are.
    :raises InvalidInput: if the task is mapped and no map index is given.
    """
    with session_factory() as session, session.no_autoflush:
        try:
            reader = _Reader(session, pools, store, settings, now)
            return core.explain(reader.facts(ref))
        finally:
            # Some of Airflow's dependencies change what they look at. Here it is only looked at.
            session.rollback()


def newest_job(session: Session, ref: TaskRef, store: RunTimeStore) -> JobRecord | None:
    """Return the newest job of the present try of a task instance; None if there is none (any more)."""
    found = session.scalar(explain_statements.task_instance_id(ref))
    jobs = store.jobs(JobFilter(task_instance_ids=(found,)), limit=1) if found is not None else []
    return jobs[0] if jobs else None


class _Reader:
    """Reads what is known of one task."""

    def __init__(
        self, session: Session, pools: Pools, store: RunTimeStore, settings: Settings, now: datetime
    ) -> None:
        self._session = session
        self._pools = pools
        self._store = store
        self._settings = settings
        self._now = now
        self._overdue_since = now - settings.reserve_after
        self._names = work_pool_executor()
        self._pool_teams: Mapping[str, str | None] = {}

    def facts(self, ref: TaskRef) -> TaskFacts:
        found = self._rows(ref)
        ti = found.ti
        ours = self._names is None or self._names.covers(ti.executor)
        queue = queue_named(ti.queue, self._settings.pools.default_work_queue) if ours else None
        job = self._newest_job(ti) if ours else None
        stage = stage_of(ti.state, job.state if job else None)
        ahead = self._ahead(job) if job else _Ahead()
        descriptions = self._descriptions() if stage is Stage.SCHEDULED else {}
        return TaskFacts(
            ref=ref,
            now=self._now,
            task=_task_state(ti, queue.ref if queue else None),
            run=self._run(found),
            dependencies=self._dependencies(found) if stage is Stage.WAITING else None,
            limits=tuple(self._limits(found, ref)) if stage is Stage.SCHEDULED else (),
            airflow_pool=self._airflow_pool(ti, descriptions) if stage is Stage.SCHEDULED else None,
            work_queue=self._work_queue(queue, ti, stage, ahead, descriptions) if queue else None,
            executor=self._executor() if stage in (Stage.WAITING, Stage.SCHEDULED) else None,
            job=self._job(job, ahead) if job else None,
        )

    def _rows(self, ref: TaskRef) -> _Found:
        row = self._session.execute(explain_statements.task_instance(ref)).first()
        if row is None:
            raise self._missing(ref)
        return _Found(*row)

    def _missing(self, ref: TaskRef) -> NotFound | InvalidInput:
        """Find out what of a task instance there is, to say what there is not."""
        runs = self._session.scalars(explain_statements.latest_runs(ref.dag_id, ref.run_id)).all()
        if runs != [ref.run_id]:
            return self._missing_run(ref, latest=next(iter(runs), None))
        count, first, last = self._session.execute(explain_statements.map_indexes(ref)).one()
        what = f"task '{ref.task_id}' of DAG '{ref.dag_id}'"
        if not count:
            tasks = explain_statements.task_ids(ref.dag_id, ref.run_id, MAX_SHOWN)
            known = self._session.scalars(tasks).all()
            return NotFound(
                f"run {ref.run_id!r} of DAG {ref.dag_id!r} has no task {ref.task_id!r}"
                f"{did_you_mean(ref.task_id, known)}; it has: {', '.join(known) or 'none'}"
            )
        if last < 0:
            return NotFound(f"{what} has no map index {ref.map_index}: it is not mapped, or not expanded yet")
        if ref.map_index < 0:
            return InvalidInput(f"{what} is mapped: choose one with --map-index, from {first} to {last}")
        return NotFound(f"{what} has no map index {ref.map_index}; it has {first} to {last}")

    def _missing_run(self, ref: TaskRef, *, latest: str | None) -> NotFound:
        if latest is not None:
            return NotFound(f"DAG {ref.dag_id!r} has no run {ref.run_id!r}; its latest is {latest!r}")
        known = self._session.scalars(explain_statements.dag_ids()).all()
        if ref.dag_id in known:
            return NotFound(f"DAG {ref.dag_id!r} has no run {ref.run_id!r}: it has none at all")
        return NotFound(
            f"there is no DAG {ref.dag_id!r}{did_you_mean(ref.dag_id, known)}; `airflow dags list` shows all"
        )

    # -- what Airflow decides -------------------------------------------------------------------------------

    def _run(self, found: _Found) -> RunFacts:
        run, dag = found.run, found.dag
        waits = run.state == "queued"
        backfill = run.backfill if waits and run.backfill_id is not None else None
        running = explain_statements.running_runs(run.dag_id, run.backfill_id)
        return RunFacts(
            state=str(run.state),
            run_after=run.run_after,
            dag_paused=bool(dag.is_paused),
            dag_stale=bool(dag.is_stale),
            backfill_paused=bool(backfill and backfill.is_paused),
            in_backfill=backfill is not None,
            active_runs=int(self._session.scalar(running) or 0) if waits else 0,
            max_active_runs=backfill.max_active_runs if backfill else dag.max_active_runs,
        )

    def _dependencies(self, found: _Found) -> Dependencies | None:
        ti, run = found.ti, found.run
        if ti.state not in DEPENDENCIES_DECIDE or run.state != "running":
            return None
        task = airflow_private.stored_task(run, ti.task_id, self._session)
        if task is None:
            return Dependencies(reasons=(f"task '{ti.task_id}' is no longer in the DAG",))
        reasons = airflow_private.unmet_dependencies(ti, task, self._session)
        return Dependencies(reasons=tuple(reasons), unfinished=self._unfinished(ti, task) if reasons else ())

    def _unfinished(self, ti: TaskInstance, task: Any) -> tuple[Upstream, ...]:
        """Return the tasks directly before this one that have not ended, or not well."""
        if not task.upstream_task_ids:
            return ()
        states = explain_statements.upstream_states(ti.dag_id, ti.run_id, task.upstream_task_ids)
        return tuple(
            Upstream(task_id=row.task_id, state=row.state, instances=row.instances)
            for row in self._session.execute(states)
            if row.state != "success"
        )

    def _limits(self, found: _Found, ref: TaskRef) -> Iterator[ActiveLimit]:
        active = self._session.execute(explain_statements.active_tasks(ref)).one()._mapping
        limits = {"max_active_tasks": found.dag.max_active_tasks}
        if found.dag.has_task_concurrency_limits:
            task = airflow_private.stored_task(found.run, ref.task_id, self._session)
            limits |= {name: getattr(task, name, None) for name in _TASK_LIMITS}
        for name, limit in limits.items():
            if limit is not None:
                yield ActiveLimit(name=name, active=int(active[name]), limit=limit)

    def _descriptions(self) -> dict[str, str | None]:
        """Return what the Airflow pools are described as: by that those of work queues are known."""
        rows = self._session.execute(airflow_statements.airflow_pools()).all()
        self._pool_teams = {name: team_name for name, _, _, team_name in rows}
        return {name: description for name, _, description, _ in rows}

    def _refusal(self, ti: TaskInstance) -> str | None:
        """Say that the task's Airflow pool is another team's, if it is."""
        owner = self._pool_teams.get(ti.pool)
        if owner is None or not self._settings.pools.multi_team:
            return None
        team = blocked_tasks.team_of_dag(self._session, ti.dag_id)
        if may_use(team, owner=owner):
            return None
        return foreign_pool(ti.pool, what="Airflow pool", owner=owner, dag_id=ti.dag_id, team=team)

    def _airflow_pool(self, ti: TaskInstance, descriptions: Mapping[str, str | None]) -> AirflowPoolFacts:
        from airflow.models.pool import Pool

        name = ti.pool
        stats = Pool.slots_stats(session=self._session).get(name)
        if stats is None:
            return AirflowPoolFacts(name=name, exists=False)
        held = stats["running"] + stats["queued"]
        return AirflowPoolFacts(
            name=name,
            ours=is_managed_description(descriptions.get(name)),
            refuses=self._refusal(ti),
            slots=None if math.isinf(stats["total"]) else int(stats["total"]),
            running=stats["running"],
            queued=stats["queued"],
            # Airflow takes them off what is open, where the pool counts them.
            deferred=0 if math.isinf(stats["open"]) else int(stats["total"] - held - stats["open"]),
        )

    def _executor(self) -> ExecutorFacts:
        names = self._names or WorkPoolExecutorNames(name="", names=frozenset(), is_default=True)
        tasks: Counter[int | None] = Counter()
        others = explain_statements.tasks_of_others(sorted(names.names), ours_is_default=names.is_default)
        for statement in (statements.active_by_scheduler(), others):
            for scheduler, count in self._session.execute(statement):
                tasks[scheduler] += count
        alive = [job for job in self._session.scalars(explain_statements.schedulers()) if job.is_alive()]
        return ExecutorFacts(
            schedulers=tuple(SchedulerLoad(job_id=job.id, tasks=tasks[job.id]) for job in alive),
            parallelism=self._settings.pools.builtin_limit,
        )

    # -- what the work pool decides, and the job ------------------------------------------------------------

    def _work_queue(
        self,
        queue: NamedQueue,
        ti: TaskInstance,
        stage: Stage,
        ahead: _Ahead,
        descriptions: Mapping[str, str | None],
    ) -> WorkQueueFacts | None:
        its_own = ti.pool not in descriptions or is_managed_description(descriptions[ti.pool])
        gate_one = stage is Stage.SCHEDULED and ti.pool == queue.ref.airflow_pool and its_own
        if not gate_one and stage is not Stage.HANDED_OVER:
            return None
        return read_queue(
            self._session,
            self._store,
            self._pools,
            queue,
            now=self._now,
            gate_one=gate_one,
            overdue_since=self._overdue_since,
            overdue_slots=ahead.overdue_slots,
            descriptions=descriptions,
            dag_id=ti.dag_id,
        )

    def _newest_job(self, ti: TaskInstance) -> JobRecord | None:
        jobs = self._store.jobs(JobFilter(task_instance_ids=(ti.id,)), limit=1)
        return jobs[0] if jobs else None

    def _ahead(self, job: JobRecord) -> _Ahead:
        if job.state is not JobState.PENDING:
            return _Ahead()
        row = self._session.execute(statements.ahead_of(job, self._overdue_since)).one()
        return _Ahead(row.jobs, int(row.overdue_slots))

    def _job(self, job: JobRecord, ahead: _Ahead) -> JobFacts:
        worker = self._worker(job)
        return JobFacts(
            state=job.state,
            cancelling=job.desired_state is not None and job.ended_at is None,
            reason=job.reason,
            exit_code=job.exit_code,
            worker=worker.name if worker else None,
            worker_gone_since=worker.last_heartbeat_at if worker and self._is_gone(worker) else None,
            handed_over_at=job.handed_over_at,
            claimed_at=job.claimed_at,
            starting_since=job.starting_since,
            ended_at=job.ended_at,
            start_timeout_seconds=job.start_timeout_seconds,
            ahead=ahead.jobs,
        )

    def _worker(self, job: JobRecord) -> WorkerRecord | None:
        if job.worker_id is None:
            return None
        row = self._session.execute(worker_statements.worker(job.worker_id)).first()
        return None if row is None else worker_record(row)

    def _is_gone(self, worker: WorkerRecord) -> bool:
        return worker.state is WorkerState.STOPPED or worker.silent(self._now)


def _task_state(ti: TaskInstance, queue: WorkQueueRef | None) -> TaskState:
    return TaskState(
        state=None if ti.state is None else str(ti.state),
        try_number=ti.try_number,
        pool_slots=ti.pool_slots,
        queued_at=ti.queued_dttm,
        started_at=ti.start_date,
        ended_at=ti.end_date,
        hostname=ti.hostname or None,
        airflow_pool=ti.pool,
        work_queue=queue,
        executor=ti.executor,
    )
