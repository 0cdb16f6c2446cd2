# SPDX-License-Identifier: Apache-2.0
"""Workers over HTTP: what the store does for them, and that a bad line loses nothing and doubles nothing."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import sqlalchemy as sa

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.logs import MAX_CHUNK_BYTES, LogChunk, LogEnd
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import InvalidPool, PoolSource
from airflow_workpools.errors import (
    ApiNotThere,
    ApiRefused,
    ApiUnavailable,
    Conflict,
    InvalidInput,
    NotFound,
)
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store import rows
from airflow_workpools.store.records import ClaimedJob, Report, WorkerState
from airflow_workpools.worker import http_client
from airflow_workpools.worker.client import SqlClient, WorkerClient
from airflow_workpools.worker.http_client import HttpClient, News
from tests.store.rigs import NOW, Rig, later, new_job, new_worker, sql_rig, work_pool
from tests.store.worker_api import FAULTS, Api, Faulty, pull_pool, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTHING = News(work=False, wishes=False)
DATABASES = [
    pytest.param("sqlite", id="sqlite"),
    pytest.param("postgres", id="postgres", marks=pytest.mark.postgres),
]


@pytest.fixture(params=DATABASES)
def rig(request: pytest.FixtureRequest) -> Rig:
    engine: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    return sql_rig(engine)


@pytest.fixture
def api(rig: Rig) -> Iterator[Api]:
    with serving(rig, rig.airflow.session) as api:
        yield api


# -- the contract of both clients -----------------------------------------------------------------------------


class Stage:
    """A client of either kind, and a store with one pool that it serves."""

    def __init__(self, rig: Rig, client: WorkerClient, worker: Any) -> None:
        self.rig, self.client, self.worker, self.id = rig, client, worker, worker.id
        self.api: Api | None = None

    def claim(self, most: int = 10) -> list[ClaimedJob]:
        return self.client.claim(self.id, most=most, now=NOW)

    def claimed(self) -> ClaimedJob:
        self.rig.hand_over(new_job())
        (job,) = self.claim()
        return job

    def report(self, job: ClaimedJob, state: JobState, **values: Any) -> Any:
        return self.client.report(self.id, [Report(job_id=job.id, state=state, **values)], now=NOW)


@pytest.fixture(params=["sql", "http"])
def stage(request: pytest.FixtureRequest, rig: Rig) -> Iterator[Stage]:
    if request.param == "sql":
        client = SqlClient(
            store=rig.store,
            all_pools=lambda: {"etl": work_pool()},
            mint_token=lambda ti, seconds: f"token of {ti} for {seconds:.0f} s",
            kinds=frozenset({"process"}),
        )
        worker = new_worker()
        client.register(worker, now=NOW)
        yield Stage(rig, client, worker)
        return
    with serving(rig, rig.airflow.session) as api:
        http = api.client()
        stage = Stage(rig, http, api.online(http))
        stage.api = api
        yield stage


def test_a_claim_brings_jobs_with_fresh_tokens_and_all_that_a_worker_needs(stage: Stage) -> None:
    job = new_job(job_variables={"image": "x", "deep": {"a": [1, None]}}, start_timeout_seconds=60.0)
    (id_,) = stage.rig.hand_over(job)
    (claimed,) = stage.claim()
    assert (claimed.id, claimed.ref, claimed.job_variables) == (
        id_,
        WorkQueueRef("etl"),
        {"image": "x", "deep": {"a": [1, None]}},
    )
    assert json.loads(claimed.workload)["token"] == f"token of {job.task_instance_id} for 60 s"
    assert (claimed.state, claimed.start_attempts) == (JobState.CLAIMED, 0)
    assert stage.claim() == []


def test_a_claim_takes_no_more_than_was_asked_for_and_only_of_pools_that_were_named(stage: Stage) -> None:
    stage.rig.hand_over(new_job(), new_job(), new_job())
    assert len(stage.claim(most=2)) == 2
    assert stage.client.claim(stage.id, most=2, now=NOW, pools=()) == []
    assert len(stage.client.claim(stage.id, most=2, now=NOW, pools=("etl",))) == 1


def test_the_pools_are_as_they_are_defined(stage: Stage) -> None:
    (pool,) = stage.client.pools().values()
    assert (pool.name, pool.type, [queue.name for queue in pool.queues]) == ("etl", "process", ["default"])


def test_a_job_goes_its_way(stage: Stage) -> None:
    job = stage.claimed()
    handle = Handle(job_id=job.id, kind="fake", data={"pid": 7}, conn_id="here")
    assert stage.report(job, JobState.RUNNING, handle=handle) == [(job.id, True, JobState.RUNNING)]
    (mine,) = stage.client.mine(stage.id)
    assert (mine.id, mine.handle, mine.state) == (job.id, handle, JobState.RUNNING)
    outcomes = stage.report(job, JobState.FAILED, exit_code=137, reason="killed")
    assert outcomes == [(job.id, True, JobState.FAILED)]
    record = stage.rig.record(job.id)
    assert (record.exit_code, record.reason, record.ended_at) == (137, "killed", NOW)
    assert stage.client.mine(stage.id) == []


def test_reports_may_be_repeated(stage: Stage) -> None:
    job = stage.claimed()
    for _ in range(2):
        assert stage.report(job, JobState.SUCCEEDED, exit_code=0)[0].accepted
    assert not stage.report(job, JobState.RUNNING)[0].accepted
    assert stage.rig.state(job.id) is JobState.SUCCEEDED


def test_a_report_of_what_is_not_its_own_is_refused_alone(stage: Stage) -> None:
    own = stage.claimed()
    (foreign,) = stage.rig.claimed(new_job("ml"))
    unknown = uuid.uuid4()
    reports = [Report(job_id=id_, state=JobState.SUCCEEDED) for id_ in (foreign, own.id, unknown)]
    assert stage.client.report(stage.id, reports, now=NOW) == [
        (foreign, False, None),
        (own.id, True, JobState.SUCCEEDED),
        (unknown, False, None),
    ]
    assert stage.rig.state(foreign) is JobState.CLAIMED


def test_a_job_that_is_given_back_twice_waits_once_more(stage: Stage) -> None:
    job = stage.claimed()
    for _ in range(2):
        stage.client.requeue(stage.id, [job.id], "no room", now=NOW, start_attempts={job.id: 0})
    (again,) = stage.claim()
    assert (again.id, again.start_attempts) == (job.id, 1)
    stage.client.requeue(stage.id, [job.id], "late", now=NOW, start_attempts={job.id: 0})
    assert stage.rig.state(job.id) is JobState.CLAIMED


def test_what_was_given_up_or_is_of_another_claim_is_revoked(stage: Stage) -> None:
    job = stage.claimed()
    gone = uuid.uuid4()
    assert stage.client.revoked(stage.id, {job.id: 0, gone: 0}) == [gone]
    stage.client.requeue(stage.id, [job.id], "no room", now=NOW, start_attempts={job.id: 0})
    assert stage.client.revoked(stage.id, {job.id: 0}) == [job.id]


def test_what_is_over_or_not_known_may_be_removed(stage: Stage) -> None:
    job, gone = stage.claimed(), uuid.uuid4()
    assert stage.client.installation() == stage.rig.store.installation()
    far_ahead = datetime.now(timezone.utc) + timedelta(days=9)
    assert stage.client.over([job.id, gone], before=far_ahead) == {gone}
    stage.report(job, JobState.SUCCEEDED)
    if stage.api is not None:  # it is the server's time that counts
        stage.api.now = later(1)
    assert job.id in stage.client.over([job.id, gone], before=far_ahead)


def test_wishes_come_with_their_reason(stage: Stage) -> None:
    job = stage.claimed()
    assert stage.client.wishes(stage.id) == []
    stage.rig.store.request_cancel(job_ids=[job.id], reason="cleared", now=NOW)
    assert stage.client.wishes(stage.id) == [(job.id, "cleared")]
    assert stage.client.renew(stage.id, [job.id], now=NOW) == {}


def test_a_renewed_job_gets_a_fresh_token(stage: Stage) -> None:
    job = stage.claimed()
    fresh = stage.client.renew(stage.id, [job.id, uuid.uuid4()], now=NOW)
    assert list(fresh) == [job.id]
    assert json.loads(fresh[job.id])["token"].startswith(f"token of {job.task_instance_id}")


def test_logs_are_stored_once_and_go_on_where_they_end(stage: Stage) -> None:
    job = stage.claimed()
    assert stage.client.log_ends(stage.id, {job.id: 0}) == {job.id: LogEnd(0)}
    chunk = LogChunk(job_id=job.id, position=0, data=b"one\n\xff")
    for _ in range(2):
        assert stage.client.append_log(stage.id, [chunk], now=NOW) == {job.id: LogEnd(5)}
    assert stage.client.log_ends(stage.id, {job.id: 0}) == {job.id: LogEnd(5)}
    stranger = LogChunk(job_id=uuid.uuid4(), position=0, data=b"x")
    assert stage.client.append_log(stage.id, [stranger], now=NOW) == {}
    assert [one.data for one in stage.rig.store.read_log(job.id)] == [b"one\n\xff"]


def test_a_heartbeat_says_what_the_worker_is_taken_for_and_that_its_queues_are_looked_at(
    stage: Stage,
) -> None:
    assert stage.client.heartbeat(stage.id, hindered={"etl": "no room"}, now=NOW) is WorkerState.ONLINE
    state = stage.rig.store.run_state(now=NOW)
    assert {worker.id: worker.hindered for worker in state.workers} == {stage.id: {"etl": "no room"}}
    assert state.queue(WorkQueueRef("etl")).last_polled_at == NOW
    stage.rig.store.drain_worker(stage.id)
    assert stage.client.heartbeat(stage.id, hindered={}, now=NOW) is WorkerState.DRAINING
    stage.client.stop(stage.id, now=NOW)
    assert stage.client.heartbeat(stage.id, hindered={}, now=NOW) is WorkerState.STOPPED
    with pytest.raises(NotFound, match="register"):
        stage.client.heartbeat(uuid.uuid4(), hindered={}, now=NOW)


def test_a_heartbeat_reads_of_its_own_worker_only(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    client = api.client()
    worker = api.online(client)
    read = rows_read_of_workers(monkeypatch)
    api.rig.standalone("etl")
    api.rig.standalone("etl")
    assert client.heartbeat(worker.id, hindered={}, now=NOW) is WorkerState.ONLINE
    assert set(read) == {worker.id}


def test_whose_a_worker_is_is_looked_up_once_a_minute_and_for_every_other_token(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, other = api.client(), api.client()
    worker = api.online(client)
    client.heartbeat(worker.id, hindered={}, now=NOW)
    read = rows_read_of_workers(monkeypatch)
    client.heartbeat(worker.id, hindered={}, now=NOW)
    assert read == [worker.id]  # to store it, not to see whose it is
    with pytest.raises(NotFound, match="register"):
        other.heartbeat(worker.id, hindered={}, now=NOW)
    assert read == [worker.id] * 2
    api.now += timedelta(minutes=1)
    client.heartbeat(worker.id, hindered={}, now=NOW)
    assert read == [worker.id] * 4


def test_a_claim_reads_of_other_workers_only_where_they_matter(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, choosy_client = api.client(), api.client(queues=(WorkQueueRef("etl"),))
    worker, embedded, choosy = api.online(client), api.rig.worker(), api.online(choosy_client)
    read = rows_read_of_workers(monkeypatch)
    assert client.claim(worker.id, most=1, now=NOW) == []
    assert set(read[-1:]) == {worker.id}
    assert api.rig.claim(embedded, work_pool()) == []
    assert set(read) == {worker.id, embedded}
    read.clear()
    assert choosy_client.claim(choosy.id, most=1, now=NOW) == []
    assert set(read) == {worker.id, choosy.id}


def test_to_wait_costs_no_question_for_the_work_pools(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "POOLS_SECONDS", 0.0)
    line = Noting()
    client = api.client(transport=line)
    worker = api.online(client)
    for _ in range(2):
        client.wait_for_work(worker.id, most=1, seconds=0)
    assert line.calls == ["register", "pools", "wait", "wait"]
    client.claim(worker.id, most=1, now=NOW)
    assert line.calls[-2:] == ["pools", "claim"]


def test_nobody_asks_to_take_over_jobs_while_no_dead_worker_has_any(api: Api) -> None:
    line = Noting()
    client, other = api.client(transport=line), api.client()
    worker, neighbour = api.online(client), api.online(other)
    (id_,) = api.rig.hand_over(new_job())
    other.claim(neighbour.id, most=1, now=NOW)

    def look() -> list[uuid.UUID]:
        client.heartbeat(worker.id, hindered={}, now=NOW)
        return [job.id for job in client.take_over(worker.id, "here", now=NOW)]

    assert look() == []  # who starts asks all the same: its predecessor may have ended just now
    line.calls.clear()
    assert look() == []
    assert line.calls == ["heartbeat"]
    api.now = later(20)
    assert look() == []
    api.now = later(40)
    assert look() == [id_]
    assert line.calls == ["heartbeat"] * 3 + ["take_over"]
    api.now = later(50)
    assert look() == look() == []
    assert line.calls[-1] == "heartbeat"


def test_that_a_worker_has_ended_is_known_to_the_others_at_once(api: Api) -> None:
    client, other = api.client(), api.client()
    worker, neighbour = api.online(client), api.online(other)
    (id_,) = api.rig.hand_over(new_job())
    other.claim(neighbour.id, most=1, now=NOW)
    client.heartbeat(worker.id, hindered={}, now=NOW)
    assert client.take_over(worker.id, "here", now=NOW) == []
    other.stop(neighbour.id, now=NOW)
    client.heartbeat(worker.id, hindered={}, now=NOW)
    assert [job.id for job in client.take_over(worker.id, "here", now=NOW)] == [id_]


class Noting(httpx.BaseTransport):
    """A line that notes what is said on it."""

    def __init__(self) -> None:
        self._inner = httpx.HTTPTransport()
        self.calls: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(request.url.path.rpartition("/")[2])
        return self._inner.handle_request(request)


class Older(Noting):
    """A line to an API server that does not say yet what workers need not ask for."""

    new = ("left_behind", "version", "pools")

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        said = json.loads(response.read())
        kept = {
            name: value for name, value in said.items() if name not in self.new or isinstance(value, list)
        }
        return httpx.Response(response.status_code, json=kept)


def test_an_api_server_of_an_earlier_version_is_asked_each_time(api: Api) -> None:
    line = Older()
    client = api.client(transport=line)
    worker = api.online(client)
    for _ in range(2):
        client.heartbeat(worker.id, hindered={}, now=NOW)
        client.take_over(worker.id, "here", now=NOW)
        assert client.wait_for_work(worker.id, most=1, seconds=0) == NOTHING
    assert line.calls.count("take_over") == 2


def rows_read_of_workers(monkeypatch: pytest.MonkeyPatch) -> list[uuid.UUID]:
    """Note of which workers rows are read from now on."""
    read: list[uuid.UUID] = []
    worker_record = rows.worker_record

    def note(row: Any) -> Any:
        read.append(row.id)
        return worker_record(row)

    monkeypatch.setattr(rows, "worker_record", note)
    return read


# -- numbered calls -------------------------------------------------------------------------------------------


def test_a_claim_that_comes_twice_or_late_takes_nothing(api: Api) -> None:
    client = api.client()
    worker = api.online(client)
    api.rig.hand_over(new_job(), new_job(), new_job())
    (first,) = api.rig.store.claim(worker.id, [pull_pool()], room=1, now=NOW, call=5)
    with pytest.raises(Conflict, match="made before"):
        api.rig.store.claim(worker.id, [pull_pool()], room=1, now=NOW, call=5)
    assert [job.id for job in api.rig.store.mine(worker.id, call=9)] == [first.id]
    with pytest.raises(Conflict, match="overtaken"):
        api.rig.store.claim(worker.id, [pull_pool()], room=1, now=NOW, call=8)
    assert len(api.rig.store.mine(worker.id)) == 1


def test_a_registration_that_comes_late_undoes_no_drain(api: Api) -> None:
    client = api.client()
    worker = api.online(client)
    api.rig.store.drain_worker(worker.id)
    with pytest.raises(Conflict):
        api.rig.store.register_worker(
            worker, now=NOW, token_id=api.rig.store.worker(worker.id).token_id, call=1
        )
    assert client.heartbeat(worker.id, hindered={}, now=NOW) is WorkerState.DRAINING


# -- a bad line -----------------------------------------------------------------------------------------------

CALLS = (
    "register",
    "pools",
    "claim",
    "mine",
    "report",
    "requeue",
    "log_ends",
    "append_log",
    "wishes",
    "renew",
)
CALLS += ("heartbeat", "take_over", "stop", "installation", "wait", "over", "revoked")
GIVES_JOBS = ("claim", "take_over", "mine")
"""Calls that give jobs give them once: each fault is to meet them with some."""
BAD_LINES = [
    *(pytest.param(call, (fault,), id=f"{call}-{fault}") for call in GIVES_JOBS for fault in FAULTS),
    *(pytest.param(call, FAULTS, id=call) for call in CALLS if call not in GIVES_JOBS),
]


class Worker:
    """Goes on whatever the line does, as the worker's loop does."""

    def __init__(self, api: Api, transport: httpx.BaseTransport) -> None:
        self.api, self.client = api, api.client(transport=transport)
        self.worker = new_worker(kind="standalone", pools=("etl",), hostname="there")
        self.launched: list[tuple[uuid.UUID, int]] = []

    def keep_on(self, call: Any) -> Any:
        for _ in range(3 * len(FAULTS)):
            try:
                return call()
            except (ApiUnavailable, Conflict):
                continue
        raise AssertionError("the line never worked")

    def once(self, call: Any) -> list[ClaimedJob]:
        """Make a call that gives jobs; if it is not known whether it did, ask which there are."""
        try:
            return list(call())
        except (ApiUnavailable, Conflict):
            known = {id_ for id_, _ in self.launched}
            mine = self.keep_on(lambda: self.client.mine(self.worker.id))
            return [job for job in mine if job.id not in known and job.state is JobState.CLAIMED]

    def work(self) -> None:
        client, id_ = self.client, self.worker.id
        self.keep_on(lambda: client.register(self.worker, now=NOW))
        self.keep_on(client.pools)
        self.keep_on(client.installation)
        self.keep_on(lambda: client.wait_for_work(id_, most=1, seconds=0))
        self.keep_on(lambda: client.heartbeat(id_, hindered={}, now=NOW))
        for _ in range(3):  # with every heartbeat
            for job in self.once(lambda: client.take_over(id_, "there", now=NOW)):
                self.run(job)
        for _ in range(6):
            for job in self.once(lambda: client.claim(id_, most=2, now=NOW)):
                self.run(job)
            self.keep_on(lambda: client.wishes(id_))
        for job in self.once(lambda: client.mine(id_)):
            self.run(job)
        ids = [job_id for job_id, _ in self.launched]
        assert set(self.keep_on(lambda: client.revoked(id_, dict.fromkeys(ids, 0)))) == set(ids)
        assert self.keep_on(lambda: client.over(ids, before=datetime.now(timezone.utc))) == set()
        self.keep_on(lambda: client.stop(id_, now=NOW))

    def run(self, job: ClaimedJob) -> None:
        client, id_ = self.client, self.worker.id
        if job.start_attempts == 0 and not self.launched:  # the first one does not start at once
            self.launched.append((job.id, -1))
            self.keep_on(
                lambda: client.requeue(id_, [job.id], "no room", now=NOW, start_attempts={job.id: 0})
            )
            self.launched.pop()
            return
        self.launched.append((job.id, job.start_attempts))
        self.keep_on(lambda: client.renew(id_, [job.id], now=NOW))
        for state in (JobState.RUNNING, JobState.SUCCEEDED):
            if state is JobState.SUCCEEDED:
                self.write(job)
            report = Report(job_id=job.id, state=state, start_attempts=job.start_attempts)
            (outcome,) = self.keep_on(lambda report=report: client.report(id_, [report], now=NOW))
            assert outcome.accepted

    def write(self, job: ClaimedJob) -> None:
        client, id_, attempt = self.client, self.worker.id, job.start_attempts
        self.keep_on(lambda: client.log_ends(id_, {job.id: attempt}))
        for position, data in ((0, b"one\n"), (4, b"two\n")):
            chunk = LogChunk(job_id=job.id, attempt=attempt, position=position, data=data)
            self.keep_on(lambda chunk=chunk: client.append_log(id_, [chunk], now=NOW))


# It is the line that fails; which database is behind it makes no difference to what that does.
@pytest.mark.parametrize("rig", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True)
@pytest.mark.parametrize(("call", "faults"), BAD_LINES)
def test_a_bad_line_loses_no_job_and_starts_none_twice(api: Api, call: str, faults: tuple[str, ...]) -> None:
    dead = api.client()
    predecessor = api.online(dead, hostname="there")
    ids = api.rig.hand_over(*(new_job() for _ in range(6)))
    assert len(dead.claim(predecessor.id, most=2, now=NOW)) == 2
    dead.stop(predecessor.id, now=NOW)
    line = Faulty(call, faults)
    worker = Worker(api, line)
    worker.work()

    assert len(line.to_come) <= 1  # what was answered well is not asked again
    assert {api.rig.state(id_) for id_ in ids} == {JobState.SUCCEEDED}
    assert Counter(id_ for id_, _ in worker.launched) == Counter(ids)
    for id_ in ids:
        assert b"".join(chunk.data for chunk in api.rig.store.read_log(id_)) == b"one\ntwo\n"


# -- time -----------------------------------------------------------------------------------------------------


def test_a_workers_clock_that_is_an_hour_off_does_not_matter(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = NOW + timedelta(hours=1)
    client = api.client()
    worker = new_worker(kind="standalone", pools=("etl",), started_at=wrong - timedelta(seconds=5))
    client.register(worker, now=wrong)
    assert "clock is +3600 s off" in caplog.text
    (known,) = api.rig.store.run_state(now=NOW).workers
    assert (known.started_at, known.last_heartbeat_at) == (later(-5), NOW)
    (id_,) = api.rig.hand_over(new_job())
    client.claim(worker.id, most=1, now=wrong)
    api.now = later(100)
    report = Report(job_id=id_, state=JobState.RUNNING, started_at=wrong + timedelta(seconds=70))
    client.report(worker.id, [report], now=wrong + timedelta(seconds=100))
    assert api.rig.record(id_).started_at == later(70)
    assert client.heartbeat(worker.id, hindered={}, now=wrong) is WorkerState.ONLINE


# -- whose jobs these are -------------------------------------------------------------------------------------


def test_a_worker_sees_and_touches_only_jobs_of_its_tokens_pools(api: Api) -> None:
    api.pools["ml"] = pull_pool("ml")
    etl, ml = api.client("etl"), api.client("ml")
    one, other = api.online(etl), api.online(ml, "ml")
    (of_etl, of_ml) = api.rig.hand_over(new_job(), new_job("ml"))
    assert [job.id for job in ml.claim(other.id, most=9, now=NOW)] == [of_ml]
    with pytest.raises(ApiRefused, match=r"not for work pool 'etl'; it is for 'ml'.*token create --pool etl"):
        api.online(ml, "ml", "etl")
    with pytest.raises(ApiRefused, match="not for work pool 'ml'"):
        etl.take_over(one.id, "here", now=NOW, roaming={"ml": "kubernetes"})
    # Another's worker is as if there were none.
    for call in (
        lambda: etl.claim(other.id, most=1, now=NOW),
        lambda: etl.mine(other.id),
        lambda: etl.heartbeat(other.id, hindered={}, now=NOW),
        lambda: etl.stop(other.id, now=NOW),
        lambda: etl.wishes(other.id),
        lambda: etl.report(other.id, [Report(job_id=of_ml, state=JobState.FAILED)], now=NOW),
        lambda: etl.requeue(other.id, [of_ml], "mine now", now=NOW),
        lambda: etl.renew(other.id, [of_ml], now=NOW),
        lambda: etl.log_ends(other.id, {of_ml: 0}),
        lambda: etl.append_log(other.id, [LogChunk(job_id=of_ml, position=0, data=b"x")], now=NOW),
        lambda: etl.wait_for_work(other.id, most=1, seconds=0),
        lambda: etl.take_over(other.id, "here", now=NOW),
    ):
        with pytest.raises(NotFound, match="not registered"):
            call()
    # Nor does it help to name another's job as one's own worker.
    assert etl.report(one.id, [Report(job_id=of_ml, state=JobState.FAILED)], now=NOW) == [
        (of_ml, False, None)
    ]
    assert etl.log_ends(one.id, {of_ml: 0}) == {}
    assert etl.over([of_ml], before=later(99)) == set()
    assert etl.revoked(one.id, {of_ml: 0}) == [of_ml] == ml.revoked(other.id, {of_ml: 9})
    assert (api.rig.state(of_ml), api.rig.state(of_etl)) == (JobState.CLAIMED, JobState.PENDING)


def test_a_workers_id_can_t_be_taken_by_another_token_nor_that_of_an_embedded_worker(api: Api) -> None:
    worker = api.online(api.client())
    embedded = api.rig.worker()
    for id_ in (worker.id, embedded):
        with pytest.raises(ApiRefused, match="another token"):
            api.online(api.client(), id=id_)


def test_what_a_dead_worker_of_another_pool_left_behind_is_not_handed_out(api: Api) -> None:
    api.pools["ml"] = pull_pool("ml")
    etl, ml = api.client("etl"), api.client("ml")
    dead, heir = api.online(ml, "ml"), api.online(etl)
    api.rig.hand_over(new_job("ml"))
    (job,) = ml.claim(dead.id, most=1, now=NOW)
    ml.stop(dead.id, now=NOW)
    assert etl.take_over(heir.id, "here", now=NOW) == []
    next_ = api.online(ml, "ml")
    assert [one.id for one in ml.take_over(next_.id, "here", now=NOW)] == [job.id]


def test_pools_that_workers_can_t_ask_for_are_refused_with_the_way_out(api: Api) -> None:
    api.pools |= {
        "push": work_pool("push"),
        "broken": InvalidPool(name="broken", reason="type is missing", source=PoolSource.DATABASE),
    }
    with pytest.raises(ApiRefused, match=r"no work pool 'gone'; .*create gone --delivery pull"):
        api.online(api.client("gone"), "gone")
    with pytest.raises(ApiRefused, match=r"work pool 'push': .*update push --delivery pull"):
        api.online(api.client("push"), "push")
    client = api.client("broken")
    worker = api.online(client, "broken")
    assert client.pools() == {}
    assert client.claim(worker.id, most=1, now=NOW) == []


def test_what_is_said_of_a_pool_has_no_secret_of_its_connection(api: Api) -> None:
    answer = api.post("pools", api.token("etl"), {"pools": ["etl"]}).json()
    (pool,) = answer["pools"]
    assert set(pool) == {
        "name", "type", "description", "concurrency_limit", "start_timeout_seconds", "start_attempts",
        "infrastructure_conn_id", "queues", "base_job_template", "job_variables", "team_name",
    }  # fmt: skip


# -- tokens ---------------------------------------------------------------------------------------------------


def ask(api: Api, token: str | None, **options: Any) -> httpx.Response:
    return api.post("pools", token, {"pools": ["etl"]}, **options)


def test_a_token_that_is_none_opens_nothing(api: Api) -> None:
    good = api.token("etl")
    assert ask(api, good).status_code == 200
    prefix, id_, secret = good.split("_")
    wrong = [
        None,
        "x",
        secret,
        f"{prefix}_{id_}_{'0' * 64}",
        f"{prefix}_{'0' * 12}_{secret}",
    ]
    for token in wrong:
        answer = ask(api, token)
        assert (answer.status_code, answer.json()["code"]) == (401, "token")
        assert "airflow workpools token create" in answer.json()["detail"]
        assert secret not in answer.text
    assert ask(api, None, headers={"Authorization": f"Basic {good}"}).status_code == 401


def test_a_token_that_is_expired_or_revoked_opens_nothing_at_once(api: Api) -> None:
    short = api.client(token=api.token("etl", expires_at=later(10)))
    worker = api.online(short)
    short.mine(worker.id)
    api.now = later(10)
    with pytest.raises(ApiRefused, match="expired at 2026-03-04T05:06:17"):
        short.mine(worker.id)
    text = api.token("etl")
    other = api.client(token=text)
    worker = api.online(other)
    other.mine(worker.id)
    api.tokens.revoke(text.split("_")[1], now=api.now)
    with pytest.raises(ApiRefused, match="was revoked at"):
        other.mine(worker.id)


def test_the_last_use_of_a_token_is_written_at_most_once_a_minute(api: Api) -> None:
    text = api.token("etl")
    used = []
    for seconds in (0, 30, 61):
        api.now = later(seconds)
        assert ask(api, text).status_code == 200
        used.append(api.tokens.all()[0].last_used_at)
    assert used == [NOW, NOW, later(61)]


def test_who_fails_too_often_has_to_wait_but_not_who_was_right_before(api: Api) -> None:
    seconds = [0.0]
    api.access.monotonic = lambda: seconds[0]
    good, other = api.token("etl"), api.token("etl")
    assert ask(api, good).status_code == 200
    answers = [ask(api, "wrong") for _ in range(11)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429]
    assert answers[-1].headers["Retry-After"] == "60"
    assert ask(api, other).status_code == 429
    assert ask(api, good).status_code == 200
    with pytest.raises(ApiUnavailable, match="too many wrong tokens"):
        api.online(api.client(token=other))
    seconds[0] = 60.0
    assert ask(api, other).status_code == 200


def test_no_token_is_in_a_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    text = api.token("etl")
    client = api.client(token=text)
    api.online(client)
    ask(api, text + "0")
    assert text.split("_")[2] not in caplog.text
    assert text.split("_")[2] not in repr(client.__dict__) + repr(api.tokens.all())


# -- versions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "status"), [("0.2.0", 200), ("0.0.9", 200), ("0.3.0", 426), ("x", 426)])
def test_versions_may_be_one_minor_apart(api: Api, version: str, status: int) -> None:
    answer = ask(api, api.token("etl"), headers={"X-Workpools-Version": version})
    assert answer.status_code == status
    if status == 426:
        assert version in answer.json()["detail"]


# -- bad input ------------------------------------------------------------------------------------------------


def test_what_can_t_be_so_is_refused_with_a_reason(api: Api) -> None:
    token = api.token("etl")
    for body in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"pools": ' + b"[" * 100_000):
        answer = api.post("pools", token, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422)
        assert answer.json()["code"] == "invalid"
    assert api.post("nothing", token, {}).status_code == 404


def test_what_is_too_large_is_refused_and_nothing_of_it_is_stored(api: Api) -> None:
    client = api.client()
    worker = api.online(client)
    api.rig.hand_over(new_job())
    (job,) = client.claim(worker.id, most=1, now=NOW)
    small = LogChunk(job_id=job.id, position=0, data=b"x")
    large = LogChunk(job_id=job.id, position=1, data=b"y" * (MAX_CHUNK_BYTES + 1))
    with pytest.raises(InvalidInput, match=f"{MAX_CHUNK_BYTES + 1} bytes; at most {MAX_CHUNK_BYTES}"):
        client.append_log(worker.id, [small, large], now=NOW)
    assert client.log_ends(worker.id, {job.id: 0}) == {job.id: LogEnd(0)}
    answer = api.post("pools", None, content=b" " * (8 * 2**20 + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    in_pieces = api.post("pools", None, content=(b" " * 2**20 for _ in range(9)))
    assert in_pieces.status_code == 413


def test_many_log_chunks_go_in_several_requests(api: Api) -> None:
    client = api.client()
    worker = api.online(client)
    api.rig.hand_over(new_job())
    (job,) = client.claim(worker.id, most=1, now=NOW)
    size = MAX_CHUNK_BYTES
    chunks = [LogChunk(job_id=job.id, position=n * size, data=b"z" * size) for n in range(140)]
    assert client.append_log(worker.id, chunks, now=NOW) == {job.id: LogEnd(140 * size)}


# -- the wrong address ----------------------------------------------------------------------------------------


def test_an_address_where_nobody_answers_is_said_to_be_out_of_reach() -> None:
    client = HttpClient("http://127.0.0.1:9", "wpt", kinds=frozenset(), pools=("etl",))
    with pytest.raises(ApiUnavailable, match=r"http://127.0.0.1:9 can't be reached"):
        client.mine(uuid.uuid4())
    client.close()


@pytest.mark.parametrize("token", ["", "two words", "wpt_\n", "wpt_é"])
def test_what_can_t_be_a_token_is_refused_before_it_is_sent(token: str) -> None:
    with pytest.raises(InvalidInput, match="no token"):
        HttpClient("http://127.0.0.1:9", token, kinds=frozenset(), pools=("etl",))


@pytest.mark.parametrize("url", ["", "airflow.example.com", "ftp://x", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="no URL of an API server"):
        HttpClient(url, "wpt", kinds=frozenset(), pools=("etl",))


def test_an_address_with_something_else_behind_it_is_said_to_be_wrong(api: Api) -> None:
    api.url += "/elsewhere"
    with pytest.raises(ApiNotThere, match=r"no worker API at .*installed there"):
        api.client().pools()


# -- waiting --------------------------------------------------------------------------------------------------


def test_who_waits_is_told_of_work_that_comes_meanwhile(api: Api) -> None:
    client = api.client()
    worker = api.online(client)
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(client.wait_for_work, worker.id, most=1, seconds=20)
        api.rig.hand_over(new_job())
        assert found.result() == News(work=True, wishes=False)
    assert len(client.claim(worker.id, most=1, now=NOW)) == 1


def test_who_waits_is_told_when_its_work_pools_have_changed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.0]
    line = Noting()
    client = api.client("etl", "ml", transport=line)
    monkeypatch.setattr(client, "_monotonic", lambda: seconds[0])
    api.pools["ml"] = InvalidPool(name="ml", reason="type is missing", source=PoolSource.DATABASE)
    worker = api.online(client, "etl", "ml")

    def wait() -> News:
        return client.wait_for_work(worker.id, most=1, seconds=0.1)

    assert wait() == NOTHING
    assert list(client.pools()) == ["etl"]
    api.pools["ml"] = pull_pool("ml")
    assert wait() == NOTHING  # it is not compared each time
    seconds[0] += http_client.COMPARE_SECONDS
    assert wait() == News(work=False, wishes=False, pools=True)
    assert list(client.pools()) == ["etl", "ml"]
    seconds[0] += http_client.COMPARE_SECONDS
    assert wait() == NOTHING
    assert line.calls.count("pools") == 2


def test_who_waits_is_told_of_a_wish_that_it_does_not_know(api: Api) -> None:
    client = api.client()
    worker = api.online(client)
    api.rig.hand_over(new_job())
    (job,) = client.claim(worker.id, most=1, now=NOW)
    assert client.wait_for_work(worker.id, most=0, seconds=0.6) == NOTHING
    api.rig.store.request_cancel(job_ids=[job.id], reason="cleared", now=NOW)
    assert client.wait_for_work(worker.id, most=0, seconds=20) == News(work=False, wishes=True)
    assert client.wait_for_work(worker.id, most=0, seconds=0.6, heard=[job.id]) == NOTHING


def test_who_looks_at_other_queues_is_not_woken(api: Api) -> None:
    api.pools["etl"] = pull_pool("etl", high=(1, None))
    client = api.client(queues=(WorkQueueRef("etl", "high"),))
    worker = api.online(client)
    api.rig.hand_over(new_job())
    assert client.wait_for_work(worker.id, most=1, seconds=0.6) == NOTHING
    api.rig.hand_over(new_job("etl/high"))
    assert client.wait_for_work(worker.id, most=1, seconds=20) == News(work=True, wishes=False)


def test_all_who_wait_cost_as_much_as_one(api: Api) -> None:
    statements: list[str] = []
    client = api.client()
    workers = [api.online(client) for _ in range(12)]
    sa.event.listen(
        api.rig.airflow.engine, "before_cursor_execute", lambda _c, _cursor, sql, *_: statements.append(sql)
    )
    threads = [
        threading.Thread(target=client.wait_for_work, args=(worker.id,), kwargs={"most": 1, "seconds": 1.5})
        for worker in workers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    looks = [sql for sql in statements if "count(*) AS jobs" in sql]
    assert 2 <= len(looks) <= 12
