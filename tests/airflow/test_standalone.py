# SPDX-License-Identifier: Apache-2.0
"""``airflow standalone``: one command, our executor, our tables."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.airflow.harness import LIVE, ROOT, AirflowInstance, assert_each_ran_once

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.airflow


def test_standalone_makes_the_tables_keeps_our_executor_and_runs_tasks(tmp_path: Path) -> None:
    dags = tmp_path / "dags"
    dags.mkdir()
    for name in ("plain.py", "traces.py"):
        shutil.copy(ROOT / "tests/airflow/dags" / name, dags)
    instance = AirflowInstance(tmp_path / "home", dags_folder=dags)
    LIVE.append(instance)
    try:
        instance.local.start_command("standalone", ["standalone"])
        instance.wait(lambda: healthy(instance, "scheduler"), timeout=120, what="the scheduler's heartbeat")
        run_id = instance.trigger("no_work_queue")
        tries = instance.wait_run("no_work_queue", run_id)
        assert_each_ran_once(instance.executions(run_id), tries)
        jobs = instance.rows("select pool, state from workpool_job where run_id = :run_id", run_id=run_id)
        assert jobs == [{"pool": "default", "state": "succeeded"}]
        assert "Forcing executor" not in instance.local.tail("standalone", 10_000)
    finally:
        instance.stop()


def healthy(instance: AirflowInstance, component: str) -> bool:
    report = instance.api.health() or {}
    return (report.get(component) or {}).get("status") == "healthy"
