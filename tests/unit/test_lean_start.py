# SPDX-License-Identifier: Apache-2.0
"""A task's start without what it does not need of Airflow."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import yaml

from airflow_workpools.airflow_private.lean_start import can_run

if TYPE_CHECKING:
    from pathlib import Path


def python(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_parser_is_not_imported_until_it_is_used_and_then_works_as_always() -> None:
    program = """
import sys
from airflow_workpools.airflow_private.lean_start import _libcst_when_needed
with _libcst_when_needed():
    from airflow.sdk.bases.decorator import remove_task_decorator
print(any(name.startswith("libcst") for name in sys.modules))
print(remove_task_decorator("@task.virtualenv()\\n@other\\ndef f(): ...\\n", "@task.virtualenv"))
import libcst
print(libcst.Name("x").value, len(libcst.__path__))
"""
    assert python(program).splitlines() == ["False", "@other", "def f(): ...", "", "x 1"]


def test_models_and_executors_of_airflow_are_not_imported_to_start_a_task() -> None:
    program = """
import sys
from airflow_workpools.airflow_private import lean_start
with lean_start._libcst_when_needed():
    try:
        lean_start._imported("{}")
    except Exception as error:
        print(type(error).__name__)
print([name for name in ("airflow.executors.base_executor", "airflow.models.taskinstance", "libcst")
       if name in sys.modules])
"""
    assert python(program).splitlines()[-2:] == ["ValidationError", "[]"]


def test_no_yaml_is_read_by_the_slow_parser_and_afterwards_all_is_as_before() -> None:
    program = """
import yaml
from airflow_workpools.airflow_private import lean_start
before, read = yaml.safe_load, []
class Counting(yaml.SafeLoader):
    def __init__(self, stream):
        read.append(stream)
        super().__init__(stream)
yaml.SafeLoader = Counting
with lean_start._libcst_when_needed(), lean_start._yaml_by_libyaml():
    print(yaml.safe_load("{a: [1, 2.5, null, 2026-01-01]}") == before("{a: [1, 2.5, null, 2026-01-01]}"))
    try:
        lean_start._imported("{}")
    except Exception as error:
        print(type(error).__name__)
print(len(read), yaml.safe_load is before)
"""
    assert yaml.__with_libyaml__, "PyYAML was built without libyaml; install its wheel"
    assert python(program).splitlines()[-3:] == ["True", "ValidationError", "1 True"]


def test_what_is_no_task_is_left_to_airflow() -> None:
    assert can_run('{"type": "ExecuteTask"}')
    assert not can_run('{"type": "ExecuteCallback"}')
    assert not can_run("[]")
    assert not can_run("no JSON")


def test_the_execution_api_is_where_airflow_s_executors_look_for_it() -> None:
    program = """
import os
from airflow.configuration import conf
from airflow.executors.base_executor import get_execution_api_server_url
from airflow_workpools.airflow_private.lean_start import _execution_api
for url in ("http://a:1/x/", "/x/"):
    os.environ["AIRFLOW__API__BASE_URL"] = url
    print(_execution_api() == get_execution_api_server_url())
os.environ["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] = "http://b/execution/"
print(_execution_api() == get_execution_api_server_url())
"""
    assert python(program).split() == ["True"] * 3


def test_a_workload_that_is_missing_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "airflow_workpools.execute_workload", "--json-path", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("Error: the workload ")
