# SPDX-License-Identifier: Apache-2.0
"""The executor on real databases, with a stub where its worker would be forked."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from airflow.models.log import Log
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import TaskInstanceState

from airflow_workpools.airflow_private.tries import key_of_workload
from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import InvalidInput, WorkpoolsError
from airflow_workpools.executor import WorkPoolExecutor
from airflow_workpools.store import db_manager
from airflow_workpools.store.records import Report
from airflow_workpools.store.tables import jobs as jobs_table
from airflow_workpools.store.tables import metadata
from tests.airflow_tables import insert_task_instances
from tests.airflow_versions import since_3_4
from tests.store.databases import engine_for
from tests.store.rigs import SCHEDULER, work_pool
from tests.store.schedulers import Scheduler, StubWorker, scheduler, statements_of

FAILED, SUCCESS = TaskInstanceState.FAILED, TaskInstanceState.SUCCESS


@pytest.fixture
def stage(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    with scheduler(engine, tmp_path / "logs", monkeypatch) as made:
        made.pool("etl", concurrency_limit=10)
        yield made


@pytest.fixture
def executor(stage: Scheduler) -> WorkPoolExecutor:
    return stage.executor()


def stub(executor: WorkPoolExecutor) -> StubWorker:
    assert isinstance(executor._worker, StubWorker)
    return executor._worker


def next_round(executor: WorkPoolExecutor) -> None:
    """Sync as after some seconds: what is done now and then is due."""
    duties = executor._started()
    duties._looked_at = duties._counted_at = duties._run_state_at = duties._allocated_at = float("-inf")
    duties._cleared_at = float("-inf")
    duties._settled = None
    executor.sync()


def ends(stage: Scheduler, job_id: uuid.UUID, state: JobState = JobState.SUCCEEDED, **values: Any) -> None:
    """Let a job go its way to the end, in the past."""
    worker = stage.rig.worker()
    (job,) = [job for job in stage.rig.claim(worker, work_pool(), room=100) if job.id == job_id]
    stage.rig.store.report(
        worker, [Report(job_id=job.id, state=state, **values)], now=datetime.now(timezone.utc)
    )


def job_count(stage: Scheduler) -> int:
    with stage.engine.connect() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(jobs_table)) or 0)


# -- life -----------------------------------------------------------------------------------------------------


def test_an_executor_that_is_only_made_touches_nothing(stage: Scheduler, tmp_path: Path) -> None:
    files, children = sorted(tmp_path.rglob("*")), _children()
    with statements_of(stage.engine) as sent:
        WorkPoolExecutor()
    assert sent == []
    assert sorted(tmp_path.rglob("*")) == files
    assert _children() == children


def _children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def test_an_executor_that_was_not_started_answers_what_the_api_server_asks(stage: Scheduler) -> None:
    executor = WorkPoolExecutor()
    ti: Any = stage.workload(state="running").ti
    assert executor.get_task_log(ti, 1) == ([], [])
    with statements_of(stage.engine) as sent:
        executor.sync()
        executor.debug_dump()
        executor.end()
        executor.terminate()
    assert sent == []


def test_tables_are_made_at_the_start(
    stage: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage.engine.begin() as connection:
        metadata.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE alembic_version_workpools")
    stage.executor()
    with stage.engine.connect() as connection:
        assert sa.inspect(connection).has_table("workpool_job")


def test_tables_that_cannot_be_made_stop_the_start_with_what_to_do(
    stage: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise sa.exc.ProgrammingError("CREATE TABLE", {}, Exception("permission denied for schema public"))

    monkeypatch.setattr(db_manager, "are_current", lambda: False)
    monkeypatch.setattr(db_manager, "_ensure_tables", refuse)
    monkeypatch.setattr(db_manager, "_ATTEMPTS", 1)
    executor = WorkPoolExecutor()
    with pytest.raises(WorkpoolsError, match=r"(?s)airflow db migrate.*permission denied"):
        executor.start()
    executor.end()


def test_tables_of_a_newer_version_stop_the_start_with_what_to_do(stage: Scheduler) -> None:
    with stage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version_workpools SET version_num = '9999_later'")
    executor = WorkPoolExecutor()
    try:
        with pytest.raises(
            WorkpoolsError, match=r"revision 9999_later, which version .* install the version"
        ) as caught:
            executor.start()
    finally:
        executor.end()
        with stage.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version_workpools SET version_num = '0001_workpools'")
    assert "airflow db migrate" not in str(caught.value)


def test_settings_that_make_no_sense_stop_the_start(
    stage: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__WORKPOOLS__RECONCILE_INTERVAL", "often")
    with pytest.raises(InvalidInput, match="reconcile_interval"):
        WorkPoolExecutor().start()


def test_a_heartbeat_after_the_end_does_not_start_the_worker_again(executor: WorkPoolExecutor) -> None:
    worker = stub(executor)
    executor.end()
    executor.sync()
    executor.terminate()
    assert worker.heard == ["start", "stop"]


# -- hand-over ------------------------------------------------------------------------------------------------


def test_a_task_that_is_handed_over_waits_in_the_store_and_the_worker_is_told(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    workload = stage.workload(variables={"env": {"A": "b"}})
    stage.hand_over(executor, workload)
    record = stage.rig.record(workload.ti.id)
    assert (record.state, record.ref, record.scheduler_job_id) == (
        JobState.PENDING,
        WorkQueueRef("etl"),
        SCHEDULER,
    )
    assert record.job_variables == {"env": {"A": "b"}}
    assert executor.running == {key_of_workload(workload)}
    executor.sync()
    executor.sync()
    assert stub(executor).heard == ["start", "look now"]


def test_a_hand_over_that_is_rolled_back_leaves_no_job_and_costs_no_slot(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    kept, lost = stage.workload(), stage.workload()
    stage.hand_over(executor, kept)
    with stage.crash() as session:
        executor.queue_workload(lost, session)
    assert job_count(stage) == 1
    assert executor.slots_available == 30
    next_round(executor)
    assert executor.running == {key_of_workload(kept)}
    assert executor.event_buffer == {}


def test_what_the_worker_says_to_have_ended_holds_no_slot_even_before_airflow_is_told(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    first, second = stage.workload(), stage.workload()
    for workload in (first, second):
        stage.hand_over(executor, workload)
    total = executor.slots_available + 2
    somebody_elses = uuid.uuid4()
    stub(executor).told |= {first.ti.id, somebody_elses}
    assert (executor.slots_occupied, executor.slots_available) == (1, total - 1)
    ends(stage, stage.rig.record(first.ti.id).id)
    executor.sync()
    assert list(executor.event_buffer) == [key_of_workload(first)]
    assert (executor.slots_occupied, executor.slots_available) == (1, total - 1)
    stub(executor).told |= {first.ti.id}  # said again, late
    assert (executor.slots_occupied, executor.slots_available) == (1, total - 1)


REFUSALS = [
    ("nowhere/x", {}, "'nowhere'"),
    ("etl/nowhere", {}, "'nowhere'"),
    ("etl//x", {}, "etl//x"),
    ("etl/default", {"imagee": "x"}, "imagee"),
    ("etl/default", {"env": {"A": object()}}, "env"),
    ("etl/default", {"env": {"A": float("nan")}}, "env"),
    ("etl/default", {1: 2}, "1"),
    ("etl/default", {"\udc80": "\udc80"}, "etl"),
    ("etl/default", {"pod_override": object()}, "pod_override"),
]


@pytest.mark.parametrize(("queue", "variables", "word"), REFUSALS, ids=[str(n) for n in range(len(REFUSALS))])
def test_a_refused_task_fails_at_once_and_the_reason_stands_everywhere(
    stage: Scheduler, executor: WorkPoolExecutor, queue: str, variables: Any, word: str
) -> None:
    refused, fine = stage.workload(queue, variables=variables), stage.workload()
    stage.hand_over(executor, refused, fine)
    executor.sync()

    record = stage.rig.record(refused.ti.id)
    assert record.state is JobState.FAILED
    assert record.reason is not None
    assert word in record.reason
    assert executor.event_buffer == {key_of_workload(refused): (FAILED, record.reason)}
    assert executor.running == {key_of_workload(fine)}
    line = json.loads((stage.logs / refused.log_path).read_text())  # type: ignore[operator]
    assert line["level"] == "error"
    assert line["event"].endswith(record.reason)
    (event,) = stage.rows(Log, task_id=refused.ti.task_id)
    assert event.extra.endswith(record.reason)
    assert (event.dag_id, event.run_id, event.try_number) == ("dag", "run", 1)
    (ti,) = stage.rows(TaskInstance, id=refused.ti.id)
    assert ti.hostname
    assert stage.rig.state(fine.ti.id) is JobState.PENDING


def test_whatever_is_odd_about_a_workload_it_does_not_disturb_the_scheduler(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    odd = stage.workload()
    odd.ti.context_carrier = {"x": object()}
    deep: dict[str, Any] = {}
    for _ in range(2000):
        deep = {"env": deep}
    too_deep = stage.workload(variables=deep)
    nul = stage.workload(variables={"env": {"A": "a\x00b"}})
    long = stage.workload(variables={"x" * 100_000: 1})
    fine = stage.workload()
    stage.hand_over(executor, odd, too_deep, nul, long, fine)
    executor.sync()
    assert {
        key_of_workload(odd),
        key_of_workload(too_deep),
        key_of_workload(long),
    } <= executor.event_buffer.keys()
    assert "Serializ" in str(executor.event_buffer[key_of_workload(odd)][1])
    assert stage.rig.state(fine.ti.id) is JobState.PENDING


def test_a_pool_that_was_made_a_moment_ago_is_known_at_the_hand_over(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    executor.sync()
    known = executor._started().pools()
    assert "new" not in known
    with stage.engine.begin() as connection:
        row = {"conn_id": "new", "conn_type": "workpool", "extra": '{"type": "process"}'}
        connection.execute(
            sa.text(
                "INSERT INTO connection (conn_id, conn_type, extra, is_encrypted, is_extra_encrypted) "
                "VALUES (:conn_id, :conn_type, :extra, false, false)"
            ),
            row,
        )
    workload = stage.workload("new/default")
    stage.hand_over(executor, workload)
    assert stage.rig.state(workload.ti.id) is JobState.PENDING


def test_a_task_whose_pool_has_just_become_invalid_waits_until_it_is_mended(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    stage.pool("etl", concurrency_limit=-1)
    workload = stage.workload()
    stage.hand_over(executor, workload)
    next_round(executor)
    assert stage.rig.state(workload.ti.id) is JobState.PENDING
    assert executor.event_buffer == {}
    stage.pool("etl")
    ends(stage, workload.ti.id)
    executor.sync()
    assert executor.event_buffer == {key_of_workload(workload): (SUCCESS, None)}


def test_a_task_of_an_invalid_pool_that_comes_through_its_authors_airflow_pool_is_refused(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    stage.pool("etl", concurrency_limit=-1)
    workload = stage.workload(pool="db")
    stage.hand_over(executor, workload)
    executor.sync()
    assert "not valid" in str(executor.event_buffer[key_of_workload(workload)][1])


def test_waiting_jobs_of_a_deleted_queue_or_pool_fail_with_the_reason(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    stage.pool("etl", queues={"old": {}})
    stage.pool("gone")
    of_queue, of_pool, fine = stage.workload("etl/old"), stage.workload("gone/default"), stage.workload()
    stage.hand_over(executor, of_queue, of_pool, fine)
    next_round(executor)
    assert executor.event_buffer == {}
    stage.pool("etl")
    stage.forget_pool("gone")
    next_round(executor)
    executor.sync()
    assert "'etl/old' was deleted" in str(executor.event_buffer.pop(key_of_workload(of_queue))[1])
    assert "'gone' was deleted" in str(executor.event_buffer.pop(key_of_workload(of_pool))[1])
    assert executor.event_buffer == {}
    assert stage.rig.state(fine.ti.id) is JobState.PENDING


# -- ends -----------------------------------------------------------------------------------------------------


def test_an_end_is_told_once(stage: Scheduler, executor: WorkPoolExecutor) -> None:
    good, bad = stage.workload(), stage.workload()
    stage.hand_over(executor, good)
    ends(stage, good.ti.id)
    stage.hand_over(executor, bad)
    next_round(executor)
    assert executor.get_event_buffer() == {key_of_workload(good): (SUCCESS, None)}
    assert executor.running == {key_of_workload(bad)}
    stage.rig.store.request_cancel(job_ids=[bad.ti.id], reason="not wanted", now=datetime.now(timezone.utc))
    next_round(executor)
    ((key, (_, info)),) = executor.get_event_buffer().items()
    assert (key, info) == (key_of_workload(bad), "not wanted")
    next_round(executor)
    assert executor.event_buffer == {}
    assert executor.running == set()


def test_reasons_that_cannot_be_filed_keep_no_end_from_being_told(
    stage: Scheduler, executor: WorkPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise sa.exc.OperationalError("INSERT", {}, Exception("database is locked"))

    monkeypatch.setattr("airflow_workpools.store.reasons.file_reasons", fail)
    stage.logs.write_text("a file where a folder should be")
    workload = stage.workload("nowhere/x")
    stage.hand_over(executor, workload)
    executor.sync()
    assert key_of_workload(workload) in executor.event_buffer


def test_the_end_of_an_earlier_round_is_not_told_and_the_new_one_is_claimed_right_after_it(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    """A deferred task comes back while the process that deferred it is still finishing."""
    workload = stage.workload()
    stage.hand_over(executor, workload)
    worker = stage.rig.worker()
    (first,) = stage.rig.claim(worker)
    stage.hand_over(executor, workload)
    assert stage.rig.claim(worker) == []
    next_round(executor)
    assert executor.running == {key_of_workload(workload)}

    done = [Report(job_id=first.id, state=JobState.SUCCEEDED)]
    stage.rig.store.report(worker, done, now=datetime.now(timezone.utc))
    (second,) = stage.rig.claim(worker)
    assert second.task_instance_id == first.task_instance_id
    next_round(executor)
    assert executor.event_buffer == {}
    assert executor.running == {key_of_workload(workload)}

    done = [Report(job_id=second.id, state=JobState.SUCCEEDED)]
    stage.rig.store.report(worker, done, now=datetime.now(timezone.utc))
    next_round(executor)
    assert executor.event_buffer == {key_of_workload(workload): (SUCCESS, None)}
    assert executor.running == set()


def test_a_task_whose_end_is_being_told_does_not_seem_to_be_here_still(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    """Else Airflow takes it for handed over anew, and ignores the end."""
    workload = stage.workload()
    stage.hand_over(executor, workload)
    stage.rig.claim(stage.rig.worker())
    refused = workload.model_copy(update={"ti": workload.ti.model_copy(update={"executor_config": {"x": 1}})})
    stage.hand_over(executor, refused)
    next_round(executor)
    assert key_of_workload(workload) in executor.event_buffer
    assert key_of_workload(workload) not in executor.running


def test_mapped_tasks_are_told_apart(stage: Scheduler, executor: WorkPoolExecutor) -> None:
    one, other = (stage.workload(task_id="mapped", map_index=n) for n in (0, 1))
    one.ti.map_index, other.ti.map_index = 0, 1
    stage.hand_over(executor, one, other)
    ends(stage, other.ti.id)
    executor.sync()
    assert executor.event_buffer == {key_of_workload(other): (SUCCESS, None)}
    assert key_of_workload(other) != key_of_workload(one)


@pytest.mark.postgres
def test_an_end_that_airflow_passed_over_because_the_task_was_locked_is_told_again(
    postgres_engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Airflow's own handling of the executor's events: by Airflow 3.4, or else by the executor."""
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    def process(stage: Scheduler, executor: WorkPoolExecutor) -> str:
        with stage.transaction() as session:
            # It can't find the DAG, and sets the state as it was told.
            SchedulerJobRunner.process_executor_events(executor, SCHEDULER, None, session)  # type: ignore[arg-type]
        (ti,) = stage.rows(TaskInstance)
        return str(ti.state)

    with scheduler(postgres_engine, tmp_path / "logs", monkeypatch) as stage:
        executor = stage.executor()
        workload = stage.workload("nowhere/x")
        stage.hand_over(executor, workload)
        next_round(executor)
        with stage.engine.begin() as connection:
            connection.execute(sa.select(TaskInstance.__table__).with_for_update())
            assert process(stage, executor) == "queued"
        if since_3_4("Airflow keeps the events of locked tasks"):
            assert process(stage, executor) == "failed"
            return
        assert executor.event_buffer == {}
        next_round(executor)
        assert process(stage, executor) == "queued"

        long_ago = datetime.now(timezone.utc) - timedelta(seconds=31)
        with stage.engine.begin() as connection:
            connection.execute(sa.update(jobs_table).values(reported_at=long_ago))
        next_round(executor)
        next_round(executor)
        assert process(stage, executor) == "failed"


# -- a scheduler dies -----------------------------------------------------------------------------------------


def adopt(stage: Scheduler, executor: WorkPoolExecutor) -> list[uuid.UUID]:
    """Do what the scheduler does with tasks of a scheduler that is gone; return what was not adopted."""
    with stage.transaction() as session:
        # It has written to the rows before: on SQLite, a second session would wait for ever.
        session.execute(sa.update(TaskInstance).values(external_executor_id="x"))
        tis = session.scalars(sa.select(TaskInstance).with_for_update(skip_locked=True)).all()
        return [ti.id for ti in executor.try_adopt_task_instances(tis)]


def test_an_end_that_was_told_to_a_scheduler_that_died_is_told_to_the_next(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    workload = stage.workload()
    stage.hand_over(executor, workload)
    ends(stage, workload.ti.id, JobState.FAILED, reason="out of memory")
    executor.sync()
    assert (
        key_of_workload(workload) in executor.event_buffer
    )  # and there it dies, before Airflow has acted on it

    heir = stage.executor(job_id=SCHEDULER + 1)
    heir.sync()
    assert heir.event_buffer == {}
    assert adopt(stage, heir) == []
    heir.sync()
    assert heir.event_buffer == {key_of_workload(workload): (FAILED, "out of memory")}
    executor.event_buffer.clear()
    executor.sync()
    assert executor.event_buffer == {}


def test_tasks_that_have_a_job_are_adopted_and_the_others_returned(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    handed_over, never = stage.workload(), stage.workload()
    stage.hand_over(executor, handed_over)
    heir = stage.executor(job_id=SCHEDULER + 1)
    assert adopt(stage, heir) == [never.ti.id]
    heir.sync()
    assert heir.running == {key_of_workload(handed_over)}
    assert stage.rig.record(handed_over.ti.id).scheduler_job_id == SCHEDULER + 1
    assert heir.try_adopt_task_instances([]) == []


def test_an_adoption_that_is_rolled_back_costs_no_slot(stage: Scheduler, executor: WorkPoolExecutor) -> None:
    workload = stage.workload()
    stage.hand_over(executor, workload)
    heir = stage.executor(job_id=SCHEDULER + 1)
    with stage.crash() as session:
        heir.try_adopt_task_instances(session.scalars(sa.select(TaskInstance)).all())
    next_round(heir)
    assert heir.running == set()
    next_round(executor)
    assert executor.running == {key_of_workload(workload)}


# -- the heartbeat --------------------------------------------------------------------------------------------


def test_a_database_that_is_away_stops_nothing_for_longer_than_it_is_away(
    stage: Scheduler, executor: WorkPoolExecutor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workload = stage.workload()
    stage.hand_over(executor, workload)
    ends(stage, workload.ti.id)
    empty = engine_for(f"sqlite:///{tmp_path}/empty.db")
    with monkeypatch.context() as away:
        from airflow import settings
        from sqlalchemy.orm import sessionmaker

        away.setattr(settings, "NonScopedSession", sessionmaker(empty))
        for _ in range(3):
            next_round(executor)
    assert executor.event_buffer == {}
    next_round(executor)
    assert executor.event_buffer == {key_of_workload(workload): (SUCCESS, None)}
    assert executor._failures == {}
    empty.dispose()


@pytest.mark.parametrize("broken", ["pools", "allocate", "worker", "reconcile"])
def test_what_fails_keeps_no_other_duty_from_being_done(
    stage: Scheduler, executor: WorkPoolExecutor, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    duties = executor._started()
    if broken == "worker":
        stub(executor).fails = True
    elif broken == "pools":
        monkeypatch.setattr("airflow_workpools.duties.work_pools", fail)
    else:
        monkeypatch.setattr(
            *{"allocate": (duties, "allocate"), "reconcile": (duties.store, "reconcile")}[broken], fail
        )
    workload = stage.workload("etl/default")
    ended = stage.rig.hand_over(_new_job_of(workload))
    ends(stage, ended[0])
    executor.running.add(key_of_workload(stage.workload(task_id="rolled back")))
    for _ in range(3):
        next_round(executor)
    assert executor.event_buffer == {key_of_workload(workload): (SUCCESS, None)}
    assert executor.running == set()


def _new_job_of(workload: Any) -> Any:
    from airflow_workpools.handover import new_job

    return new_job(workload, WorkQueueRef("etl"), scheduler_job_id=SCHEDULER, start_timeout_seconds=60)


def test_failures_in_a_row_do_not_flood_the_log(
    executor: WorkPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(executor.log, "exception", lambda message, *args: said.append(message % args))
    stub(executor).fails = True
    for _ in range(100):
        executor.sync()
    assert len(said) == 7
    assert said[-1] == "Work pools: the embedded worker failed (64 in a row)"


def test_a_heartbeat_issues_as_many_statements_for_2000_jobs_as_for_12(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    next_round(executor)  # makes the Airflow pools
    counts = []
    # Both times more than the pool's limit, so that what no worker has claimed is counted.
    for extra in (12, 1988):
        _run_many(stage, executor, extra)
        next_round(executor)  # what changes because of the new jobs
        with statements_of(stage.engine) as sent:
            next_round(executor)
        counts.append(len(sent))
    assert counts[0] == counts[1]
    assert counts[0] < 30
    assert len(executor.running) == 2000


def _run_many(stage: Scheduler, executor: WorkPoolExecutor, number: int) -> None:
    now = datetime.now(timezone.utc)
    stage.workload()  # its DAG and its run
    tries, jobs = [], []
    for n in range(number):
        id_ = uuid.uuid4()
        tries.append(
            {"id": id_, "dag_id": "dag", "run_id": "run", "task_id": f"{number}-{n}", "map_index": -1}
            | {"try_number": 1, "pool": "etl", "pool_slots": 1, "state": "running", "updated_at": now}
        )
        jobs.append(
            {"id": id_, "task_instance_id": id_, "round": 0, "dag_id": "dag", "run_id": "run"}
            | {
                "task_id": f"{number}-{n}",
                "map_index": -1,
                "try_number": 1,
                "pool": "etl",
                "queue": "default",
            }
            | {
                "pool_slots": 1,
                "priority_weight": 1,
                "state": "running",
                "workload": "{}",
                "job_variables": {},
            }
            | {"scheduler_job_id": SCHEDULER, "start_timeout_seconds": 60.0, "start_attempts": 0}
            | {"handed_over_at": now, "claimed_at": now, "worker_id": uuid.uuid4()}
        )
    with stage.engine.begin() as connection:
        insert_task_instances(connection, tries)
        connection.execute(sa.insert(jobs_table), jobs)


def test_a_busy_loop_without_news_issues_no_statement(
    stage: Scheduler, executor: WorkPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_round(executor)
    monkeypatch.setattr(stub(executor), "has_news", lambda: False)
    monkeypatch.setattr("airflow_workpools.executor.time.monotonic", lambda: executor._ask_again_at - 0.9)
    duties = executor._started()
    now = time.monotonic()
    duties._looked_at = duties._counted_at = duties._run_state_at = duties._allocated_at = (
        duties._cleared_at
    ) = now
    with statements_of(stage.engine) as sent:
        executor.sync()
    assert sent == []


def test_while_nothing_waits_slots_cost_one_question(stage: Scheduler, executor: WorkPoolExecutor) -> None:
    next_round(executor)
    next_round(executor)  # changes nothing any more
    duties = executor._started()
    duties._allocated_at = float("-inf")
    with statements_of(stage.engine) as sent:
        duties.allocate(now=datetime.now(timezone.utc), monotonic=time.monotonic())
    assert len(sent) == 1
    stage.workload(state="scheduled")
    duties._allocated_at = float("-inf")
    with statements_of(stage.engine) as sent:
        duties.allocate(now=datetime.now(timezone.utc), monotonic=time.monotonic())
    assert len(sent) > 1


def test_slots_that_airflow_does_not_let_a_queue_use_go_to_the_one_behind_it(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    stage.pool("etl", concurrency_limit=4, queues={"high": {"priority": 1}, "low": {"priority": 2}})
    stage.rig.worker(last_heartbeat_at=datetime.now(timezone.utc) + timedelta(seconds=1))
    next_round(executor)
    for _ in range(6):
        stage.workload("etl/high", state="scheduled")
    waiting = [stage.workload("etl/low", state="scheduled").ti.id for _ in range(6)]
    duties, began = executor._started(), time.monotonic()

    def slots(second: int) -> dict[str, int]:
        duties.allocate(now=datetime.now(timezone.utc), monotonic=began + second)
        slots = {pool.pool: pool.slots for pool in stage.rows(Pool)}
        for _ in range(slots["etl.low"] - (6 - len(waiting))):
            stage.change_task(waiting.pop(), state="queued")  # nothing holds back the tasks of this queue
        return slots

    first = slots(1)
    assert (first["etl.high"], first["etl.low"]) == (4, 0)
    for second in range(2, 30):
        last = slots(second)
    assert (last["etl.high"], last["etl.low"]) == (0, 4)


def test_the_ends_of_100_refused_tasks_are_told_with_few_statements(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    next_round(executor)  # makes the Airflow pools
    counts = []
    for number in (2, 100):
        stage.hand_over(executor, *(stage.workload("nowhere/x") for _ in range(number)))
        with statements_of(stage.engine) as sent:
            next_round(executor)
        counts.append(len(sent))
        assert len(executor.get_event_buffer()) == number
    assert counts[0] == counts[1]


def test_the_first_heartbeat_makes_the_airflow_pools(stage: Scheduler, executor: WorkPoolExecutor) -> None:
    stage.rig.worker(last_heartbeat_at=datetime.now(timezone.utc) + timedelta(seconds=1))
    executor.sync()
    (pool,) = stage.rows(Pool, pool="etl")
    assert pool.slots == 10


# -- housekeeping -------------------------------------------------------------------------------------------


def test_old_jobs_are_purged_by_the_scheduler_but_none_whose_try_goes_on(
    stage: Scheduler, executor: WorkPoolExecutor
) -> None:
    done, goes_on = stage.workload(), stage.workload()
    stage.hand_over(executor, done, goes_on)
    ids = [job.id for job in stage.rig.store.jobs()]
    long_ago = datetime.now(timezone.utc) - timedelta(days=31)
    stage.rig.store.request_cancel(job_ids=ids, reason="x", now=long_ago)
    stage.change_task(done.ti.id, state="failed")
    stage.change_task(goes_on.ti.id, state="deferred")

    next_round(executor)

    assert [job.task_instance_id for job in stage.rig.store.jobs()] == [goes_on.ti.id]
