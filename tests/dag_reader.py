# SPDX-License-Identifier: Apache-2.0
"""Reads DAG files as Airflow does, in a process of its own, and tells what task instances they would make.

:func:`read` starts ``python -m tests.dag_reader``, so every reading has a fresh Airflow with its own home and
configuration. What comes back went through Airflow's serialized form, as between DAG processor and scheduler.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

REPOSITORY = Path(__file__).parent.parent
WITH_ALIAS = "LocalExecutor,wp:airflow_workpools.WorkPoolExecutor"
AS_DEFAULT = "airflow_workpools.WorkPoolExecutor"
WITHOUT = "LocalExecutor"

ETL_POOL = {
    "conn_type": "workpool",
    "extra": {
        "type": "process",
        "queues": {
            "critical": {"priority": 1},
            "high": {"priority": 5},
            "low": {"priority": 10},
            "default": {"priority": 20},
        },
    },
}


@dataclass(frozen=True)
class Reading:
    """What reading a folder of DAG files has given."""

    errors: Mapping[str, str]
    """Import errors by file."""
    dags: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """By DAG and task, the fields of the task instance that the scheduler would make."""
    log: str


def airflow_environment(home: Path, *, executor: str, **environ: str) -> dict[str, str]:
    """Return the environment for an Airflow of its own, with the work pool ``etl``."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return {
        **own,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__EXECUTOR": executor,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW_CONN_ETL": json.dumps(ETL_POOL),
        "PYTHONPATH": str(REPOSITORY),
        **environ,
    }


def read(
    home: Path,
    files: Mapping[str, str] | Iterable[Path],
    *,
    executor: str = WITH_ALIAS,
    running: bool = False,
    **environ: str,
) -> Reading:
    """Read DAG files.

    :param home: an empty folder, for AIRFLOW_HOME.
    :param files: sources by name, or files.
    :param running: read as the process does that runs a task, not as the DAG processor.
    """
    folder = home / "dags"
    folder.mkdir(parents=True)
    sources = files.items() if hasattr(files, "items") else [(path.name, path.read_text()) for path in files]
    for name, source in sources:
        (folder / name).write_text(source)
    answer = home / "answer.json"
    environment = airflow_environment(home, executor=executor, **environ)
    process = run("-m", "tests.dag_reader", str(answer), *(["running"] if running else []), env=environment)
    return Reading(**json.loads(answer.read_text()), log=process.stdout + process.stderr)


def run(*arguments: str, env: Mapping[str, str], check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run Python; fail with what it said if it failed."""
    process = subprocess.run(
        [sys.executable, *arguments], env=env, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert not check or process.returncode == 0, process.stdout + process.stderr
    return process


def main(answer: Path, *, running: bool) -> None:
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.models.connection import Connection
    from airflow.sdk.execution_time import task_runner
    from airflow.settings import DAGS_FOLDER, engine

    Connection.__table__.create(engine)
    # Both speak with a supervisor. What tells them apart is that a DAG processor has its own module imported.
    task_runner.SUPERVISOR_COMMS = object()
    if not running:
        import_module("airflow.dag_processing.processor")
    bag = BundleDagBag(dag_folder=DAGS_FOLDER, bundle_path=Path(DAGS_FOLDER), bundle_name="dags-folder")
    del task_runner.SUPERVISOR_COMMS
    dags = {dag_id: _task_instances(dag) for dag_id, dag in bag.dags.items()}
    answer.write_text(json.dumps({"errors": bag.import_errors, "dags": dags}, default=str))


def _task_instances(dag: Any) -> dict[str, dict[str, Any]]:
    from airflow.models.taskinstance import TaskInstance
    from airflow.serialization.serialized_objects import DagSerialization

    serialized = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    DagSerialization.validate_schema(serialized)
    found = {}
    for task in DagSerialization.from_dict(serialized).tasks:
        ti = TaskInstance(task=task, run_id="run", dag_version_id=None)
        found[task.task_id] = {
            "queue": ti.queue,
            "pool": ti.pool,
            "executor": ti.executor,
            "executor_config": ti.executor_config,
            "weight_rule": type(task.weight_rule).__name__,
            "priority_weight": ti.priority_weight,
            "operator": ti.custom_operator_name,
        }
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), running="running" in sys.argv[2:])
