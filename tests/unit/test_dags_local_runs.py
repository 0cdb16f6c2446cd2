# SPDX-License-Identifier: Apache-2.0
"""DAGs with work queues on a developer's machine: ``airflow dags test`` and ``python dag.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.dag_reader import WITH_ALIAS, WITHOUT, airflow_environment, run

if TYPE_CHECKING:
    from pathlib import Path

DAG = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, task

with DAG("local", schedule=None, default_args={"work_queue": "etl/low"}) as dag:
    BashOperator(task_id="plain", bash_command="true", work_queue="etl/critical")
    BashOperator.partial(task_id="mapped", work_queue="etl/high").expand(bash_command=["true", "true"])

    @task
    def numbers():
        return [1, 2]

    @task(work_queue="etl/critical")
    def double(number):
        print("doubled", number * 2)

    @task.workpool(work_queue="etl/high", job_variables={"image": "a:1"})
    def last(doubled):
        print("all is done")

    last(double.expand(number=numbers()))

if __name__ == "__main__":
    print("the run is", dag.test().state)
"""

pytestmark = pytest.mark.airflow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Airflow with a database and one DAG file."""
    home = tmp_path_factory.mktemp("local")
    (home / "dags").mkdir()
    (home / "dags" / "local.py").write_text(DAG)
    environment = airflow_environment(home, executor=WITH_ALIAS)
    run("-m", "airflow", "db", "migrate", env=environment)
    run("-m", "airflow", "dags", "reserialize", env=environment)  # as a DAG processor has done where one runs
    return home


def test_airflow_dags_test_runs_it(home):
    output = run("-m", "airflow", "dags", "test", "local", env=airflow_environment(home, executor=WITH_ALIAS))
    assert "doubled 4" in output.stdout
    assert "all is done" in output.stdout
    assert "state=success" in output.stdout + output.stderr


@pytest.mark.parametrize("executor", [WITH_ALIAS, WITHOUT])
def test_python_runs_the_dag_file(home, executor):
    output = run(str(home / "dags" / "local.py"), env=airflow_environment(home, executor=executor))
    assert "doubled 4" in output.stdout
    assert "the run is success" in output.stdout
