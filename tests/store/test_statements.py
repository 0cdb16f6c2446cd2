# SPDX-License-Identifier: Apache-2.0
"""How many statements, and which indexes: what keeps the scheduler's loop short whatever the number of jobs."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from airflow_workpools.core.jobs import ENDED, OCCUPYING, JobState, sources_of
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.store import claim_rules
from airflow_workpools.store.records import JobFilter, Report
from airflow_workpools.store.rows import job_row
from airflow_workpools.store.statements import claim, common, executor, reconcile, run_time, usage, worker
from airflow_workpools.store.tables import jobs
from tests.store.rigs import NOW, SCHEDULER, Rig, later, new_job, sql_rig, work_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POOL = work_pool(limit=5000, low=(10, None), high=(5, 3000), critical=(1, 1))


@contextmanager
def statements_of(engine: sa.Engine) -> Iterator[list[str]]:
    executed: list[str] = []

    def before(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        executed.append(sql)

    sa.event.listen(engine, "before_cursor_execute", before)
    try:
        yield executed
    finally:
        sa.event.remove(engine, "before_cursor_execute", before)


def number_of(engine: sa.Engine, step: Callable[[], Any]) -> int:
    with statements_of(engine) as executed:
        step()
    return len(executed)


@pytest.fixture(params=[2, 450])
def crowd(request: pytest.FixtureRequest) -> int:
    """A number of jobs that fits into one IN list."""
    number: int = request.param
    return number


# -- numbers --------------------------------------------------------------------------------------------------


def test_a_hand_over_takes_one_statement_and_a_repeated_one_four(sql: Rig, engine: sa.Engine) -> None:
    job = new_job()
    with sql.airflow.session() as session:
        for expected in (1, 4, 4):
            step = lambda: sql.store.hand_over(job, now=NOW, session=session)  # noqa: E731
            assert number_of(engine, step) == expected


def test_ends_take_one_statement_to_hear_and_one_to_note(sql: Rig, engine: sa.Engine, crowd: int) -> None:
    worker = sql.worker()
    ids = sql.claimed(*(new_job() for _ in range(crowd)), worker=worker)
    sql.store.report(worker, [Report(job_id=id_, state=JobState.FAILED) for id_ in ids], now=NOW)
    assert number_of(engine, lambda: sql.store.ended(SCHEDULER, limit=crowd)) == 1
    assert number_of(engine, lambda: sql.store.mark_reported(ids, now=NOW)) == 1


def test_reconciliation_takes_nine_statements(sql: Rig, engine: sa.Engine, crowd: int) -> None:
    worker = sql.worker()
    started = [new_job(start_timeout_seconds=1.0) for _ in range(crowd)]
    sql.claimed(*started, worker=worker)
    sql.hand_over(*(new_job() for _ in range(crowd)), state="success")
    sql.airflow.put(None, NOW, *started[::2])
    result = []
    assert number_of(engine, lambda: result.append(sql.store.reconcile(now=later(99), grace_seconds=9))) == 9
    assert result[0].total == 2 * crowd


def test_reconciling_when_nothing_runs_takes_eight(sql: Rig, engine: sa.Engine) -> None:
    assert number_of(engine, lambda: sql.store.reconcile(now=NOW, grace_seconds=9)) == 8


def test_a_claim_takes_as_many_statements_for_many_jobs_as_for_few(
    sql: Rig, engine: sa.Engine, crowd: int
) -> None:
    worker = sql.worker()
    for queue in ("low", "high"):
        sql.hand_over(*(new_job(f"etl/{queue}") for _ in range(crowd)))
    sql.claim(worker, POOL, room=1)
    # worker, waiting?, lock pools, lock worker, held and paused, waiting, take
    expected = 7 + more_in_a_claim(engine)
    assert number_of(engine, lambda: sql.claim(worker, POOL, room=100)) == expected


def more_in_a_claim(engine: sa.Engine) -> int:
    """Count what a claim needs where there are no locks, or where what is taken has to be read afterwards."""
    return (engine.dialect.name == "sqlite") + (not engine.dialect.update_returning)


def test_a_claim_from_many_pools_takes_as_many_statements_as_from_one(sql: Rig, engine: sa.Engine) -> None:
    worker = sql.worker()
    many = [work_pool(f"pool{n}", limit=10) for n in range(5)]
    for pool in many:
        sql.hand_over(*(new_job(f"{pool.name}/default") for _ in range(3)))
    sql.claim(worker, *many, room=1)
    expected = 7 + more_in_a_claim(engine)
    assert number_of(engine, lambda: sql.claim(worker, *many, room=100)) == expected
    assert sql.claim(worker, *many) == []


def test_a_claim_with_nothing_to_take_reads_twice_and_writes_nothing(sql: Rig, engine: sa.Engine) -> None:
    worker = sql.worker()
    sql.claimed(*(new_job() for _ in range(5)), worker=worker)
    with statements_of(engine) as executed:
        assert sql.claim(worker, POOL, work_pool("other")) == []
    assert len(executed) == 2
    assert all(statement.startswith("SELECT") for statement in executed)


def test_reports_take_one_statement_for_each_state_and_one_to_read(
    sql: Rig, engine: sa.Engine, crowd: int
) -> None:
    worker = sql.worker()
    ids = sql.claimed(*(new_job() for _ in range(crowd)), worker=worker)
    states = (JobState.RUNNING, JobState.FAILED)
    reports = [Report(job_id=id_, state=states[n % 2], reason=str(n)) for n, id_ in enumerate(ids)]
    assert number_of(engine, lambda: sql.store.report(worker, reports, now=NOW)) == 3


def test_other_calls_take_few_statements_too(sql: Rig, engine: sa.Engine, crowd: int) -> None:
    dead, heir = sql.worker(), sql.worker()
    tries = [new_job() for _ in range(crowd)]
    ids = sql.claimed(*tries, worker=dead)
    sql.airflow.put("success", NOW, *tries)
    sql.store.stop_worker(dead, now=NOW)

    def adopt() -> None:
        with sql.airflow.session() as session:
            sql.store.adopt(ids, 99, session=session)

    numbers = {
        "adopt": number_of(engine, adopt),
        "take_over": number_of(engine, lambda: sql.store.take_over(heir, "here", now=NOW)),
        "mine": number_of(engine, lambda: sql.store.mine(heir)),
        "wishes": number_of(engine, lambda: sql.store.wishes(heir)),
        "active_count": number_of(engine, lambda: sql.store.active_count(99)),
        "counts": number_of(engine, lambda: sql.store.counts()),
        "run_state": number_of(engine, lambda: sql.store.run_state(now=NOW)),
        "heartbeat": number_of(engine, lambda: sql.store.heartbeat(heir, now=NOW)),
        "requeue": number_of(engine, lambda: sql.store.requeue(heir, ids, "x", now=NOW)),
        "cancel": number_of(engine, lambda: sql.store.request_cancel(job_ids=ids, reason="x", now=NOW)),
        "line": number_of(engine, lambda: sql.store.line(WorkQueueRef("etl"), limit=450)),
        "worker_counts": number_of(engine, lambda: sql.store.worker_counts()),
        "purgeable": number_of(engine, lambda: sql.store.purgeable(before=later(9))),
        "purge": number_of(engine, lambda: sql.store.purge(before=later(9), limit=450)),
    }
    assert numbers == {
        "adopt": 3,
        "take_over": 5,
        "mine": 1,
        "wishes": 1,
        "active_count": 1,
        "counts": 1,
        "run_state": 3,
        "heartbeat": 2,
        "requeue": 2,
        "cancel": 2,
        "line": 1,
        "worker_counts": 1,
        "purgeable": 2,
        "purge": 6,
    }


def test_a_poll_is_written_down_once_and_then_only_read(sql: Rig, engine: sa.Engine) -> None:
    refs = [WorkQueueRef("etl", str(n)) for n in range(20)]
    sql.store.poll(refs, now=NOW)
    assert number_of(engine, lambda: sql.store.poll(refs, now=later(9))) == 1
    assert number_of(engine, lambda: sql.store.poll(refs, now=later(10))) == 2


def test_thousands_of_jobs_take_a_statement_for_every_five_hundred(sql: Rig, engine: sa.Engine) -> None:
    worker = sql.worker()
    ids = sql.hand_over(*(new_job() for _ in range(1300)))
    sql.store.set_pool_paused("etl", False)
    parts = 3 + 3 * (not engine.dialect.update_returning)
    locks = 1 + (engine.dialect.name == "sqlite")
    assert number_of(engine, lambda: sql.claim(worker, room=1300)) == 5 + locks + parts
    reports = [Report(job_id=id_, state=JobState.SUCCEEDED) for id_ in ids]
    assert number_of(engine, lambda: sql.store.report(worker, reports, now=NOW)) == 3 + 3
    assert number_of(engine, lambda: sql.store.ended(SCHEDULER, limit=1300)) == 1


# -- plans ---------------------------------------------------------------------------------------------------

LINES = [("etl", "low", claim_rules.Head(10, 64)), ("etl", "high", claim_rules.Head(None, 64))]
ID = uuid.uuid4()
QUESTIONS = {
    "workpool_job_waiting": [
        claim.first_waiting(LINES, room=64, most=64, team=None, others=()),
        claim.pools_with_waiting({"etl": None}, None),
        claim.held_and_paused().params(names=["etl"]),
        claim.line(WorkQueueRef("etl", "low"), 50),
    ],
    "workpool_job_unreported": [
        executor.unreported(SCHEDULER, None, 10, traced=False),
        executor.unreported(SCHEDULER, None, 10, traced=True),
        executor.count(executor.active_of(SCHEDULER, None)),
    ],
    "workpool_job_of_worker": [worker.held_by(ID), worker.wishes(ID)],
    "workpool_job_task_instance": [executor.last_round(ID)],
    "workpool_job_ended": [run_time.ended_before(later(1), 10)],
    "workpool_job_handed_over": [run_time.listing(JobFilter(), limit=50, offset=0)],
}
"""What is asked often, by the index that answers it."""


@pytest.fixture
def history(sql: Rig, engine: sa.Engine) -> sa.Engine:
    """A database that has seen thousands of jobs, of which a hundred wait or run; it knows its statistics."""
    rows = []
    for n in range(6000):
        row = job_row(new_job(("etl/low", "etl/high", "ml")[n % 3], scheduler_job_id=n % 5), 0, later(n))
        row |= {"worker_id": uuid.uuid4(), "ended_at": later(n + 1), "reported_at": later(n + 2)}
        row |= {"state": "succeeded"}
        if n % 60 == 0:
            row |= {"state": "pending", "ended_at": None, "reported_at": None}
        if n % 240 == 0:
            row |= {"state": "running"}
        rows.append(row)
    with engine.begin() as connection:
        connection.execute(sa.insert(jobs), rows)
        connection.exec_driver_sql(
            "ANALYZE TABLE workpool_job" if engine.dialect.name == "mysql" else "ANALYZE"
        )
    assert sql.store.counts()
    return engine


def plan_of(engine: sa.Engine, statement: Any) -> str:
    text = str(statement.compile(engine, compile_kwargs={"literal_binds": True})).replace("%", "%%")
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    with engine.connect() as connection:
        steps = connection.exec_driver_sql(f"{explain} {text}").all()
    if engine.dialect.name == "mysql":
        return "\n".join(_mysql_step(step) for step in steps)
    return "\n".join(str(row[-1]) for row in steps)


def _mysql_step(step: Any) -> str:
    """Say of a row of MySQL's EXPLAIN what the others say: how which table is read, through which index."""
    if step.table == "workpool_job" and step.type in ("ALL", "index") and step.key is None:
        return "SCAN workpool_job"
    return f"{step.table} {step.type} {step.key} {step.rows} {step.Extra}"


def test_frequent_questions_are_answered_from_their_index(history: sa.Engine) -> None:
    for index, questions in QUESTIONS.items():
        for number, question in enumerate(questions):
            plan = plan_of(history, question)
            # Where hardly anything runs, any index of what has not ended is as good as another.
            found = index in plan or (index == "workpool_job_waiting" and "workpool_job_of_worker" in plan)
            # MariaDB has read the end of the index while it planned.
            found = found or "No matching min/max row" in plan
            assert found, f"{index}, question {number}: {plan}"
            assert "Seq Scan on workpool_job" not in plan
            assert "SCAN workpool_job\n" not in f"{plan}\n"


PAGES: dict[str, dict[str, Any]] = {
    "workpool_job_over_of_pool": {"queue": None, "dag_id": None},
    "workpool_job_over_of_queue": {"queue": "high", "dag_id": None},
    "workpool_job_over_of_dag": {"queue": None, "dag_id": "dag"},
}
"""What pages of jobs are filtered by, and the index that has them in their order."""


@pytest.mark.parametrize("index", PAGES)
def test_pages_of_jobs_are_read_in_the_order_of_an_index(history: sa.Engine, index: str) -> None:
    if history.dialect.name == "mysql":  # has no indexes of a part of the rows, and gets none of all
        assert index not in {found["name"] for found in sa.inspect(history).get_indexes("workpool_job")}
        return
    for after in (None, (later(3000), ID)):
        page = usage.page("etl", {JobState.FAILED}, after=after, limit=51, **PAGES[index])
        plan = plan_of(history, page)
        # Where the filter leaves out little, PostgreSQL may find its order in the index of the whole pool as good.
        assert index in plan or "workpool_job_over_of_pool" in plan
        assert "Seq Scan on workpool_job" not in plan
        page = usage.page(
            "etl", {JobState.SUCCEEDED, JobState.PENDING}, after=after, limit=51, **PAGES[index]
        )
        assert "SCAN workpool_job\n" not in f"{plan_of(history, page)}\n"


def test_the_past_is_read_from_where_it_begins(history: sa.Engine) -> None:
    lately = later(5900)
    for question in (
        usage.claims(None, lately, 60.0, over=True),
        usage.ends(["etl"], lately, 60.0),
        usage.claims(None, lately, 60.0, over=False),
    ):
        plan = plan_of(history, question)
        assert "Seq Scan on workpool_job" not in plan
        assert "SCAN workpool_job\n" not in f"{plan}\n"


def test_the_head_of_a_line_is_read_without_sorting_the_line(history: sa.Engine) -> None:
    plan = plan_of(history, claim.first_waiting(LINES, room=64, most=64, team=None, others=()))
    assert "TEMP B-TREE FOR ORDER BY" not in plan
    assert "filesort" not in plan
    assert "Sort" not in plan or history.dialect.name == "postgresql"


@pytest.mark.mysql
def test_mariadb_which_has_no_partial_indexes_reads_no_history_either(mariadb_engine: sa.Engine) -> None:
    sql_rig(mariadb_engine)
    rows = []
    for n in range(4000):
        row = job_row(new_job("etl/low"), 0, later(n)) | {"worker_id": ID, "state": "succeeded"}
        row |= {"ended_at": later(n + 1), "reported_at": later(n + 2)}
        if n % 400 == 0:
            row |= {"ended_at": None, "reported_at": None, "state": ("pending", "running")[n // 400 % 2]}
        rows.append(row)
    questions = [question for index in QUESTIONS for question in QUESTIONS[index]]
    questions += [run_time.active_counts(None), executor.summaries(executor.active_of(SCHEDULER, None))]
    with mariadb_engine.begin() as connection:
        connection.execute(sa.insert(jobs), rows)
        connection.exec_driver_sql("ANALYZE TABLE workpool_job")
    for question in questions:
        with mariadb_engine.connect() as connection:
            before = _rows_read(connection)
            connection.execute(question).all()
            assert _rows_read(connection) - before < 400, question


def _rows_read(connection: sa.Connection) -> int:
    status = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'")
    return sum(int(value) for _name, value in status)


# -- guards ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", list(JobState), ids=str)
def test_guards_come_from_the_table_of_transitions(target: JobState) -> None:
    guard = str(common.may_become(target).compile(compile_kwargs={"literal_binds": True}))
    named = {state for state in JobState if f"'{state}'" in guard}
    assert named == sources_of(target)


def test_every_change_of_state_is_guarded() -> None:
    some = [uuid.uuid4()]
    changes = {
        "cancel_waiting": executor.cancel_waiting(common.with_ids(some), "x", NOW),
        "take": claim.take(returns=False),
        "requeue": worker.requeue(some, some[0], "x"),
        "end_instead_of_requeue": worker.end_instead_of_requeue(some, some[0], NOW),
        "fail_lost": reconcile.fail_lost(NOW),
        "cancel_stale": reconcile.cancel_stale(NOW),
        **{
            f"report {state}": worker.report(state, some[0], [Report(job_id=some[0], state=state)], NOW)
            for state in (*OCCUPYING, *ENDED)
        },
    }
    for name, change in changes.items():
        guarded = sa.select(jobs.c.id).where(change.whereclause).params(ids=some)  # type: ignore[arg-type]
        where = str(guarded.compile(compile_kwargs={"literal_binds": True}))
        assert "workpool_job.state IN" in where, name
        assert not any(f"'{state}'" in where for state in ENDED), name
