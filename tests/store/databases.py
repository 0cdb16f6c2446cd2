# SPDX-License-Identifier: Apache-2.0
"""Databases with Airflow's real tables and ours, to run a store on."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


def airflow_environment(home: Path, url: str) -> dict[str, str]:
    """Return the environment of an Airflow whose metadata database is this one."""
    home.mkdir(parents=True, exist_ok=True)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))},
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    }


def airflow(home: Path, url: str, *arguments: str) -> str:
    """Run an ``airflow`` command and return its output."""
    return run_python(home, url, "-m", "airflow", *arguments)


def run_python(home: Path, url: str, *arguments: str) -> str:
    """Run Python in an environment of Airflow."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=airflow_environment(home, url),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def engine_for(url: str, **options: Any) -> sa.Engine:
    """Make an engine that treats SQLite and MariaDB as Airflow does."""
    if url.startswith("sqlite"):
        # Tests have many more at once than SQLite is made for, on machines that do other things, too.
        options = {"connect_args": {"timeout": 60}, **options}
    if url.startswith("mysql"):
        options = {"isolation_level": "READ COMMITTED", **options}
    engine = sa.create_engine(url, **options)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def _(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=OFF")  # nothing here has to survive a power cut
            cursor.close()

    if engine.dialect.name == "mysql":

        @sa.event.listens_for(engine, "connect")
        def _(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("SET time_zone = '+00:00'")
            cursor.close()

    return engine


def session_factory(engine: sa.Engine) -> Callable[[], AbstractContextManager[Session]]:
    """Make what makes sessions that commit when they are left, as Airflow's ``create_session`` does."""
    make = sessionmaker(engine, autoflush=False, expire_on_commit=False)

    @contextmanager
    def session() -> Iterator[Session]:
        with make() as session:
            yield session
            session.commit()

    return session


class Crash(Exception):
    """A process has died."""


@contextmanager
def crash_at(engine: sa.Engine, statement: int) -> Iterator[list[str]]:
    """Break off at the n-th statement; yield the statements so far."""
    executed: list[str] = []

    def before(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        executed.append(sql)
        if len(executed) == statement:
            raise Crash

    sa.event.listen(engine, "before_cursor_execute", before)
    try:
        yield executed
    finally:
        sa.event.remove(engine, "before_cursor_execute", before)
