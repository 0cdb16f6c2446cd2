# SPDX-License-Identifier: Apache-2.0
"""Whether Airflow still is as ``airflow_private`` takes it to be. What fails here has changed in Airflow."""

from __future__ import annotations

import json
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.airflow_private import tries
from airflow_workpools.airflow_private.logins import is_secret_name
from airflow_workpools.airflow_private.task_logs import read_logs_with
from airflow_workpools.api.pools.access import COOKIE
from tests.dag_reader import WITH_ALIAS, airflow_environment, run

if TYPE_CHECKING:
    from pathlib import Path

LOG_PATH = "dag_id=d/run_id=r/task_id=t/attempt=1.log"

SCRIPT = """
import inspect, json, os, sys
os.environ["_AIRFLOW__AS_LIBRARY"] = "1"  # Airflow loads no policies: it is as Airflow made it
from airflow.sdk import BaseOperator
from airflow_workpools import airflow_private as private

operators = sys.modules[private.OPERATOR_MODULE]
init = BaseOperator.__init__
answer = {
    "owner": BaseOperator.__module__,
    "written": init.__wrapped__.__qualname__,
    "wrapped once": not hasattr(init.__wrapped__, "__wrapped__"),
    "kwargs last": list(inspect.signature(init).parameters)[-1],
    "work_queue": "work_queue" in inspect.signature(init).parameters,
    "delta": operators.warnings.delta,
    "pool": BaseOperator(task_id="a").pool == private.DEFAULT_AIRFLOW_POOL,
    "queue": BaseOperator(task_id="a").queue == private.default_queue(),
    "idle": private.running_a_task(),
}

def wrap(written):
    def __init__(self, *, extra=None, **kwargs):
        self.seen = extra
        written(self, **kwargs)
    signature = inspect.signature(written)
    *parameters, rest = signature.parameters.values()
    extra = inspect.Parameter("extra", inspect.Parameter.KEYWORD_ONLY, default=None)
    __init__.__signature__ = signature.replace(parameters=[*parameters, extra, rest])
    return __init__

private.replace_operator_init(operators, wrap, defaults={"extra": "unset"})

class Operator(BaseOperator):
    pass

answer["replaced"] = BaseOperator(task_id="a", extra=1).seen
answer["partial"] = Operator.partial(task_id="a").kwargs["extra"]
answer["more delta"] = operators.warnings.delta - answer["delta"]

executors = private.configured_executors()
answer["executors"] = [(one.module_path, one.alias, one.team_name) for one in executors]
rules = ("downstream", "upstream", "absolute")
answer["rules"] = {rule: type(private.weight_strategy(rule)).__name__ for rule in rules}

from airflow.sdk.execution_time import task_runner
answer["not set by importing it"] = private.running_a_task()
answer["task runner sets it"] = "SUPERVISOR_COMMS = CommsDecoder" in inspect.getsource(task_runner.main)
task_runner.SUPERVISOR_COMMS = object()
import airflow.dag_processing.dagbag, airflow.executors.workloads, airflow.sdk.execution_time.execute_workload
answer["running"] = private.running_a_task()
from airflow.dag_processing import processor
answer["dag processor sets it"] = "task_runner.SUPERVISOR_COMMS =" in inspect.getsource(processor)
answer["processing"] = private.running_a_task()

with open(sys.argv[1], "w") as file:
    json.dump(answer, file)
"""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("private")
    (home / "script.py").write_text(SCRIPT)
    executors = f"{WITH_ALIAS};red=two:airflow_workpools.WorkPoolExecutor"
    env = airflow_environment(home, executor=executors, AIRFLOW__CORE__MULTI_TEAM="True")
    run(str(home / "script.py"), str(home / "answer.json"), env=env)
    return json.loads((home / "answer.json").read_text())


def test_operators_are_defined_where_we_wait_for_them(airflow):
    assert airflow["owner"] == "airflow.sdk.bases.operator"


def test_the_constructor_is_wrapped_once_by_the_metaclass(airflow):
    assert airflow["written"] == "BaseOperator.__init__"
    assert airflow["wrapped once"]


def test_airflow_has_no_keyword_of_this_name_itself(airflow):
    assert not airflow["work_queue"]
    assert airflow["kwargs last"] == "kwargs"


def test_the_constructor_can_be_replaced(airflow):
    assert airflow["replaced"] == 1
    assert airflow["partial"] == "unset"


def test_airflow_counts_the_frames_of_its_warnings(airflow):
    assert airflow["delta"] == 2
    assert airflow["more delta"] == 1


def test_the_defaults_of_operators_are_known(airflow):
    assert airflow["pool"]
    assert airflow["queue"]


def test_the_configured_executors_are_read_without_a_database(airflow):
    local, *ours = airflow["executors"]
    assert local == ["airflow.executors.local_executor.LocalExecutor", "LocalExecutor", None]
    assert ours == [
        ["airflow_workpools.WorkPoolExecutor", "wp", None],
        ["airflow_workpools.WorkPoolExecutor", "two", "red"],
    ]


def test_airflow_has_the_weight_rules_that_ours_go_around(airflow):
    assert airflow["rules"] == {
        "downstream": "_DownstreamPriorityWeightStrategy",
        "upstream": "_UpstreamPriorityWeightStrategy",
        "absolute": "_AbsolutePriorityWeightStrategy",
    }


def test_a_process_that_runs_a_task_can_be_told_from_a_dag_processor(airflow):
    assert airflow["task runner sets it"]
    assert airflow["dag processor sets it"]
    assert not airflow["idle"]
    assert not airflow["not set by importing it"]
    assert airflow["running"]
    assert not airflow["processing"]


def test_tries_that_are_over_are_where_they_are_looked_for():
    from airflow.models.taskinstance import TaskInstance

    assert hasattr(TaskInstance, tries.IN_USE) == tries.ALL_IN_ONE_TABLE
    if not tries.ALL_IN_ONE_TABLE:
        from airflow.models.taskinstancehistory import TaskInstanceHistory

        assert {"task_instance_id", "end_date"} <= set(TaskInstanceHistory.__table__.c.keys())


def test_airflow_names_a_try_as_the_executor_does():
    from airflow.models.taskinstancekey import TaskInstanceKey

    from airflow_workpools.executor import WorkPoolExecutor

    id_ = uuid.uuid4()
    names = {"dag_id": "d", "task_id": "t", "run_id": "r", "try_number": 2, "map_index": 3}
    ti = SimpleNamespace(id=id_, key=TaskInstanceKey(**names))
    airflows = WorkPoolExecutor.get_task_key(ti) if hasattr(WorkPoolExecutor, "get_task_key") else ti.key
    assert tries.task_key(SimpleNamespace(task_instance_id=id_, **names)) == airflows
    assert tries.key_of_workload(SimpleNamespace(ti=ti, key=ti.key)) == airflows
    assert isinstance(airflows, tries.task_key_type())


def test_airflows_handler_reads_logs_this_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from airflow import logging_config
    from airflow.utils.log.file_task_handler import FileTaskHandler

    monkeypatch.setattr(logging_config, "get_remote_task_log", lambda: None)
    monkeypatch.setattr(FileTaskHandler, "_render_filename", lambda *_: LOG_PATH)
    executor = SimpleNamespace(
        get_task_log=lambda _ti, _try: (["from the executor"], []), get_streaming_task_log=_not_implemented
    )
    monkeypatch.setattr(FileTaskHandler, "_get_executor", lambda *_: executor, raising=False)
    monkeypatch.setattr(
        FileTaskHandler, "_get_executor_get_task_log", lambda *_: executor.get_task_log, raising=False
    )
    monkeypatch.setattr(FileTaskHandler, "_read_from_logs_server", _never)
    asked = []

    def read_log(path: str, ti: Any, configured: Any) -> Any:
        asked.append((path, ti.state, configured))
        return ([] if ti.state == "running" else ["stored"]), [(line for line in ['{"event": "line"}'])]

    for _ in range(2):
        read_logs_with(read_log)
    handler = FileTaskHandler(str(tmp_path))

    for state, source in (("running", "from the executor"), ("success", "stored"), ("failed", "stored")):
        ti = SimpleNamespace(state=state, try_number=1, executor=None, hostname="nowhere")
        shown, _ = handler._read(ti, 1)  # type: ignore[arg-type]
        begin, *middle, line = (message.event for message in shown)
        assert (begin.startswith("::group::"), middle, line) == (True, [source, "::endgroup::"], "line")
    assert asked == [(LOG_PATH, state, None) for state in ("running", "success", "failed")]


def _not_implemented(*_: Any) -> None:
    raise NotImplementedError


def _never(*_: Any) -> None:
    raise AssertionError("the task's host was asked")


def test_a_login_is_asked_for_as_airflow_itself_does() -> None:
    # The contract tests of the pool API go through all of it; this says what to look at when they fail.
    import inspect

    from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager
    from airflow.api_fastapi.core_api import security

    assert list(inspect.signature(security.get_user).parameters)[:1] == ["request"]
    assert len(inspect.signature(security.get_user).parameters) == 3
    assert security.COOKIE_NAME_JWT_TOKEN == COOKIE
    for name in ("is_authorized_pool", "is_authorized_connection", "is_authorized_dag"):
        assert {"method", "details", "user"} <= inspect.signature(
            getattr(BaseAuthManager, name)
        ).parameters.keys()


def test_airflow_says_what_is_a_secret_by_its_name() -> None:
    assert is_secret_name("DB_PASSWORD")
    assert is_secret_name("api_key")
    assert not is_secret_name("image")
