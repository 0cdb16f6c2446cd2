# SPDX-License-Identifier: Apache-2.0
"""Our tables: migrations and metadata say the same, on all databases; Airflow makes, upgrades and drops them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from airflow.models.connection import Connection
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from airflow_workpools.errors import WorkpoolsError
from airflow_workpools.store import tables
from airflow_workpools.store.db_manager import WorkpoolsDBManager, check_tables
from airflow_workpools.store.rows import job_row, worker_row
from airflow_workpools.store.tables import metadata
from tests.store.databases import airflow_environment, engine_for, run_python
from tests.store.rigs import NOW, later, new_job, new_worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from alembic.config import Config

    from tests.mariadb import MariadbServer
    from tests.postgres import PostgresServer

    Server = PostgresServer | MariadbServer

WHATS = ("installation", "pool", "queue", "worker", "job", "log", "token")
OURS = {f"workpool_{what}" for what in WHATS}
VERSIONS = "alembic_version_workpools"
ENSURE = "from airflow_workpools.store.db_manager import ensure_tables; ensure_tables()"


def server_of(engine: sa.Engine, request: pytest.FixtureRequest) -> Server:
    """Return the server on which a database is."""
    server: Server = request.getfixturevalue("mariadb" if engine.dialect.name == "mysql" else "postgres")
    return server


@pytest.fixture
def empty(engine: sa.Engine, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """An empty database of the same kind."""
    if engine.dialect.name == "sqlite":
        made = engine_for(f"sqlite:///{tmp_path}/empty.db")
        yield made
        made.dispose()
        return
    server = server_of(engine, request)
    made = engine_for(server.create_database("empty"))
    yield made
    made.dispose()
    server.drop_database("empty")


@pytest.fixture
def without_ours(engine: sa.Engine, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """A copy of a database that Airflow has made, before our provider was installed."""
    server: Server | None = None
    if engine.dialect.name == "sqlite":
        made = engine_for(f"sqlite:///{tmp_path}/copy.db")
        with engine.connect() as source, made.connect() as target:
            source.connection.dbapi_connection.backup(target.connection.dbapi_connection)  # type: ignore[union-attr]
    else:
        server = server_of(engine, request)
        engine.dispose()
        made = engine_for(server.create_database("copy", template="airflow"))
    with made.begin() as connection:
        metadata.drop_all(connection)
        connection.exec_driver_sql(f"DROP TABLE {VERSIONS}")
    yield made
    made.dispose()
    if server is not None:
        server.drop_database("copy")


LEFT_OUT = {("mysql", f"workpool_job_over_of_{what}") for what in ("pool", "queue", "dag")}
"""Indexes that are not for every database."""


def url_of(engine: sa.Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def migrate(connection: sa.Connection, revision: str) -> None:
    config: Config = WorkpoolsDBManager(None).get_alembic_config()
    config.attributes["connection"] = connection
    (command.upgrade if revision == "head" else command.downgrade)(config, revision)


def definitions(engine: sa.Engine) -> set[tuple[Any, ...]]:
    """Return what the database itself says that our tables and their indexes are."""
    if engine.dialect.name == "sqlite":
        query = "SELECT tbl_name, name, sql FROM sqlite_master WHERE tbl_name LIKE 'workpool%'"
    elif engine.dialect.name == "mysql":
        query = """
            SELECT table_name, column_name, column_type, is_nullable, column_default, collation_name, extra
            FROM information_schema.columns
            WHERE table_schema = database() AND table_name LIKE 'workpool%%'
            UNION ALL
            SELECT table_name, index_name, column_name, seq_in_index, collation, non_unique, sub_part
            FROM information_schema.statistics
            WHERE table_schema = database() AND table_name LIKE 'workpool%%'
        """
    else:
        query = """
            SELECT tablename, indexname, indexdef FROM pg_indexes WHERE tablename LIKE 'workpool%%'
            UNION ALL
            SELECT table_name, column_name, concat_ws(' ', ordinal_position, data_type, is_nullable,
                   character_maximum_length, column_default, collation_name)
            FROM information_schema.columns WHERE table_name LIKE 'workpool%%'
            UNION ALL
            SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE conrelid::regclass::text LIKE 'workpool%%'
        """
    with engine.connect() as connection:
        return {tuple(row) for row in connection.exec_driver_sql(query)}


def test_migrations_make_exactly_the_tables_that_the_metadata_says(empty: sa.Engine) -> None:
    with empty.begin() as connection:
        migrate(connection, "head")
    migrated = definitions(empty)
    with empty.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_object": lambda _object, name, type_, *_: (
                    name in OURS if type_ == "table" else (empty.dialect.name, name) not in LEFT_OUT
                ),
            },
        )
        assert compare_metadata(context, metadata) == []
    with empty.begin() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
    assert migrated == definitions(empty)


def test_the_way_back_removes_everything_and_can_be_gone_again(empty: sa.Engine) -> None:
    for _ in range(2):
        with empty.begin() as connection:
            migrate(connection, "head")
        assert set(sa.inspect(empty).get_table_names()) == OURS | {VERSIONS}
        with empty.begin() as connection:
            migrate(connection, "base")
        assert set(sa.inspect(empty).get_table_names()) == {VERSIONS}


def full_of_rows(engine: sa.Engine) -> dict[str, list[Any]]:
    """Put rows into each of our tables, and return what is in them."""
    job = new_job("etl/high", job_variables={"env": {"A": "b"}})
    ended = new_job("etl/low", workload="x" * 100_000)
    rows: dict[sa.Table, list[dict[str, Any]]] = {
        tables.installation: [{"number": 1, "id": UUID(int=7)}],
        tables.pools: [{"name": name, "paused": name == "ETL", "claim_count": 3} for name in ("etl", "ETL")],
        tables.queues: [{"pool": "etl", "name": "high", "paused": True, "last_polled_at": NOW}],
        tables.workers: [worker_row(new_worker(), NOW)],
        tables.jobs: [
            {**job_row(job, 0, NOW), "state": "running", "handle": {"kind": "process", "data": {"pid": 1}}},
            {**job_row(ended, 0, NOW), "state": "failed", "reason": "näh \U0001f40b", "ended_at": later(1)},
        ],
        tables.tokens: [{"id": "3f9a", "hash": "0" * 64, "pools": ["etl"], "created_at": NOW}],
        tables.logs: [
            {"job_id": job.task_instance_id, "attempt": 0, "position": 0, "size": 3, "data": b"\x00a\xff"}
        ],
    }
    with engine.begin() as connection:
        for table, of_table in rows.items():
            for row in of_table:
                connection.execute(sa.insert(table), [row])
    return contents(engine)


def contents(engine: sa.Engine) -> dict[str, list[Any]]:
    with engine.connect() as connection:
        return {
            table.name: sorted(map(repr, connection.execute(sa.select(table))))
            for table in metadata.sorted_tables
        }


def test_rows_survive_every_step_back_but_the_last_and_the_way_up_again(empty: sa.Engine) -> None:
    script = ScriptDirectory.from_config(WorkpoolsDBManager(None).get_alembic_config())
    _head, *older = [revision.revision for revision in script.walk_revisions()]
    with empty.begin() as connection:
        migrate(connection, "head")
    before = full_of_rows(empty)
    assert all(before.values())
    for revision in older:
        with empty.begin() as connection:
            migrate(connection, revision)
        with empty.begin() as connection:
            migrate(connection, "head")
        assert contents(empty) == before
    with empty.begin() as connection:
        migrate(connection, "base")
    with empty.begin() as connection:
        migrate(connection, "head")
    assert not any(contents(empty).values())
    assert full_of_rows(empty).keys() == before.keys()


def test_a_way_back_that_ended_half_way_can_be_gone_to_its_end(empty: sa.Engine) -> None:
    with empty.begin() as connection:
        migrate(connection, "head")
        connection.exec_driver_sql("DROP TABLE workpool_job")
    with empty.begin() as connection:
        migrate(connection, "base")
    assert set(sa.inspect(empty).get_table_names()) == {VERSIONS}


def test_there_is_one_newest_revision_and_the_manager_knows_it() -> None:
    script = ScriptDirectory.from_config(WorkpoolsDBManager(None).get_alembic_config())
    assert script.get_heads() == list(WorkpoolsDBManager.revision_heads_map.values())[-1:]


def test_airflow_db_migrate_makes_our_tables_and_notes_their_version(engine: sa.Engine) -> None:
    assert set(sa.inspect(engine).get_table_names()) >= OURS | {VERSIONS, "task_instance"}
    with engine.connect() as connection:
        (version,) = connection.exec_driver_sql(f"SELECT version_num FROM {VERSIONS}").scalars()
    assert version == "0001_workpools"


def test_no_table_of_ours_stands_in_airflows_own_metadata() -> None:
    from airflow.models.base import metadata as airflow_metadata

    assert not OURS & set(airflow_metadata.tables)


def test_tables_that_are_there_are_found(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        check_tables(sa.orm.Session(connection))


def test_missing_tables_are_named_with_what_to_do(without_ours: sa.Engine) -> None:
    with sa.orm.Session(without_ours) as session, pytest.raises(WorkpoolsError) as caught:
        check_tables(session)
    message = str(caught.value)
    assert message.startswith("Tables of airflow-provider-workpools are missing in the metadata database")
    assert message.endswith("run `airflow db migrate`")
    assert "workpool_job" in message


def test_tables_that_are_current_are_seen_to_be_so_without_the_memory_of_alembic(
    engine: sa.Engine, tmp_path: Path
) -> None:
    program = f"import sys; {ENSURE}; print('alembic' in sys.modules)"
    assert run_python(tmp_path, url_of(engine), "-c", program).splitlines()[-1] == "False"


def test_schedulers_that_start_at_once_make_the_tables_together(
    without_ours: sa.Engine, tmp_path: Path
) -> None:
    environment = airflow_environment(tmp_path / "home", url_of(without_ours))
    run_python(tmp_path / "home", url_of(without_ours), "-c", "import airflow.settings")  # writes airflow.cfg
    schedulers = [
        subprocess.Popen(
            [sys.executable, "-c", ENSURE],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(3)
    ]
    outputs = [scheduler.communicate()[0] for scheduler in schedulers]
    assert [scheduler.returncode for scheduler in schedulers] == [0, 0, 0], outputs
    with sa.orm.Session(without_ours) as session:
        check_tables(session)
    with without_ours.connect() as connection:
        assert connection.exec_driver_sql(f"SELECT count(*) FROM {VERSIONS}").scalar_one() == 1


def test_tables_of_a_newer_version_are_left_alone(without_ours: sa.Engine, tmp_path: Path) -> None:
    run_python(tmp_path / "home", url_of(without_ours), "-c", ENSURE)
    before = definitions(without_ours)
    with without_ours.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSIONS} SET version_num = '9999_later'")
    environment = airflow_environment(tmp_path / "home", url_of(without_ours))
    done = subprocess.run(
        [sys.executable, "-c", ENSURE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith(
        "airflow_workpools.errors.WorkpoolsError: The tables of airflow-provider-workpools"
    )
    assert "revision 9999_later" in message
    assert message.endswith("install the version that made them, or a newer one")
    assert definitions(without_ours) == before


MANAGE = """
from sqlalchemy import insert
from airflow_workpools.store.tables import pools
from airflow.utils.session import create_session
from airflow import settings
from airflow_workpools.store.db_manager import WorkpoolsDBManager
with create_session(scoped=False) as session:
    manager = WorkpoolsDBManager(session)
    manager.upgradedb(use_migration_files=True)
    assert manager.check_migration()
    session.execute(insert(pools), [{"name": "etl", "paused": True, "claim_count": 0}])
    session.commit()
    manager.downgrade("base", show_sql_only=False)
    assert not manager.check_migration()
    manager.initdb()
    assert manager.check_migration()
    session.commit()
    with settings.engine.begin() as connection:
        manager.drop_tables(connection)
"""


def test_airflows_manager_can_upgrade_downgrade_create_and_drop(
    without_ours: sa.Engine, tmp_path: Path
) -> None:
    definition = {"conn_id": "etl", "conn_type": "workpool", "extra": '{"type": "process"}'}
    definition |= {"is_encrypted": False, "is_extra_encrypted": False}
    with without_ours.begin() as connection:
        connection.execute(sa.insert(Connection.__table__), [definition])
    run_python(tmp_path / "home", url_of(without_ours), "-c", MANAGE)
    with without_ours.connect() as connection:
        names = connection.scalars(sa.select(Connection.__table__.c.conn_id)).all()
    assert "etl" in names, "what a pool is belongs to Airflow, and stays"
    assert not (OURS | {VERSIONS}) & set(sa.inspect(without_ours).get_table_names())


def test_the_way_back_can_be_read_as_sql(without_ours: sa.Engine, tmp_path: Path) -> None:
    code = (
        "from airflow.utils.session import create_session\n"
        "from airflow_workpools.store.db_manager import WorkpoolsDBManager\n"
        "with create_session(scoped=False) as session:\n"
        "    WorkpoolsDBManager(session).downgrade('base', from_revision='head', show_sql_only=True)\n"
    )
    output = run_python(tmp_path / "home", url_of(without_ours), "-c", code)
    assert "DROP TABLE IF EXISTS workpool_job" in output
