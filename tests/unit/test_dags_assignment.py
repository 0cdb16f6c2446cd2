# SPDX-License-Identifier: Apache-2.0
"""What becomes of tasks that name a work queue, seen at the task instances that the scheduler would make."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_workpools.core.weights import combined_weight, own_weight
from tests.dag_reader import AS_DEFAULT, WITH_ALIAS, WITHOUT, Reading, read

KINDS = Path(__file__).parent.parent / "dag_files" / "kinds.py"

CRITICAL = {"queue": "etl/critical", "pool": "etl.critical"}
HIGH = {"queue": "etl/high", "pool": "etl.high"}
LOW = {"queue": "etl/low", "pool": "etl.low"}
DEFAULT = {"queue": "etl/default", "pool": "etl"}
NONE = {"queue": "default", "pool": "default_pool"}
IMAGE = {"image": "a:1"}

BASH = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
with DAG("{dag_id}", schedule=None):
    {task}
"""


def dag_file(dag_id: str, arguments: str, *, mapped: bool = False) -> str:
    if mapped:
        task = f"BashOperator.partial(task_id='load', {arguments}).expand(bash_command=['true'])"
    else:
        task = f"BashOperator(task_id='load', bash_command='true', {arguments})"
    return BASH.format(dag_id=dag_id, task=task)


def part_of(wanted: dict, got: dict) -> bool:
    return wanted.items() <= got.items()


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    """The WorkPoolExecutor is the second executor, called ``wp``."""
    return read(tmp_path_factory.mktemp("second"), [KINDS], executor=WITH_ALIAS)


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    """The WorkPoolExecutor is the only executor."""
    return read(
        tmp_path_factory.mktemp("default"),
        {
            "plain.py": dag_file("plain", "priority_weight=3"),
            "named.py": dag_file("named", "work_queue='etl/critical'"),
            "config.py": dag_file("config", "executor_config=['a']"),
        },
        executor=AS_DEFAULT,
    )


def test_every_dag_file_is_read_without_error(second):
    assert second.errors == {}


EVERY_KIND = [
    *("bash", "empty", "branch", "short_circuit", "sensor", "own_operator", "own_sensor"),
    *("native", "helper", "both", "mapped", "mapped_kwargs", "mapped_native", "mapped_helper"),
    *("python", "bash_decorated", "branch_decorated", "sensor_decorated"),
    *("overridden", "overridden_native", "python_mapped", "overridden_mapped"),
    *("workpool", "workpool_mapped", "group.in_mapped_group"),
]


@pytest.mark.parametrize("task_id", EVERY_KIND)
def test_every_kind_of_task_reaches_its_work_queue(second, task_id):
    wanted = CRITICAL | {"executor": "wp", "weight_rule": "WorkQueueDownstream"}
    assert part_of(wanted, second.dags["kinds"][task_id])


@pytest.mark.parametrize("task_id", ["default_queue", "mapped_default_queue"])
def test_a_pool_alone_means_its_default_queue_and_the_queue_part_is_always_said(second, task_id):
    assert part_of(DEFAULT, second.dags["kinds"][task_id])


@pytest.mark.parametrize("task_id", ["none", "unsaid", "own_keyword", "workpool_bare"])
def test_a_task_without_a_work_queue_is_as_it_would_be_without_this_package(second, task_id):
    unchanged = {"executor": None, "weight_rule": "_DownstreamPriorityWeightStrategy", "priority_weight": 1}
    assert part_of(NONE | unchanged, second.dags["kinds"][task_id])


@pytest.mark.parametrize("task_id", ["helper", "mapped_helper", "workpool", "workpool_mapped"])
def test_job_variables_arrive_as_executor_config(second, task_id):
    assert second.dags["kinds"][task_id]["executor_config"] == IMAGE


def test_a_decorated_task_can_be_sent_elsewhere_and_keeps_its_job_variables(second):
    assert part_of(LOW | {"executor_config": IMAGE}, second.dags["kinds"]["workpool_overridden"])


def test_the_decorator_shows_by_its_name(second):
    assert second.dags["kinds"]["workpool"]["operator"] == "@task.workpool"


@pytest.mark.parametrize(
    ("task_id", "wanted"),
    [
        ("from_dag", LOW),
        ("mapped_from_dag", LOW),
        ("plain", LOW),
        ("plain_mapped", LOW),
        ("group.from_group", HIGH),
        ("group.mapped_from_group", HIGH),
        ("group.plain", HIGH),
    ],
)
def test_the_work_queue_can_be_a_default_of_the_dag_and_of_a_task_group(second, task_id, wanted):
    assert part_of(wanted, second.dags["defaults"][task_id])


@pytest.mark.parametrize(
    "task_id",
    ["own", "own_native", "own_helper", "mapped_own", "mapped_own_native", "plain_mapped_native"],
)
def test_what_is_written_next_to_the_task_wins_over_a_default_however_it_is_written(second, task_id):
    assert part_of(CRITICAL, second.dags["defaults"][task_id])


def test_a_task_can_decline_the_default_work_queue_of_its_dag(second):
    assert part_of(NONE, second.dags["defaults"]["none"])


@pytest.mark.parametrize("task_id", ["own_pool", "mapped_own_pool"])
def test_an_airflow_pool_of_the_authors_choice_stays(second, task_id):
    assert part_of({"queue": "etl/critical", "pool": "db"}, second.dags["fields"][task_id])


@pytest.mark.parametrize(
    ("task_id", "executor"),
    [
        ("named", "wp"),
        ("named_class", "WorkPoolExecutor"),
        ("mapped_named", "WorkPoolExecutor"),
        ("named_path", "airflow_workpools.WorkPoolExecutor"),
    ],
)
def test_an_author_may_name_the_executor_by_any_of_its_names(second, task_id, executor):
    assert second.dags["fields"][task_id]["executor"] == executor


@pytest.mark.parametrize(
    ("task_id", "variables"), [("variables", {"env": {"A": "1"}}), ("mapped_variables", {"cpu": 2})]
)
def test_executor_config_is_the_job_variables(second, task_id, variables):
    assert second.dags["fields"][task_id]["executor_config"] == variables


@pytest.mark.parametrize(
    ("task_id", "rule"),
    [
        ("upstream", "WorkQueueUpstream"),
        ("absolute", "WorkQueueAbsolute"),
        ("mapped_absolute", "WorkQueueAbsolute"),
    ],
)
def test_the_authors_weight_rule_decides_within_the_queue(second, task_id, rule):
    assert second.dags["fields"][task_id]["weight_rule"] == rule


@pytest.mark.parametrize(
    ("task_id", "weight"),
    [
        ("heavy", combined_weight(10, 7)),
        ("before", combined_weight(1, 3 + 4)),
        ("after", combined_weight(1, 4)),
        ("mapped_absolute", combined_weight(10, 1)),
    ],
)
def test_the_priority_of_the_queue_comes_first_in_the_weight_of_a_task_instance(second, task_id, weight):
    assert second.dags["fields"][task_id]["priority_weight"] == weight


@pytest.mark.parametrize("task_id", ["unknown_queue", "unknown_pool"])
def test_a_task_of_an_unknown_queue_waits_last_with_its_own_weight(second, task_id):
    weight = second.dags["fields"][task_id]["priority_weight"]
    assert weight == own_weight(weight) == 5


# -- the WorkPoolExecutor as the default executor ------------------------------------------------------------


def test_the_default_executor_is_not_named(default):
    assert part_of(CRITICAL | {"executor": None}, default.dags["named"]["load"])


def test_a_task_without_a_work_queue_runs_as_it_is(default):
    wanted = NONE | {
        "executor": None,
        "priority_weight": 3,
        "weight_rule": "_DownstreamPriorityWeightStrategy",
    }
    assert part_of(wanted, default.dags["plain"]["load"])


def test_executor_config_that_is_no_dict_is_refused_with_or_without_a_work_queue(default):
    assert default.errors["config.py"] == (
        "AirflowClusterPolicyViolation: Task 'load' of DAG 'config': "
        "executor_config must be a dict of job variables, not list"
    )


def test_tasks_without_a_work_queue_go_where_the_configuration_says(tmp_path):
    files = {
        "plain.py": dag_file("plain", "queue='elsewhere'"),
        "mapped.py": dag_file("mapped", "retries=1", mapped=True),
        "own.py": dag_file("own", "work_queue='etl/critical'"),
    }
    reading = read(tmp_path, files, executor=AS_DEFAULT, AIRFLOW__WORKPOOLS__DEFAULT_WORK_QUEUE="etl/low")
    assert part_of(LOW | {"weight_rule": "WorkQueueDownstream"}, reading.dags["plain"]["load"])
    assert part_of(LOW, reading.dags["mapped"]["load"])
    assert part_of(CRITICAL, reading.dags["own"]["load"])


def test_the_configured_work_queue_is_only_for_tasks_of_this_executor(tmp_path):
    files = {
        "other.py": dag_file("other", "retries=1"),
        "ours.py": dag_file("ours", "executor='wp'"),
    }
    reading = read(tmp_path, files, executor=WITH_ALIAS, AIRFLOW__WORKPOOLS__DEFAULT_WORK_QUEUE="etl/low")
    assert part_of(NONE, reading.dags["other"]["load"])
    assert part_of(LOW, reading.dags["ours"]["load"])


def test_a_malformed_configured_work_queue_costs_no_dag(tmp_path):
    files = {"plain.py": dag_file("plain", "retries=1")}
    reading = read(tmp_path, files, executor=AS_DEFAULT, AIRFLOW__WORKPOOLS__DEFAULT_WORK_QUEUE="etl//low")
    assert reading.errors == {}
    assert part_of(NONE, reading.dags["plain"]["load"])
    assert "[workpools] default_work_queue" in reading.log


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    cases = {
        "keyword": "work_queue='etl//x'",
        "number": "work_queue=3",
        "characters": "work_queue='etl/no good'",
        "native": "queue='etl//x'",
        "executor": "work_queue='etl', executor='LocalExecutor'",
        "list": "work_queue='etl', executor_config=['image']",
        "json": "work_queue='etl', executor_config={'image': {1, 2}}",
        "key": "work_queue='etl', executor_config={1: 2}",
        "typo": "wrok_queue='etl'",
    }
    files = {f"{name}.py": dag_file(name, arguments) for name, arguments in cases.items()}
    files |= {
        f"mapped_{name}.py": dag_file(f"mapped_{name}", arguments, mapped=True)
        for name, arguments in cases.items()
    }
    files["expand.py"] = BASH.format(
        dag_id="expand",
        task="BashOperator.partial(task_id='load', bash_command='true').expand(work_queue=['a/b'])",
    )
    return read(tmp_path_factory.mktemp("wrong"), files)


def test_no_dag_with_a_mistake_is_taken(wrong):
    assert wrong.dags == {}


@pytest.mark.parametrize("kind", ["", "mapped_"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("keyword", "work queue 'etl//x' must look like \"pool/queue\""),
        ("number", 'work queue must be text like "pool/queue", not 3'),
        (
            "characters",
            "work queue 'etl/no good' must look like \"pool/queue\": "
            "work queue name 'no good' is not allowed",
        ),
        ("native", "work queue 'etl//x' must look like \"pool/queue\""),
        (
            "executor",
            "work queue 'etl/default' needs the WorkPoolExecutor, "
            "but the task names executor 'LocalExecutor': leave out one of the two",
        ),
        ("list", "executor_config must be a dict of job variables, not list"),
        ("json", "job variable 'image' in executor_config: Object of type set is not JSON serializable"),
        ("key", "job variables have names, but executor_config has the key 1"),
    ],
)
def test_a_mistake_is_told_with_dag_task_and_what_is_expected(wrong, kind, name, message):
    error = wrong.errors[f"{kind}{name}.py"]
    assert f"Task 'load' of DAG '{kind}{name}': {message}" in error
    # A plain task's keyword is looked at in its constructor, everything else by the policy.
    raised_early = kind == "" and name in ("keyword", "number", "characters")
    assert error.startswith("Traceback" if raised_early else "AirflowClusterPolicyViolation: Task")


def test_a_typo_in_a_keyword_fails_as_it_does_without_this_package(wrong):
    assert "Invalid arguments were passed to BashOperator (task_id: load)" in wrong.errors["typo.py"]
    assert "partial() got an unexpected keyword argument 'wrok_queue'" in wrong.errors["mapped_typo.py"]


def test_the_work_queue_of_a_task_cannot_be_mapped(wrong):
    assert "unmappable or already specified argument: work_queue" in wrong.errors["expand.py"]


# -- no WorkPoolExecutor in [core] executor ------------------------------------------------------------------

ONE_OF_EACH = {
    "plain.py": dag_file("plain", "executor_config={'image': {1, 2}}"),
    "named.py": dag_file("named", "work_queue='etl/critical'"),
    "native.py": dag_file("native", "queue='etl/critical'"),
    "mapped.py": dag_file("mapped", "work_queue='etl/critical'", mapped=True),
}


def test_without_the_executor_a_dag_processor_says_what_to_configure(tmp_path):
    reading = read(tmp_path, ONE_OF_EACH, executor=WITHOUT)
    assert set(reading.dags) == {"plain"}
    for name in ("named", "native", "mapped"):
        assert reading.errors[f"{name}.py"] == (
            f"AirflowClusterPolicyViolation: Task 'load' of DAG '{name}': "
            "work queue 'etl/critical' needs the WorkPoolExecutor: add it to [core] executor, "
            'for example "LocalExecutor,airflow_workpools.WorkPoolExecutor"'
        )


def test_without_the_executor_a_task_runs_all_the_same(tmp_path):
    """A container has no [core] executor of its own, and reads the DAG file to find its task in it."""
    reading = read(tmp_path, ONE_OF_EACH, executor=WITHOUT, running=True)
    assert reading.errors == {}
    assert set(reading.dags) == {"plain", "named", "native", "mapped"}
