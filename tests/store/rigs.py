# SPDX-License-Identifier: Apache-2.0
"""A store and the Airflow around it: the same handles on the one in memory and the ones in SQL."""

from __future__ import annotations

import uuid
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa
from airflow.models.dagrun import DagRun

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import Delivery, WorkPool, WorkQueue
from airflow_workpools.core.templates import BaseJobTemplate
from airflow_workpools.store.jobs import SqlStore
from airflow_workpools.store.records import NewJob, WorkerKind, WorkerRecord
from airflow_workpools.store.tables import metadata
from airflow_workpools.testing import MemoryStore, TaskInstanceFacts
from tests.airflow_tables import begin_next_try, history, insert_task_instances, task_instances
from tests.store.databases import session_factory

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from airflow_workpools.core.jobs import JobState
    from airflow_workpools.store.protocol import JobStore
    from airflow_workpools.store.records import ClaimedJob, JobRecord

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.utc)
SCHEDULER = 7
TEMPLATE = BaseJobTemplate(variables={}, job_configuration={})

_dag_runs = DagRun.__table__


def later(seconds: float) -> datetime:
    """Return the time so long after :data:`NOW`."""
    return NOW + timedelta(seconds=seconds)


def new_job(queue: str = "etl", **values: Any) -> NewJob:
    """Make a job to hand over."""
    id_ = values.pop("task_instance_id", None) or uuid.uuid4()
    defaults: dict[str, Any] = {
        "task_instance_id": id_,
        "dag_id": "dag",
        "task_id": f"task-{id_}",
        "run_id": "run",
        "map_index": -1,
        "try_number": 1,
        "ref": WorkQueueRef.parse(queue),
        "pool_slots": 1,
        "priority_weight": 1,
        "workload": '{"log_path": "dag/run/task/1.log"}',
        "scheduler_job_id": SCHEDULER,
        "start_timeout_seconds": 600.0,
    }
    return NewJob(**{**defaults, **values})


def work_pool(name: str = "etl", limit: int | None = None, **queues: tuple[int, int | None]) -> WorkPool:
    """Make a pool. Queues are given as ``name=(priority, limit)``; without any there is ``default``."""
    all_queues = {"default": (100, None), **queues}
    return WorkPool(
        name=name,
        type="process",
        concurrency_limit=limit,
        queues=tuple(
            WorkQueue(name=queue, priority=priority, concurrency_limit=most)
            for queue, (priority, most) in sorted(all_queues.items(), key=lambda item: item[1][0])
        ),
        base_job_template=TEMPLATE,
    )


def pull_pool(name: str = "etl", limit: int | None = None, **queues: tuple[int, int | None]) -> WorkPool:
    """Make a pool whose jobs standalone workers claim."""
    return replace(work_pool(name, limit, **queues), delivery=Delivery.PULL)


def new_worker(**values: Any) -> WorkerRecord:
    """Make a worker to register."""
    defaults: dict[str, Any] = {
        "id": uuid.uuid4(),
        "name": "worker",
        "hostname": "here",
        "kind": WorkerKind.EMBEDDED,
        "started_at": NOW,
        "last_heartbeat_at": NOW,
        "heartbeat_seconds": 10.0,
        "version": "1",
    }
    return WorkerRecord(**{**defaults, **values})


class Airflow(Protocol):
    """Airflow's side of things, as far as a store looks at it."""

    def session(self) -> AbstractContextManager[Any]:
        """Open a transaction of the scheduler."""

    def put(self, state: str | None, updated_at: datetime, *jobs: NewJob) -> None:
        """Make the task instances of jobs be so."""

    def scheduled(self, since: datetime, *jobs: NewJob) -> None:
        """Say since when the task instances of jobs waited before their hand-over."""

    def remove(self, job: NewJob, ended_at: datetime | None) -> None:
        """Give the try's task instance a new id; with an end, the try goes to the history."""


@dataclass
class Rig:
    """A store under test, with shorthands for what tests do all the time."""

    store: JobStore
    airflow: Airflow

    def hand_over(self, *jobs: NewJob, now: datetime = NOW, state: str | None = "queued") -> list[uuid.UUID]:
        """Hand jobs over as the scheduler does: together with the state of their task instances."""
        with self.airflow.session() as session:
            ids = [self.store.hand_over(job, now=now, session=session) for job in jobs]
        self.airflow.put(state, now, *jobs)
        return ids

    def worker(self, **values: Any) -> uuid.UUID:
        """Register a worker and return its id."""
        worker = new_worker(**values)
        self.store.register_worker(worker, now=worker.last_heartbeat_at)
        return worker.id

    def standalone(self, *pools: str, **values: Any) -> uuid.UUID:
        """Register a standalone worker of these pools, of ``etl`` where none is given."""
        return self.worker(kind=WorkerKind.STANDALONE, pools=pools or ("etl",), **values)

    def claim(
        self,
        worker: uuid.UUID,
        *pools: WorkPool,
        room: int = 100,
        most: int | None = None,
        now: datetime = NOW,
    ) -> list[ClaimedJob]:
        return self.store.claim(worker, pools or (work_pool(),), room=room, most=most, now=now)

    def claimed(self, *jobs: NewJob, worker: uuid.UUID | None = None, now: datetime = NOW) -> list[uuid.UUID]:
        """Hand jobs over and have them claimed; return their ids."""
        ids = self.hand_over(*jobs, now=now)
        worker = worker or self.worker()
        kinds = {known.id: known.kind for known in self.store.run_state(now=now).workers}
        make = pull_pool if kinds[worker] is WorkerKind.STANDALONE else work_pool
        pools = {job.ref.pool: make(job.ref.pool, **{job.ref.queue: (1, None)}) for job in jobs}
        taken = self.claim(worker, *pools.values(), room=1000, now=now)
        assert {job.id for job in taken} == set(ids)
        return ids

    def state(self, job_id: uuid.UUID) -> JobState:
        return self.store.job(job_id).state

    def record(self, job_id: uuid.UUID) -> JobRecord:
        return self.store.job(job_id)


class AirflowInMemory:
    """Facts that the store in memory is told."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def session(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def put(self, state: str | None, updated_at: datetime, *jobs: NewJob) -> None:
        for job in jobs:
            self._store.task_instances[job.task_instance_id] = TaskInstanceFacts(state, updated_at)

    def scheduled(self, since: datetime, *jobs: NewJob) -> None:
        for job in jobs:
            facts = self._store.task_instances[job.task_instance_id]
            self._store.task_instances[job.task_instance_id] = facts._replace(scheduled_at=since)

    def remove(self, job: NewJob, ended_at: datetime | None) -> None:
        del self._store.task_instances[job.task_instance_id]
        if ended_at is not None:
            self._store.ended_tries[job.task_instance_id] = ended_at


class AirflowInSql:
    """Rows in the real tables of Airflow."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.session = session_factory(engine)

    def put(self, state: str | None, updated_at: datetime, *jobs: NewJob) -> None:
        values = {"state": state, "updated_at": updated_at}
        with self.session() as session:
            there = set(session.scalars(sa.select(task_instances.c.id)))
            known = [job.task_instance_id for job in jobs if job.task_instance_id in there]
            if known:
                these = task_instances.c.id.in_(known)
                session.execute(sa.update(task_instances).where(these).values(values))
            new = [job for job in jobs if job.task_instance_id not in there]
            self._insert(
                session,
                [_try_of(job) | values | {"id": job.task_instance_id} for job in new],
            )

    def scheduled(self, since: datetime, *jobs: NewJob) -> None:
        these = task_instances.c.id.in_([job.task_instance_id for job in jobs])
        with self.session() as session:
            session.execute(sa.update(task_instances).where(these).values(scheduled_dttm=since))

    def remove(self, job: NewJob, ended_at: datetime | None) -> None:
        with self.session() as session:
            begin_next_try(session, job.task_instance_id, ended_at)

    def _insert(self, session: Any, rows: list[dict[str, Any]]) -> None:
        runs = {(row["dag_id"], row["run_id"]) for row in rows}
        there = {
            (row.dag_id, row.run_id)
            for row in session.execute(sa.select(_dag_runs.c.dag_id, _dag_runs.c.run_id))
        }
        for dag_id, run_id in sorted(runs - there):
            run = {"dag_id": dag_id, "run_id": run_id, "run_type": "manual", "run_after": NOW}
            session.execute(sa.insert(_dag_runs).values(run))
        if rows:
            insert_task_instances(session, rows)

    def wipe(self) -> None:
        """Remove all jobs, workers, pools, and Airflow's runs."""
        with self.engine.begin() as connection:
            for table in (*metadata.sorted_tables, *history(), task_instances, _dag_runs):
                connection.execute(sa.delete(table))


def _try_of(job: NewJob) -> dict[str, Any]:
    return {
        "dag_id": job.dag_id,
        "run_id": job.run_id,
        "task_id": job.task_id,
        "map_index": job.map_index,
        "try_number": job.try_number,
        "pool": "default_pool",
        "pool_slots": job.pool_slots,
    }


def memory_rig() -> Rig:
    store = MemoryStore()
    return Rig(store, AirflowInMemory(store))


def sql_rig(engine: sa.Engine) -> Rig:
    airflow = AirflowInSql(engine)
    airflow.wipe()
    return Rig(SqlStore(airflow.session), airflow)
