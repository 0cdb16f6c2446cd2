# SPDX-License-Identifier: Apache-2.0
"""Stores to test: in memory, on SQLite, on PostgreSQL, on MariaDB. The databases have Airflow's real tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_workpools.worker import claiming
from tests.mariadb import mariadb_server
from tests.postgres import postgres_server
from tests.store.databases import airflow, engine_for
from tests.store.hosts import Host
from tests.store.rigs import Rig, memory_rig, sql_rig
from tests.store.worker_api import serving
from tests.unit.process_platform import ElsewhereProcessPlatform

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import sqlalchemy as sa

    from tests.mariadb import MariadbServer
    from tests.postgres import PostgresServer

SQL = [
    pytest.param("sqlite", id="sqlite"),
    pytest.param("postgres", id="postgres", marks=pytest.mark.postgres),
    pytest.param("mariadb", id="mariadb", marks=pytest.mark.mysql),
]


@pytest.fixture(scope="session")
def sqlite_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    """A SQLite database in a file, made by ``airflow db migrate``."""
    home = tmp_path_factory.mktemp("airflow-sqlite")
    url = f"sqlite:///{home}/airflow.db"
    airflow(home, url, "db", "migrate")
    engine = engine_for(url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of these tests' own."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_engine(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sa.Engine]:
    """A PostgreSQL database made by ``airflow db migrate``."""
    url = postgres.create_database("airflow")
    airflow(tmp_path_factory.mktemp("airflow-postgres"), url, "db", "migrate")
    engine = engine_for(url, pool_size=40)
    with engine.begin() as connection:
        # Races provoke deadlocks; PostgreSQL looks for them after a second otherwise.
        connection.exec_driver_sql("ALTER DATABASE airflow SET deadlock_timeout = '50ms'")
    engine.dispose()
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariadbServer]:
    """A MariaDB server of these tests' own."""
    with mariadb_server() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_engine(mariadb: MariadbServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    """A MariaDB database made by ``airflow db migrate``."""
    url = mariadb.create_database("airflow")
    airflow(tmp_path_factory.mktemp("airflow-mariadb"), url, "db", "migrate")
    engine = engine_for(url, pool_size=40)
    yield engine
    engine.dispose()


@pytest.fixture(params=SQL)
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    """A database in SQL."""
    engine: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    return engine


@pytest.fixture
def sql(engine: sa.Engine) -> Rig:
    """A store in SQL, empty."""
    return sql_rig(engine)


@pytest.fixture(params=[pytest.param("memory", id="memory"), *SQL])
def rig(request: pytest.FixtureRequest) -> Rig:
    """Any store, empty."""
    if request.param == "memory":
        return memory_rig()
    return sql_rig(request.getfixturevalue(f"{request.param}_engine"))


@pytest.fixture
def host(sqlite_engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host of standalone workers, and a server of the worker API with a store that is empty."""
    # No call waits for so long that the end of a test waits for it.
    monkeypatch.setattr(claiming, "WAIT_SECONDS", 0.5)
    monkeypatch.setattr(claiming, "WAIT_WHEN_FULL_SECONDS", 0.5)
    rig = sql_rig(sqlite_engine)
    with serving(rig, rig.airflow.session) as api, ElsewhereProcessPlatform(tmp_path) as platform:
        yield Host(api, platform)
