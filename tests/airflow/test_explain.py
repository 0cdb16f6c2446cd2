# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools explain`` in a running Airflow: each gate really holds a task, and is what is named.

The tests are in the order of their file: the last ones stop the worker and fill the executor, so that nothing
could start after them.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.cli.local_airflow import LocalAirflowError
from tests.airflow.harness import ROOT, AirflowInstance
from tests.airflow_home import CommandProcess
from tests.postgres import postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.airflow, pytest.mark.postgres]

PARALLELISM = 32
HEARTBEAT_SECONDS = 4

POOLS: dict[str, dict[str, Any]] = {
    "open": {"queues": {"one": {"concurrency_limit": 1}, "halted": {}}},
    "halted": {},
    "taken": {"queues": {"low": {}}},
    "single": {"concurrency_limit": 1},
    "pair": {"concurrency_limit": 2, "queues": {"high": {"priority": 1}, "low": {"priority": 5}}},
    "unserved": {"delivery": "pull"},
    "later": {},
    "closed": {"concurrency_limit": 0},
}

AIRFLOW_POOLS = {"db": 1, "wide": 100, "taken": 0}
"""Airflow pools of authors; the last one has the name that a work pool needs."""

AT_ONCE = (
    *("upstream", "max_active_tasks", "per_dag", "per_dagrun", "own_pool", "missing_pool"),
    *("unknown_pool", "unknown_queue", "invalid", "taken", "in_taken", "paused_pool", "paused_queue"),
    *("queue_limit", "pool_limit", "too_big", "unserved", "refused"),
)
"""DAGs whose tasks wait for nothing that a test does first."""


class Stuck:
    """An Airflow whose tasks are stuck, and that explains why."""

    def __init__(self, instance: AirflowInstance, commands: CommandProcess) -> None:
        self.airflow = instance
        self.commands = commands
        self.runs: dict[str, str] = {}

    def trigger(self, dag_id: str) -> str:
        self.runs[dag_id] = self.airflow.trigger(dag_id)
        return self.runs[dag_id]

    def pause(self, dag_id: str, paused: bool) -> None:
        self.airflow.api.call("PATCH", f"dags/{dag_id}", {"is_paused": paused})

    def line(self, dag_id: str, task_id: str = "sleep", *, index: int = 0, run: str = "") -> str:
        """Return the command that explains a task."""
        words = ["explain", dag_id, run or self.runs[dag_id], task_id]
        return shlex.join([*words, "--map-index", str(index)] if task_id == "sleep" else words)

    def explain(self, *task: Any, **more: Any) -> dict[str, Any]:
        """Return what is said of a task."""
        return dict(json.loads(self.commands.ok(f"{self.line(*task, **more)} --output json")))

    def wait_at(self, gate: str, words: str, *task: Any, **more: Any) -> dict[str, Any]:
        """Wait until a task is at a gate, for the reason that has these words; return what is said."""
        said: dict[str, Any] = {}

        def is_there() -> bool:
            said.update(self.explain(*task, **more))
            return said["holding"] == gate and words in f"{said['explanation']} {said['way_out']}"

        try:
            self.airflow.wait(is_there, timeout=60, what=f"{task[0]} to be at {gate}")
        except LocalAirflowError as error:
            raise AssertionError(f"{error}; it was said: {json.dumps(said, indent=1)}") from None
        return said


def numbers(said: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of the gate that holds."""
    (gate,) = [gate for gate in said["gates"] if gate["gate"] == said["holding"]]
    assert gate["status"] == "holding"
    return dict(gate["numbers"])


@pytest.fixture(scope="module")
def stuck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stuck]:
    """An Airflow with a task at nearly every gate."""
    with ExitStack() as stack:
        instance = AirflowInstance(
            tmp_path_factory.mktemp("explain"),
            database_url=stack.enter_context(postgres_server()).create_database("airflow"),
            dags_folder=ROOT / "tests/airflow/dags_explain",
            settings={
                "AIRFLOW__CORE__PARALLELISM": str(PARALLELISM),
                "AIRFLOW__WORKPOOLS__WORKER_HEARTBEAT_INTERVAL": str(HEARTBEAT_SECONDS),
                # Tasks of unknown pools are failed every so often; here not while we look at them.
                "AIRFLOW__WORKPOOLS__RECONCILE_INTERVAL": "3600",
            },
        )
        instance.local.stop_grace_seconds = 3  # what sleeps here need not come to a good end
        instance.api = replace(
            instance.api, timeout_seconds=60
        )  # its first answers may take a busy machine long
        instance.migrate()
        stack.callback(instance.stop)
        commands = CommandProcess(instance.local.environment())
        stack.callback(commands.close)
        instance.start()
        for name, slots in AIRFLOW_POOLS.items():
            instance.api.create("pools", {"name": name, "slots": slots})
        for name, definition in POOLS.items():
            instance.create_pool(name, **definition)
        instance.create_pool("invalid", concurrency_limit=-1)
        # A job there speaks to somebody who listens and never answers.
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/execution/"
        variables = {"env": {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": url}}
        instance.create_pool("slow-start", start_timeout=600, job_variables=variables)
        for line in ("pause halted", "queue pause open/halted", "queue pause later/default"):
            commands.ok(line)
        found = Stuck(instance, commands)
        for dag_id in AT_ONCE:
            found.trigger(dag_id)
        yield found


# -- Airflow decides


def test_a_paused_dag(stuck: Stuck) -> None:
    stuck.airflow.wait(lambda: stuck.airflow.api.has_dag("paused_dag"), what="the DAG")
    stuck.pause("paused_dag", True)
    stuck.trigger("paused_dag")

    said = stuck.wait_at("run", "DAG 'paused_dag' is paused", "paused_dag")

    assert said["way_out"] == "`airflow dags unpause paused_dag`"
    assert numbers(said)["dag_paused"] is True
    stuck.pause("paused_dag", False)
    stuck.wait_at("running", "running for", "paused_dag")


def test_max_active_runs(stuck: Stuck) -> None:
    stuck.trigger("one_run")
    stuck.wait_at("running", "", "one_run")
    stuck.trigger("one_run")

    said = stuck.wait_at("run", "1 of 1 runs", "one_run")

    assert (numbers(said)["active_runs"], numbers(said)["max_active_runs"]) == (1, 1)


def test_upstream(stuck: Stuck) -> None:
    stuck.wait_at("running", "", "upstream", "first")

    said = stuck.wait_at("dependencies", "first (running)", "upstream", "second")

    assert "all_success" in said["explanation"]
    assert numbers(said)["upstream"] == [{"task_id": "first", "state": "running", "instances": 1}]


@pytest.mark.parametrize(
    ("dag_id", "limit"),
    [
        ("max_active_tasks", "max_active_tasks"),
        ("per_dag", "max_active_tis_per_dag"),
        ("per_dagrun", "max_active_tis_per_dagrun"),
    ],
)
def test_the_dags_and_the_tasks_concurrency(stuck: Stuck, dag_id: str, limit: str) -> None:
    said = stuck.wait_at("concurrency", limit, dag_id, index=1)

    assert numbers(said)[limit] == {"active": 1, "limit": 1}


def test_an_airflow_pool_of_its_authors(stuck: Stuck) -> None:
    said = stuck.wait_at("airflow_pool", "'db' has 1 slot", "own_pool", index=1)

    assert {key: numbers(said)[key] for key in ("slots", "open", "asked")} == {
        "slots": 1,
        "open": 0,
        "asked": 1,
    }
    stuck.wait_at("airflow_pool", "there is no Airflow pool 'not_there'", "missing_pool")


# -- the work pool decides


@pytest.mark.parametrize(
    ("dag_id", "words", "way_out"),
    [
        ("unknown_pool", "'nowhere' does not exist", "airflow workpools create nowhere"),
        ("unknown_queue", "has no work queue 'nowhere'", "airflow workpools queue create open/nowhere"),
        ("invalid", "concurrency_limit", "airflow workpools update invalid"),
        ("taken", "Airflow pool 'taken'", "airflow pools delete taken"),
    ],
)
def test_a_work_queue_that_cannot_be_used(stuck: Stuck, dag_id: str, words: str, way_out: str) -> None:
    said = stuck.wait_at("work_queue", words, dag_id)

    assert way_out in said["way_out"]


def test_an_airflow_pool_that_has_the_name_of_a_work_queues_own(stuck: Stuck) -> None:
    said = stuck.wait_at("airflow_pool", "'taken' has 0 slots", "in_taken")

    assert "airflow pools delete taken" in said["way_out"]


def test_a_paused_pool(stuck: Stuck) -> None:
    said = stuck.wait_at("paused", "work pool 'halted' is paused", "paused_pool")

    assert said["way_out"] == "`airflow workpools resume halted`"
    stuck.commands.ok("resume halted")
    stuck.wait_at("running", "running for", "paused_pool")


def test_a_paused_queue(stuck: Stuck) -> None:
    said = stuck.wait_at("paused", "work queue 'open/halted' is paused", "paused_queue")

    assert said["way_out"] == "`airflow workpools queue resume open/halted`"
    assert numbers(said) == {"pool_paused": False, "queue_paused": True}


@pytest.mark.parametrize(("dag_id", "gate"), [("queue_limit", "queue_limit"), ("pool_limit", "pool_limit")])
def test_a_limit_and_who_holds_the_slots(stuck: Stuck, dag_id: str, gate: str) -> None:
    stuck.wait_at("running", "", dag_id)

    said = stuck.wait_at(gate, "1 of 1 slot", dag_id, index=1)

    found = numbers(said)
    assert {key: found[key] for key in ("limit", "held", "free", "asked")} == {
        "limit": 1,
        "held": 1,
        "free": 0,
        "asked": 1,
    }
    (holder,) = found["holders"]
    assert (holder["dag_id"], holder["run_id"], holder["slots"]) == (dag_id, stuck.runs[dag_id], 1)
    assert stuck.runs[dag_id] in said["explanation"]


def test_a_task_that_asks_for_more_than_the_limit(stuck: Stuck) -> None:
    stuck.wait_at("pool_limit", "can never start", "too_big")


def test_slots_that_are_kept_for_a_queue_of_higher_priority(stuck: Stuck) -> None:
    stuck.trigger("pair_low")
    stuck.wait_at("running", "", "pair_low")
    stuck.trigger("pair_high")
    stuck.wait_at("pool_limit", "asks for 2", "pair_high")
    stuck.trigger("pair_low")

    said = stuck.wait_at("pool_limit", "1 of 2 slots free, kept for", "pair_low")

    assert numbers(said)["kept_for"] == {"high": 2}


def test_no_ready_worker(stuck: Stuck) -> None:
    said = stuck.wait_at("worker", "no worker that serves work pool 'unserved'", "unserved")

    assert numbers(said)["workers_online"] == 0


# -- the job


def test_starting(stuck: Stuck) -> None:
    stuck.trigger("slow_start")

    said = stuck.wait_at("start", "start timeout 10 min", "slow_start")

    assert numbers(said)["start_timeout_seconds"] == 600
    assert {gate["status"] for gate in said["gates"][: -len(("start", "running", "end"))]} == {"passed"}


def test_a_task_that_was_refused_has_ended_with_the_reason(stuck: Stuck) -> None:
    said = stuck.wait_at("end", "imgae", "refused", "lost")

    assert said["state"] in ("queued", "failed")
    assert "imgae" in numbers(said)["reason"]


def test_formats_and_refusals(stuck: Stuck) -> None:
    stuck.wait_at("paused", "", "paused_queue")
    line = stuck.line("paused_queue")
    table, plain, yaml = (stuck.commands.ok(f"{line} -o {name}") for name in ("table", "plain", "yaml"))
    assert "at gate paused" in table
    assert "not_reached" in plain
    assert "holding: paused" in yaml

    run_id = stuck.runs["paused_queue"]
    for words, message in {
        "explain paused_queu r sleep": "there is no DAG 'paused_queu' (did you mean 'paused_queue'?)",
        "explain paused_queue r sleep": f"has no run 'r'; its latest is '{run_id}'",
        f"explain paused_queue {run_id} slep": "has no task 'slep' (did you mean 'sleep'?)",
        f"explain paused_queue {run_id} sleep": "is mapped: choose one with --map-index, from 0 to 0",
        f"explain paused_queue {run_id} sleep --map-index 7": "has no map index 7; it has 0 to 0",
        f"explain upstream {stuck.runs['upstream']} first --map-index 0": "it is not mapped",
    }.items():
        assert message in stuck.commands.refused(words)


def test_waiting_for_a_claim_and_no_worker_any_more(stuck: Stuck) -> None:
    stuck.trigger("later")
    stuck.wait_at("paused", "'later/default' is paused", "later")
    stuck.airflow.wait(lambda: stuck.explain("later")["state"] == "queued", what="the hand-over")
    pid = stuck.airflow.worker_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        stuck.commands.ok("queue resume later/default")
        # A worker that is silent counts as online for some seconds: until then it is about to claim.
        said = stuck.explain("later")
        assert said["holding"] == "claim"
        assert numbers(said)["ahead"] == 0
        stuck.wait_at("worker", "no worker that serves work pool 'later'", "later")
    finally:
        os.kill(pid, signal.SIGCONT)
    stuck.wait_at("running", "running for", "later")


def test_the_executor_is_full(stuck: Stuck) -> None:
    stuck.trigger("crowd")

    said = stuck.wait_at("executor", f"{PARALLELISM} of {PARALLELISM} tasks", "crowd", index=39)

    assert numbers(said)["parallelism"] == PARALLELISM
    # What has been handed over waits at the next gate: its work pool lets nothing start.
    assert stuck.explain("crowd")["holding"] == "pool_limit"
