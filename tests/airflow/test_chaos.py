# SPDX-License-Identifier: Apache-2.0
"""The fault suite: whatever breaks, no task is lost, none runs twice, no limit is broken, no slot leaks.

``pytest -m chaos`` runs the full form: 500 tasks in three queues of one pool, every kind of fault three times.
Otherwise, and so in ``make test`` and ``.ci/run``, the short form runs: 240 tasks, every kind once, about three
minutes on a quiet machine with two cores (the components that have to start again cost more than the tasks).
See docs/fault-suite.md.
"""

from __future__ import annotations

import json
import random
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.airflow.chaos.components import Components
from tests.airflow.chaos.disk import small_disk
from tests.airflow.chaos.form import Form, form
from tests.airflow.chaos.storm import Leases, Storm, Timeline
from tests.airflow.chaos.verdict import most_at_once, problems
from tests.airflow.harness import LIVE, ROOT, AirflowInstance, held_at_once
from tests.postgres import postgres_server

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.postgres,
    pytest.mark.chaos,
    # A guard against what hangs, no measure: the machine may be slow.
    pytest.mark.timeout(7200),
]

POOL_LIMIT = 10
LIMITS = {None: POOL_LIMIT, "high": 4, "critical": 2}
WORKER_HEARTBEAT = 2
LEASES = Leases(worker=3 * WORKER_HEARTBEAT, scheduler=8, task=20)
SETTINGS = {
    "AIRFLOW__CORE__PARALLELISM": "32",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": f"{LEASES.scheduler:g}",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": f"{LEASES.task:g}",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__WORKPOOLS__WORKER_HEARTBEAT_INTERVAL": str(WORKER_HEARTBEAT),
    "AIRFLOW__WORKPOOLS__WORKER_RESTART_MAX_DELAY": "5",
}
KEPT = ("task_instance", "task_instance_history", "workpool_job", "workpool_worker")


@pytest.fixture
def storm_form(request: pytest.FixtureRequest) -> Form:
    return form(request.config.getoption("markexpr"))


@pytest.fixture
def folder(storm_form: Form, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that is kept if the test fails, until ``make clean``."""
    path = ROOT / ".test/chaos" / f"{time.strftime('%Y%m%d-%H%M%S')}-seed-{storm_form.seed}"
    path.mkdir(parents=True)
    failed_before = request.session.testsfailed
    yield path
    if request.session.testsfailed == failed_before:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def storm(storm_form: Form, folder: Path) -> Iterator[Storm]:
    """A real Airflow with two schedulers, on a PostgreSQL and a log disk of its own."""
    timeline = Timeline(folder / "timeline.log", storm_form.name)
    print(f"\nfault suite: {storm_form.name}; {timeline.path}")
    home = folder / "airflow"
    with ExitStack() as stack:
        # A commit must survive a crash of the server, as it does wherever people keep their tasks.
        server = stack.enter_context(postgres_server(synchronous_commit="on"))
        disk = stack.enter_context(small_disk(home / "disk"))
        if disk is None:
            warnings.warn("to fill a disk, one has to be mounted, which is not permitted here", stacklevel=1)
            timeline.note("no disk will be full: mounting one is not permitted here (it needs root)")
        airflow = AirflowInstance(
            home,
            database_url=server.create_database("airflow"),
            dags_folder=_dags_folder(home),
            settings={
                **SETTINGS,
                # Side by side, as by default: what jobs leave behind has no more room than the logs.
                "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "disk/logs"),
                "AIRFLOW__WORKPOOLS__HOME": str(home / "disk/workpools"),
                "WORKPOOLS_TEST_STORM": json.dumps(storm_form.tasks),
            },
        )
        airflow.migrate()
        stack.callback(airflow.stop)
        LIVE.append(airflow)
        components = Components(airflow, timeline.note)
        order = random.Random(storm_form.seed)
        storm = Storm(airflow, server, disk, components, LEASES, timeline, order)
        storm.until(airflow.api.health, seconds=180, what="the API server")
        queues = {"critical": (1, 2), "high": (5, 4), "low": (10, None)}
        airflow.create_pool(
            "storm",
            concurrency_limit=POOL_LIMIT,
            queues={
                name: {"priority": priority, "concurrency_limit": limit}
                for name, (priority, limit) in queues.items()
            },
        )
        storm.until(lambda: len(components.workers()) == 2, seconds=180, what="both embedded workers")
        storm.until(lambda: airflow.api.has_dag("storm"), seconds=180, what="the DAG to be parsed")
        yield storm


def _dags_folder(home: Path) -> Path:
    folder = home / "dags"
    shutil.copytree(ROOT / "tests/airflow/dags_chaos", folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests/airflow/dags/traces.py", folder)
    return folder


def test_whatever_breaks_nothing_is_lost_done_twice_or_too_much_at_a_time(
    storm: Storm, storm_form: Form, folder: Path
) -> None:
    found: list[str] = []
    run_ids = []
    try:
        for _ in range(storm_form.rounds):
            tasks = sum(storm_form.tasks.values())
            run_id = storm.airflow.api.trigger("storm")
            run_ids.append(run_id)
            storm.timeline.note(f"{tasks} tasks triggered: {run_id}")
            storm.rage(run_id, tasks=tasks, faults_of_each=storm_form.faults_of_each)
            found += _problems(storm, run_id, tasks)
            storm.timeline.note(_summary(storm.airflow, run_id))
        found += _leaks(storm)
        found += _untried(storm.airflow, run_ids)
    except BaseException as error:
        found.append(f"{type(error).__name__}: {error}")
        raise
    finally:
        if found:
            _keep(storm, folder)
            print("\n".join(["problems:", *found, "timeline:", str(storm.timeline)]))
        else:
            print(storm.timeline)
    assert not found


def _problems(storm: Storm, run_id: str, tasks: int) -> list[str]:
    airflow = storm.airflow
    latest = airflow.tries("storm", run_id)
    earlier = airflow.records.earlier_tries("storm", run_id)
    found = problems(airflow.executions(run_id), latest, earlier, LIMITS)
    if len(latest) != tasks:
        found.append(f"there are {len(latest)} tasks, {tasks} should be")
    # Nobody kills a task's own process here: where a try fails, its code or Airflow's supervisor of it has ended it.
    ours = airflow.rows(
        "select task_id, map_index, try_number, reason, exit_code from workpool_job where run_id = :run_id "
        "and state = 'failed' and desired_state is null and (exit_code is null or exit_code < 0) "
        "and reason not like '%No space left on device%'",
        run_id=run_id,
    )
    return found + [f"a job failed by no fault of its task: {job}" for job in ours]


def _summary(airflow: AirflowInstance, run_id: str) -> str:
    """Say how many tries the tasks took, and what became of the jobs."""
    # Not from the history: Airflow keeps none of a try that failed before it ran.
    tries = Counter(task.try_number for task in airflow.tries("storm", run_id))
    jobs = airflow.rows("select state, reason from workpool_job where run_id = :run_id", run_id=run_id)
    ends = Counter((job["state"], job["reason"]) for job in jobs)
    taken = ", ".join(f"{tries[number]} tasks took {number}" for number in sorted(tries))
    most = most_at_once(airflow.executions(run_id), airflow.tries("storm", run_id), LIMITS)
    at_once = ", ".join(f"{number} of {queue or 'all'}" for queue, number in most.items())
    return f"most at once: {at_once}; tries: {taken}; jobs: " + "; ".join(
        f"{number} {state}{f' ({reason})' if reason else ''}" for (state, reason), number in ends.items()
    )


def _leaks(storm: Storm) -> list[str]:
    """Return what still holds slots though no task is left."""
    airflow = storm.airflow
    found = []
    try:
        storm.until(lambda: not _active_jobs(airflow), seconds=120, what="the last jobs to end")
    except Exception as error:
        found.append(f"{error}: {_active_jobs(airflow)}")
    storm.until(lambda: airflow.api.health() is not None, seconds=120, what="the API server")
    pools = airflow.api.call("GET", "pools")["pools"]
    found += [
        f"Airflow pool {pool['name']} has {pool['occupied_slots']} slots occupied"
        for pool in pools
        if pool["occupied_slots"]
    ]
    slots = json.loads(airflow.workpools("slots", "--output", "json"))
    assert any(row["pool"] == "storm" for row in slots), slots
    found += [f"`airflow workpools slots` says {row}" for row in slots if int(row["running"])]
    return found


def _untried(airflow: AirflowInstance, run_ids: list[str]) -> list[str]:
    """Return the limits that were never reached: that they held says nothing then."""
    held = held_at_once(airflow, run_ids).at_most
    return [
        f"no more than {held.get(queue or '', 0)} slots of {queue or 'the pool'} were ever held at once, of {limit}"
        for queue, limit in LIMITS.items()
        if held.get(queue or "", 0) < limit
    ]


def _active_jobs(airflow: AirflowInstance) -> list[dict[str, object]]:
    return airflow.rows(
        "select id, task_id, map_index, try_number, state, desired_state, reason from workpool_job "
        "where ended_at is null"
    )


def _keep(storm: Storm, folder: Path) -> None:
    """Keep what the disk and the database will not have any more."""
    airflow = storm.airflow
    shutil.copytree(airflow.local.home / "disk", folder / "disk", ignore=shutil.ignore_patterns("filler"))
    for table in KEPT:
        try:
            rows = airflow.rows(f"select * from {table}")
        except Exception as error:
            rows = [{"error": str(error)}]
        lines = "\n".join(json.dumps(row, default=str) for row in rows)
        (folder / f"{table}.jsonl").write_text(lines)
    storm.timeline.note(
        f"kept: {folder} (logs, tables), {airflow.local.logs} (components), {airflow.trace} (tasks' own notes)"
    )
