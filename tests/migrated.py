# SPDX-License-Identifier: Apache-2.0
"""The tables of a new Airflow, as ``airflow db migrate`` has made them for an earlier one.

That command takes seconds of a processor, and what it makes is always the same: tests that are about something else
need not wait for it each time. It is made anew when Airflow, this provider's tables or the database's version change.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.postgres import postgres_bin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_workpools.cli.local_airflow import LocalAirflow

ROOT = Path(__file__).parents[1]
KEPT = ROOT / ".test/migrated"


def migrate(airflow: LocalAirflow) -> None:
    """Create the tables of an Airflow that has none yet."""
    parts = urlsplit(airflow.database_url)
    if parts.scheme.startswith("sqlite"):
        database = Path(parts.path[1:])
        with _kept("db") as kept:
            if kept.exists():
                shutil.copyfile(kept, database)
            else:
                airflow.migrate()
                with closing(sqlite3.connect(database)) as made, closing(sqlite3.connect(kept)) as copy:
                    made.backup(copy)
    elif parts.scheme.startswith("postgresql"):
        to = ["-h", str(parts.hostname), "-p", str(parts.port), "-U", str(parts.username)]
        with _kept("sql") as kept:
            if kept.exists():
                options = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-1", "-o", "/dev/null", "-f", str(kept)]
                _postgres("psql", *to, *options, parts.path[1:])
            else:
                airflow.migrate()
                _postgres("pg_dump", *to, "--no-owner", "-f", str(kept), parts.path[1:])
    else:
        airflow.migrate()


@contextmanager
def _kept(kind: str) -> Iterator[Path]:
    """Give the file in which tables are kept, while nobody else makes it; remove it if that fails."""
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / f"{_version()}.{kind}"
    with path.with_suffix(f".{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        existed = path.exists()
        try:
            yield path
        except BaseException:
            if not existed:
                path.unlink(missing_ok=True)
            raise


def _version() -> str:
    """Return what changes when the tables may."""
    installed = [importlib.metadata.version(name) for name in ("apache-airflow", "alembic", "sqlalchemy")]
    digest = hashlib.sha256(" ".join([*installed, sys.version, str(postgres_bin())]).encode())
    for file in sorted((ROOT / "airflow_workpools/store").rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _postgres(program: str, *arguments: str) -> None:
    binaries = postgres_bin()
    assert binaries is not None
    done = subprocess.run(
        [binaries / program, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
