# SPDX-License-Identifier: Apache-2.0
"""A real Airflow with a pull pool on PostgreSQL, and the same with EdgeExecutor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from airflow_workpools.cli.local_airflow import API_SERVER, MARK, LocalAirflow, Ports
from airflow_workpools.cli.local_records import LocalRecords
from airflow_workpools.cli.worker_start import TOKEN
from benchmarks import processes
from benchmarks.runs import Runs
from tests.migrated import migrate
from tests.postgres import PostgresServer

DAGS = Path(__file__).parent / "dags"
POOL = "elsewhere"
LIMIT = 32
"""Tasks that the worker runs at a time, ours and Edge's."""
PARALLELISM = "128"
"""``[core] parallelism``: so much that only the worker limits what runs."""
_EXTRA = {"type": "process", "delivery": "pull"}


@dataclass(frozen=True)
class PullAirflow:
    """An Airflow whose tasks are run by workers that ask its API server for them.

    :param server: that its database is on.
    """

    airflow: LocalAirflow
    server: PostgresServer

    @property
    def records(self) -> LocalRecords:
        return LocalRecords(self.airflow.database_url)

    @property
    def runs(self) -> Runs:
        return Runs(self.airflow, self.records)

    def start(self, *components: str) -> None:
        """Start components, and wait until they are ready."""
        self.airflow.start(*components)
        self.airflow.wait_ready()

    @cached_property
    def token(self) -> str:
        """A token for workers."""
        return self.airflow.run_cli("workpools", "token", "create", "--pool", POOL).strip()

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds that the API server and PostgreSQL have taken so far."""
        roots = {"API server": self.airflow.process(API_SERVER).pid, "PostgreSQL": self.server.pid}
        return {name: processes.cpu_seconds(processes.tree(pid)) for name, pid in roots.items()}

    def workers_online(self) -> int:
        """Count the standalone workers that are online."""
        query = "SELECT id FROM workpool_worker WHERE kind = 'standalone' AND state = 'online'"
        return len(self.records.rows(query))

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Run ``airflow workpools worker start`` as on a machine that reaches nothing but the API server."""
        command = ["-m", "airflow", "workpools", "worker", "start", "--pool", POOL, "--limit", str(LIMIT)]
        with (self.airflow.logs / "worker.log").open("ab") as output:
            worker = subprocess.Popen(
                [self.airflow.python, *command, "--name", "bench"],
                env=self._environment(self.token),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            self.airflow.wait_for(
                lambda: worker.poll() is not None or self.workers_online(), timeout=90, what="the worker"
            )
            if worker.poll() is not None:
                raise SystemExit(f"the worker ended by itself:\n{self.airflow.tail('worker')}")
            yield
        finally:
            worker.terminate()
            try:
                worker.wait(60)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def _environment(self, token: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        home = self.airflow.home / "worker"
        home.mkdir(exist_ok=True)
        return {
            **kept,
            MARK: str(self.airflow.home),
            "SPT_NOENV": "1",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": self.airflow.executor,
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://nobody:nothing@127.0.0.1:9/none",
            "AIRFLOW__WORKPOOLS__API_URL": self.airflow.url,
            TOKEN: token,
        }


@contextmanager
def pull_airflow(server: PostgresServer, folder: Path) -> Iterator[PullAirflow]:
    """Start the API server of an Airflow with WorkPoolExecutor, whose tasks go to a pull pool."""
    settings = {
        f"AIRFLOW_CONN_{POOL.upper()}": json.dumps({"conn_type": "workpool", "extra": _EXTRA}),
        "AIRFLOW__WORKPOOLS__DEFAULT_WORK_QUEUE": POOL,
    }
    ours = _airflow(server, folder / "ours", "airflow_workpools.WorkPoolExecutor", sys.executable, settings)
    with ours.airflow:
        ours.start(API_SERVER)
        yield ours


@contextmanager
def edge_airflow(server: PostgresServer, folder: Path, python: Path) -> Iterator[PullAirflow]:
    """Start an Airflow with EdgeExecutor and a worker of its, as both are by default but for the concurrency.

    :param python: of the environment in which it is installed.
    """
    ports = Ports.choose()
    settings = {
        "AIRFLOW__EDGE__API_ENABLED": "True",
        "AIRFLOW__EDGE__API_URL": f"http://127.0.0.1:{ports.api}/edge_worker/v1/rpcapi",
    }
    executor = "airflow.providers.edge3.executors.EdgeExecutor"
    edge = _airflow(server, folder / "edge", executor, str(python), settings, ports)
    with edge.airflow:
        edge.start()
        edge.airflow.start_command("edge-worker", ["edge", "worker", "--concurrency", str(LIMIT)])
        edge.airflow.wait_for(
            lambda: edge.records.rows("SELECT 1 FROM edge_worker WHERE state = 'idle'"),
            timeout=90,
            what="the Edge worker",
        )
        yield edge


def _airflow(
    server: PostgresServer,
    home: Path,
    executor: str,
    python: str,
    settings: Mapping[str, str],
    ports: Ports | None = None,
) -> PullAirflow:
    """Make an Airflow on a database of its own."""
    airflow = LocalAirflow(
        home=home,
        dags_folder=DAGS,
        executor=executor,
        database_url=server.create_database(home.name),
        ports=ports or Ports.choose(),
        settings={"AIRFLOW__CORE__PARALLELISM": PARALLELISM, **settings},
        python=python,
    )
    if python == sys.executable:
        migrate(airflow)
    else:  # what is kept are the tables of this environment
        airflow.migrate()
    return PullAirflow(airflow, server)
