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


def _tries_table(name: str) -> sa.TableClause:
    columns: list[sa.ColumnClause[Any]] = [sa.column(column) for column in _TRY_COLUMNS]
    return sa.table(name, *columns, *(sa.column(column, sa.DateTime) for column in _TIME_COLUMNS))


_TASK_INSTANCE = _tries_table("task_instance")
_HISTORY = _tries_table("task_instance_history")
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
        return self._read(_TASK_INSTANCE, dag_id, run_id)

    def earlier_tries(self, dag_id: str | None = None, run_id: str | None = None) -> list[TaskTry]:
        """Return the tries that later ones have replaced."""
        return self._read(_HISTORY, dag_id, run_id)

    def _read(self, table: sa.TableClause, dag_id: str | None, run_id: str | None) -> list[TaskTry]:
        query = sa.select(table)
        if dag_id is not None:
            query = query.where(table.c.dag_id == dag_id)
        if run_id is not None:
            query = query.where(table.c.run_id == run_id)
        with self.connect() as connection:
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
