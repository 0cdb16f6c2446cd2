# SPDX-License-Identifier: Apache-2.0
"""An executor with its real embedded worker, in a process of its own, with a stand-in for the Execution API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.airflow_home import ROOT, environment
from tests.unit.fake_execution_api import fake_execution_api

if TYPE_CHECKING:
    from tests.airflow_home import AirflowHome

CALLBACK = """
import os
from pathlib import Path

def page(note):
    Path(note).write_text(str(os.getppid()))
"""

SCHEDULER = """
import json, os, sys, time, uuid
from datetime import datetime, timezone
import sqlalchemy as sa
from airflow import settings
from airflow.executors.workloads import ExecuteCallback, TestConnection
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.callback import Callback
from airflow.models.connection_test import ConnectionTestRequest
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow_workpools.executor import WorkPoolExecutor

settings.configure_orm()
now = datetime.now(timezone.utc)
executor = WorkPoolExecutor()
executor.job_id = 1
executor.start()
with settings.Session() as session:
    if session.get(DagBundleModel, "dags-folder") is None:
        session.add(DagBundleModel(name="dags-folder"))
        session.flush()
    session.add(DagModel(dag_id="late", bundle_name="dags-folder", relative_fileloc="late.py"))
    session.flush()
    row = {"dag_id": "late", "run_id": "r", "run_type": "manual", "run_after": now, "state": "running"}
    session.execute(sa.insert(DagRun.__table__), [row])
    run = session.scalar(sa.select(DagRun))
    data = {"path": "pager.page", "kwargs": {"note": sys.argv[1]}, "dag_run_id": str(run.id), "dag_id": "late"}
    row = {"id": uuid.uuid4(), "type": "executor", "fetch_method": "import_path", "data": data}
    row |= {"state": "pending", "priority_weight": 1, "created_at": now}
    session.execute(sa.insert(Callback.__table__), [row])
    callback = session.get(Callback, row["id"])
    test = ConnectionTestRequest(connection_id="files", conn_type="fs")
    session.add(test)
    session.commit()
    executor.queue_workload(ExecuteCallback.make(callback, run, generator=executor.jwt_generator), session)
    callback.state = "queued"
    executor.queue_workload(
        TestConnection.make(connection_test_id=test.id, connection_id="files", timeout=60), session
    )
    test.state = "queued"
    session.commit()
    ids = callback.id, test.id

occupied, deadline, events = [executor.slots_occupied], time.monotonic() + 60, {}
while executor.slots_occupied and time.monotonic() < deadline:
    executor.heartbeat()
    events |= {str(key): str(getattr(state, "value", state)) for key, (state, _) in executor.event_buffer.items()}
    with settings.Session() as session:
        SchedulerJobRunner.process_executor_events(executor, 1, None, session)
        session.commit()
    time.sleep(0.02)
with settings.Session() as session:
    callback, test = session.get(Callback, ids[0]), session.get(ConnectionTestRequest, ids[1])
    seen = {"occupied": [*occupied, executor.slots_occupied], "scheduler": os.getpid(), "test_id": str(test.id)}
    seen |= {"callback": [callback.state, events.get(str(ids[0]))], "test": [test.state, test.result_message]}
print("SEEN", json.dumps(seen))
executor.end()
"""


def test_both_run_outside_the_scheduler_and_are_told_to_it(home: AirflowHome) -> None:
    folder = home.path / "dags"
    folder.mkdir(exist_ok=True)
    (folder / "pager.py").write_text(CALLBACK)
    note = home.path / "note"
    with fake_execution_api() as api:
        api.connection = {"conn_id": "files", "conn_type": "fs", "extra": json.dumps({"path": "/"})}
        environ = {
            **environment(home.path),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": api.url,
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
            "AIRFLOW__CORE__EXECUTOR": "airflow_workpools.WorkPoolExecutor",
            "AIRFLOW__API_AUTH__JWT_SECRET": "a secret that is long enough for nobody to complain about " * 2,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, "-c", SCHEDULER, str(note)]
        done = subprocess.run(
            command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    seen = json.loads(line.removeprefix("SEEN "))
    assert seen["occupied"] == [2, 0]
    assert seen["callback"] == ["success", "success"]
    assert int(note.read_text()) != seen["scheduler"]
    (told,) = api.asked(seen["test_id"])
    assert (told["state"], told["result_message"]) == ("success", "Path / is existing.")
    # The stand-in does not store what it is told: the worker notices that the test has no result.
    assert seen["test"] == ["failed", "The connection test ended without a result"]
