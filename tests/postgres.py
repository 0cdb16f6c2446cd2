# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server of one's own: made in a second, thrown away afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
from psycopg2 import sql

from airflow_workpools.cli.local_airflow import free_port
from tests.parts import postgres_bin
from tests.servers import account_for, run_as, serve_as, wait_ready

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

_IMMEDIATE_SHUTDOWN, _FAST_SHUTDOWN = signal.SIGQUIT, signal.SIGINT
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "300",
    "shared_buffers": "128MB",
    # Nothing here has to survive a power cut.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
}


@dataclass
class PostgresServer:
    """A running server; everyone on this machine may connect as ``postgres``.

    :param serve: starts it and waits until it takes connections.
    """

    port: int
    serve: Callable[[], subprocess.Popen[bytes]] = field(repr=False)
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.process = self.serve()

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self, *, immediately: bool) -> None:
        """End every connection and the server; immediately as a crash would, so that it has to recover."""
        self.process.send_signal(_IMMEDIATE_SHUTDOWN if immediately else _FAST_SHUTDOWN)
        self.process.wait()

    def start(self) -> None:
        """Serve again what was served before :meth:`stop`."""
        self.process = self.serve()

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
def postgres_server(**options: str) -> Iterator[PostgresServer]:
    """Make a cluster, serve it, and remove both afterwards.

    :param options: settings of the server that differ from those of a throw-away one.
    """
    binaries = postgres_bin()
    if binaries is None:
        raise RuntimeError("PostgreSQL's server binaries are missing")
    folder = Path(tempfile.mkdtemp(prefix="workpools-postgres-"))
    account = account_for("postgres")
    data, port = folder / "data", free_port()
    settings = {**_OPTIONS, "port": str(port), "unix_socket_directories": str(folder), **options}

    def serve() -> subprocess.Popen[bytes]:
        process = serve_as(
            account,
            [binaries / "postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())],
            cwd=folder,
            log=folder / "log",
            stop_signal=_IMMEDIATE_SHUTDOWN,
        )
        try:
            connect = partial(psycopg2.connect, f"host=127.0.0.1 port={port} user=postgres")
            wait_ready(connect, psycopg2.OperationalError, process, folder / "log")
        except BaseException:
            process.send_signal(_IMMEDIATE_SHUTDOWN)
            process.wait()
            raise
        return process

    try:
        if account:
            os.chown(folder, account.pw_uid, account.pw_gid)
        run_as(
            account,
            [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
            cwd=folder,
        )
        server = PostgresServer(port, serve)
        try:
            yield server
        finally:
            server.stop(immediately=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
