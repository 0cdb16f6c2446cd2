# SPDX-License-Identifier: Apache-2.0
"""A real Airflow home for tests of commands: migrated once, then copied for each test.

To start ``airflow`` costs seconds of Python imports. So one process runs the commands of many tests, through
Airflow's own command line, and gets a fresh copy of the database before each.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[1]


ETL = (
    "create etl --concurrency-limit 10 --description 'Nightly loads' "
    "--queue critical:priority=1,limit=1 --queue high:priority=5,limit=3 --queue low:priority=10"
)
"""The command that makes the work pool of the example."""


@dataclass(frozen=True)
class CommandResult:
    """How a command ended, and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str


class CommandProcess:
    """A process that runs ``airflow`` commands, one after the other: to start one for each would take long.

    :param environ: says which Airflow it is.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.airflow_home"],
            cwd=ROOT,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def airflow(
        self, *arguments: str, stdin: str = "", environ: Mapping[str, str] | None = None
    ) -> CommandResult:
        """Run ``airflow`` with these arguments."""
        question = {"do": "command", "argv": arguments, "stdin": stdin, "environ": dict(environ or {})}
        return CommandResult(**self._ask(question))

    def workpools(self, line: str, **more: Any) -> CommandResult:
        """Run ``airflow workpools`` with a line of arguments, as a shell would split it."""
        return self.airflow("workpools", *shlex.split(line), **more)

    def ok(self, line: str, **more: Any) -> str:
        """Run ``airflow workpools`` with a line that must succeed; return what it printed."""
        done = self.workpools(line, **more)
        assert done.exit_code == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    def refused(self, line: str, **more: Any) -> str:
        """Run ``airflow workpools`` with a line that must be refused in one line on stderr; return that."""
        done = self.workpools(line, **more)
        assert done.exit_code == 1, done.stdout + done.stderr
        assert done.stdout == ""
        (message,) = done.stderr.splitlines()
        assert message.startswith("Error: ")
        return message

    def listed(self, **more: Any) -> dict[str, Any]:
        """Return what ``list`` says, by pool."""
        return {row["name"]: row for row in json.loads(self.ok("list -o json", **more))}

    def inspected(self, pool: str) -> dict[str, Any]:
        """Return what ``inspect`` says of a pool."""
        return dict(json.loads(self.ok(f"inspect {pool}")))

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=30)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(question) + "\n")
        stdin.flush()
        answer = stdout.readline()
        assert answer, "the process that runs airflow's commands has ended"
        return dict(json.loads(answer))


class AirflowHome(CommandProcess):
    """An Airflow home, and a process in it that runs ``airflow`` commands."""

    def __init__(self, template: Path, home: Path) -> None:
        self._template = template
        self.path = home
        shutil.copytree(template, home, dirs_exist_ok=True)
        super().__init__(environment(home))

    def reset(self) -> None:
        """Go back to an empty database."""
        self._ask({"do": "disconnect"})
        shutil.copy(self._template / "airflow.db", self.database)

    @property
    def database(self) -> Path:
        return self.path / "airflow.db"

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement on the metadata database."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            return connection.execute(statement, parameters).fetchall()


def insert_job(
    home: AirflowHome,
    pool: str,
    queue: str,
    *,
    state: str,
    slots: int = 1,
    ended_days_ago: int = 0,
    **values: Any,
) -> str:
    """Put a job into the store's table as a worker or the executor would have left it; return its id."""
    id_ = uuid.uuid4()
    now = datetime.now(timezone.utc)
    row = {
        "id": id_.hex,
        "task_instance_id": id_.hex,
        "round": 0,
        "dag_id": "d",
        "task_id": "t",
        "run_id": "r",
        "map_index": -1,
        "try_number": 1,
        "pool": pool,
        "queue": queue,
        "pool_slots": slots,
        "priority_weight": 1,
        "state": state,
        "workload": "{}",
        "job_variables": "{}",
        "start_timeout_seconds": 600,
        "start_attempts": 0,
        "handed_over_at": _sql_time(now),
        **values,
    }
    if state in ("succeeded", "failed", "cancelled"):
        row["ended_at"] = _sql_time(now - timedelta(days=ended_days_ago))
    _insert(home, "workpool_job", row)
    return str(id_)


def insert_worker(home: AirflowHome, name: str, *, heard_days_ago: int = 0, **values: Any) -> str:
    """Put a worker into the store's table; return its id."""
    id_ = uuid.uuid4()
    heard_at = _sql_time(datetime.now(timezone.utc) - timedelta(days=heard_days_ago))
    row = {
        "id": id_.hex,
        "name": name,
        "hostname": "h",
        "kind": "embedded",
        "state": "online",
        "started_at": heard_at,
        "last_heartbeat_at": heard_at,
        "steady_since": heard_at,
        "heartbeat_seconds": 600,
        "version": "0.1.0",
        **values,
    }
    _insert(home, "workpool_worker", row)
    return str(id_)


def _insert(home: AirflowHome, table: str, row: Mapping[str, Any]) -> None:
    marks = ", ".join("?" * len(row))
    home.sql(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", *row.values())


def _sql_time(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S.%f")


def environment(home: Path) -> dict[str, str]:
    """Return the environment of an Airflow in ``home`` that knows nothing of this machine's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return kept | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "PYTHONWARNINGS": "ignore",
    }


@pytest.fixture(scope="session")
def migrated_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home after ``airflow db migrate``, to be copied."""
    home = tmp_path_factory.mktemp("migrated")
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    done = subprocess.run(
        command, env=environment(home), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return home


@pytest.fixture(scope="session")
def shared_home(migrated_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowHome]:
    home = AirflowHome(migrated_home, tmp_path_factory.mktemp("home"))
    yield home
    home.close()


@pytest.fixture
def home(shared_home: AirflowHome) -> AirflowHome:
    """A home with an empty database."""
    shared_home.reset()
    return shared_home


# -- in the process that runs the commands


def _serve() -> None:
    """Answer each line on stdin with a line on stdout, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed past the redirections must not get between the answers
    for line in sys.stdin:
        question = json.loads(line)
        answer = _disconnect() if question["do"] == "disconnect" else _run(question)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _disconnect() -> dict[str, Any]:
    from airflow import settings

    settings.engine.dispose()
    return {}


def _run(question: dict[str, Any]) -> dict[str, Any]:
    stdout, stderr = io.StringIO(), io.StringIO()
    before, argv, stdin = dict(os.environ), sys.argv, sys.stdin
    os.environ.update(question["environ"])
    sys.argv, sys.stdin = ["airflow", *question["argv"]], io.StringIO(question["stdin"])
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            exit_code = _exit_code(question["argv"])
    finally:
        sys.argv, sys.stdin = argv, stdin
        os.environ.clear()
        os.environ.update(before)
    return {"exit_code": exit_code, "stdout": stdout.getvalue(), "stderr": stderr.getvalue()}


def _exit_code(argv: list[str]) -> int:
    """Run a command as ``airflow`` would; return the code with which Python would exit."""
    from airflow.cli.cli_parser import get_parser

    try:
        arguments = get_parser().parse_args(argv)
        arguments.func(arguments)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0


if __name__ == "__main__":
    _serve()
