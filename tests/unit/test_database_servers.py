# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.mariadb import mariadb_server
from tests.postgres import postgres_server

ROOT = Path(__file__).parents[2]


def made_by(name: str) -> AbstractContextManager[Any]:
    return postgres_server() if name == "postgres" else mariadb_server()


servers = pytest.mark.parametrize(
    "name",
    [
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mysql),
    ],
)


@servers
def test_a_server_is_made_serves_and_is_gone_afterwards(name: str) -> None:
    with made_by(name) as server:
        engine = sa.create_engine(server.create_database("one"))
        with engine.begin() as connection:
            connection.execute(sa.text("create table t (n int)"))
            connection.execute(sa.text("insert into t values (7)"))
        engine.dispose()
        copy = sa.create_engine(server.create_database("two", template="one"))
        with copy.connect() as connection:
            assert connection.execute(sa.text("select n from t")).scalar() == 7
        server.drop_database("two")
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for what killed tests leave, where the servers' own users can enter."""
    made = Path(tempfile.mkdtemp(prefix="workpools-killed-"))
    made.chmod(0o1777)
    yield made
    shutil.rmtree(made)


@servers
def test_a_server_ends_with_tests_that_are_killed(name: str, folder: Path) -> None:
    code = (
        "import sys\n"
        "from tests.unit.test_database_servers import made_by\n"
        f"with made_by({name!r}) as server:\n"
        "    print(server.pid, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    tests = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert tests.stdout is not None
        server = int(tests.stdout.readline())
        os.kill(server, 0)
    finally:
        tests.send_signal(signal.SIGKILL)
        tests.communicate()
    deadline = time.monotonic() + 30
    while _runs(server):
        assert time.monotonic() < deadline, f"{name} outlives the tests"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
