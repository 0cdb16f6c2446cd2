# SPDX-License-Identifier: Apache-2.0
"""Where work pools are found, which definition wins, and what happens if one is broken or cannot be read."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.connection import Connection
from airflow.models.crypto import get_fernet
from airflow.models.team import Team
from cryptography.fernet import Fernet
from sqlalchemy import create_engine, event, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from airflow_workpools.core.names import MAX_NAME_LENGTH
from airflow_workpools.core.pools import InvalidPool, PoolSource, WorkPool
from airflow_workpools.infrastructure.registry import default_templates
from airflow_workpools.settings import PoolSettings, Settings
from airflow_workpools.store import pool_sources
from airflow_workpools.store.pools import PoolCache, PoolReader, Pools, keep_secrets_pools_fresh

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A database with nothing but connections, encrypted."""
    use_fernet_key(monkeypatch, Fernet.generate_key().decode())
    engine = create_engine("sqlite://")
    Team.__table__.create(engine)
    Connection.__table__.create(engine)
    with Session(engine) as session:
        yield session
    get_fernet.cache_clear()


def use_fernet_key(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", key)
    get_fernet.cache_clear()


def add(session: Session, name: str, extra: Any = None, **fields: Any) -> None:
    connection = Connection(conn_id=name, conn_type="workpool", **fields)
    session.add(connection)
    if extra is not None:
        connection.extra = json.dumps(extra)
    session.commit()


def add_raw(session: Session, name: str, extra: str) -> None:
    """Store an extra as it is, as Airflow's own checks would not let it."""
    add(session, name)
    session.execute(update(Connection).where(Connection.conn_id == name).values(_extra=extra))
    session.commit()


def reader(**settings: Any) -> PoolReader:
    return PoolReader(settings=PoolSettings(**settings), templates=default_templates())


def read(session: Session, environ: dict[str, str] | None = None, **settings: Any) -> Pools:
    return reader(**settings).read(session, environ or {})


def valid(pool: WorkPool | InvalidPool) -> WorkPool:
    assert isinstance(pool, WorkPool), pool
    return pool


def reason_of(pool: WorkPool | InvalidPool) -> str:
    assert isinstance(pool, InvalidPool), pool
    return pool.reason


# -- the built-in pool


def test_without_any_definition_there_is_the_builtin_process_pool(session: Session) -> None:
    pools = read(session, builtin_limit=32)

    assert list(pools) == ["default"]
    pool = valid(pools["default"])
    assert (pool.type, pool.concurrency_limit, pool.source) == ("process", 32, PoolSource.BUILTIN)


def test_the_builtin_pool_gives_way_to_a_declared_one(session: Session) -> None:
    add(session, "default", {"type": "process", "concurrency_limit": 3})

    pool = valid(read(session)["default"])

    assert (pool.concurrency_limit, pool.source) == (3, PoolSource.DATABASE)


# -- the database


def test_a_connection_of_type_workpool_is_a_work_pool(session: Session) -> None:
    add(
        session,
        "etl",
        {"type": "process", "concurrency_limit": 10, "queues": {"high": {"priority": 1}}},
        description="Nightly loads",
    )

    pool = valid(read(session)["etl"])

    assert pool.concurrency_limit == 10
    assert [queue.name for queue in pool.queues] == ["high", "default"]
    assert (pool.description, pool.source) == ("Nightly loads", PoolSource.DATABASE)


def test_connections_of_other_types_are_none_of_our_business(session: Session) -> None:
    session.add(Connection(conn_id="warehouse", conn_type="postgres", extra='{"type": "process"}'))
    session.commit()

    assert "warehouse" not in read(session)


def test_the_start_timeout_of_the_settings_holds_where_a_pool_has_none(session: Session) -> None:
    add(session, "etl", {"type": "process"})
    add(session, "ml", {"type": "process", "start_timeout": 30})

    pools = read(session, start_timeout_seconds=120)

    assert valid(pools["etl"]).start_timeout_seconds == 120
    assert valid(pools["ml"]).start_timeout_seconds == 30


def test_all_pools_of_the_database_cost_one_query(session: Session) -> None:
    for number in range(20):
        add(session, f"etl{number}", {"type": "process"})
    statements: list[str] = []
    event.listen(session.get_bind(), "before_cursor_execute", lambda *args: statements.append(args[2]))

    read(session)

    assert len(statements) == 1


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ('{"type": "process", ', "JSON"),
        ('["process"]', "object"),
        ('{"type": "quantum"}', "quantum"),
        ('{"type": "process", "concurrency_limit": -1}', "concurrency_limit"),
        ('{"type": "process", "queues": {"a": {"priority": 2}, "b": {"priority": 2}}}', "priority"),
    ],
)
def test_a_broken_definition_says_why_and_disturbs_no_other(session: Session, extra: str, words: str) -> None:
    add(session, "good", {"type": "process"})
    add_raw(session, "broken", extra)

    pools = read(session)

    assert words in reason_of(pools["broken"])
    assert valid(pools["good"])


def test_a_connection_stored_with_another_key_says_so_and_disturbs_no_other(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(session, "old", {"type": "process"})
    use_fernet_key(monkeypatch, Fernet.generate_key().decode())
    add(session, "new", {"type": "process"})

    pools = read(session)

    assert "fernet_key" in reason_of(pools["old"])
    assert "'old'" in reason_of(pools["old"])
    assert valid(pools["new"])


def test_an_encrypted_connection_without_any_key_says_so(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(session, "old", {"type": "process"})
    use_fernet_key(monkeypatch, "")

    assert "fernet_key" in reason_of(read(session)["old"])


@pytest.mark.parametrize("name", ["team/etl", "etl.v2", "x" * (MAX_NAME_LENGTH + 1), "-etl"])
def test_a_connection_id_that_can_be_no_pool_name_is_invalid_and_named(session: Session, name: str) -> None:
    add(session, name, {"type": "process"})

    assert "work pool name" in reason_of(read(session)[name])


# -- the environment


def test_a_pool_is_found_in_the_environment_as_json(session: Session) -> None:
    value = json.dumps(
        {"conn_type": "workpool", "description": "d", "extra": {"type": "process", "concurrency_limit": 4}}
    )

    pool = valid(read(session, {"AIRFLOW_CONN_ETL": value})["etl"])

    assert (pool.concurrency_limit, pool.description, pool.source) == (4, "d", PoolSource.ENVIRONMENT)


@pytest.mark.parametrize(
    "value",
    [
        "workpool://?__extra__=%7B%22type%22%3A+%22process%22%2C+%22concurrency_limit%22%3A+4%7D",
        "workpool://?type=process&concurrency_limit=4",
        json.dumps({"conn_type": "workpool", "extra": '{"type": "process", "concurrency_limit": 4}'}),
    ],
)
def test_a_pool_is_found_in_the_environment_however_airflow_writes_it(session: Session, value: str) -> None:
    assert valid(read(session, {"AIRFLOW_CONN_ETL": value})["etl"]).concurrency_limit == 4


def test_the_environment_wins_over_the_database(session: Session) -> None:
    add(session, "etl", {"type": "process", "concurrency_limit": 1})

    pools = read(session, {"AIRFLOW_CONN_ETL": "workpool://?type=process&concurrency_limit=2"})

    assert valid(pools["etl"]).concurrency_limit == 2


def test_a_variable_wins_over_a_connection_that_is_spelled_with_capitals(session: Session) -> None:
    add(session, "ETL-Prod", {"type": "process", "concurrency_limit": 1})

    pools = read(session, {"AIRFLOW_CONN_ETL-PROD": "workpool://?type=process&concurrency_limit=2"})

    assert set(pools) == {"ETL-Prod", "default"}
    assert valid(pools["ETL-Prod"]).concurrency_limit == 2


def test_variables_that_define_other_connections_are_left_alone(session: Session) -> None:
    environ = {
        "AIRFLOW_CONN_DB": "postgres://user:secret@host/workpool",
        "AIRFLOW_CONN_API": '{"conn_type": "http", "description": "not a workpool"}',
        "AIRFLOW_CONN_BROKEN": '{"conn_type": "http", ',
        "AIRFLOW_CONN_lower": "workpool://?type=process",
        "PATH": "workpool://",
    }

    assert list(read(session, environ)) == ["default"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('{"conn_type": "workpool", ', "AIRFLOW_CONN_ETL cannot be read: it is not valid JSON"),
        ('{"conn_type": "workpool", "type": "process"}', "belongs in 'extra'"),
        ("workpool://?__extra__=nonsense", "AIRFLOW_CONN_ETL"),
        ("workpool://?type=process&concurrency_limit=lots", "concurrency_limit"),
    ],
)
def test_a_broken_variable_says_why_and_disturbs_no_other(session: Session, value: str, words: str) -> None:
    environ = {"AIRFLOW_CONN_ETL": value, "AIRFLOW_CONN_ML": "workpool://?type=process"}

    pools = read(session, environ)

    assert words in reason_of(pools["etl"])
    assert valid(pools["ml"])


# -- secrets backends


class Vault:
    """A secrets backend with connections in a dict; it can fail."""

    def __init__(self, **connections: Connection) -> None:
        self.connections = connections
        self.sealed = False
        self.asked: list[str] = []

    def get_connection(self, conn_id: str) -> Connection | None:
        self.asked.append(conn_id)
        if self.sealed:
            raise ConnectionError("vault is sealed")
        return self.connections.get(conn_id)


def workpool(**definition: Any) -> Connection:
    return Connection(conn_id="x", conn_type="workpool", extra=json.dumps({"type": "process", **definition}))


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Vault:
    backend = Vault()
    monkeypatch.setattr(pool_sources, "_secrets_backends", lambda: [backend])
    return backend


def test_a_pool_in_a_secrets_backend_wins_over_all(session: Session, vault: Vault) -> None:
    vault.connections["etl"] = workpool(concurrency_limit=3)
    add(session, "etl", {"type": "process", "concurrency_limit": 1})
    pools = reader(secrets_pools=("etl",))

    pools.ask_secrets_backends()
    found = valid(pools.read(session, {"AIRFLOW_CONN_ETL": "workpool://?type=process"})["etl"])

    assert (found.concurrency_limit, found.source) == (3, PoolSource.SECRETS)


def test_reading_never_asks_a_secrets_backend(session: Session, vault: Vault) -> None:
    pools = reader(secrets_pools=("etl",))

    assert "not been read" in reason_of(pools.read(session, {})["etl"])
    assert vault.asked == []


def test_only_named_pools_are_asked_for(session: Session, vault: Vault) -> None:
    vault.connections.update(etl=workpool(), other=workpool())
    pools = reader(secrets_pools=("etl",))

    pools.ask_secrets_backends()

    assert vault.asked == ["etl"]
    assert set(pools.read(session, {})) == {"etl", "default"}


def test_a_named_pool_that_the_backend_lacks_may_be_anywhere_else(session: Session, vault: Vault) -> None:
    add(session, "etl", {"type": "process"})
    pools = reader(secrets_pools=("etl", "nowhere"))

    pools.ask_secrets_backends()
    found = pools.read(session, {})

    assert valid(found["etl"]).source is PoolSource.DATABASE
    assert "[workpools] pools" in reason_of(found["nowhere"])


def test_a_backend_that_fails_leaves_in_force_what_it_said(session: Session, vault: Vault) -> None:
    vault.connections["etl"] = workpool(concurrency_limit=3)
    pools = reader(secrets_pools=("etl",))
    pools.ask_secrets_backends()

    vault.sealed = True
    pools.ask_secrets_backends()

    assert valid(pools.read(session, {})["etl"]).concurrency_limit == 3


def test_a_backend_that_always_failed_is_the_reason(session: Session, vault: Vault) -> None:
    vault.sealed = True
    pools = reader(secrets_pools=("etl",))

    pools.ask_secrets_backends()

    assert "vault is sealed" in reason_of(pools.read(session, {})["etl"])


def test_a_named_connection_of_another_type_is_invalid(session: Session, vault: Vault) -> None:
    vault.connections["etl"] = Connection(conn_id="etl", conn_type="ssh")
    pools = reader(secrets_pools=("etl",))

    pools.ask_secrets_backends()

    assert "'ssh'" in reason_of(pools.read(session, {})["etl"])


def test_a_thread_asks_again_even_after_a_failure(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=Path("/srv"), pools=PoolSettings(secrets_pools=("thread-test",)))
    stop, asked_again = threading.Event(), threading.Event()
    rounds: list[int] = []

    def ask(names: Any) -> list[Any]:
        rounds.append(1)
        if len(rounds) == 1:
            raise OSError("the first round fails")
        asked_again.set()
        return []

    monkeypatch.setattr(pool_sources, "in_secrets_backends", ask)

    thread = keep_secrets_pools_fresh(settings, stop=stop, interval_seconds=0.001)

    assert thread is not None
    assert asked_again.wait(10)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_without_pools_in_secrets_backends_there_is_no_thread() -> None:
    settings = Settings(home=Path("/srv"))

    assert keep_secrets_pools_fresh(settings, stop=threading.Event()) is None


# -- reading again and again


def test_what_has_not_changed_is_not_parsed_again(session: Session) -> None:
    add(session, "etl", {"type": "process"})
    add(session, "ml", {"type": "process"})
    pools = reader()
    before = pools.read(session, {})

    connection = session.query(Connection).filter_by(conn_id="ml").one()
    connection.extra = '{"type": "process", "concurrency_limit": 5}'
    session.commit()
    after = pools.read(session, {})

    assert after["etl"] is before["etl"]
    assert valid(after["ml"]).concurrency_limit == 5


def test_a_deleted_pool_is_gone(session: Session) -> None:
    add(session, "etl", {"type": "process"})
    pools = reader()
    pools.read(session, {})

    session.query(Connection).delete()
    session.commit()

    assert "etl" not in pools.read(session, {})


class Source:
    """What a cache reads: answers are counted, and can be made to fail."""

    def __init__(self) -> None:
        self.reads = 0
        self.down = False
        self.seconds = 100.0

    def read(self) -> Pools:
        self.reads += 1
        if self.down:
            raise OperationalError("SELECT", {}, Exception("the database is gone"))
        return {"n": InvalidPool(name="n", reason=str(self.reads), source=PoolSource.DATABASE)}

    def cache(self) -> PoolCache:
        return PoolCache(self.read, ttl_seconds=5, monotonic=lambda: self.seconds)


def test_the_cache_reads_again_when_its_answer_is_stale() -> None:
    source = Source()
    cache = source.cache()

    cache.get()
    source.seconds += 4.9
    cache.get()
    assert source.reads == 1

    source.seconds += 0.1
    assert cache.get()["n"].reason == "2"  # type: ignore[union-attr]


def test_the_cache_reads_at_once_when_a_fresh_answer_is_wanted() -> None:
    source = Source()
    cache = source.cache()
    cache.get()

    assert cache.get(fresh=True)["n"].reason == "2"  # type: ignore[union-attr]


def test_while_the_database_is_gone_the_last_good_answer_stays_and_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source()
    cache = source.cache()
    good = cache.get()

    source.down = True
    for _ in range(3):
        source.seconds += 6
        assert cache.get() is good
    assert [record.levelname for record in caplog.records] == ["WARNING"]

    source.down = False
    source.seconds += 6
    assert cache.get() is not good


def test_a_database_that_never_answered_leaves_nothing_to_go_by() -> None:
    source = Source()
    source.down = True

    with pytest.raises(OperationalError):
        source.cache().get()


# -- teams

IN_VARIABLE = json.dumps({"conn_type": "workpool", "extra": {"type": "process"}})


def owners(session: Session, environ: dict[str, str] | None = None, **settings: Any) -> dict[str, str | None]:
    pools = read(session, environ, **{"multi_team": True, **settings})
    return {name: pool.team_name for name, pool in pools.items() if name != "default"}


def add_teams(session: Session, *names: str) -> None:
    session.add_all([Team(name=name) for name in names])
    session.commit()


def test_a_pool_belongs_to_the_team_of_its_connection(session: Session) -> None:
    add_teams(session, "red")
    add(session, "etl", {"type": "process"}, team_name="red")
    add(session, "broken", {"type": "nothing"}, team_name="red")
    add(session, "shared", {"type": "process"})

    assert owners(session) == {"etl": "red", "broken": "red", "shared": None}
    assert set(owners(session, multi_team=False).values()) == {None}


def test_a_variable_defines_a_pool_of_the_team_that_its_name_says(session: Session) -> None:
    add_teams(session, "red", "red_hot", "Blue-1")
    environ = {
        "AIRFLOW_CONN__RED___ETL": IN_VARIABLE,
        "AIRFLOW_CONN__RED_HOT___GPU": IN_VARIABLE,
        "AIRFLOW_CONN__BLUE-1___ML": IN_VARIABLE,
        "AIRFLOW_CONN_SHARED": IN_VARIABLE,
        "AIRFLOW_CONN__NOBODY___LOST": IN_VARIABLE,
        "AIRFLOW_CONN_A___B": IN_VARIABLE,
    }

    assert owners(session, environ) == {"etl": "red", "gpu": "red_hot", "ml": "Blue-1", "shared": None}


def test_a_teams_variable_goes_before_the_teams_connection_and_keeps_its_spelling(session: Session) -> None:
    add_teams(session, "red")
    add(session, "Etl", {"type": "process", "concurrency_limit": 1}, team_name="red")

    pool = valid(read(session, {"AIRFLOW_CONN__RED___ETL": IN_VARIABLE}, multi_team=True)["Etl"])

    assert (pool.concurrency_limit, pool.source, pool.team_name) == (None, PoolSource.ENVIRONMENT, "red")


@pytest.mark.parametrize(
    ("other", "whose"),
    [
        ("AIRFLOW_CONN__BLUE___ETL", "for team 'red' and for team 'blue'"),
        ("AIRFLOW_CONN_ETL", "for team 'red' and for everybody"),
    ],
)
def test_a_pool_that_is_defined_for_two_is_invalid_and_nobodys(
    session: Session, other: str, whose: str
) -> None:
    add_teams(session, "blue", "red")

    environ = {"AIRFLOW_CONN__RED___ETL": IN_VARIABLE, other: IN_VARIABLE}
    pool = read(session, environ, multi_team=True)["etl"]

    assert whose in reason_of(pool)
    assert "the name of a work pool is one for all teams" in reason_of(pool)
    assert pool.team_name is None
