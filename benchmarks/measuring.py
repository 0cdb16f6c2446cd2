# SPDX-License-Identifier: Apache-2.0
"""A database with Airflow's real tables, and what is measured on it: times, statements, what was written."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.postgres import postgres_server
from tests.store.databases import airflow, airflow_environment, engine_for


@contextmanager
def metadata_database(home: Path) -> Iterator[sa.Engine]:
    """Serve a metadata database made by ``airflow db migrate``, and let Airflow in this process use it.

    Airflow must not have been imported yet.
    """
    with postgres_server() as server:
        url = server.create_database("airflow")
        airflow(home, url, "db", "migrate")
        engine = engine_for(url)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ALTER SYSTEM SET autovacuum = off")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        os.environ |= airflow_environment(home, url)
        os.environ["AIRFLOW__CORE__EXECUTOR"] = "airflow_workpools.WorkPoolExecutor"
        yield engine
        engine.dispose()


def milliseconds(step: Callable[[], object]) -> float:
    """Return how long a step takes."""
    began = time.perf_counter()
    step()
    return (time.perf_counter() - began) * 1000


def summary(times: Sequence[float]) -> dict[str, float]:
    """Sum times up: the best, the median, the worst."""
    return {"best": min(times), "median": statistics.median(times), "worst": max(times)}


def transactions_with_writes(engine: sa.Engine) -> int:
    """Return how many transactions have written or locked anything so far: PostgreSQL numbers just those."""
    with engine.connect() as connection:
        return int(
            connection.scalar(sa.text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")) or 0
        )


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
