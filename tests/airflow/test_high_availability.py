# SPDX-License-Identifier: Apache-2.0
"""Several schedulers on one PostgreSQL, each with its embedded worker: as right as one, and none is missed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from airflow_workpools.cli.demo_report import Interval, max_concurrency
from airflow_workpools.cli.local_airflow import API_SERVER, DAG_PROCESSOR
from airflow_workpools.infrastructure.process.proc import read_stat
from tests.airflow.conftest import POOLS
from tests.airflow.harness import (
    ROOT,
    WORK_POOL_EXECUTOR,
    AirflowInstance,
    assert_each_ran_once,
    most_at_once,
)
from tests.postgres import postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from airflow_workpools.cli.local_records import TaskTry

pytestmark = [pytest.mark.airflow, pytest.mark.postgres]

HELD, HELD_AT_ONCE = 8, 5
LIMITS = {None: 10, "etl/high": 3, "etl/critical": 1}
ORPHAN_CHECK_SECONDS = 3
SILENT_SECONDS = 8
"""After this time without a heartbeat Airflow takes a scheduler for dead."""
SETTINGS = {
    # Each LocalExecutor forks so many processes, that hold all that their scheduler had open.
    "AIRFLOW__CORE__PARALLELISM": "12",
    "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": str(SILENT_SECONDS),
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": str(ORPHAN_CHECK_SECONDS),
    "AIRFLOW__WORKPOOLS__WORKER_HEARTBEAT_INTERVAL": "2",
}


@dataclass
class Schedulers:
    """The schedulers of one Airflow, by the names under which they were started."""

    airflow: AirflowInstance
    release: Path
    """The tasks of the DAG `held` end when this file is there."""
    names: list[str] = field(default_factory=list)
    _started: int = 0

    def be(self, count: int) -> None:
        """Have so many schedulers run, each with its worker online."""
        while len(self.names) > count:
            self.stop(self.names[0])
        self.start(count - len(self.names))

    def start(self, count: int = 1) -> list[str]:
        """Start schedulers and wait until the embedded worker of each is online."""
        new = [f"scheduler-{self._started + number}" for number in range(1, count + 1)]
        self._started += count
        for name in new:
            # One server for the tasks' logs is enough for a host; a second one would not get the port.
            self.airflow.local.start_command(name, ["scheduler", "--skip-serve-logs"])
        self.names += new
        self.airflow.wait(
            lambda: all(self.worker_of(name) for name in new), what=f"the workers of {new} to come online"
        )
        return new

    def stop(self, name: str) -> None:
        """Ask a scheduler to end, as its service manager would, and wait until it has."""
        process = self.airflow.local.release(name)
        self.names.remove(name)
        process.terminate()
        try:
            # Less than it would give an embedded worker that does not hear of it.
            process.wait(20)
        except subprocess.TimeoutExpired:
            # What Airflow raises in its handler is lost where the signal meets the garbage collector: it goes on then.
            log = self.airflow.local.tail(name, 10_000)
            if not re.search(r"Exception ignored in.*?^SystemExit: 0", log, re.MULTILINE | re.DOTALL):
                raise
            process.terminate()
            process.wait(20)

    def kill9(self, name: str) -> None:
        self.airflow.local.kill9(name)
        self.names.remove(name)

    def worker_of(self, name: str) -> dict[str, str] | None:
        """Return the embedded worker of a scheduler that runs, if it is online."""
        pid = self.airflow.local.process(name).pid
        for row in self.online():
            stat = read_stat(int(row["name"].rpartition(":")[2]))
            if stat is not None and stat.parent == pid:
                return {**row, "pid": str(stat.pid)}
        return None

    def online(self) -> list[dict[str, str]]:
        return self.airflow.rows("select id, name from workpool_worker where state = 'online'")


@pytest.fixture(scope="module")
def schedulers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Schedulers]:
    home = tmp_path_factory.mktemp("ha")
    release = home / "release"
    with postgres_server() as server:
        airflow = AirflowInstance(
            home,
            executor=f"{WORK_POOL_EXECUTOR},LocalExecutor",
            database_url=server.create_database("airflow"),
            dags_folder=_dags_folder(home),
            settings={**SETTINGS, "WORKPOOLS_TEST_RELEASE": str(release)},
        )
        airflow.migrate()
        try:
            airflow.start(API_SERVER, DAG_PROCESSOR)
            airflow.create_pool("etl", **POOLS["etl"])
            airflow.create_pool("held", concurrency_limit=HELD_AT_ONCE)
            yield Schedulers(airflow, release)
        finally:
            airflow.stop()


def _dags_folder(home: Path) -> Path:
    folder = home / "dags"
    shutil.copytree(ROOT / "tests/airflow/dags_ha", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for shared in ("traces.py", "sleepers.py"):
        shutil.copy(ROOT / "tests/airflow/dags" / shared, folder)
    return folder


@pytest.mark.parametrize("count", [2, 3])
def test_many_schedulers_keep_the_limits_and_the_order_of_one(schedulers: Schedulers, count: int) -> None:
    airflow = schedulers.airflow
    schedulers.be(count)
    low = airflow.trigger("low")
    airflow.wait(lambda: _holding(airflow, "low", low) >= 10, what="low to fill the pool")
    runs = {"low": [low], "high": [airflow.trigger("high")], "critical": [airflow.trigger("critical")]}
    tries = _all_is_well(airflow, runs)

    assert len(tries) == 52
    # Those that came last and are few went first: many that were there before them were handed over after them.
    urgent = [task for task in tries if task.queue == "etl/critical"]
    last_urgent = max(task.queued_at or 0 for task in urgent)
    assert sum((task.queued_at or 0) > last_urgent for task in tries if task.queue == "etl/low") >= 5
    jobs = _jobs(airflow, [low])
    assert 2 <= len({job["scheduler_job_id"] for job in jobs}) <= count
    # One worker may have had them all: where a job ends, its worker claims the next at once.
    assert len({job["worker_id"] for job in jobs}) <= count


def test_another_scheduler_has_the_jobs_of_one_that_was_killed(schedulers: Schedulers) -> None:
    airflow = schedulers.airflow
    schedulers.be(2)
    run_id = airflow.trigger("held")
    airflow.wait(lambda: len(airflow.executions(run_id)) == HELD_AT_ONCE, what="tasks to be in their code")
    victim, survivor = _busy_one_first(schedulers, run_id)
    dead = schedulers.worker_of(victim)
    alive = schedulers.worker_of(survivor)
    assert dead
    assert alive
    schedulers.kill9(victim)

    airflow.wait(lambda: _is_gone(int(dead["pid"])), timeout=60, what="the worker of a dead scheduler to end")
    airflow.wait(
        lambda: _owners(airflow, run_id, "worker_id") == {alive["id"]},
        timeout=60,
        what="the other worker to take over the jobs",
    )
    airflow.wait(
        lambda: _owners(airflow, run_id, "scheduler_job_id") == _living_schedulers(airflow),
        # Once Airflow takes it for dead, the next check finds its tasks.
        timeout=SILENT_SECONDS + ORPHAN_CHECK_SECONDS + 15,
        what="the other scheduler to adopt the jobs",
    )
    assert len(_living_schedulers(airflow)) == 1
    schedulers.release.touch()
    assert len(_all_is_well(airflow, {"held": [run_id]})) == HELD


def test_schedulers_are_restarted_in_turn_under_load(schedulers: Schedulers) -> None:
    airflow = schedulers.airflow
    schedulers.be(2)
    runs = {
        "low": [airflow.trigger("low"), airflow.trigger("low")],
        "critical": [airflow.trigger("critical")],
    }
    airflow.wait(lambda: airflow.running("low", runs["low"][0]), what="tasks to run")
    runs["high"] = [airflow.trigger("high")]
    for name in list(schedulers.names):
        assert airflow.records.run_state("low", runs["low"][1]) == "running", "there is no load any more"
        schedulers.stop(name)
        schedulers.start()
    runs["critical"].append(airflow.trigger("critical"))
    assert len(_all_is_well(airflow, runs)) == 95
    assert len(schedulers.online()) == 2


# -- what is looked at ---------------------------------------------------------------------------------------


def _all_is_well(airflow: AirflowInstance, runs: dict[str, list[str]]) -> list[TaskTry]:
    """Wait for runs, check that nothing was lost or done twice and no limit broken; return their tasks."""
    tries = [
        task for dag_id, ids in runs.items() for run_id in ids for task in airflow.wait_run(dag_id, run_id)
    ]
    run_ids = [run_id for ids in runs.values() for run_id in ids]
    assert {(task.state, task.try_number) for task in tries} == {("success", 1)}
    assert not [
        task for dag_id in runs for task in airflow.records.earlier_tries(dag_id) if task.run_id in run_ids
    ]
    executions = airflow.executions(*run_ids)
    assert_each_ran_once(executions, tries)
    for queue, limit in LIMITS.items():
        assert most_at_once(tries, queue) <= limit
        assert max_concurrency(i for i in _noted(airflow, tries) if queue in (None, i.queue)) <= limit
    airflow.wait(
        lambda: {job["state"] for job in _jobs(airflow, run_ids)} == {"succeeded"}, what="all jobs to end"
    )
    jobs = Counter(job["task_instance_id"] for job in _jobs(airflow, run_ids))
    assert len(jobs) == len(tries)
    assert set(jobs.values()) == {1}
    return tries


def _noted(airflow: AirflowInstance, tries: Iterable[TaskTry]) -> list[Interval]:
    """Return when tasks ran by the notes that they themselves made."""
    queues = {(task.run_id, task.task_id, task.map_index): task.queue for task in tries}
    times: dict[tuple[str, str, int], dict[str, float]] = {task: {} for task in queues}
    for execution in airflow.executions(*{run_id for run_id, _, _ in queues}):
        times[execution.run_id, execution.task_id, execution.map_index][execution.event] = execution.at
    return [Interval(at["start"], at["end"], queues[task]) for task, at in times.items()]


def _holding(airflow: AirflowInstance, dag_id: str, run_id: str) -> int:
    return sum(task.state in ("queued", "running") for task in airflow.tries(dag_id, run_id))


def _jobs(airflow: AirflowInstance, run_ids: list[str]) -> list[dict[str, object]]:
    found = airflow.rows(
        "select run_id, task_instance_id, state, scheduler_job_id, worker_id from workpool_job"
    )
    return [job for job in found if job["run_id"] in run_ids]


def _owners(airflow: AirflowInstance, run_id: str, column: str) -> set[object]:
    """Return who has the jobs of a run that are on their infrastructure."""
    return {job[column] for job in _jobs(airflow, [run_id]) if job["state"] in ("submitted", "running")}


def _living_schedulers(airflow: AirflowInstance) -> set[object]:
    found = airflow.rows("select id from job where job_type = 'SchedulerJob' and state = 'running'")
    return {row["id"] for row in found}


def _busy_one_first(schedulers: Schedulers, run_id: str) -> list[str]:
    """Return the schedulers, the one whose worker has most jobs of a run first."""
    jobs = Counter(job["worker_id"] for job in _jobs(schedulers.airflow, [run_id]))

    def busy(name: str) -> int:
        worker = schedulers.worker_of(name)
        return -jobs[worker["id"]] if worker else 0

    return sorted(schedulers.names, key=busy)


def _is_gone(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is None or stat.has_ended
