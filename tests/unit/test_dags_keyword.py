# SPDX-License-Identifier: Apache-2.0
"""The keyword ``work_queue=``: how it gets into Airflow, and that it harms nothing there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.dag_reader import WITH_ALIAS, airflow_environment, run

if TYPE_CHECKING:
    from pathlib import Path

FACTS = """
import inspect, json, sys, warnings
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator
from airflow.settings import task_policy

def error(make):
    try:
        make()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    EmptyOperator(task_id="deprecated", email="a@b"); here = inspect.currentframe().f_lineno

with DAG("d", schedule=None):
    listing = BashOperator(task_id="listing", bash_command="true")
    mapped = BashOperator.partial(task_id="m", work_queue="etl/low").expand_kwargs(listing.output)
    plain = BashOperator(task_id="p", bash_command="true", work_queue="etl/low")
task_policy(mapped)
task_policy(plain)
once = vars(plain).copy()
task_policy(plain)

answer = {
    "signatures": [
        str(inspect.signature(callable).parameters.get("work_queue"))
        for callable in (BaseOperator, BaseOperator.__init__)
    ],
    "parameters": list(inspect.signature(BaseOperator.__init__).parameters)[-2:],
    "signature": list(inspect.signature(BaseOperator.__init__).parameters),
    "source": "def __init__" in inspect.getsource(BaseOperator),
    "doc": BaseOperator.__init__.__doc__,
    "qualname": BaseOperator.__init__.__qualname__,
    "finders": [type(finder).__module__ for finder in sys.meta_path],
    "typo": error(lambda: EmptyOperator(task_id="a", wrok_queue="b")),
    "missing": error(lambda: BashOperator(task_id="a")),
    "positional": error(lambda: EmptyOperator("a")),
    "warnings": [(one.filename, one.lineno) for one in caught],
    "here": [__file__, here],
    "unmapped": mapped.unmap({"bash_command": "true"}).queue,
    "mapping_it": error(lambda: mapped.unmap({"bash_command": "true", "work_queue": "etl/high"})),
    "twice": once == vars(plain),
    "attributes": sorted(vars(EmptyOperator(task_id="e")).keys() & {"work_queue"}),
    "serialized": "work_queue" in BaseOperator.get_serialized_fields(),
}
with open(sys.argv[1], "w") as file:
    json.dump(answer, file)
"""


def execute(home: Path, script: str, **environ: str) -> tuple[Any, str]:
    """Run a script that writes JSON to the file it is given; return that, and what it printed."""
    (home / "script.py").write_text(script)
    answer = home / "answer.json"
    env = airflow_environment(home, executor=WITH_ALIAS, **environ)
    process = run(str(home / "script.py"), str(answer), env=env)
    return json.loads(answer.read_text()), process.stdout + process.stderr


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return execute(tmp_path_factory.mktemp("keyword"), FACTS)[0]


def test_the_signature_of_operators_shows_the_keyword(facts):
    assert facts["signatures"] == ["work_queue: 'str | None' = None"] * 2


def test_airflows_own_keywords_stay_in_the_signature_and_other_ones_still_go_to_kwargs(facts):
    assert facts["parameters"] == ["work_queue", "kwargs"]
    assert {"self", "task_id", "queue", "executor_config", "retries"} <= set(facts["signature"])


def test_tools_still_see_the_constructor_as_airflows(facts):
    assert facts["source"]
    assert facts["qualname"] == "BaseOperator.__init__"


def test_nothing_stays_behind_in_the_import_system(facts):
    assert not [module for module in facts["finders"] if module.startswith("airflow_workpools")]


def test_mistakes_in_arguments_fail_as_they_do_without_the_keyword(facts):
    assert facts["typo"].startswith("TypeError: Invalid arguments were passed to EmptyOperator (task_id: a)")
    assert facts["missing"] == "TypeError: missing keyword argument 'bash_command'"
    assert facts["positional"] == "TypeError: Use keyword arguments when initializing operators"


def test_warnings_about_arguments_point_at_the_dag_file(facts):
    assert facts["warnings"][0] == facts["here"]


def test_a_mapped_task_that_is_expanded_has_its_work_queue(facts):
    assert facts["unmapped"] == "etl/low"


def test_mapping_the_work_queue_at_run_time_is_refused(facts):
    assert facts["mapping_it"] == "TypeError: unmappable or already specified argument: work_queue"


def test_the_policy_may_see_a_task_twice(facts):
    assert facts["twice"]


def test_operators_have_no_new_attribute_and_serialized_dags_no_new_field(facts):
    assert facts["attributes"] == []
    assert not facts["serialized"]


def test_where_operators_are_imported_already_they_get_the_keyword_at_once(tmp_path):
    script = """
import json, os, sys
os.environ["_AIRFLOW__AS_LIBRARY"] = "1"  # Airflow loads no policies
from airflow.sdk import BaseOperator

class Before(BaseOperator):
    def __init__(self, *, mine, **kwargs):
        super().__init__(**kwargs)

from airflow_workpools.dags import keyword
before = list(sys.meta_path)
keyword.install()
queue = Before(task_id="a", mine=1, work_queue="etl/low").queue
json.dump([queue, sys.meta_path == before], open(sys.argv[1], "w"))
"""
    assert execute(tmp_path, script)[0] == ["etl/low", True]


@pytest.mark.parametrize(
    "sabotage",
    [
        "sys.modules['airflow_workpools.dags.keyword'] = None",
        "sys.modules['airflow_workpools.airflow_private'] = None",
        "import airflow_workpools.airflow_private as p; p.replace_operator_init = None",
        "import airflow_workpools.airflow_private as p; p.OPERATOR_MODULE = 'airflow.sdk.bases.gone'",
    ],
)
def test_airflow_can_be_imported_whatever_fails_in_the_policy(tmp_path, sabotage):
    script = f"""
import json, sys
{sabotage}
import airflow
from airflow.providers.standard.operators.empty import EmptyOperator
json.dump(EmptyOperator(task_id="a", queue="etl/low").queue, open(sys.argv[1], "w"))
"""
    queue, log = execute(tmp_path, script)
    assert queue == "etl/low"
    assert "gone" in sabotage or "Operators do not know work_queue=" in log
