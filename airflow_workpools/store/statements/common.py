# SPDX-License-Identifier: Apache-2.0
"""What the statements are made of: guards, and what differs between databases."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from airflow.utils.sqlalchemy import UtcDateTime
from sqlalchemy import Double, and_, exists, false, insert, literal, or_
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from airflow_workpools.core.jobs import OCCUPYING, JobState, sources_of
from airflow_workpools.store.tables import jobs

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Iterable
    from datetime import datetime

    from sqlalchemy import ColumnElement, Insert, Table
    from sqlalchemy.sql.compiler import SQLCompiler

    from airflow_workpools.core.names import WorkQueueRef

    Condition = ColumnElement[bool]

CHUNK = 500
"""Most values in one ``IN`` list, far below what any database takes."""

# -- what differs between databases --------------------------------------------------------------------------


def add_missing(dialect: str, target: Table) -> Insert:
    """Insert rows, which are given as parameters; where a key exists already, leave its row without an error."""
    if dialect == "postgresql":
        return postgresql.insert(target).on_conflict_do_nothing()
    if dialect == "sqlite":
        return sqlite.insert(target).on_conflict_do_nothing()
    if dialect == "mysql":
        return mysql.insert(target).prefix_with("IGNORE")
    return insert(target)


class _AsWritten(FunctionElement[Any]):
    inherit_cache = True


@compiles(_AsWritten)
def _(element: _AsWritten, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(_AsWritten, "mysql")
def _(element: _AsWritten, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **options)} AS BINARY)"


def as_written(text: Any) -> ColumnElement[str]:
    """Compare a text of Airflow's letter by letter; to MySQL and MariaDB, "a" and "A" are the same otherwise."""
    return _AsWritten(text)


class _Whole(FunctionElement[Any]):
    inherit_cache = True


@compiles(_Whole)
def _(element: _Whole, compiler: SQLCompiler, **options: Any) -> str:
    return f"FLOOR({compiler.process(element.clauses, **options)})"


@compiles(_Whole, "sqlite")
def _(element: _Whole, compiler: SQLCompiler, **options: Any) -> str:
    # It may be built without functions of mathematics.
    return f"CAST({compiler.process(element.clauses, **options)} AS INTEGER)"


def whole(number: Any) -> ColumnElement[Any]:
    """Cut the part behind the point off a number that is not negative."""
    return _Whole(number)


class _SecondsSince(FunctionElement[Any]):
    type = Double()
    inherit_cache = True


@compiles(_SecondsSince)
def _(element: _SecondsSince, compiler: SQLCompiler, **options: Any) -> str:
    since, until = (compiler.process(part, **options) for part in element.clauses)
    return f"CAST(EXTRACT(EPOCH FROM ({until} - {since})) AS DOUBLE PRECISION)"


@compiles(_SecondsSince, "sqlite")
def _(element: _SecondsSince, compiler: SQLCompiler, **options: Any) -> str:
    since, until = (compiler.process(part, **options) for part in element.clauses)
    # Days with a fraction: right to some tens of microseconds.
    return f"ROUND((julianday({until}) - julianday({since})) * 86400.0, 3)"


@compiles(_SecondsSince, "mysql")
def _(element: _SecondsSince, compiler: SQLCompiler, **options: Any) -> str:
    since, until = (compiler.process(part, **options) for part in element.clauses)
    return f"(TIMESTAMPDIFF(MICROSECOND, {since}, {until}) / 1e6)"


def seconds_since(since: datetime, until: ColumnElement[Any]) -> ColumnElement[float]:
    """Return the time from one moment to that in a column; on SQLite in whole milliseconds."""
    return _SecondsSince(literal(since, UtcDateTime), until)


def is_transient(error: BaseException) -> bool:
    """Say whether a transaction failed only because of another one, so that it may be tried again.

    SQLite: locked for longer than its timeout. PostgreSQL: serialization failure, deadlock. MySQL: waited for
    a lock for too long, deadlock. MariaDB also: a row has changed since this transaction looked first.
    """
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "pgcode", None) or getattr(error.orig, "sqlstate", None)
    number = next(iter(getattr(error.orig, "args", ())), None)
    return code in ("40001", "40P01") or number in (1020, 1205, 1213) or "is locked" in str(error.orig)


# -- guards --------------------------------------------------------------------------------------------------

active = jobs.c.ended_at.is_(None)
"""What the partial indexes are made on; every query for active jobs says it."""


def in_states(states: Iterable[JobState]) -> Condition:
    return jobs.c.state.in_(sorted(state.value for state in states))


def may_become(target: JobState) -> Condition:
    """The guard of a change to ``target``."""
    return in_states(sources_of(target))


waiting = and_(jobs.c.state == JobState.PENDING.value, active)
occupying = and_(in_states(OCCUPYING), active)
unwished = jobs.c.desired_state.is_(None)


def with_ids(job_ids: Collection[uuid.UUID]) -> Condition:
    return jobs.c.id.in_(job_ids)


def of_task_instances(task_instance_ids: Collection[uuid.UUID]) -> Condition:
    return jobs.c.task_instance_id.in_(task_instance_ids)


@cache
def newer_round() -> Condition:
    """The same try was handed over again. Made once: to make an alias takes as long as many a statement."""
    newer = jobs.alias("newer")
    return exists().where(newer.c.task_instance_id == jobs.c.task_instance_id, newer.c.round > jobs.c.round)


def of_queues(refs: Iterable[WorkQueueRef], pool: ColumnElement[str], queue: ColumnElement[str]) -> Condition:
    """The queue is one of these; one condition per pool."""
    names: dict[str, list[str]] = {}
    for ref in refs:
        names.setdefault(ref.pool, []).append(ref.queue)
    return or_(false(), *(and_(pool == name, queue.in_(names[name])) for name in sorted(names)))
