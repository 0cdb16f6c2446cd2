# SPDX-License-Identifier: Apache-2.0
"""A MariaDB server of one's own: made in a second, thrown away afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_workpools.cli.local_airflow import free_port
from tests.parts import mariadb_server_binary
from tests.servers import account_for, run_as, serve_as, wait_ready

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPTIONS = {
    "bind-address": "127.0.0.1",
    "max-connections": "300",
    "innodb-buffer-pool-size": "128M",
    # As Debian and MySQL have it.
    "character-set-server": "utf8mb4",
    # Whoever looks in without Airflow reads UTC, too.
    "default-time-zone": "+00:00",
    # Nothing here has to survive a power cut.
    "innodb-flush-log-at-trx-commit": "0",
    "innodb-doublewrite": "OFF",
    "innodb-flush-method": "nosync",
    "innodb-file-per-table": "OFF",
}


@dataclass(frozen=True)
class MariadbServer:
    """A running server; everyone on this machine may connect as ``root``."""

    port: int
    pid: int

    def url(self, database: str) -> str:
        """Return SQLAlchemy's URL of a database, with the driver that Airflow insists on."""
        return f"mysql+mysqldb://root@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create a database, as a copy of ``template`` if given, and return its URL."""
        self._execute(f"CREATE DATABASE `{name}`")
        if template:
            dump = subprocess.run(
                ["mariadb-dump", *self._options, "--single-transaction", template],
                capture_output=True,
                check=True,
            )
            subprocess.run(["mariadb", *self._options, name], input=dump.stdout, check=True)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database."""
        self._execute(f"DROP DATABASE IF EXISTS `{name}`")

    @property
    def _options(self) -> tuple[str, ...]:
        return ("--no-defaults", "--host=127.0.0.1", f"--port={self.port}", "--user=root")

    def _execute(self, statement: str) -> None:
        with closing(_connect(self.port)) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(statement)


@contextmanager
def mariadb_server() -> Iterator[MariadbServer]:
    """Make a data folder, serve it, and remove both afterwards."""
    from MySQLdb import OperationalError

    binary = mariadb_server_binary()
    if binary is None:
        raise RuntimeError("MariaDB's server binaries are missing")
    folder = Path(tempfile.mkdtemp(prefix="workpools-mariadb-"))
    account = account_for("mysql")
    try:
        if account:
            os.chown(folder, account.pw_uid, account.pw_gid)
        data, port = folder / "data", free_port()
        run_as(
            account,
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            cwd=folder,
        )
        options = {
            **_OPTIONS,
            "datadir": str(data),
            "port": str(port),
            "socket": str(folder / "socket"),
            "pid-file": str(folder / "pid"),
        }
        process = serve_as(
            account,
            [binary, "--no-defaults", *(f"--{name}={value}" for name, value in options.items())],
            cwd=folder,
            log=folder / "log",
            stop_signal=signal.SIGKILL,
        )
        try:
            wait_ready(partial(_connect, port), OperationalError, process, folder / "log")
            yield MariadbServer(port, process.pid)
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _connect(port: int) -> Any:
    # Here, because not every machine that runs the other tests has the driver.
    import MySQLdb

    return MySQLdb.connect(host="127.0.0.1", port=port, user="root")
