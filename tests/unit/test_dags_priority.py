# SPDX-License-Identifier: Apache-2.0
"""The priority weight strategies, as the scheduler uses them. The arithmetic is in ``test_weights.py``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.core.weights import combined_weight
from tests.dag_reader import WITH_ALIAS, airflow_environment, run

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import json, sys
from types import SimpleNamespace

from airflow.models.connection import Connection
from airflow.plugins_manager import get_priority_weight_strategy_plugins
from airflow.settings import engine
from airflow_workpools import priority
from airflow_workpools.dags.assignment import WEIGHT_RULES
from airflow_workpools.store import pools

def weight(queue):
    task = SimpleNamespace(priority_weight=7)
    return priority.WorkQueueAbsolute().get_weight(SimpleNamespace(queue=queue, task=task))

without_tables = weight("etl/critical")
Connection.__table__.create(engine)
answer = {
    "registered": sorted(get_priority_weight_strategy_plugins()),
    "set by the policy": sorted(WEIGHT_RULES.values()),
    "without_tables": without_tables,
    "weights": {queue: weight(queue) for queue in [
        "etl/critical", "etl/default", "etl", "etl/gone", "gone/low", "broken/low", "//", None,
    ]},
}
pools.work_pools = None
answer["broken"] = weight("etl/critical")
with open(sys.argv[1], "w") as file:
    json.dump(answer, file)
"""


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home: Path = tmp_path_factory.mktemp("priority")
    (home / "script.py").write_text(SCRIPT)
    broken = json.dumps({"conn_type": "workpool", "extra": {"concurrency_limit": "many"}})
    env = airflow_environment(home, executor=WITH_ALIAS, AIRFLOW_CONN_BROKEN=broken)
    run(str(home / "script.py"), str(home / "answer.json"), env=env)
    return json.loads((home / "answer.json").read_text())


def test_every_strategy_that_the_policy_sets_is_registered_by_the_plugin(answer):
    assert set(answer["set by the policy"]) <= set(answer["registered"])


def test_a_task_has_the_rank_of_its_queue(answer):
    assert answer["weights"]["etl/critical"] == combined_weight(1, 7)
    assert answer["weights"]["etl/default"] == answer["weights"]["etl"] == combined_weight(20, 7)


@pytest.mark.parametrize("queue", ["etl/gone", "gone/low", "broken/low", "//", "null"])
def test_where_there_is_no_such_queue_the_task_keeps_its_own_weight_and_waits_last(answer, queue):
    assert answer["weights"][queue] == 7


@pytest.mark.parametrize("failure", ["without_tables", "broken"])
def test_work_pools_that_cannot_be_read_never_stop_the_scheduler(answer, failure):
    assert answer[failure] == 7
