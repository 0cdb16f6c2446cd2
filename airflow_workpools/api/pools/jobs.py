# SPDX-License-Identifier: Apache-2.0
"""Jobs for people, why tasks wait, and how pools were used."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_workpools.api.pools import job_views, translate, wire_jobs
from airflow_workpools.api.pools.paging import job_cursor, read_job_cursor
from airflow_workpools.api.pools.problems import faults_of
from airflow_workpools.api.pools.sparklines import POINTS, Kept
from airflow_workpools.core.dry_run import dry_run
from airflow_workpools.core.masking import masked
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import PoolStatus, WorkPool
from airflow_workpools.core.task_facts import TaskRef
from airflow_workpools.core.templates import RenderContext
from airflow_workpools.errors import InvalidJobVariables
from airflow_workpools.store.explain import explain_task, newest_job
from airflow_workpools.store.job_edits import cancel_jobs
from airflow_workpools.store.job_pages import job_page
from airflow_workpools.store.overview import overview
from airflow_workpools.store.usage import (
    Buckets,
    QueueUsage,
    Wait,
    percentile,
    percentiles_by_bucket,
    slots_used,
    waits,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from uuid import UUID

    from airflow_workpools.api.pools.access import Caller
    from airflow_workpools.api.pools.desk import Desk
    from airflow_workpools.api.pools.wire import Fault
    from airflow_workpools.core.jobs import JobState
    from airflow_workpools.store.context import Context
    from airflow_workpools.store.overview import PoolOverview
    from airflow_workpools.store.records import JobRecord

WINDOWS: Mapping[str, timedelta] = {
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
}
GLANCE_ROWS = 8
_KEPT_TIMES: Mapping[str, float] = {"1h": 1, "6h": 4, "24h": 16, "7d": 60}
_P50, _P95 = 0.5, 0.95


class _Used(NamedTuple):
    """What is read of the past of a pool."""

    buckets: Buckets
    queues: dict[WorkQueueRef, QueueUsage]
    waits: list[Wait]


@dataclass(frozen=True)
class JobService:
    """Does what the routes for jobs say."""

    desk: Desk
    kept: Kept[_Used] = field(default_factory=lambda: Kept(15.0), repr=False)

    def list_jobs(
        self,
        caller: Caller,
        pool: str,
        states: Collection[JobState] | None,
        queue: str | None,
        dag_id: str | None,
        cursor: str | None,
        limit: int,
    ) -> wire_jobs.JobList:
        after = read_job_cursor(cursor)
        with self.desk.reading() as context:
            found = job_page(
                context.session,
                pool,
                states=states,
                queue=queue,
                dag_id=dag_id,
                after=after,
                limit=limit,
            )
            if not found.jobs:
                context.pool(pool)  # what is gone may still have jobs
            names = _worker_names(context) if found.jobs else {}
        readable = caller.tasks("GET", {job.dag_id for job in found.jobs})
        return wire_jobs.JobList(
            jobs=[
                job_views.job_summary(job, worker_names=names, now=context.now)
                for job in found.jobs
                if job.dag_id in readable
            ],
            next_cursor=job_cursor(found.jobs[-1]) if found.more else None,
            as_of=context.now,
        )

    def get_job(self, caller: Caller, job_id: UUID) -> wire_jobs.JobDetail:
        with self.desk.reading() as context:
            job = context.store.job(job_id)
            self.desk.check_visible(caller, job.ref.pool, context.pools)
            caller.check_tasks("GET", job.dag_id)
            return self._detail(caller, context, job)

    def cancel_job(
        self, caller: Caller, job_id: UUID, request: wire_jobs.CancelRequest
    ) -> wire_jobs.JobDetail:
        reason = f"cancelled by {caller.name}" + (f": {request.reason}" if request.reason else "")
        with self.desk.reading() as context:
            job = context.store.job(job_id)
            self.desk.check_visible(caller, job.ref.pool, context.pools)
            pool = context.pools.get(job.ref.pool)
            caller.check_operate(job.ref.pool, None if pool is None else pool.team_name)
            caller.check_tasks("PUT", job.dag_id)
            (cancelled,) = cancel_jobs(context.store, [job_id], reason=reason, now=context.now)
            return self._detail(caller, context, cancelled)

    def _detail(self, caller: Caller, context: Context, job: JobRecord) -> wire_jobs.JobDetail:
        pool = context.pools.get(job.ref.pool)
        configuration, faults = self._rendered(job, pool)
        team = None if pool is None else pool.team_name
        return job_views.job_detail(
            job,
            worker_names=_worker_names(context),
            now=context.now,
            job_variables=translate.shown(job.job_variables, self.desk.is_secret),
            job_configuration=configuration,
            faults=faults,
            may_cancel=caller.may_operate(job.ref.pool, team)
            and job.dag_id in caller.tasks("PUT", {job.dag_id}),
        )

    def _rendered(self, job: JobRecord, pool: Any) -> tuple[Any, list[Fault]]:
        if not isinstance(pool, WorkPool):
            return None, faults_of([f"work pool {job.ref.pool!r} is no more, or invalid"])
        queue = pool.find_queue(job.ref.queue)
        try:
            rendered = dry_run(
                pool.base_job_template,
                pool.job_variables,
                queue.job_variables if queue else {},
                job.job_variables,
                context=RenderContext.of(job),
            )
        except InvalidJobVariables as error:
            return None, faults_of(error.problems)
        return masked(rendered, self.desk.is_secret), []

    # -- why a task waits -----------------------------------------------------------------------------------

    def explain(
        self, caller: Caller, dag_id: str, run_id: str, task_id: str, map_index: int
    ) -> wire_jobs.ExplainAnswer:
        caller.check_tasks("GET", dag_id)
        ref = TaskRef(dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=map_index)
        with self.desk.reading() as context:
            found = explain_task(
                ref,
                pools=context.pools,
                store=context.store,
                settings=context.settings,
                now=context.now,
                session_factory=self.desk.session_factory,
            )
            job = newest_job(context.session, ref, context.store)
            if job is not None and not self._visible(caller, context, job):
                job = None
            detail = None if job is None else self._detail(caller, context, job)
            return job_views.explain_answer(found, job=detail, now=context.now)

    def _visible(self, caller: Caller, context: Context, job: JobRecord) -> bool:
        pool = context.pools.get(job.ref.pool)
        return caller.may_see(job.ref.pool, None if pool is None else pool.team_name)

    # -- how pools were used --------------------------------------------------------------------------------

    def get_statistics(self, name: str, window: wire_jobs.Window) -> wire_jobs.StatisticsAnswer:
        with self.desk.reading() as context:
            pool = context.valid_pool(name)
            # The longer the time, the more there is to read, and the less does a moment matter.
            used = self.kept.get(
                (name, window), lambda: _used(context, name, window), times=_KEPT_TIMES[window]
            )
            return _statistics(pool, window, used)

    def get_dashboard(self, caller: Caller) -> wire_jobs.DashboardAnswer:
        with self.desk.reading() as context:
            pools = self.desk.visible(caller, context)
            found = overview(context.session, pools, context.store, now=context.now)
        workers = {worker.id for one in found for worker in one.workers if worker.online(context.now)}
        by_status = [one.status for one in found]
        rows = sorted(found, key=_attention)[:GLANCE_ROWS]
        return wire_jobs.DashboardAnswer(
            pools=len(found),
            ready=by_status.count(PoolStatus.READY),
            not_ready=by_status.count(PoolStatus.NOT_READY),
            paused=by_status.count(PoolStatus.PAUSED),
            invalid=by_status.count(PoolStatus.INVALID),
            slots_used=sum(one.occupied for one in found),
            running=sum(one.running for one in found),
            waiting=sum(one.waiting for one in found),
            workers_online=len(workers),
            rows=[
                wire_jobs.GlanceRow(
                    name=one.pool.name,
                    status=translate.word(one.status),
                    reason=one.reason,
                    slots_used=one.occupied,
                    concurrency_limit=one.limit,
                    waiting=one.waiting,
                    workers_online=one.workers_online,
                )
                for one in rows
            ],
            as_of=context.now,
        )


def _worker_names(context: Context) -> dict[UUID, str]:
    return {worker.id: worker.name for worker in context.store.run_state(now=context.now).workers}


def _attention(found: PoolOverview) -> tuple[bool, bool, float, int, str]:
    """Order pools: first what is wrong and has work that waits, then the fullest."""
    wrong = found.status in (PoolStatus.INVALID, PoolStatus.NOT_READY)
    full = found.occupied / found.limit if found.limit else float(found.occupied > 0)
    return not (wrong and found.waiting > 0), not wrong, -full, -found.waiting, found.pool.name


def _used(context: Context, pool: str, window: str) -> _Used:
    buckets = Buckets.until_now(context.now, WINDOWS[window], POINTS)
    return _Used(
        buckets,
        slots_used(context.session, [pool], buckets),
        waits(context.session, pool, since=buckets.since),
    )


def _statistics(pool: WorkPool, window: wire_jobs.Window, used: _Used) -> wire_jobs.StatisticsAnswer:
    buckets, sample = used.buckets, used.waits
    limits = {queue.name: queue.concurrency_limit for queue in pool.queues}
    gone = sorted({ref.queue for ref in used.queues} - limits.keys())
    return wire_jobs.StatisticsAnswer(
        pool=pool.name,
        window=window,
        since=buckets.since,
        until=buckets.until,
        bucket_seconds=buckets.seconds,
        concurrency_limit=pool.concurrency_limit,
        queues=[
            _queue_statistics(
                name,
                limits.get(name),
                used.queues.get(WorkQueueRef(pool.name, name)),
                [wait for wait in sample if wait.queue == name],
                buckets,
            )
            for name in (*limits, *gone)
        ],
        wait_sample=len(sample),
    )


def _queue_statistics(
    name: str, limit: int | None, used: QueueUsage | None, sample: list[Wait], buckets: Buckets
) -> wire_jobs.QueueStatistics:
    by_bucket = percentiles_by_bucket(sample, buckets, (_P50, _P95))
    seconds = [wait.seconds for wait in sample]
    return wire_jobs.QueueStatistics(
        name=name,
        concurrency_limit=limit,
        slots=used.slots if used else [0.0] * buckets.number,
        claimed=used.claimed if used else [0] * buckets.number,
        wait_p50_seconds=by_bucket[_P50],
        wait_p95_seconds=by_bucket[_P95],
        window_wait_p50_seconds=percentile(seconds, _P50),
        window_wait_p95_seconds=percentile(seconds, _P95),
    )
