# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server of one's own: made in a second, thrown away afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
from psycopg2 import sql

from airflow_workpools.cli.local_airflow import free_port
from tests.parts import postgres_bin
from tests.servers import account_for, run_as, serve_as, wait_ready

if TYPE_CHECKING:
    from collections.abc import Iterator

_IMMEDIATE_SHUTDOWN = signal.SIGQUIT
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "300",
    "shared_buffers": "128MB",
    # Nothing here has to survive a power cut.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
}


@dataclass(frozen=True)
class PostgresServer:
    """A running server; everyone on this machine may connect as ``postgres``."""

    port: int
    pid: int

    def url(self, database: str = "postgres") -> str:
        """Return SQLAlchemy's URL of a database."""
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create a database, as a copy of ``template`` if given, and return its URL."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        self._execute(statement)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, and whatever connections it has."""
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composable) -> None:
        with closing(psycopg2.connect(f"host=127.0.0.1 port={self.port} user=postgres")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Make a cluster, serve it, and remove both afterwards."""
    binaries = postgres_bin()
    if binaries is None:
        raise RuntimeError("PostgreSQL's server binaries are missing")
    folder = Path(tempfile.mkdtemp(prefix="workpools-postgres-"))
    account = account_for("postgres")
    try:
        if account:
            os.chown(folder, account.pw_uid, account.pw_gid)
        data, port = folder / "data", free_port()
        run_as(
            account,
            [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
            cwd=folder,
        )
        options = {**_OPTIONS, "port": str(port), "unix_socket_directories": str(folder)}
        process = serve_as(
            account,
            [binaries / "postgres", "-D", data, *(f"--{name}={value}" for name, value in options.items())],
            cwd=folder,
            log=folder / "log",
            stop_signal=_IMMEDIATE_SHUTDOWN,
        )
        try:
            connect = partial(psycopg2.connect, f"host=127.0.0.1 port={port} user=postgres")
            wait_ready(connect, psycopg2.OperationalError, process, folder / "log")
            yield PostgresServer(port, process.pid)
        finally:
            process.send_signal(_IMMEDIATE_SHUTDOWN)
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
