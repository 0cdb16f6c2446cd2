# SPDX-License-Identifier: Apache-2.0
"""A scheduler's surroundings on a real database: Airflow's sessions, its executor, work pools, tasks."""

from __future__ import annotations

import json
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from airflow import settings as airflow_settings
from airflow.executors.workloads import ExecuteTask
from airflow.executors.workloads.base import BundleInfo
from airflow.executors.workloads.task import TaskInstanceDTO
from airflow.models.connection import Connection
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.models.team import Team, dag_bundle_team_association_table
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from airflow_workpools.executor import WorkPoolExecutor
from airflow_workpools.store import pools as pools_module
from airflow_workpools.worker import embedded
from tests.airflow_tables import insert_task_instances
from tests.store.rigs import NOW, SCHEDULER, Rig, sql_rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

PROCESS = {"type": "process"}


@dataclass
class StubWorker:
    """Stands where the embedded worker would; nothing is forked."""

    main: Any = None
    restart_max_delay_seconds: float = 0
    silence_seconds: float | None = None
    pid: int | None = 1
    heard: list[str] = field(default_factory=list)
    told: set[uuid.UUID] = field(default_factory=set)
    """Ids of task instances whose jobs it says to have ended."""
    fails: bool = False

    def start(self) -> None:
        self.heard.append("start")

    def look_now(self) -> None:
        self.heard.append("look now")

    def look_for_errands(self) -> None:
        self.heard.append("look for errands")

    def has_news(self) -> bool:
        self.told.clear()
        return True

    def ended(self) -> set[uuid.UUID]:
        return self.told

    def supervise(self) -> None:
        if self.fails:
            raise BlockingIOError("no process can be forked")

    def stop(self, *, timeout_seconds: float) -> None:
        self.heard.append("stop")


@dataclass
class Scheduler:
    """What a scheduler has around it."""

    engine: sa.Engine
    rig: Rig
    logs: Path
    executors: list[WorkPoolExecutor] = field(default_factory=list)

    # -- the executor ---------------------------------------------------------------------------------------

    def executor(self, job_id: int = SCHEDULER, *, team_name: str | None = None) -> WorkPoolExecutor:
        """Start an executor."""
        executor = WorkPoolExecutor(parallelism=32, team_name=team_name)
        executor.job_id = job_id
        executor.start()
        self.executors.append(executor)
        return executor

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a transaction of the scheduler's own."""
        with airflow_settings.Session() as session:  # type: ignore[misc]
            try:
                yield session
                session.commit()
            except BaseException:
                session.rollback()
                raise

    @contextmanager
    def crash(self) -> Iterator[Session]:
        """Open a transaction that is rolled back at its end."""
        with airflow_settings.Session() as session:  # type: ignore[misc]
            yield session
            session.rollback()

    def hand_over(self, executor: WorkPoolExecutor, *workloads: ExecuteTask) -> None:
        """Hand tasks over as the scheduler does."""
        with self.transaction() as session:
            for workload in workloads:
                executor.queue_workload(workload, session)

    def workload(self, queue: str = "etl/default", *, state: str = "queued", **values: Any) -> ExecuteTask:
        """Make a task instance, and the workload that the scheduler makes of it."""
        variables = values.pop("variables", None)
        ti = self.task(queue, state, **values)
        return ExecuteTask(
            ti=TaskInstanceDTO(
                id=ti["id"],
                dag_version_id=uuid.uuid4(),
                task_id=ti["task_id"],
                dag_id=ti["dag_id"],
                run_id=ti["run_id"],
                try_number=1,
                map_index=-1,
                pool_slots=ti["pool_slots"],
                queue=queue,
                priority_weight=1,
                executor_config=variables,
            ),
            dag_rel_path="dag.py",
            token="secret",
            bundle_info=BundleInfo(name="dags"),
            log_path=f"{ti['task_id']}/attempt=1.log",
        )

    # -- rows of Airflow's ----------------------------------------------------------------------------------

    def pool(self, name: str = "etl", **definition: Any) -> None:
        """Define a work pool, or change its definition."""
        self.forget_pool(name)
        team_name = definition.pop("team_name", None)
        extra = definition.pop("extra", None) or json.dumps({**PROCESS, **definition})
        with self.engine.begin() as connection:
            values = {"conn_id": name, "conn_type": "workpool", "extra": extra}
            values |= {"is_encrypted": False, "is_extra_encrypted": False, "team_name": team_name}
            connection.execute(sa.insert(Connection.__table__), [values])
        self.forget_what_is_known()

    def forget_pool(self, name: str) -> None:
        table = Connection.__table__
        with self.engine.begin() as connection:
            found = connection.execute(sa.select(table.c.id, table.c.conn_id)).all()
            # On MariaDB, names that differ in capitals are equal.
            ids = [id_ for id_, conn_id in found if conn_id == name]
            connection.execute(sa.delete(table).where(table.c.id.in_(ids)))
        self.forget_what_is_known()

    @staticmethod
    def forget_what_is_known() -> None:
        """Let the seconds pass after which definitions are read again."""
        pools_module._shared.cache_clear()

    def team(self, name: str) -> str:
        """Make a team, and a DAG bundle of its own, whose name this returns."""
        bundle = f"dags of {name}"
        with self.engine.begin() as connection:
            connection.execute(sa.insert(Team.__table__), [{"name": name}])
            connection.execute(sa.insert(DagBundleModel.__table__), [{"name": bundle, "active": True}])
            owns = {"dag_bundle_name": bundle, "team_name": name}
            connection.execute(sa.insert(dag_bundle_team_association_table), [owns])
        return bundle

    def dag(
        self, dag_id: str, *, bundle: str = "dags", paused: bool = False, max_active_tasks: int = 1000
    ) -> None:
        with self.engine.begin() as connection:
            row = {"dag_id": dag_id, "is_paused": paused, "bundle_name": bundle}
            row |= {"max_active_tasks": max_active_tasks, "max_active_runs": 16, "is_stale": False}
            row |= {"max_consecutive_failed_dag_runs": 0, "has_task_concurrency_limits": False}
            row |= {"exceeds_max_non_backfill": False}
            connection.execute(sa.insert(DagModel.__table__), [row])

    def run(self, dag_id: str, run_id: str = "run", state: str = "running") -> None:
        with self.engine.begin() as connection:
            row = {"dag_id": dag_id, "run_id": run_id, "run_type": "manual", "run_after": NOW, "state": state}
            connection.execute(sa.insert(DagRun.__table__), [row])

    def task(self, queue: str, state: str | None, **values: Any) -> dict[str, Any]:
        """Make a task instance; its DAG and run, too, if they are not there."""
        id_ = uuid.uuid4()
        defaults = {"id": id_, "dag_id": "dag", "run_id": "run", "task_id": f"t-{id_}", "map_index": -1}
        defaults |= {
            "try_number": 1,
            "pool": queue.replace("/default", "").replace("/", "."),
            "pool_slots": 1,
        }
        defaults |= {"queued_by_job_id": SCHEDULER, "priority_weight": 1, "updated_at": NOW}
        row: dict[str, Any] = {**defaults, "queue": queue, "state": state, **values}
        if not self.rows(DagModel, dag_id=row["dag_id"]):
            self.dag(row["dag_id"])
        if not self.rows(DagRun, dag_id=row["dag_id"], run_id=row["run_id"]):
            self.run(row["dag_id"], row["run_id"])
        with self.engine.begin() as connection:
            insert_task_instances(connection, [row])
        return row

    def change_task(self, id_: uuid.UUID, **values: Any) -> None:
        table = TaskInstance.__table__
        with self.engine.begin() as connection:
            connection.execute(sa.update(table).where(table.c.id == id_).values(values))

    def rows(self, model: Any, **where: Any) -> list[Any]:
        table = model.__table__
        with self.engine.connect() as connection:
            return list(
                connection.execute(sa.select(table).where(*(table.c[k] == v for k, v in where.items())))
            )

    def wipe(self) -> None:
        pools = Pool.__table__
        with self.engine.begin() as connection:
            connection.execute(sa.delete(pools).where(pools.c.pool != "default_pool"))
            for model in (DagModel, Log, Connection):
                connection.execute(sa.delete(model.__table__))
            connection.execute(sa.delete(dag_bundle_team_association_table))
            connection.execute(sa.delete(Team.__table__))
            bundles = DagBundleModel.__table__
            connection.execute(sa.delete(bundles).where(bundles.c.name.like("dags of %")))
            if connection.scalar(sa.select(sa.func.count()).select_from(DagBundleModel)) == 0:
                connection.execute(sa.insert(DagBundleModel.__table__), [{"name": "dags", "active": True}])


@contextmanager
def scheduler(engine: sa.Engine, logs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    """Let Airflow's own sessions be on this database."""
    make = sessionmaker(engine, autoflush=False, expire_on_commit=False)
    scoped = scoped_session(make)
    monkeypatch.setattr(airflow_settings, "engine", engine)
    monkeypatch.setattr(airflow_settings, "NonScopedSession", make)
    monkeypatch.setattr(airflow_settings, "Session", scoped)
    url = engine.url.render_as_string(hide_password=False)
    monkeypatch.setattr(airflow_settings, "SQL_ALCHEMY_CONN", url)
    monkeypatch.setattr(embedded, "EmbeddedWorker", StubWorker)
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(logs))
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "airflow_workpools.WorkPoolExecutor")
    made = Scheduler(engine, sql_rig(engine), logs)
    made.wipe()
    made.forget_what_is_known()
    yield made
    scoped.remove()
    made.wipe()
    made.rig.airflow.wipe()  # type: ignore[attr-defined]
    made.forget_what_is_known()


@contextmanager
def statements_of(engine: sa.Engine) -> Iterator[list[str]]:
    """Collect the statements that are sent to a database."""
    sent: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def writes(statements: list[str]) -> list[str]:
    """Return those statements that change something."""
    return [one for one in statements if one.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE"))]
