# SPDX-License-Identifier: Apache-2.0
"""What jobs write, as every store keeps it."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import StatementError

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.logs import LogChunk, LogEnd, LogMark, lines_of
from airflow_workpools.store import log_side
from airflow_workpools.store.records import Report, TryKey
from airflow_workpools.store.tables import logs
from airflow_workpools.task_logs import read_chunks
from tests.store.rigs import NOW, AirflowInSql, later, new_job
from tests.store.test_statements import statements_of

if TYPE_CHECKING:
    from tests.store.rigs import Rig


def chunk(job_id: uuid.UUID, position: int, data: bytes, *, attempt: int = 0) -> LogChunk:
    return LogChunk(job_id=job_id, attempt=attempt, position=position, data=data)


def text(rig: Rig, job_id: uuid.UUID) -> list[str]:
    return list(lines_of(read_chunks(rig.store, job_id)))


@pytest.fixture
def worker(rig: Rig) -> uuid.UUID:
    return rig.worker()


@pytest.fixture
def job(rig: Rig, worker: uuid.UUID) -> uuid.UUID:
    """A job that the worker has."""
    return rig.claimed(new_job(), worker=worker)[0]


def test_what_is_appended_is_read_in_order(rig: Rig, worker: uuid.UUID, job: uuid.UUID) -> None:
    first = rig.store.append_log(worker, [chunk(job, 0, b"one\n"), chunk(job, 4, b"two\nth")], now=NOW)
    second = rig.store.append_log(worker, [chunk(job, 10, "rée\n".encode())], now=NOW)

    assert first == {job: LogEnd(10)}
    assert second == {job: LogEnd(15)}
    assert text(rig, job) == ["one", "two", "thrée"]
    assert rig.store.log_ends({job: 0}) == {job: LogEnd(15)}


def test_what_is_appended_again_changes_nothing(rig: Rig, worker: uuid.UUID, job: uuid.UUID) -> None:
    for _ in range(2):
        assert rig.store.append_log(worker, [chunk(job, 0, b"one\n")], now=NOW) == {job: LogEnd(4)}

    assert text(rig, job) == ["one"]


def test_of_what_overlaps_only_the_new_part_is_taken(rig: Rig, worker: uuid.UUID, job: uuid.UUID) -> None:
    rig.store.append_log(worker, [chunk(job, 0, b"one\ntwo\n")], now=NOW)

    assert rig.store.append_log(worker, [chunk(job, 4, b"two\nthree\n")], now=NOW) == {job: LogEnd(14)}
    assert text(rig, job) == ["one", "two", "three"]


def test_behind_a_gap_nothing_is_taken_and_the_answer_says_where_to_go_on(
    rig: Rig, worker: uuid.UUID, job: uuid.UUID
) -> None:
    rig.store.append_log(worker, [chunk(job, 0, b"one\n")], now=NOW)

    ends = rig.store.append_log(worker, [chunk(job, 8, b"three\n"), chunk(job, 4, b"two\n")], now=NOW)

    assert ends == {job: LogEnd(4)}
    assert text(rig, job) == ["one"]


def test_a_worker_appends_to_its_own_jobs_only(rig: Rig, worker: uuid.UUID, job: uuid.UUID) -> None:
    stranger, nobodys = rig.worker(), uuid.uuid4()
    own = rig.claimed(new_job(), worker=stranger)[0]
    chunks = [chunk(id_, 0, b"mine\n") for id_ in (job, own, nobodys)]

    assert rig.store.append_log(stranger, chunks, now=NOW) == {own: LogEnd(5)}
    assert text(rig, job) == []
    assert rig.store.with_log([job, own, nobodys]) == {own}


def test_a_worker_may_append_to_a_job_whose_end_it_has_told(
    rig: Rig, worker: uuid.UUID, job: uuid.UUID
) -> None:
    rig.store.report(worker, [Report(job_id=job, state=JobState.SUCCEEDED)], now=later(1))

    assert rig.store.append_log(worker, [chunk(job, 0, b"late\n")], now=later(2)) == {job: LogEnd(5)}


def test_each_attempt_has_a_log_of_its_own_and_they_follow_each_other(
    rig: Rig, worker: uuid.UUID, job: uuid.UUID
) -> None:
    rig.store.append_log(worker, [chunk(job, 0, b"second\n", attempt=1)], now=NOW)
    rig.store.append_log(worker, [chunk(job, 0, b"first, which stopped half-wa")], now=NOW)

    assert rig.store.log_ends({job: 0}) == {job: LogEnd(28)}
    assert rig.store.log_ends({job: 1}) == {job: LogEnd(7)}
    assert text(rig, job) == ["first, which stopped half-wa", "second"]


def test_a_reason_follows_all_that_the_job_wrote_and_the_first_stays(
    rig: Rig, worker: uuid.UUID, job: uuid.UUID
) -> None:
    rig.store.add_reasons({job: b"killed\n"})
    rig.store.add_reasons({job: b"something else\n"})
    rig.store.append_log(worker, [chunk(job, 0, b"work\n")], now=NOW)

    assert text(rig, job) == ["work", "killed"]
    assert rig.store.log_ends({job: 0}) == {job: LogEnd(5)}
    assert rig.store.with_log([job]) == {job}


def test_what_is_too_long_ends_with_a_line_that_says_so(rig: Rig, worker: uuid.UUID, job: uuid.UUID) -> None:
    _limit(rig, 10)

    ends = rig.store.append_log(worker, [chunk(job, 0, b"one\n"), chunk(job, 4, b"two\nthree\n")], now=NOW)
    again = rig.store.append_log(worker, [chunk(job, 8, b"three\n"), chunk(job, 14, b"four\n")], now=NOW)

    assert ends == again == rig.store.log_ends({job: 0}) == {job: LogEnd(8, full=True)}
    *lines, last = text(rig, job)
    assert lines == ["one", "two"]
    assert "max_log_mb" in last
    assert "remote logging" in last


def test_a_long_log_is_read_in_pieces(rig: Rig, worker: uuid.UUID, job: uuid.UUID) -> None:
    rig.store.append_log(worker, [chunk(job, 2 * n, b"%d\n" % n) for n in range(10)], now=NOW)

    first = rig.store.read_log(job, limit=4)
    rest = rig.store.read_log(job, after=first[-1].mark)

    assert [one.position for one in first] == [0, 2, 4, 6]
    assert [one.position for one in rest] == [8, 10, 12, 14, 16, 18]
    assert rig.store.read_log(job, after=LogMark(0, 18)) == []


def test_any_bytes_are_kept(rig: Rig, worker: uuid.UUID, job: uuid.UUID) -> None:
    data = bytes(range(256)) * 256
    rig.store.append_log(worker, [chunk(job, 0, data)], now=NOW)

    assert [one.data for one in rig.store.read_log(job)] == [data]


def test_the_jobs_of_a_try_are_found_oldest_first(rig: Rig) -> None:
    worker = rig.worker()
    first = new_job(task_id="sensor")
    rig.claimed(new_job(), worker=worker)
    round_0 = rig.claimed(first, worker=worker)[0]
    rig.store.report(worker, [Report(job_id=round_0, state=JobState.SUCCEEDED)], now=later(1))
    round_1 = rig.claimed(first, worker=worker, now=later(2))[0]
    key = TryKey("dag", "sensor", "run", -1, 1)

    assert [job.id for job in rig.store.jobs_of_try(key)] == [round_0, round_1]
    assert rig.store.jobs_of_try(key._replace(try_number=2)) == []


def test_the_jobs_of_a_try_that_is_over_are_found_when_its_task_instance_has_a_new_id(rig: Rig) -> None:
    """So it is while a task waits for its next try, and for ever afterwards."""
    job = new_job(task_id="flaky")
    id_ = rig.claimed(job)[0]
    rig.airflow.remove(job, ended_at=later(1))

    assert [found.id for found in rig.store.jobs_of_try(TryKey("dag", "flaky", "run", -1, 1))] == [id_]


def test_a_log_is_purged_with_its_job(rig: Rig, worker: uuid.UUID, job: uuid.UUID) -> None:
    kept = rig.claimed(new_job(), worker=worker)[0]
    rig.store.append_log(worker, [chunk(job, 0, b"old\n"), chunk(kept, 0, b"new\n")], now=NOW)
    rig.store.add_reasons({job: b"killed\n"})
    rig.store.report(worker, [Report(job_id=job, state=JobState.FAILED, reason="killed")], now=later(1))
    rig.airflow.put("failed", later(1), new_job(task_instance_id=rig.record(job).task_instance_id))

    purged = rig.store.purge(before=later(50), limit=10)

    assert (purged.jobs, purged.log_chunks) == (1, 2)
    assert text(rig, job) == []
    assert text(rig, kept) == ["new"]


def test_a_long_log_is_purged_in_parts_and_its_job_with_the_last(
    sql: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_workpools.store.run_time_side.MAX_PURGED_CHUNKS", 4)
    worker = sql.worker()
    jobs = [new_job(), new_job()]
    ids = sql.claimed(*jobs, worker=worker)
    for id_ in ids:
        sql.store.append_log(worker, [chunk(id_, n, b"\n") for n in range(5)], now=NOW)
    sql.store.report(worker, [Report(job_id=id_, state=JobState.SUCCEEDED) for id_ in ids], now=later(1))
    sql.airflow.put("success", later(1), *jobs)

    purges = [sql.store.purge(before=later(5), limit=10) for _ in range(4)]

    assert [purged.log_chunks for purged in purges] == [4, 4, 2, 0]
    assert [purged.jobs for purged in purges] == [0, 1, 1, 0]


def test_what_two_workers_have_stored_both_is_read_once(sql: Rig) -> None:
    """One was taken for dead while its call was under way."""
    worker = sql.worker()
    job = sql.claimed(new_job(), worker=worker)[0]
    sql.store.append_log(worker, [chunk(job, 0, b"one\ntwo\n")], now=NOW)
    assert isinstance(sql.airflow, AirflowInSql)
    with sql.airflow.session() as session:
        log_side._add(session, [chunk(job, 4, b"two\nthree\n")])

    assert text(sql, job) == ["one", "two", "three"]


def test_the_logs_of_many_jobs_take_a_few_statements(sql: Rig) -> None:
    assert isinstance(sql.airflow, AirflowInSql)
    worker = sql.worker()
    ids = sql.claimed(*(new_job() for _ in range(90)), worker=worker)
    with statements_of(sql.airflow.engine) as few:
        sql.store.append_log(worker, [chunk(ids[0], 0, b"line\n")], now=NOW)
    with statements_of(sql.airflow.engine) as many:
        sql.store.append_log(worker, [chunk(id_, 0, b"line\n") for id_ in ids[1:]], now=NOW)

    assert len(many) == len(few) == 3


def test_an_error_of_the_database_says_nothing_of_what_is_in_a_log(
    sql: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = sql.worker()
    job = sql.claimed(new_job(), worker=worker)[0]
    elsewhere = sa.Table("gone", sa.MetaData(), *(sa.Column(column.name, column.type) for column in logs.c))
    monkeypatch.setattr(log_side, "logs", elsewhere)

    with pytest.raises(StatementError, match="parameters hidden"):
        sql.store.append_log(worker, [chunk(job, 0, b"secret\n")], now=NOW)


def _limit(rig: Rig, most: int) -> None:
    store = rig.store
    name = "_max_log_bytes" if hasattr(store, "_max_log_bytes") else "max_log_bytes"
    setattr(store, name, most)


def test_a_chunk_says_nothing_of_what_is_in_it() -> None:
    assert "secret" not in repr(chunk(uuid.uuid4(), 0, b"secret"))
