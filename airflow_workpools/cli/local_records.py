# SPDX-License-Identifier: Apache-2.0
"""What a local Airflow's metadata database says of tasks, read with plain SQL; Airflow is not imported."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from collections.abc import Iterator

FINISHED_STATES = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""States of a task instance that nothing follows by itself."""

_TRY_COLUMNS = (
    "dag_id",
    "run_id",
    "task_id",
    "map_index",
    "try_number",
    "state",
    "queue",
    "pool",
    "pool_slots",
    "priority_weight",
)
_TIME_COLUMNS = ("queued_dttm", "start_date", "end_date")


@dataclass(frozen=True, kw_only=True)
class TaskTry:
    """One try of a task instance, as Airflow recorded it."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    state: str | None
    queue: str
    pool: str
    pool_slots: int
    priority_weight: int
    queued_at: float | None
    """Seconds since the epoch, as the other times."""
    started_at: float | None
    ended_at: float | None

    @property
    def finished(self) -> bool:
        return self.state in FINISHED_STATES


def _tries_table(name: str, *more: sa.ColumnClause[Any]) -> sa.TableClause:
    columns: list[sa.ColumnClause[Any]] = [sa.column(column) for column in _TRY_COLUMNS]
    return sa.table(name, *columns, *(sa.column(column, sa.DateTime) for column in _TIME_COLUMNS), *more)


_LATEST = _tries_table("task_instance")
_HISTORY = _tries_table("task_instance_history")
_ALL = _tries_table(
    "task_instance", sa.column("region_index", sa.Integer), sa.column("working_set", sa.Boolean)
)
"""Since Airflow 3.4, which has no history: what is over has left the working set. ``map_index`` is not in it."""
_DAG_RUN = sa.table("dag_run", *(sa.column(name) for name in ("dag_id", "run_id", "state")))


class LocalRecords:
    """Reads of one metadata database; every read takes a connection of its own and gives it back."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, poolclass=NullPool)

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection:
            yield connection

    def tries(self, dag_id: str | None = None, run_id: str | None = None) -> list[TaskTry]:
        """Return the latest try of every task instance, of one DAG or run if given."""
        return self._read(dag_id, run_id, latest=True)

    def earlier_tries(self, dag_id: str | None = None, run_id: str | None = None) -> list[TaskTry]:
        """Return the tries that later ones have replaced."""
        return self._read(dag_id, run_id, latest=False)

    def _read(self, dag_id: str | None, run_id: str | None, *, latest: bool) -> list[TaskTry]:
        with self.connect() as connection:
            query = _tries(connection, latest=latest)
            if dag_id is not None:
                query = query.where(sa.column("dag_id") == dag_id)
            if run_id is not None:
                query = query.where(sa.column("run_id") == run_id)
            return [_task_try(row) for row in connection.execute(query).mappings()]

    def run_state(self, dag_id: str, run_id: str) -> str | None:
        """Return the state of a run, or None if there is no such run."""
        query = sa.select(_DAG_RUN.c.state).where(_DAG_RUN.c.dag_id == dag_id, _DAG_RUN.c.run_id == run_id)
        with self.connect() as connection:
            state: str | None = connection.execute(query).scalar()
        return state

    def rows(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        """Run a query and return its rows."""
        with self.connect() as connection:
            return [dict(row) for row in connection.execute(sa.text(statement), parameters).mappings()]


def _tries(connection: sa.Connection, *, latest: bool) -> sa.Select[Any]:
    if sa.inspect(connection).has_table(_HISTORY.name):
        return sa.select(_LATEST if latest else _HISTORY)
    columns = [column for column in _ALL.c if column.name != "map_index"]
    in_use = _ALL.c.working_set.is_(True)
    return sa.select(*columns, _ALL.c.region_index.label("map_index")).where(in_use if latest else ~in_use)


def _task_try(row: sa.RowMapping) -> TaskTry:
    return TaskTry(
        **{column: row[column] for column in _TRY_COLUMNS},
        queued_at=_seconds(row["queued_dttm"]),
        started_at=_seconds(row["start_date"]),
        ended_at=_seconds(row["end_date"]),
    )


def _seconds(time: datetime | None) -> float | None:
    if time is None:
        return None
    # SQLite's times carry no zone; Airflow writes UTC.
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
