# SPDX-License-Identifier: Apache-2.0
"""Callbacks and connection tests in Airflow's own tables: handed over, claimed, taken over, ended, once each."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from airflow.executors.workloads import ExecuteCallback
from airflow.executors.workloads import TestConnection as ConnectionTest
from airflow.executors.workloads.base import BundleInfo
from airflow.executors.workloads.callback import CallbackDTO
from airflow.models.callback import Callback, CallbackKey
from airflow.models.connection_test import ConnectionTestKey, ConnectionTestRequest
from airflow.models.dagrun import DagRun
from airflow.utils.state import CallbackState

from airflow_workpools.airflow_private import workloads
from airflow_workpools.airflow_private.tries import key_of_workload
from airflow_workpools.core.errands import HANDED_OVER, ErrandKind, mark_of
from airflow_workpools.executor import WorkPoolExecutor
from airflow_workpools.store.errands import LOST, Errand, ErrandStore
from airflow_workpools.store.records import WorkerRecord
from tests.airflow_versions import since_3_4
from tests.store.rigs import later, new_worker
from tests.store.schedulers import Scheduler, StubWorker, scheduler, statements_of

CALLBACK, TEST = ErrandKind.CALLBACK, ErrandKind.CONNECTION_TEST
DEADLINE = datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc)


class Stage:
    """A scheduler's surroundings with errands in them."""

    def __init__(self, surroundings: Scheduler) -> None:
        self.around = surroundings
        self.store = ErrandStore()
        self.executor = surroundings.executor()

    def callback(self, state: str = "pending", **values: Any) -> uuid.UUID:
        """Make a callback of a missed deadline, as Airflow does."""
        id_ = uuid.uuid4()
        if not self.around.rows(DagRun, dag_id="dag"):
            self.around.dag("dag")
            self.around.run("dag")
        (run,) = self.around.rows(DagRun, dag_id="dag")
        data = {
            "path": "pager.page",
            "kwargs": {"context": {"deadline": {"deadline_time": DEADLINE}}},
            "dag_run_id": str(run.id),
            "dag_id": "dag",
        }
        row = {"id": id_, "type": "executor", "fetch_method": "import_path", "data": data, "state": state}
        row |= {"priority_weight": 1, "created_at": later(0), **values}
        with self.around.engine.begin() as connection:
            connection.execute(sa.insert(Callback.__table__), [row])
        return id_

    def connection_test(self, state: str = "pending", **values: Any) -> uuid.UUID:
        id_ = uuid.uuid4()
        row = {"id": id_, "token": str(id_), "connection_id": f"c{id_}", "conn_type": "fs", "state": state}
        row |= {"active_connection_id": f"c{id_}", "created_at": later(0), "updated_at": later(0), **values}
        row |= {"commit_on_success": False, "is_encrypted": False, "is_extra_encrypted": False}
        with self.around.engine.begin() as connection:
            connection.execute(sa.insert(ConnectionTestRequest.__table__), [row])
        return id_

    def make(self, kind: ErrandKind) -> uuid.UUID:
        return self.callback() if kind is CALLBACK else self.connection_test()

    def queue(self, kind: ErrandKind, id_: uuid.UUID, executor: WorkPoolExecutor | None = None) -> None:
        """Queue an errand as the scheduler does."""
        with self.around.transaction() as session:
            self.queue_in(session, kind, id_, executor)

    def queue_in(
        self, session: Any, kind: ErrandKind, id_: uuid.UUID, executor: WorkPoolExecutor | None = None
    ) -> None:
        row = session.get(_MODELS[kind], id_)
        (executor or self.executor).queue_workload(self.workload(kind, id_), session)
        row.state = "queued"

    @staticmethod
    def workload(kind: ErrandKind, id_: uuid.UUID) -> Any:
        if kind is TEST:
            return ConnectionTest(connection_test_id=id_, connection_id="c", timeout=60, token="")
        return ExecuteCallback(
            callback=CallbackDTO(id=str(id_), fetch_method="import_path", data={}),
            dag_rel_path=Path("dag.py"),
            bundle_info=BundleInfo(name="dags"),
            token="",
            log_path=None,
        )

    def queued(self, kind: ErrandKind) -> uuid.UUID:
        id_ = self.make(kind)
        self.queue(kind, id_)
        return id_

    def worker(self, **values: Any) -> WorkerRecord:
        worker = new_worker(**values)
        self.around.rig.store.register_worker(worker, now=worker.last_heartbeat_at)
        return worker

    def stop(self, worker: WorkerRecord) -> None:
        self.around.rig.store.stop_worker(worker.id, now=later(0))

    def claim(self, worker: WorkerRecord, room: int = 10) -> list[Errand]:
        return self.store.claim(worker, room={CALLBACK: room, TEST: 1})

    def take_over(
        self, worker: WorkerRecord, at: float = 1, known: tuple[uuid.UUID, ...] = ()
    ) -> list[Errand]:
        return self.store.take_over(worker, known=known, now=later(at)) or []

    def state(self, kind: ErrandKind, id_: uuid.UUID) -> tuple[str, str | None]:
        (row,) = self.around.rows(_MODELS[kind], id=id_)
        return row.state, row.output if kind is CALLBACK else row.result_message

    def change(self, kind: ErrandKind, id_: uuid.UUID, **values: Any) -> None:
        table = _MODELS[kind].__table__
        with self.around.engine.begin() as connection:
            connection.execute(sa.update(table).where(table.c.id == id_).values(values))

    def sync(self) -> dict[Any, Any]:
        """Let the scheduler loop once, some time later; return the events that it gets of errands."""
        self.executor._errands._ask_at = float("-inf")
        self.executor.sync()
        return self.executor.get_event_buffer()


_MODELS: dict[ErrandKind, Any] = {CALLBACK: Callback, TEST: ConnectionTestRequest}
both = pytest.mark.parametrize("kind", [CALLBACK, TEST], ids=str)


def key_of(kind: ErrandKind, id_: uuid.UUID) -> Any:
    return CallbackKey(id=str(id_)) if kind is CALLBACK else ConnectionTestKey(id=str(id_))


@pytest.fixture
def stage(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with scheduler(engine, tmp_path / "logs", monkeypatch) as made:
        _wipe(engine)
        yield Stage(made)
        _wipe(engine)


def _wipe(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        for model in _MODELS.values():
            connection.execute(sa.delete(model.__table__))


# -- the executor ---------------------------------------------------------------------------------------------


def test_the_executor_says_that_it_takes_both() -> None:
    executor = WorkPoolExecutor()
    assert executor.supports_callbacks
    assert executor.supports_connection_test


@both
def test_what_is_queued_waits_for_a_worker_which_is_told(stage: Stage, kind: ErrandKind) -> None:
    id_ = stage.queued(kind)
    assert stage.state(kind, id_) == ("queued", HANDED_OVER)
    assert stage.executor.running == {key_of(kind, id_)}
    stage.sync()
    worker = stage.executor._worker
    assert isinstance(worker, StubWorker)
    assert worker.heard == ["start", "look for errands"]


@both
def test_a_hand_over_that_is_rolled_back_frees_its_slot(stage: Stage, kind: ErrandKind) -> None:
    id_ = stage.make(kind)
    with stage.around.crash() as session:
        stage.queue_in(session, kind, id_)
    assert stage.state(kind, id_) == ("pending", None)
    assert stage.sync() == {}
    assert stage.executor.slots_occupied == 0


@both
@pytest.mark.parametrize("failure", [None, "as it should"])
def test_an_end_is_told_once_and_frees_the_slot(stage: Stage, kind: ErrandKind, failure: str | None) -> None:
    id_ = stage.queued(kind)
    assert stage.sync() == {}
    assert stage.executor.slots_occupied == 1
    worker = stage.worker()
    (errand,) = stage.claim(worker)
    if kind is TEST and failure is None:
        stage.change(kind, id_, state="success", result_message="fine")  # the API server's doing
    else:
        assert stage.store.end(errand, failure)
    state = "success" if failure is None else "failed"
    events = stage.sync()
    assert {key: (str(value), info) for key, (value, info) in events.items()} == {
        key_of(kind, id_): (state, failure)
    }
    assert stage.executor.slots_occupied == 0
    assert stage.sync() == {}


def test_the_count_of_jobs_leaves_errands_alone(stage: Stage) -> None:
    stage.around.pool("etl", concurrency_limit=10)
    callback = key_of(CALLBACK, stage.queued(CALLBACK))
    workload = stage.around.workload()
    stage.around.hand_over(stage.executor, workload)
    stage.executor.running.add(key_of_workload(stage.around.workload(task_id="rolled back")))
    stage.executor._started()._counted_at = float("-inf")
    stage.sync()
    assert stage.executor.running == {callback, key_of_workload(workload)}


def test_nobody_asks_for_errands_while_there_are_none(stage: Stage) -> None:
    stage.sync()
    with statements_of(stage.around.engine) as sent:
        stage.sync()
    assert not [statement for statement in sent if "callback" in statement or "connection_test" in statement]


def test_a_connection_test_that_airflow_gave_up_frees_its_slot(stage: Stage) -> None:
    id_ = stage.queued(TEST)
    stage.executor.fail_connection_test(key_of(TEST, id_))
    assert stage.executor.slots_occupied == 0
    stage.change(TEST, id_, state="failed")
    assert stage.sync() == {}


# -- claim ----------------------------------------------------------------------------------------------------


@both
def test_a_worker_takes_what_waits_once(stage: Stage, kind: ErrandKind) -> None:
    id_ = stage.queued(kind)
    worker = stage.worker()
    (errand,) = stage.claim(worker)
    assert (errand.id, errand.kind) == (id_, kind)
    assert stage.state(kind, id_) == ("queued", mark_of(worker.id, worker.name))
    assert stage.claim(worker) == []
    assert stage.claim(stage.worker()) == []


def test_another_executors_errands_are_left_alone(stage: Stage) -> None:
    stage.callback("queued")
    stage.connection_test("queued")
    worker = stage.worker()
    assert stage.claim(worker) == []
    assert stage.take_over(worker) == []


def test_a_worker_that_is_not_online_takes_nothing(stage: Stage) -> None:
    stage.queued(CALLBACK)
    worker = stage.worker()
    stage.stop(worker)
    assert stage.claim(worker) == []
    assert stage.store.take_over(worker, known=(), now=later(1)) is None


def test_callbacks_come_by_weight_then_age_and_only_as_many_as_there_is_room_for(stage: Stage) -> None:
    ids = [
        stage.callback(created_at=later(2)),
        stage.callback(created_at=later(1)),
        stage.callback(created_at=later(3), priority_weight=9),
    ]
    for id_ in ids:
        stage.queue(CALLBACK, id_)
    stage.queued(TEST)
    worker = stage.worker()
    assert [errand.id for errand in stage.store.claim(worker, room={CALLBACK: 2, TEST: 0})] == [
        ids[2],
        ids[1],
    ]
    assert [errand.kind for errand in stage.claim(worker)] == [CALLBACK, TEST]


def test_a_callback_that_two_schedulers_queue_runs_once(stage: Stage) -> None:
    """Airflow reads pending callbacks without a lock: the second scheduler may come when the first is done."""
    other = stage.around.executor(8)
    id_ = stage.callback()
    worker = stage.worker()
    with stage.around.transaction() as session:
        row = session.get(Callback, id_)
        session.rollback()  # it has read; nothing is locked
        stage.queue(CALLBACK, id_)
        (errand,) = stage.claim(worker)
        stage.store.begin(errand)
        row = session.get(Callback, id_)
        other.queue_workload(stage.workload(CALLBACK, id_), session)
        row.state = "queued"
    assert stage.claim(worker) == []
    assert stage.store.end(errand, None)
    assert stage.state(CALLBACK, id_)[0] == "success"


def test_a_callback_that_is_made_pending_again_by_hand_runs_again(stage: Stage) -> None:
    id_ = stage.queued(CALLBACK)
    worker = stage.worker()
    (errand,) = stage.claim(worker)
    stage.store.end(errand, None)
    stage.change(CALLBACK, id_, state="pending")
    stage.queue(CALLBACK, id_)
    assert [errand.id for errand in stage.claim(worker)] == [id_]


def test_workers_that_claim_at_once_share_what_there_is(stage: Stage) -> None:
    ids = {stage.queued(CALLBACK) for _ in range(20)}
    workers = [stage.worker() for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        taken = [
            errand.id
            for some in pool.map(lambda worker: stage.claim(worker, room=20), workers)
            for errand in some
        ]
    assert sorted(taken) == sorted(ids)


def test_a_callbacks_workload_carries_a_token_and_what_airflow_put_in(stage: Stage) -> None:
    stage.queued(CALLBACK)
    (errand,) = stage.claim(stage.worker())
    assert errand.workload is not None
    assert "deadline_time" not in repr(errand)
    workload = workloads.parse_workload(errand.workload)
    assert workload.callback.data["path"] == "pager.page"
    assert workload.callback.data["kwargs"]["context"]["deadline"]["deadline_time"] == DEADLINE
    assert workload.token.count(".") == 2
    assert workload.log_path == errand.log_path == f"executor_callbacks/dag/run/{errand.id}"


def test_a_connection_tests_workload_carries_a_token_and_its_timeout(stage: Stage) -> None:
    id_ = stage.queued(TEST)
    (errand,) = stage.claim(stage.worker())
    assert errand.workload is not None
    workload = workloads.parse_workload(errand.workload)
    assert (workload.connection_test_id, workload.timeout, errand.timeout_seconds) == (id_, 60, 60)
    assert json.loads(errand.workload)["token"]


def test_a_callback_without_its_dag_run_has_a_problem_and_keeps_no_other(stage: Stage) -> None:
    id_ = stage.callback(data={"dag_run_id": "123456", "path": "p"}, created_at=later(-1))
    stage.queue(CALLBACK, id_)
    stage.queued(CALLBACK)
    lost, fine = stage.claim(stage.worker())
    assert lost.workload is None
    assert "DAG run" in str(lost.problem)
    assert fine.workload is not None


# -- take over ------------------------------------------------------------------------------------------------


@both
def test_a_dead_workers_errands_go_to_the_next_on_its_host(stage: Stage, kind: ErrandKind) -> None:
    id_ = stage.queued(kind)
    dead, alive = stage.worker(), stage.worker()
    (lost,) = stage.claim(dead)
    assert stage.take_over(alive) == []
    stage.stop(dead)
    assert [errand.id for errand in stage.take_over(alive)] == [id_]
    assert stage.state(kind, id_)[1] == mark_of(alive.id, alive.name)
    assert not stage.store.end(lost, "the dead one thinks it is alive")
    assert stage.state(kind, id_)[0] == "queued"


def test_a_worker_finds_what_it_claimed_without_hearing_of_it(stage: Stage) -> None:
    id_ = stage.queued(CALLBACK)
    worker = stage.worker()
    stage.claim(worker)
    assert stage.take_over(worker, known=(id_,)) == []
    assert [errand.id for errand in stage.take_over(worker)] == [id_]


def test_an_errand_of_another_machine_fails_once_that_has_been_silent_for_long(stage: Stage) -> None:
    id_ = stage.queued(CALLBACK)
    elsewhere = stage.worker(hostname="there")
    stage.claim(elsewhere)
    stage.stop(elsewhere)
    worker = stage.worker()
    assert stage.take_over(worker, at=60) == []
    assert stage.state(CALLBACK, id_)[0] == "queued"
    assert stage.take_over(worker, at=301) == []
    assert stage.state(CALLBACK, id_) == ("failed", LOST)
    assert stage.sync() == {key_of(CALLBACK, id_): (CallbackState.FAILED, LOST)}


def test_an_errand_whose_worker_nobody_knows_any_more_fails(stage: Stage) -> None:
    id_ = stage.queued(CALLBACK)
    stage.change(CALLBACK, id_, output=mark_of(uuid.uuid4(), "purged"))
    stage.take_over(stage.worker())
    assert stage.state(CALLBACK, id_) == ("failed", LOST)


# -- the end --------------------------------------------------------------------------------------------------


def test_a_callback_is_running_and_then_has_succeeded(stage: Stage) -> None:
    id_ = stage.queued(CALLBACK)
    (errand,) = stage.claim(stage.worker())
    stage.store.begin(errand)
    tells_itself = since_3_4("Callbacks say themselves that they run")
    assert stage.state(CALLBACK, id_)[0] == ("queued" if tells_itself else "running")
    assert stage.store.end(errand, None)
    assert stage.state(CALLBACK, id_)[0] == "success"
    assert not stage.store.end(errand, "too late")
    assert stage.state(CALLBACK, id_)[0] == "success"


def test_a_connection_test_that_ends_without_a_result_has_failed_and_another_may_come(stage: Stage) -> None:
    id_ = stage.queued(TEST)
    (errand,) = stage.claim(stage.worker())
    stage.store.begin(errand)
    assert stage.state(TEST, id_)[0] == "queued"  # the API server must find it so
    stage.change(TEST, id_, state="running")
    assert stage.store.end(errand, None)
    assert stage.state(TEST, id_) == ("failed", "The connection test ended without a result")
    (row,) = stage.around.rows(ConnectionTestRequest, id=id_)
    assert row.active_connection_id is None


def test_a_result_that_a_connection_test_told_stays(stage: Stage) -> None:
    id_ = stage.queued(TEST)
    (errand,) = stage.claim(stage.worker())
    stage.change(TEST, id_, state="failed", result_message="no such host")
    assert not stage.store.end(errand, "ended with an error")
    assert stage.state(TEST, id_) == ("failed", "no such host")


@both
def test_a_reason_of_any_length_fits(stage: Stage, kind: ErrandKind) -> None:
    id_ = stage.queued(kind)
    (errand,) = stage.claim(stage.worker())
    assert stage.store.end(errand, "x\x00" * 5000)
    assert str(stage.state(kind, id_)[1]).startswith("xxx")


# -- teams


@pytest.mark.parametrize("kind", list(ErrandKind), ids=str)
def test_an_errand_is_carried_out_by_a_worker_of_the_team_that_it_was_handed_to(
    stage: Stage, kind: ErrandKind
) -> None:
    of_red, of_nobody = stage.make(kind), stage.make(kind)
    stage.queue(kind, of_red, stage.around.executor(team_name="team_red"))
    stage.queue(kind, of_nobody)
    claimed = {
        team: [errand.id for errand in stage.store.claim(stage.worker(team_name=team), room={kind: 9})]
        for team in ("team_blue", None, "team_red")
    }
    assert claimed == {"team_blue": [], None: [of_nobody], "team_red": [of_red]}
