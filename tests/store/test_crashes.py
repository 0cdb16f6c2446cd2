# SPDX-License-Identifier: Apache-2.0
"""A transaction that breaks off at any of its statements has not happened, and can be done again."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

from airflow_workpools.core.jobs import JobState
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store.jobs import SqlStore
from airflow_workpools.store.records import Report
from airflow_workpools.store.statements.common import is_transient
from airflow_workpools.store.tables import metadata
from tests.store.databases import Crash, crash_at, engine_for, session_factory
from tests.store.rigs import NOW, Rig, later, new_job, sql_rig, work_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def everything(engine: sa.Engine) -> dict[str, list[Any]]:
    with engine.connect() as connection:
        return {
            table.name: sorted(map(repr, connection.execute(sa.select(table)).all()))
            for table in metadata.sorted_tables
        }


class Scene:
    """Jobs in every state, two pools, a worker, and one that is dead."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.worker = rig.worker()
        self.again = new_job("one")
        self.started = rig.claimed(new_job("one"), new_job("one"), self.again, worker=self.worker)
        self.dead = rig.worker()
        self.left = rig.claimed(new_job("two"), worker=self.dead)
        rig.store.stop_worker(self.dead, now=NOW)
        self.waiting = rig.hand_over(*(new_job(pool) for pool in ("one", "two", "one")))
        rig.store.request_cancel(job_ids=self.started[:1], reason="x", now=NOW)

    def claim(self) -> Any:
        return self.rig.claim(self.worker, work_pool("one", limit=4), work_pool("two"), now=later(1))

    def report(self) -> Any:
        states = (JobState.CANCELLED, JobState.RUNNING, JobState.FAILED)
        handle = Handle(job_id=self.started[1], kind="process", data={"pid": 1})
        reports = [
            Report(job_id=id_, state=state, handle=handle)
            for id_, state in zip(self.started, states, strict=True)
        ]
        return self.rig.store.report(self.worker, reports, now=later(1))

    def requeue(self) -> Any:
        return self.rig.store.requeue(self.worker, self.started, "why", now=later(1))

    def take_over(self) -> Any:
        return self.rig.store.take_over(self.worker, "here", now=later(1))

    def cancel(self) -> Any:
        ids = [*self.started, *self.waiting]
        return self.rig.store.request_cancel(job_ids=ids, reason="y", now=later(1))

    def hand_over(self) -> Any:
        with self.rig.airflow.session() as session:
            return self.rig.store.hand_over(self.again, now=later(1), session=session)

    def adopt(self) -> Any:
        with self.rig.airflow.session() as session:
            return self.rig.store.adopt([*self.started, *self.left], 99, session=session)

    def pause(self) -> Any:
        return self.rig.store.set_pool_paused("new", True)


@pytest.mark.parametrize(
    "step",
    [
        Scene.claim,
        Scene.report,
        Scene.requeue,
        Scene.take_over,
        Scene.cancel,
        Scene.hand_over,
        Scene.adopt,
        Scene.pause,
    ],
    ids=lambda step: step.__name__,
)
def test_a_crash_at_any_statement_changes_nothing_and_the_next_try_comes_through(
    sql: Rig, engine: sa.Engine, step: Callable[[Scene], Any]
) -> None:
    scene = Scene(sql)
    before = everything(engine)
    for statement in range(1, 100):
        with crash_at(engine, statement):
            try:
                step(scene)
            except Crash:
                crashed = True
            else:
                crashed = False
        if not crashed:
            break
        assert everything(engine) == before, f"crash at statement {statement}"
    assert statement > 1
    assert everything(engine) != before


def test_a_reconciliation_that_breaks_off_is_completed_by_the_next(sql: Rig, engine: sa.Engine) -> None:
    def scene() -> set[tuple[str, str | None]]:
        return {(str(record.state), str(record.desired_state)) for record in sql.store.jobs()}

    expected = None
    for statement in (100, 1, 2, 3, 4, 5, 6):
        sql.airflow.wipe()  # type: ignore[attr-defined]
        worker = sql.worker()
        gone, late = new_job(), new_job(start_timeout_seconds=1.0)
        sql.claimed(gone, late, worker=worker)
        sql.airflow.put(None, NOW, gone)
        (stale,) = sql.hand_over(new_job(), state="failed")
        with crash_at(engine, statement), suppress(Crash):
            sql.store.reconcile(now=later(5), grace_seconds=1)
        sql.store.reconcile(now=later(5), grace_seconds=1)
        expected = expected or scene()
        assert scene() == expected
        assert sql.state(stale) is JobState.CANCELLED


# -- others in the way ----------------------------------------------------------------------------------------


@pytest.fixture
def impatient(sqlite_engine: sa.Engine) -> Iterator[sa.Engine]:
    """SQLite that does not wait for a lock at all."""
    engine = engine_for(str(sqlite_engine.url), connect_args={"timeout": 0})
    yield engine
    engine.dispose()


@contextmanager
def locked(engine: sa.Engine, *, until_failures: int) -> Iterator[list[Any]]:
    """Hold the database's write lock until others have failed so often; yield what they failed with."""
    failures: list[Any] = []
    holder = engine.connect()
    holder.exec_driver_sql("BEGIN IMMEDIATE")

    def failed(context: Any) -> None:
        failures.append(context.original_exception)
        if len(failures) == until_failures:
            holder.rollback()
            holder.connection.dbapi_connection.rollback()

    sa.event.listen(engine, "handle_error", failed)
    try:
        yield failures
    finally:
        sa.event.remove(engine, "handle_error", failed)
        holder.invalidate()
        holder.close()


def test_a_transaction_that_finds_the_database_locked_is_tried_again(impatient: sa.Engine) -> None:
    rig = sql_rig(impatient)
    rig.hand_over(new_job())
    worker = rig.worker()
    with locked(impatient, until_failures=3) as failures:
        assert len(rig.claim(worker)) == 1
    assert [str(failure) for failure in failures] == ["database is locked"] * 3


def test_a_database_that_stays_locked_is_given_up(impatient: sa.Engine) -> None:
    rig = sql_rig(impatient)
    with locked(impatient, until_failures=100) as failures, pytest.raises(OperationalError, match="locked"):
        rig.store.set_pool_paused("etl", True)
    assert len(failures) == 5


def test_in_the_schedulers_own_transaction_nothing_is_tried_again(impatient: sa.Engine) -> None:
    rig = sql_rig(impatient)

    def hand_over() -> None:
        with rig.airflow.session() as session:
            rig.store.hand_over(new_job(), now=NOW, session=session)

    with locked(impatient, until_failures=100) as failures, pytest.raises(OperationalError, match="locked"):
        hand_over()
    assert len(failures) == 1


class DriverError(Exception):
    def __init__(self, *args: Any, pgcode: str | None = None) -> None:
        super().__init__(*args)
        self.pgcode = pgcode


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (DriverError("deadlock detected", pgcode="40P01"), True),
        (DriverError("could not serialize access", pgcode="40001"), True),
        (DriverError("duplicate key", pgcode="23505"), False),
        (DriverError(1213, "Deadlock found"), True),
        (DriverError(1205, "Lock wait timeout exceeded"), True),
        (DriverError(1020, "Record has changed since last read"), True),
        (DriverError(1062, "Duplicate entry"), False),
        (DriverError("database is locked"), True),
        (DriverError("no such table: workpool_job"), False),
        (DriverError(), False),
    ],
    ids=lambda value: str(value),
)
def test_only_what_another_transaction_caused_is_tried_again(error: DriverError, transient: bool) -> None:
    assert is_transient(DBAPIError("UPDATE …", {}, error)) is transient


def test_errors_that_are_not_the_databases_are_not_tried_again(sqlite_engine: sa.Engine) -> None:
    attempts = []

    @contextmanager
    def broken() -> Iterator[Any]:
        attempts.append(1)
        with session_factory(sqlite_engine)() as session:
            yield session
            raise ValueError("is locked")

    with pytest.raises(ValueError, match="is locked"):
        SqlStore(broken).set_pool_paused("etl", True)
    assert len(attempts) == 1
    assert is_transient(ValueError("is locked")) is False
