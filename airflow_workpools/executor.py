# SPDX-License-Identifier: Apache-2.0
"""WorkPoolExecutor: the adapter between Airflow's scheduler and the job store.

It turns Airflow's calls into calls of the store. :meth:`WorkPoolExecutor.sync` runs inside the scheduler's
loop, so it issues a bounded number of statements whatever the number of jobs, calls nothing remote, and lets
no exception out.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.executors.base_executor import BaseExecutor
from airflow.executors.workloads import ExecuteCallback, ExecuteTask, TestConnection
from sqlalchemy.exc import SQLAlchemyError

from airflow_workpools.airflow_private.errands import WORKLOAD_TYPES
from airflow_workpools.airflow_private.tries import key_of_workload, task_key, task_key_type
from airflow_workpools.core.jobs import JobState
from airflow_workpools.dump import DutyRecord, dump
from airflow_workpools.duties import Duties
from airflow_workpools.errands import HandedErrands
from airflow_workpools.errors import WorkpoolsError
from airflow_workpools.handover import NotNow, Refusal, examine, new_job, queue_of, refused_job
from airflow_workpools.settings import Settings
from airflow_workpools.store import blocked_tasks
from airflow_workpools.store.pools import keep_secrets_pools_fresh, refresh_secrets_pools
from airflow_workpools.store.records import MISSED_HEARTBEATS
from airflow_workpools.task_logs import task_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from uuid import UUID

    from airflow.executors.workloads import ExecutorWorkload
    from airflow.models.connection_test import ConnectionTestKey
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.taskinstancehistory import TaskInstanceHistory
    from sqlalchemy.orm import Session

    from airflow_workpools.store.records import EndedJob, NewJob
    from airflow_workpools.worker.embedded import EmbeddedWorker

ASK_SECONDS = 1.0
"""Ends of jobs are asked for at the latest after this time, also without news from the embedded worker."""
MAX_SILENCE_SECONDS = 30.0
"""An embedded worker that says nothing for this time and some heartbeats hangs: its machine was not just busy."""
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
    supports_multi_team = True
    supports_task_instance_uuid = True  # see airflow_private.tries
    if WORKLOAD_TYPES is None:
        supports_callbacks = True
        supports_connection_test = True
    else:
        supported_workload_types = WORKLOAD_TYPES

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._duties: Duties | None = None
        self._worker: EmbeddedWorker | None = None
        self._errands = HandedErrands(team_name=self.team_name)
        self._keys: dict[UUID, Any] = {}
        """Keys in ``running`` of the tasks that were handed over here, by the id of their try."""
        self._handed_over = False
        self._errand_handed_over = False
        self._adopted = False
        self._refused = False
        self._ask_again_at = 0.0
        self._failures: dict[str, int] = {}
        self._duty_record = DutyRecord()
        self._ended = threading.Event()

    # -- life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Check the tables, start the embedded worker.

        :raises WorkpoolsError: if the settings make no sense or the tables can't be made.
        """
        from airflow_workpools.worker.ahead import load_ahead
        from airflow_workpools.worker.embedded import EmbeddedWorker
        from airflow_workpools.worker.embedded_process import run_embedded_worker

        settings = Settings.from_airflow(of_team=self.conf if self.team_name else None)
        _ensure_tables()
        self._read_secrets_pools(settings)
        self._duties = Duties(
            settings=settings,
            scheduler_job_id=_job_id(self),
            team_name=self.team_name,
            parallelism=self.parallelism,
        )
        self._attempt("asking the database's time", self._duties.clock.refresh)
        self._attempt("loading what the embedded worker needs", partial(load_ahead, settings))
        self._worker = EmbeddedWorker(
            main=partial(run_embedded_worker, settings=settings, team_name=self.team_name),
            restart_max_delay_seconds=settings.worker.restart_max_delay_seconds,
            silence_seconds=MAX_SILENCE_SECONDS + MISSED_HEARTBEATS * settings.worker.heartbeat_seconds,
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
        self._stop_worker(0 if self._duties is None else self._duties.settings.worker.drain_timeout_seconds)

    def terminate(self) -> None:
        """Stop at once; jobs go on here, too."""
        self._stop_worker(0)

    def _stop_worker(self, timeout_seconds: float) -> None:
        self._ended.set()
        # Forgotten first: a heartbeat that still comes must not start it again.
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop(timeout_seconds=timeout_seconds)

    # -- hand-over ------------------------------------------------------------------------------------------

    def queue_workload(self, workload: ExecutorWorkload, session: Session) -> None:
        """Put a task into the job store, in the scheduler's own transaction.

        A task whose work queue or job variables are wrong is refused at once: its job is stored as failed,
        with the reason. Callbacks and connection tests are no jobs: see ``store.errands``.
        """
        if isinstance(workload, (ExecuteCallback, TestConnection)):
            self._errands.hand_over(workload, session)
            self.running.add(workload.key)
            self._errand_handed_over = True
            return
        if not isinstance(workload, ExecuteTask):
            super().queue_workload(workload, session)
            return
        duties = self._started()
        job, refusal = self._job_of(workload, duties, session)
        if refusal is None:
            duties.store.hand_over(job, now=duties.clock(), session=session)
        else:
            duties.store.hand_over_failed(job, refusal, now=duties.clock(), session=session)
            self._refused = True
        key = self._keys[workload.ti.id] = key_of_workload(workload)
        self.running.add(key)
        self._handed_over = True

    def _job_of(self, workload: ExecuteTask, duties: Duties, session: Session) -> tuple[NewJob, str | None]:
        """Make a task's job, and say why it must fail at once, if it must.

        Whatever is wrong with one task, the scheduler's transaction has many more to hand over.
        """
        ref = duties.settings.pools.default_work_queue
        try:
            ref = queue_of(workload.ti.queue, ref)
            start_timeout_seconds = self._examine(workload, duties, session)
            job = new_job(
                workload,
                ref,
                scheduler_job_id=_job_id(self),
                start_timeout_seconds=start_timeout_seconds,
                team_name=self.team_name,
            )
        except SQLAlchemyError:
            raise  # the transaction is lost
        except Refusal as refusal:
            reason = str(refusal)
        except Exception as error:
            self.log.exception("Task %s can't be handed over", workload.ti.key)
            reason = f"The task can't be handed over to work queue '{ref}': {type(error).__name__}: {error}"
        else:
            return job, None
        return refused_job(workload, ref, scheduler_job_id=_job_id(self), team_name=self.team_name), reason

    def _examine(self, workload: ExecuteTask, duties: Duties, session: Session) -> float:
        """Return the start timeout of a task that may go where it wants to.

        :raises Refusal: if it may not.
        """
        check = partial(
            examine,
            workload,
            default=duties.settings.pools.default_work_queue,
            # A team's executor is given nothing but its team's tasks; that of everybody, everybody's.
            team_of_dag=lambda: self.team_name or blocked_tasks.team_of_dag(session, workload.ti.dag_id),
        )
        try:
            return check(duties.pools())[1].start_timeout_seconds
        except Refusal:
            pass
        try:
            # What is known of the pools is some seconds old; this one may have been made or mended since.
            return check(duties.pools(fresh=True))[1].start_timeout_seconds
        except NotNow as refusal:
            # Its slots are closed at the next heartbeat; what comes until then waits in the store. A task in
            # an Airflow pool of its author's has nothing that would hold back those behind it.
            if blocked_tasks.airflow_pool_of(session, workload.ti.id) != refusal.ref.airflow_pool:
                raise
            return duties.settings.pools.start_timeout_seconds

    def _started(self) -> Duties:
        if self._duties is None:
            raise RuntimeError("WorkPoolExecutor was not started")
        return self._duties

    @property
    def slots_available(self) -> int:
        """How many more workloads the scheduler may hand over."""
        return int(super().slots_available) + self._just_ended()

    @property
    def slots_occupied(self) -> int:
        """How many workloads are here."""
        return int(super().slots_occupied) - self._just_ended()

    def _just_ended(self) -> int:
        """Count tasks in ``running`` whose jobs have ended, as the worker says, and of which Airflow was not told yet.

        In each loop, Airflow asks for slots first and hears of ends afterwards; then it sleeps for a second if it has
        handed nothing over. So an executor that was full would get its next task a second late.
        """
        if self._worker is None:
            return 0
        return sum(self._keys.get(id_) in self.running for id_ in self._worker.ended())

    # -- the scheduler's loop -------------------------------------------------------------------------------

    def sync(self) -> None:
        """Do this heartbeat's duties, each on its own: one that fails keeps nobody from the others."""
        duties = self._duties
        if duties is None:
            return
        self._attempt("asking the database's time", duties.clock.refresh)
        now, monotonic = duties.clock(), time.monotonic()
        self._attempt("the embedded worker", self._mind_worker)
        self._attempt("telling the ends of jobs", lambda: self._tell_ends(duties, now, monotonic))
        self._attempt("telling the ends of errands", lambda: self._tell_errands(monotonic))
        self._attempt("slots", lambda: duties.allocate(now=now, monotonic=monotonic))
        self._attempt("stopping what was cleared", lambda: duties.stop_cleared(monotonic=monotonic))
        self._attempt("looking after jobs", lambda: duties.look_after(now=now, monotonic=monotonic))
        self._attempt("purging old jobs", lambda: duties.purge(now=now, monotonic=monotonic))
        self._attempt("counting jobs", lambda: self._count(duties, monotonic))
        self._attempt("sending metrics", lambda: duties.send_gauges(now=now, monotonic=monotonic))

    def _attempt(self, name: str, duty: Callable[[], object]) -> None:
        """Do a duty; if it goes wrong, that is logged, and it is tried again with the next heartbeat."""
        try:
            duty()
        except Exception as error:
            self._duty_record.failed(name, error)
            failures = self._failures[name] = self._failures.get(name, 0) + 1
            if failures & (failures - 1) == 0:  # the 1st, 2nd, 4th, 8th… in a row: don't flood the log
                self.log.exception("Work pools: %s failed (%d in a row)", name, failures)
        else:
            self._failures.pop(name, None)

    def _mind_worker(self) -> None:
        if self._worker is not None:
            if self._handed_over:
                self._worker.look_now()
                self._handed_over = False
            if self._errand_handed_over:
                self._worker.look_for_errands()
                self._errand_handed_over = False
            self._worker.supervise()

    def _tell_ends(self, duties: Duties, now: datetime, monotonic: float) -> None:
        """Tell what has ended. The scheduler may loop a hundred times a second: ask when there is news."""
        news = self._refused or self._worker is None or self._worker.has_news()
        if not news and monotonic < self._ask_again_at:
            return
        self._refused = False
        ended = duties.ended(limit=MAX_EVENTS, now=now)
        self._ask_again_at = monotonic + (ASK_SECONDS if len(ended) < MAX_EVENTS else 0)
        for job in ended:
            self._tell(job)

    def _tell_errands(self, monotonic: float) -> None:
        """Tell which callbacks and connection tests have ended."""
        for errand in self._errands.ended(monotonic):
            if errand.failed is None:
                self.running.discard(errand.key)
            elif errand.failed:
                self.fail(errand.key, info=errand.reason)
            else:
                self.success(errand.key)

    def fail_connection_test(self, key: ConnectionTestKey) -> None:
        """Give up a connection test that has taken too long; Airflow has failed it, the worker stops it."""
        super().fail_connection_test(key)
        self._errands.forget(key)

    def _count(self, duties: Duties, monotonic: float) -> None:
        """Bring ``running`` into line with the store: a hand-over may have been rolled back, or jobs adopted.

        Not done at the hand-over or the adoption itself: those are part of the scheduler's transactions, which
        may fail yet. A key that stayed here for ever would be a slot lost.
        """
        if not (self._adopted or duties.count_is_due(monotonic)):
            return
        tasks = {key for key in self.running if isinstance(key, task_key_type())}
        if self._adopted or duties.active_count() != len(tasks):
            # A task that Airflow is about to hear of must not seem to be here still, even if an earlier round of
            # it is: Airflow would take it for handed over anew, and ignore its end.
            active = {task_key(job) for job in duties.active()} - self.event_buffer.keys()
            self.running -= tasks
            self.running |= active
        self._keys = {id_: key for id_, key in self._keys.items() if key in self.running}
        self._adopted = False

    def _tell(self, job: EndedJob) -> None:
        """Tell the scheduler how a job ended."""
        self._keys.pop(job.task_instance_id, None)
        if not job.latest:  # the same try was handed over again since: that job's end will be told
            return
        key = task_key(job)
        if job.state is JobState.FAILED:
            self.fail(key, info=job.reason)
        else:
            # A job that was cancelled, too: of a task that was cleared while it ran (`restarting`), Airflow takes
            # success as "it has been stopped, run it anew", but failure as a try that has to wait for its retry.
            # A task that still counts on its job is failed for either, with the reason.
            self.success(key, info=job.reason)

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
        self._ask_again_at = 0.0
        self.log.info("Work pools: adopted %d of %d task instances", len(adopted), len(tis))
        return [ti for ti in tis if ti.id not in adopted]

    # -- information ----------------------------------------------------------------------------------------

    def get_task_log(
        self, ti: TaskInstance | TaskInstanceHistory, try_number: int
    ) -> tuple[list[str], list[str]]:
        """Say where the log of a running task is from, if not from Airflow's log folder.

        The API server asks, of an executor that was never started; the log itself it has been given already: see
        :mod:`airflow_workpools.plugin`.
        """
        sources = task_logs().while_running(ti)
        return (sources, []) if sources else super().get_task_log(ti, try_number)

    def debug_dump(self) -> None:
        """Write what this executor knows into the scheduler's log."""
        super().debug_dump()
        if self._duties is not None:
            text = dump(
                self._duties,
                record=self._duty_record,
                in_a_row=self._failures,
                worker_pid=None if self._worker is None else self._worker.pid,
                jobs=len(self.running),
            )
            self.log.info("Work pools%s\n%s", f" ({self.team_name})" if self.team_name else "", text)

    @staticmethod
    def get_cli_commands() -> list[Any]:
        """Return nothing: ``airflow workpools`` comes with the provider, whichever executor is configured."""
        return []


def _ensure_tables() -> None:
    from airflow_workpools.store.db_manager import ensure_tables

    try:
        ensure_tables()
    except WorkpoolsError:
        raise
    except Exception as error:
        raise WorkpoolsError(
            "The tables of airflow-provider-workpools can't be created or upgraded in the metadata database; "
            f"run `airflow db migrate` as a database user who may: {error}"
        ) from error


def _job_id(executor: BaseExecutor) -> int | None:
    return None if executor.job_id is None else int(executor.job_id)
