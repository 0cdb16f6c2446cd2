# SPDX-License-Identifier: Apache-2.0
"""The tables: run-time state of pools, queues and workers, and the jobs.

What a pool *is* stands in its connection, never here. Rows of pools and queues are created when first needed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow.models.base import StringID
from airflow.models.base import metadata as airflow_metadata
from airflow.utils.sqlalchemy import UtcDateTime
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    Uuid,
)
from sqlalchemy.dialects.mysql import MEDIUMBLOB, MEDIUMTEXT, VARCHAR

from airflow_workpools.core.names import MAX_NAME_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Dialect

metadata = MetaData(schema=airflow_metadata.schema, naming_convention=airflow_metadata.naming_convention)
"""Ours, not Airflow's: its own migrations must not see our tables. They stand in the same schema, though."""


def _name() -> String:
    """Names of pools and queues; binary collation on MySQL, where "a" and "A" would otherwise be the same."""
    return String(MAX_NAME_LENGTH).with_variant(
        VARCHAR(MAX_NAME_LENGTH, charset="utf8mb4", collation="utf8mb4_bin"), "mysql"
    )


class Unreadable(str):
    """What stands in a JSON column and is no JSON: somebody wrote it by hand. One such row must not hide others."""

    __slots__ = ()


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return Unreadable(text)


class _JsonOnSqlite(TypeDecorator[Any]):
    """JSON on SQLite, which checks nothing that is written."""

    impl = JSON
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        # In place of SQLAlchemy's own, which raises. SQLite gives numbers back as such.
        return lambda value: _read_json(value) if isinstance(value, str) else value


class _JsonAsText(TypeDecorator[Any]):
    """JSON on MySQL and MariaDB, whose own type refuses some: half characters, more than 32 levels."""

    impl = MEDIUMTEXT
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else _read_json(value)


_json = (
    JSON(none_as_null=True)
    .with_variant(_JsonAsText(), "mysql")
    .with_variant(_JsonOnSqlite(none_as_null=True), "sqlite")
)


installation = Table(
    "workpool_installation",
    metadata,
    # There is one row, and this is 1.
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", Uuid, nullable=False),
)
"""Which Airflow this is, for where several share an infrastructure."""

pools = Table(
    "workpool_pool",
    metadata,
    Column("name", _name(), primary_key=True),
    Column("paused", Boolean, nullable=False),
    # Claims of a pool queue up at this row. On SQLite, which locks no rows, updating it is the lock.
    Column("claim_count", Integer, nullable=False),
)

queues = Table(
    "workpool_queue",
    metadata,
    Column("pool", _name(), primary_key=True),
    Column("name", _name(), primary_key=True),
    Column("paused", Boolean, nullable=False),
    Column("last_polled_at", UtcDateTime),
)

workers = Table(
    "workpool_worker",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", String(250), nullable=False),
    Column("hostname", String(250), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("pools", _json),
    Column("queues", _json),
    Column("slots", Integer),
    Column("state", String(20), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("last_heartbeat_at", UtcDateTime, nullable=False),
    Column("heartbeat_seconds", Double, nullable=False),
    Column("version", String(64), nullable=False),
    Column("team_name", String(50)),
    Column("token_id", String(16)),
    Column("call_number", Integer),
    Column("hindered", _json),
    Column("steady_since", UtcDateTime, nullable=False),
)

jobs = Table(
    "workpool_job",
    metadata,
    # Of the same type as task_instance.id: the two are compared.
    Column("id", Uuid, primary_key=True),
    Column("task_instance_id", Uuid, nullable=False),
    Column("round", Integer, nullable=False),
    Column("dag_id", StringID(), nullable=False),
    Column("task_id", StringID(), nullable=False),
    Column("run_id", StringID(), nullable=False),
    Column("map_index", Integer, nullable=False),
    Column("try_number", Integer, nullable=False),
    Column("pool", _name(), nullable=False),
    Column("queue", _name(), nullable=False),
    Column("pool_slots", Integer, nullable=False),
    Column("priority_weight", Integer, nullable=False),
    Column("state", String(20), nullable=False),
    Column("desired_state", String(20)),
    Column("reason", Text),
    Column("exit_code", Integer),
    Column("workload", Text().with_variant(MEDIUMTEXT(), "mysql"), nullable=False),
    Column("job_variables", _json, nullable=False),
    Column("handle", _json),
    Column("worker_id", Uuid),
    Column("scheduler_job_id", Integer),
    Column("start_timeout_seconds", Double, nullable=False),
    Column("start_attempts", Integer, nullable=False),
    Column("team_name", String(50)),
    Column("handed_over_at", UtcDateTime, nullable=False),
    Column("claimed_at", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("reported_at", UtcDateTime),
    Column("renewed_at", UtcDateTime),
)

# ``ended_at IS NULL`` and "the state is an active one" say the same. The indexes say the former, which both
# PostgreSQL and SQLite recognise in a query: so they stay as small as the work that is going on. MySQL and
# MariaDB have no such indexes: there it is a column of the index that parts what goes on from what is over.

Index(
    "workpool_job_waiting",
    jobs.c.pool,
    jobs.c.state,
    jobs.c.queue,
    jobs.c.priority_weight.desc(),
    jobs.c.handed_over_at,
    jobs.c.id,
    postgresql_where=jobs.c.ended_at.is_(None),
    sqlite_where=jobs.c.ended_at.is_(None),
)
"""A queue's waiting jobs in the order of the claim; also the count of what holds slots."""

Index(
    "workpool_job_of_worker",
    jobs.c.worker_id,
    jobs.c.ended_at,
    postgresql_where=jobs.c.ended_at.is_(None),
    sqlite_where=jobs.c.ended_at.is_(None),
)
"""What a worker has."""

Index(
    "workpool_job_unreported",
    jobs.c.scheduler_job_id,
    jobs.c.reported_at,
    jobs.c.ended_at,
    postgresql_where=jobs.c.reported_at.is_(None),
    sqlite_where=jobs.c.reported_at.is_(None),
)
"""Ends that a scheduler has to tell Airflow, and what is still to end."""

Index("workpool_job_task_instance", jobs.c.task_instance_id, jobs.c.round)
"""The rounds of a task instance."""

Index(
    "workpool_job_ended",
    jobs.c.ended_at,
    postgresql_where=jobs.c.ended_at.is_not(None),
    sqlite_where=jobs.c.ended_at.is_not(None),
)
"""What may be purged. Without the rest, or a database may think it the way to what has not ended.

On MySQL and MariaDB, which have the rest in it, it is the way to what has not ended.
"""

Index("workpool_job_handed_over", jobs.c.handed_over_at.desc(), jobs.c.id)
"""The listing, in its order."""

_NEWEST_FIRST = (jobs.c.handed_over_at.desc(), jobs.c.id)


def _has_partial_indexes(ddl: Any, target: Any, bind: Any, *_: Any, dialect: Dialect, **__: Any) -> bool:
    return dialect.name not in ("mysql", "mariadb")


for _index, *_columns in (
    ("workpool_job_over_of_pool", jobs.c.pool, jobs.c.state),
    ("workpool_job_over_of_queue", jobs.c.pool, jobs.c.queue, jobs.c.state),
    ("workpool_job_over_of_dag", jobs.c.dag_id, jobs.c.pool, jobs.c.state),
):
    Index(
        _index,
        *_columns,
        *_NEWEST_FIRST,
        postgresql_where=jobs.c.ended_at.is_not(None),
        sqlite_where=jobs.c.ended_at.is_not(None),
    ).ddl_if(callable_=_has_partial_indexes)
"""Pages of a pool's jobs that are over, in their order, whatever they are filtered by. What goes on is little.

Not on MySQL and MariaDB: without indexes of a part they would have what waits, too, and be taken for the way to the
head of a queue's line, which they don't have in its order.
"""

tokens = Table(
    "workpool_token",
    metadata,
    Column("id", String(16), primary_key=True),
    # Of its secret; nobody can get that back from it.
    Column("hash", String(64), nullable=False),
    Column("pools", _json, nullable=False),
    Column("description", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(250)),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
)
"""With what workers elsewhere show that they may have the jobs of some pools."""

logs = Table(
    "workpool_log",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    # How many bytes of the log it covers; 0: it is no part of what the job wrote.
    Column("size", Integer, nullable=False),
    Column("data", LargeBinary().with_variant(MEDIUMBLOB(), "mysql"), nullable=False),
)
"""What jobs wrote, where Airflow's log folder does not have it: compressed, in chunks, as in ``core.logs``."""
