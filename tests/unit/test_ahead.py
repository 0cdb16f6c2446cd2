# SPDX-License-Identifier: Apache-2.0
"""What is loaded before the embedded worker is forked: all that it and its runner need, and nothing is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import sys
from airflow.utils.db import initdb
initdb()
from airflow_workpools.settings import Settings
from airflow_workpools.worker.ahead import load_ahead
settings = Settings.from_airflow()
load_ahead(settings)
before = set(sys.modules)
from pydantic import TypeAdapter
from airflow.sdk.execution_time import comms, supervisor
problems = []
if comms.TypeAdapter is not TypeAdapter or supervisor.ActivitySubprocess.__module__ != supervisor.__name__:
    problems.append("Airflow was changed")
import asyncio, socket
from airflow_workpools.worker.embedded_process import _serve
class Runner:
    pid, lost = 1, False
    async def connect(self, *_): pass
    async def close(self): pass
ours, theirs = socket.socketpair()
ours.close()  # the executor is gone: the worker comes online, and ends
asyncio.run(_serve(theirs, settings=settings, team_name=None, runner=Runner()))
from airflow_workpools.airflow_private import workloads
workloads.load_for_workloads()
problems += sorted(name for name in set(sys.modules) - before if name.startswith("airflow"))
print(problems)
"""


def test_nothing_is_left_for_the_worker_and_its_runner_to_import(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
    }
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert said.stdout.splitlines()[-1:] == ["[]"], said.stdout[-2000:] + said.stderr[-3000:]
