# SPDX-License-Identifier: Apache-2.0
"""What a DAG file pays for: importing this package, and having it installed."""

from __future__ import annotations

import json

from tests.dag_reader import WITH_ALIAS, airflow_environment, run

LISTING = """
import json, sys
{before}
before = set(sys.modules)
{measured}
json.dump(sorted(set(sys.modules) - before), open(sys.argv[1], "w"))
"""
USE = "import airflow_workpools\nfrom airflow_workpools import work_queue\nwork_queue('etl/low', image='a')"

HEAVY = {
    "airflow",
    "sqlalchemy",
    "pydantic",
    "jsonschema",
    "docker",
    "kubernetes",
    "alembic",
    "rich",
    "psutil",
}
OF_DAG_FILES = {
    "airflow_workpools",
    "airflow_workpools.airflow_private",
    "airflow_workpools.core",
    "airflow_workpools.core.names",
    "airflow_workpools.dags",
    "airflow_workpools.dags.arguments",
    "airflow_workpools.dags.keyword",
    "airflow_workpools.dags.policy",
    "airflow_workpools.errors",
    "airflow_workpools.provider_info",  # Airflow asks every provider when it is imported
}


def imported(tmp_path, *, before: str = "", measured: str) -> list[str]:
    script, answer = tmp_path / "script.py", tmp_path / "answer.json"
    script.write_text(LISTING.format(before=before, measured=measured))
    run(str(script), str(answer), env=airflow_environment(tmp_path, executor=WITH_ALIAS))
    return json.loads(answer.read_text())


def of_this_package(modules: list[str]) -> set[str]:
    return {module for module in modules if module.partition(".")[0] == "airflow_workpools"}


def test_importing_the_package_imports_nothing_heavy_not_even_airflow(tmp_path):
    modules = imported(tmp_path, measured=USE)
    assert not HEAVY & {module.partition(".")[0] for module in modules}
    assert of_this_package(modules) <= OF_DAG_FILES


def test_in_a_dag_file_the_package_brings_in_only_its_own_small_modules(tmp_path):
    modules = imported(tmp_path, before="import airflow.sdk\nfrom airflow.sdk import DAG", measured=USE)
    assert set(modules) <= OF_DAG_FILES


def test_having_it_installed_adds_only_its_small_modules_to_importing_airflow(tmp_path):
    modules = imported(tmp_path, measured="import airflow.sdk\nfrom airflow.sdk import DAG, BaseOperator")
    assert of_this_package(modules) <= OF_DAG_FILES
