# SPDX-License-Identifier: Apache-2.0
"""WorkPoolExecutor: the adapter between Airflow's scheduler and the job store.

It turns Airflow's calls into calls of the store. :meth:`WorkPoolExecutor.sync` runs inside the scheduler's
loop, so it
issues a bounded number of statements whatever the number of jobs, calls nothing remote, and lets no
exception out.
"""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.executors.base_executor import BaseExecutor
from airflow.executors.workloads import ExecuteTask
from airflow.models.taskinstancekey import TaskInstanceKey

from airflow_workpools.core.jobs import JobState
from airflow_workpools.duties import Duties
from airflow_workpools.handover import Refusal, examine, new_job
from airflow_workpools.settings import Settings
from airflow_workpools.store.pools import keep_secrets_pools_fresh, refresh_secrets_pools

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.executors.workloads import ExecutorWorkload
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

    from airflow_workpools.core.names import WorkQueueRef
    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.store.records import EndedJob
    from airflow_workpools.worker.embedded import EmbeddedWorker

MAX_EVENTS = 500
"""Most ends of jobs told to the scheduler in one loop; the rest follow in the next."""


class WorkPoolExecutor(BaseExecutor):
    """Runs tasks through work pools.

    ``__init__`` does nothing: the API server constructs executors, too. What it takes to run tasks begins in
    :meth:`start`.
    """

    is_local = True  # `airflow standalone` would otherwise replace it by LocalExecutor
    is_production = True
    serve_logs = True
    supports_multi_team = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._duties: Duties | None = None
        self._worker: EmbeddedWorker | None = None
        self._handed_over = False
        self._adopted = False
        self._failures = 0
        self._ended = threading.Event()

    # -- life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Check the tables, start the embedded worker.

        :raises WorkpoolsError: if the settings make no sense or the tables can't be made.
        """
        from airflow_workpools.store.db_manager import ensure_tables
        from airflow_workpools.worker.embedded import EmbeddedWorker, run_embedded_worker

        settings = Settings.from_airflow(self.conf)
        ensure_tables()
        self._read_secrets_pools(settings)
        self._duties = Duties(settings=settings, scheduler_job_id=_job_id(self))
        self._worker = EmbeddedWorker(
            main=partial(run_embedded_worker, settings=settings),
            restart_max_delay_seconds=settings.worker.restart_max_delay_seconds,
        )
        self._worker.start()
        # After the fork: a thread must not be in the middle of something when the worker is made.
        keep_secrets_pools_fresh(settings, stop=self._ended)

    def _read_secrets_pools(self, settings: Settings) -> None:
        """Ask the secrets backends once, before the scheduler's loop begins: in it nothing remote may be called."""
        try:
            refresh_secrets_pools(settings)
        except Exception:
            self.log.exception("Secrets backends can't be asked for work pools; trying again in a minute")

    def end(self) -> None:
        """Stop the embedded worker. Jobs that run go on running; the next scheduler adopts them."""
        self._ended.set()
        if self._worker is not None and self._duties is not None:
            self._worker.stop(timeout_seconds=self._duties.settings.worker.drain_timeout_seconds)

    def terminate(self) -> None:
        """Stop at once; jobs go on here, too."""
        self._ended.set()
        if self._worker is not None:
            self._worker.stop(timeout_seconds=0)

    # -- hand-over ------------------------------------------------------------------------------------------

    def queue_workload(self, workload: ExecutorWorkload, session: Session) -> None:
        """Put a task into the job store, in the scheduler's own transaction.

        A task whose work queue or job variables are wrong is refused at once: its job is stored as failed,
        with the reason.
        """
        if not isinstance(workload, ExecuteTask):
            super().queue_workload(workload, session)
            return
        duties = self._started()
        now = _now()
        try:
            ref, pool = self._examine(workload, duties)
            job = new_job(
                workload,
                ref,
                scheduler_job_id=_job_id(self),
                start_timeout_seconds=pool.start_timeout_seconds,
            )
            duties.store.hand_over(job, now=now, session=session)
        except Refusal as refusal:
            job = new_job(workload, refusal.ref, scheduler_job_id=_job_id(self), start_timeout_seconds=0)
            duties.store.hand_over_failed(job, str(refusal), now=now, session=session)
        self.running.add(workload.key)
        self._handed_over = True

    @staticmethod
    def _examine(workload: ExecuteTask, duties: Duties) -> tuple[WorkQueueRef, WorkPool]:
        default = duties.settings.pools.default_work_queue
        try:
            return examine(workload, duties.pools(), default=default)
        except Refusal:
            # What is known of the pools is some seconds old; this one may have been made or mended since.
            return examine(workload, duties.pools(fresh=True), default=default)

    def _started(self) -> Duties:
        if self._duties is None:
            raise RuntimeError("WorkPoolExecutor was not started")
        return self._duties

    # -- the scheduler's loop -------------------------------------------------------------------------------

    def sync(self) -> None:
        """Do this heartbeat's duties; whatever goes wrong is logged and tried again with the next heartbeat."""
        try:
            self._sync(self._started())
            self._failures = 0
        except Exception:
            self._failures += 1
            if (
                self._failures & (self._failures - 1) == 0
            ):  # the 1st, 2nd, 4th, 8th… in a row: don't flood the log
                self.log.exception("Work pools: heartbeat failed (%d in a row)", self._failures)

    def _sync(self, duties: Duties) -> None:
        if self._worker is not None:
            if self._handed_over:
                self._worker.look_now()
                self._handed_over = False
            self._worker.supervise()
        now, monotonic = _now(), time.monotonic()
        if self._adopted:
            # Read here, not at the adoption: that is part of the scheduler's transaction, unseen until it
            # ends.
            self.running.update(_key(job) for job in duties.active())
            self._adopted = False
        for job in duties.ended(limit=MAX_EVENTS, now=now):
            self._tell(job)
        duties.allocate(now=now, monotonic=monotonic)
        if duties.look_after(now=now, monotonic=monotonic) or self._adopted:
            self._recount(duties)

    def _recount(self, duties: Duties) -> None:
        """Bring ``running`` into line with the store: a hand-over may have been rolled back, or jobs adopted.

        Not done at the hand-over or the adoption itself: those are part of the scheduler's transactions, which
        may fail yet. A key that stayed here for ever would be a slot lost.
        """
        self._adopted = False
        if duties.active_count() != len(self.running):
            self.running.clear()
            self.running.update(_key(job) for job in duties.active())

    def _tell(self, job: EndedJob) -> None:
        """Tell the scheduler how a job ended."""
        if not job.latest:  # the same try was handed over again since: that job's end will be told
            return
        key = _key(job)
        if job.state is JobState.SUCCEEDED:
            self.success(key)
            return
        self.fail(key, info=job.reason)

    # -- restarts -------------------------------------------------------------------------------------------

    def try_adopt_task_instances(self, tis: Sequence[TaskInstance]) -> Sequence[TaskInstance]:
        """Adopt the jobs of a scheduler that is gone; return the task instances that have no job here."""
        from sqlalchemy.orm import object_session

        if not tis:
            return tis
        duties = self._started()
        # The scheduler holds locks on these rows: a session of our own would wait for it, and on SQLite
        # for ever.
        session = object_session(tis[0])
        assert session is not None
        adopted = duties.adopt([ti.id for ti in tis], session=session)
        self._adopted = True
        self.log.info("Work pools: adopted %d of %d task instances", len(adopted), len(tis))
        return [ti for ti in tis if ti.id not in adopted]

    # -- information ----------------------------------------------------------------------------------------

    def debug_dump(self) -> None:
        """Write what this executor knows into the scheduler's log."""
        super().debug_dump()
        if self._duties is not None:
            self.log.info("Work pools\n\t%s", json.dumps(self._duties.summary(), indent=1, default=str))
        if self._worker is not None:
            self.log.info("Embedded worker: pid %s", self._worker.pid)

    @staticmethod
    def get_cli_commands() -> list[Any]:
        """Return nothing: ``airflow workpools`` comes with the provider, whichever executor is configured."""
        return []


def _job_id(executor: BaseExecutor) -> int | None:
    return None if executor.job_id is None else int(executor.job_id)


def _key(job: Any) -> TaskInstanceKey:
    """Return the key under which Airflow's scheduler knows a job's task."""
    return TaskInstanceKey(job.dag_id, job.task_id, job.run_id, job.try_number, job.map_index)


def _now() -> datetime:
    return datetime.now(timezone.utc)
