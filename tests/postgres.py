# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server of one's own: made in a second, thrown away afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
from psycopg2 import sql

from airflow_workpools.cli.local_airflow import free_port
from tests.parts import postgres_bin

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_TIMEOUT_SECONDS = 60
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
    account = _account()
    try:
        if account:
            os.chown(folder, account.pw_uid, account.pw_gid)
        data, port = folder / "data", free_port()
        _run_as(
            account,
            [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
            cwd=folder,
        )
        with (folder / "log").open("wb") as output:
            options = {**_OPTIONS, "port": str(port), "unix_socket_directories": str(folder)}
            process = subprocess.Popen(
                [
                    binaries / "postgres",
                    "-D",
                    data,
                    *(f"--{name}={value}" for name, value in options.items()),
                ],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **_identity(account),
            )
        try:
            _wait_ready(port, process, folder / "log")
            yield PostgresServer(port, process.pid)
        finally:
            process.send_signal(signal.SIGQUIT)  # PostgreSQL's "immediate shutdown"
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _account() -> pwd.struct_passwd | None:
    """Return whom to run the server as: it refuses to be run by root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _identity(account: pwd.struct_passwd | None) -> dict[str, int | list[int]]:
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}


def _run_as(account: pwd.struct_passwd | None, command: list[Path | str], *, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **_identity(account))
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()}")


def _wait_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while True:
        try:
            psycopg2.connect(f"host=127.0.0.1 port={port} user=postgres").close()
        except psycopg2.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-2000:]}") from error
            time.sleep(0.05)
        else:
            return
