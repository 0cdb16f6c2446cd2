# SPDX-License-Identifier: Apache-2.0
"""A real Airflow for tests: what tests ask of it, on top of the package's own :class:`LocalAirflow`."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from airflow_workpools.cli.demo_report import Interval, max_concurrency
from airflow_workpools.cli.local_airflow import LocalAirflow, LocalAirflowError, Ports
from airflow_workpools.cli.local_records import LocalRecords, TaskTry
from tests.migrated import migrate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

WORK_POOL_EXECUTOR = "airflow_workpools.WorkPoolExecutor"
ROOT = Path(__file__).parents[2]

LIVE: list[AirflowInstance] = []
"""The instances that run now; their output is added to the report of a test that fails."""

NOISE = re.compile(
    r"next_dagrun|next dagrun|Refreshing bundle|Searching for files|Found \d+ files|^\t|request finished"
)
"""What components write all the time, whatever happens."""


@dataclass(frozen=True)
class Execution:
    """One line of the trace that the tests' tasks write: a task's code began or ended."""

    event: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    pid: int
    at: float


class AirflowInstance:
    """One running Airflow, and everything a test asks of it."""

    def __init__(
        self,
        home: Path,
        *,
        executor: str = WORK_POOL_EXECUTOR,
        database_url: str = "",
        dags_folder: Path,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.trace = home / "trace"
        home.mkdir(parents=True, exist_ok=True)
        self.local = LocalAirflow(
            home=home,
            dags_folder=dags_folder,
            executor=executor,
            database_url=database_url,
            ports=Ports.choose(),
            settings={"WORKPOOLS_TEST_TRACE": str(self.trace), **(settings or {})},
        )
        self.records = LocalRecords(self.local.database_url)
        self.api = self.local.api

    def migrate(self) -> None:
        """Create its tables."""
        migrate(self.local)

    def start(self, *components: str) -> None:
        """Start it and wait until it is ready; its tables must be there."""
        LIVE.append(self)
        self.local.start(*components)
        self.local.wait_ready()

    def stop(self) -> None:
        """End it; nothing of it is left running."""
        self.local.stop()
        if self in LIVE:
            LIVE.remove(self)

    def output(self) -> str:
        """Return the end of what its components wrote, for the report of a failed test."""
        parts = []
        for path in sorted(self.local.logs.glob("*.log")):
            lines = [line[:250] for line in self.local.tail(path.stem, 300).splitlines()]
            parts += [f"--- {path.stem}", *[line for line in lines if not NOISE.search(line)][-40:]]
        return "\n".join(parts)

    # -- work pools

    def create_pool(self, name: str, **definition: Any) -> None:
        """Declare a process pool as a connection."""
        extra = json.dumps({"type": "process", **definition})
        self.api.create("connections", {"connection_id": name, "conn_type": "workpool", "extra": extra})

    def workpools(self, *arguments: str) -> str:
        """Run ``airflow workpools …``."""
        return self.local.run_cli("workpools", *arguments)

    # -- runs

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run, waiting for the DAG to be parsed if it is new; return the run id."""
        self.wait(lambda: self.api.has_dag(dag_id), timeout=60, what=f"DAG {dag_id} to be parsed")
        return self.api.trigger(dag_id, conf)

    def wait_run(
        self, dag_id: str, run_id: str, *, timeout: float = 180, state: str = "success"
    ) -> list[TaskTry]:
        """Wait until a run is over, check how it ended, and return its tasks."""

        def ended() -> str | None:
            found = self.records.run_state(dag_id, run_id)
            return found if found in ("success", "failed") else None

        try:
            found = self.wait(ended, timeout=timeout, what=f"run {run_id} of {dag_id} to end")
        except LocalAirflowError as error:
            tries = self.tries(dag_id, run_id)
            states = Counter((task.task_id, task.state) for task in tries)
            running = [task for task in tries if task.state == "running"]
            raise LocalAirflowError(f"{error}; its tasks: {dict(states)}\n{self._why(running[:3])}") from None
        tries = self.tries(dag_id, run_id)
        assert found == state, f"{dag_id} ended as {found}: {self._why(tries)}"
        return tries

    def _why(self, tries: list[TaskTry]) -> str:
        """Tell of the tasks of a run that did not end well all that explains it."""
        parts = [str([(t.task_id, t.map_index, t.state) for t in tries])]
        for task in tries:
            if task.state != "success":
                jobs = self.rows(
                    "select id, state, reason, handle, claimed_at, started_at, ended_at from workpool_job "
                    "where run_id = :run_id and task_id = :task_id and map_index = :map_index",
                    run_id=task.run_id,
                    task_id=task.task_id,
                    map_index=task.map_index,
                )
                parts += [*map(str, jobs), *self.log(task).splitlines()[-30:]]
        return "\n".join(parts)

    def run(self, dag_id: str, conf: dict[str, Any] | None = None, **wait: Any) -> list[TaskTry]:
        """Run a DAG to its end and return its tasks."""
        return self.wait_run(dag_id, self.trigger(dag_id, conf), **wait)

    def tries(self, dag_id: str, run_id: str) -> list[TaskTry]:
        return self.records.tries(dag_id, run_id)

    def running(self, dag_id: str, run_id: str) -> list[TaskTry]:
        """Return a run's tasks that run now."""
        return [task for task in self.tries(dag_id, run_id) if task.state == "running"]

    def wait(self, condition: Callable[[], Any], *, timeout: float = 120, what: str) -> Any:
        return self.local.wait_for(condition, timeout=timeout, what=what, interval=0.2)

    # -- what happened

    def executions(self, *run_ids: str) -> list[Execution]:
        """Return what the tasks of runs noted while they ran."""
        return [execution for execution in self.all_executions() if execution.run_id in run_ids]

    def all_executions(self) -> list[Execution]:
        """Return what tasks of any run noted while they ran."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        return [_execution(line) for line in lines]

    def release(self, name: str) -> None:
        """Let the tasks end that run until a test says so."""
        Path(f"{self.trace}.{name}").touch()

    def rows(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        """Run a query on the metadata database."""
        return self.records.rows(statement, **parameters)

    def log(self, task: TaskTry) -> str:
        """Return the log of a try, as the UI gets it."""
        return self.api.task_log(
            task.dag_id, task.run_id, task.task_id, try_number=task.try_number, map_index=task.map_index
        )

    def clear(self, task: TaskTry) -> None:
        """Clear a task as the UI does."""
        body = {
            "dry_run": False,
            "only_failed": False,
            "dag_run_id": task.run_id,
            "task_ids": [[task.task_id, task.map_index]] if task.map_index >= 0 else [task.task_id],
        }
        self.api.call("POST", f"dags/{quote(task.dag_id)}/clearTaskInstances", body)

    def mark(self, task: TaskTry, state: str) -> None:
        """Mark a task as the UI does."""
        path = f"dags/{quote(task.dag_id)}/dagRuns/{quote(task.run_id)}/taskInstances/{quote(task.task_id)}"
        self.api.call("PATCH", path, {"new_state": state})

    def worker_pid(self) -> int:
        """Return the process id of the embedded worker that is online."""
        workers = self.rows(
            "select name from workpool_worker where state = 'online' order by started_at desc"
        )
        alive = [pid for row in workers if _alive(pid := int(row["name"].rpartition(":")[2]))]
        assert alive, "no embedded worker is online"
        return alive[0]


def intervals(tries: Iterable[TaskTry]) -> list[Interval]:
    """Return when tasks ran, by their work queue."""
    return [
        Interval(task.started_at, task.ended_at, task.queue, task.pool_slots)
        for task in tries
        if task.started_at is not None and task.ended_at is not None
    ]


def most_at_once(tries: Iterable[TaskTry], queue: str | None = None) -> int:
    """Return the most slots that tasks took at the same time, of one work queue if given."""
    return max_concurrency(i for i in intervals(tries) if queue in (None, i.queue))


class SlotsHeld(NamedTuple):
    """The most slots that jobs held at the same time, by queue; of all queues under the empty name.

    A job holds its slots from the moment in which its claim is stored until its end is. Both are noted with times
    that were read a little earlier: of a claim that had to wait for a lock, before the end of the job whose slot it
    got. So there are two bounds, and on a machine that is not busy they are the same.
    """

    at_least: dict[str, int]
    """Counted from the start of the jobs, when their claims were stored for sure."""
    at_most: dict[str, int]
    """Counted from the claims of the jobs."""


def held_at_once(airflow: AirflowInstance, run_ids: Iterable[str]) -> SlotsHeld:
    """Return the most slots that the jobs of runs have held at the same time so far."""
    jobs = [
        job
        for run_id in run_ids
        for job in airflow.rows(
            "select queue, pool_slots, claimed_at, started_at, ended_at from workpool_job "
            "where run_id = :run_id and claimed_at is not null",
            run_id=run_id,
        )
    ]
    return SlotsHeld(*(_held_at_once(jobs, since) for since in ("started_at", "claimed_at")))


def _held_at_once(jobs: Iterable[Mapping[str, Any]], since: str) -> dict[str, int]:
    held = [
        Interval(
            seconds(job[since]),
            seconds(job["ended_at"]) if job["ended_at"] else math.inf,
            job["queue"],
            job["pool_slots"],
        )
        for job in jobs
        if job[since]
    ]
    queues = {interval.queue for interval in held}
    return {"": max_concurrency(held)} | {
        queue: max_concurrency(interval for interval in held if interval.queue == queue) for queue in queues
    }


def assert_limits_held_and_reached(
    airflow: AirflowInstance, run_ids: Iterable[str], limits: Mapping[str, int]
) -> None:
    """Check that jobs never held more slots than these, by queue, and at some time so many.

    :param limits: by the names of queues; the pool's under the empty name.
    """
    held = held_at_once(airflow, run_ids)
    assert held.at_least.keys() == limits.keys()
    assert {name: most for name, most in held.at_least.items() if most > limits[name]} == {}
    assert {name: most for name, most in held.at_most.items() if most < limits[name]} == {}


def assert_each_ran_once(executions: Iterable[Execution], tries: Iterable[TaskTry]) -> None:
    """Check that every try's code began once and ended once: none lost, none run twice."""
    counted = Counter((e.event, e.run_id, e.task_id, e.map_index, e.try_number) for e in executions)
    expected = {
        (event, task.run_id, task.task_id, task.map_index, task.try_number)
        for task in tries
        for event in ("start", "end")
    }
    assert counted == Counter(expected)


def _execution(line: str) -> Execution:
    event, run_id, task_id, map_index, try_number, pid, at = line.split(" ")
    return Execution(event, run_id, task_id, int(map_index), int(try_number), int(pid), float(at))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def seconds(time: object) -> float:
    """Return a time from any database in seconds."""
    moment = time if isinstance(time, datetime) else datetime.fromisoformat(str(time))
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
