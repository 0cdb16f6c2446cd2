# SPDX-License-Identifier: Apache-2.0
"""Errands carried out as real processes with Airflow's own code in them, against a stand-in for the Execution API."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.airflow_private.errands import error_in_log
from airflow_workpools.core.errands import ErrandKind
from airflow_workpools.errors import InfrastructureUnavailable, LaunchRejected
from airflow_workpools.infrastructure.process import ProcessInfrastructure
from airflow_workpools.store.errands import Errand
from airflow_workpools.worker.errands import LAUNCH_ATTEMPTS, Errands, ErrandTimes
from tests.store.rigs import new_worker
from tests.unit.fake_execution_api import (
    HEARTBEAT_SECONDS,
    FakeExecutionApi,
    fake_execution_api,
    workload_home,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_workpools.infrastructure.base import Handle, LaunchSpec
    from airflow_workpools.store.records import WorkerRecord

PAGER = """
import os, pathlib, sys, time

def tell(note, **_):
    with open(note, "a") as file:
        file.write(f"told by {os.getpid()}\\n")

def fail(note):
    raise LookupError("nobody answers")

def die(note):
    os.kill(os.getppid(), 9)

def vanish(note):
    os.closerange(0, 100)
    time.sleep(0.3)
    os._exit(0)

def wait(note):
    tell(note)
    while not pathlib.Path(note + ".go").exists():
        time.sleep(0.02)
"""
TIMES = ErrandTimes(look=30, look_again=0.02, observe=0.02, overtime=0, max_retry=0.02)


@dataclass
class Source:
    """Errands that wait, in memory."""

    waiting: list[Errand] = field(default_factory=list)
    left: list[Errand] = field(default_factory=list)
    begun: list[uuid.UUID] = field(default_factory=list)
    ends: dict[uuid.UUID, str | None] = field(default_factory=dict)
    online: bool = True
    failures: int = 0
    most_at_a_time: int = 0
    taken: int = 0

    def claim(self, worker: WorkerRecord, *, room: Mapping[ErrandKind, int]) -> list[Errand]:
        some = []
        for kind, most in room.items():
            some += [errand for errand in self.waiting if errand.kind is kind][: max(0, most)]
        self.waiting = [errand for errand in self.waiting if errand not in some]
        self.taken += len(some)
        self.most_at_a_time = max(self.most_at_a_time, self.taken - len(self.ends))
        return some

    def take_over(
        self, worker: WorkerRecord, *, known: Collection[uuid.UUID], now: datetime
    ) -> list[Errand] | None:
        self._maybe_fail()
        some, self.left = self.left, []
        return some if self.online else None

    def begin(self, errand: Errand) -> None:
        self._maybe_fail()
        self.begun.append(errand.id)

    def end(self, errand: Errand, failure: str | None) -> bool:
        self._maybe_fail()
        self.ends[errand.id] = failure
        return True

    def _maybe_fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("the database is away")


class Rig:
    """A home of Airflow, an Execution API, and workers that carry errands out."""

    def __init__(self, path: Path, api: FakeExecutionApi) -> None:
        self.path, self.api, self.source = path, api, Source()
        self.loop = asyncio.new_event_loop()
        self.infrastructure = self.new_infrastructure()
        path.joinpath("dags").mkdir()
        path.joinpath("dags/pager.py").write_text(PAGER)

    def new_infrastructure(self) -> ProcessInfrastructure:
        return ProcessInfrastructure(home=self.path / "home", api_url=self.api.url)

    def errands(self, infrastructure: Any = None, **values: Any) -> Errands:
        return Errands(
            worker=new_worker(),
            source=self.source,
            infrastructure=infrastructure or self.infrastructure,
            clock=lambda: datetime.now(timezone.utc),
            error_in_log=error_in_log,
            **{"times": TIMES, **values},
        )

    def callback(self, what: str) -> Errand:
        id_ = uuid.uuid4()
        log_path = f"executor_callbacks/{id_}"
        workload = {
            "type": "ExecuteCallback",
            "token": "t0k3n",
            "dag_rel_path": "pager.py",
            "bundle_info": {"name": "dags-folder", "version": None},
            "log_path": log_path,
            "callback": {
                "id": str(id_),
                "fetch_method": "import_path",
                "data": {"path": f"pager.{what}", "kwargs": {"note": str(self.note(id_))}},
            },
        }
        return Errand(
            id=id_, kind=ErrandKind.CALLBACK, mark="m", workload=json.dumps(workload), log_path=log_path
        )

    @staticmethod
    def connection_test(timeout: float = 60) -> Errand:
        id_ = uuid.uuid4()
        workload = {"type": "TestConnection", "token": "t0k3n", "connection_test_id": str(id_)}
        workload |= {"connection_id": "files", "timeout": "60"}
        text = json.dumps(workload)
        return Errand(
            id=id_, kind=ErrandKind.CONNECTION_TEST, mark="m", workload=text, timeout_seconds=timeout
        )

    def note(self, id_: uuid.UUID) -> Path:
        return self.path / str(id_)

    def told(self, errand: Errand) -> int:
        note = self.note(errand.id)
        return note.read_text().count("told") if note.exists() else 0

    def log(self, errand: Errand) -> str:
        return self.path.joinpath("logs", str(errand.log_path)).read_text()

    def run(self, scenario: Awaitable[None]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(scenario, 60))

    def carry_out(self, *errands: Errand, **values: Any) -> None:
        """Let a worker carry errands out to their ends."""
        self.source.waiting += errands

        async def scenario() -> None:
            async with working(self.errands(**values)):
                await until(lambda: {errand.id for errand in errands} <= self.source.ends.keys())

        self.run(scenario())


@asynccontextmanager
async def working(errands: Errands) -> AsyncIterator[None]:
    """Be a worker's part that carries errands out, for a while."""
    task = asyncio.create_task(errands.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def shared_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One rig for all tests: its runner takes seconds to warm up."""
    path = tmp_path_factory.mktemp("rig")
    with workload_home(path), fake_execution_api() as api:
        rig = Rig(path, api)
        rig.loop.run_until_complete(rig.infrastructure.open())
        yield rig
        rig.loop.run_until_complete(rig.infrastructure.close())
        rig.loop.close()


@pytest.fixture
def rig(shared_rig: Rig) -> Rig:
    shared_rig.source = Source()
    shared_rig.api.requests.clear()
    return shared_rig


def directory(rig: Rig, errand: Errand) -> Path:
    return rig.path / "home" / "jobs" / str(errand.id)


# -- callbacks ------------------------------------------------------------------------------------------------


def test_a_callback_runs_in_a_process_and_leaves_nothing_behind(rig: Rig) -> None:
    errand = rig.callback("tell")
    rig.carry_out(errand)
    assert rig.source.ends == {errand.id: None}
    assert rig.source.begun == [errand.id]
    assert rig.told(errand) == 1
    assert "Callback executed successfully" in rig.log(errand)


def test_a_callback_that_fails_says_why(rig: Rig) -> None:
    errand = rig.callback("fail")
    rig.carry_out(errand)
    assert "LookupError: nobody answers" in str(rig.source.ends[errand.id])
    assert "LookupError: nobody answers" in rig.log(errand)


def test_a_callback_that_does_not_exist_says_so(rig: Rig) -> None:
    errand = rig.callback("no_such_thing")
    rig.carry_out(errand)
    assert "no_such_thing" in str(rig.source.ends[errand.id])


def test_a_callback_whose_process_is_killed_has_its_reason_in_its_log(rig: Rig) -> None:
    errand = rig.callback("die")
    rig.carry_out(errand)
    assert "SIGKILL" in str(rig.source.ends[errand.id])
    last = json.loads(rig.log(errand).splitlines()[-1])
    assert "SIGKILL" in last["event"]


def test_the_end_of_a_callback_is_noticed_though_its_sockets_were_closed_before(rig: Rig) -> None:
    started = time.monotonic()
    rig.carry_out(rig.callback("vanish"))
    # Without the pidfd the supervisor would sleep on.
    assert time.monotonic() - started < HEARTBEAT_SECONDS


def test_a_callback_without_a_workload_fails_for_that_reason(rig: Rig) -> None:
    errand = Errand(id=uuid.uuid4(), kind=ErrandKind.CALLBACK, mark="m", problem="its DAG run was deleted")
    rig.carry_out(errand)
    assert rig.source.ends == {errand.id: "its DAG run was deleted"}


# -- connection tests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "state"), [("/", "success"), ("/not/there", "failed")])
def test_a_connection_test_tells_its_result_to_the_api_server(rig: Rig, path: str, state: str) -> None:
    rig.api.connection = {"conn_id": "files", "conn_type": "fs", "extra": json.dumps({"path": path})}
    errand = rig.connection_test()
    rig.carry_out(errand)
    (told,) = rig.api.asked(str(errand.id))
    assert told["state"] == state
    assert path in told["result_message"]
    assert rig.source.ends == {errand.id: None}


def test_an_errand_that_takes_too_long_is_stopped(rig: Rig) -> None:
    errand = replace(rig.callback("wait"), timeout_seconds=0.5)
    rig.carry_out(errand)
    assert rig.source.ends == {errand.id: "stopped: it did not end within 0.5 s"}


# -- the worker -----------------------------------------------------------------------------------------------


def test_the_next_worker_brings_to_its_end_what_runs(rig: Rig) -> None:
    errand = rig.callback("wait")
    rig.source.waiting.append(errand)

    async def scenario() -> None:
        async with working(rig.errands()):
            await until(lambda: rig.told(errand))
        rig.source.left.append(errand)
        other = rig.new_infrastructure()
        await other.open()
        async with working(rig.errands(other)):
            await until(lambda: len(rig.source.begun) > 1)
            rig.note(errand.id).with_name(f"{errand.id}.go").touch()
            await until(lambda: rig.source.ends)
            await until(lambda: not directory(rig, errand).exists())
        await other.close()

    rig.run(scenario())
    assert rig.source.ends == {errand.id: None}
    assert rig.told(errand) == 1


def test_what_the_last_worker_never_launched_is_launched(rig: Rig) -> None:
    errand = rig.callback("tell")
    rig.source.left.append(errand)
    rig.carry_out()

    async def scenario() -> None:
        async with working(rig.errands()):
            await until(lambda: rig.source.ends)

    rig.run(scenario())
    assert rig.told(errand) == 1


def test_only_some_errands_run_at_a_time(rig: Rig) -> None:
    errands = [rig.callback("tell") for _ in range(5)]
    rig.carry_out(*errands, at_a_time={ErrandKind.CALLBACK: 2})
    assert rig.source.most_at_a_time == 2
    assert [rig.told(errand) for errand in errands] == [1] * 5


def test_callbacks_that_take_long_do_not_keep_a_connection_test_waiting(rig: Rig) -> None:
    callback, more, test = rig.callback("wait"), rig.callback("wait"), rig.connection_test()
    rig.source.waiting += [callback, more, test]
    room = {ErrandKind.CALLBACK: 1, ErrandKind.CONNECTION_TEST: 1}

    async def scenario() -> None:
        async with working(rig.errands(at_a_time=room)):
            await until(lambda: test.id in rig.source.ends)
            assert rig.source.waiting == [more]
            for errand in (callback, more):
                rig.note(errand.id).with_name(f"{errand.id}.go").touch()
            await until(lambda: len(rig.source.ends) == 3)

    rig.run(scenario())


def test_while_times_cannot_be_compared_no_errand_is_taken_from_anybody(rig: Rig) -> None:
    errand, judges = rig.callback("tell"), [False]
    rig.source.waiting.append(errand)
    asked: list[int] = []

    def may_judge() -> bool:
        asked.append(1)
        return judges[0]

    async def scenario() -> None:
        async with working(rig.errands(may_judge=may_judge)):
            await until(lambda: len(asked) > 1)
            assert rig.source.waiting == [errand]
            judges[0] = True
            await until(lambda: errand.id in rig.source.ends)

    rig.run(scenario())


def test_an_errand_survives_a_database_that_is_away(rig: Rig) -> None:
    errand = rig.callback("tell")
    rig.source.failures = 3
    rig.carry_out(errand)
    rig.source.failures = 3
    again = rig.callback("tell")
    rig.carry_out(again)
    assert (rig.told(errand), rig.told(again)) == (1, 1)


def test_a_worker_that_is_not_online_yet_takes_nothing(rig: Rig) -> None:
    rig.source.online = False
    errand = rig.callback("tell")
    rig.source.waiting.append(errand)

    async def scenario() -> None:
        async with working(rig.errands()):
            for _ in range(20):
                await asyncio.sleep(0)
            assert rig.source.taken == 0
            rig.source.online = True
            await until(lambda: rig.source.ends)

    rig.run(scenario())


def test_a_call_makes_it_look_at_once(rig: Rig) -> None:
    errand = rig.callback("tell")

    async def scenario() -> None:
        errands = rig.errands()
        async with working(errands):
            await asyncio.sleep(0.1)
            rig.source.waiting.append(errand)
            errands.look_now()
            await until(lambda: rig.source.ends)

    rig.run(scenario())


class Refuses:
    """Launches nothing."""

    def __init__(self, error: Exception) -> None:
        self.error, self.attempts = error, 0

    async def launch(self, spec: LaunchSpec) -> AsyncIterator[Handle]:
        self.attempts += 1
        raise self.error
        yield


@pytest.mark.parametrize(
    ("error", "attempts"),
    [(InfrastructureUnavailable("no memory"), LAUNCH_ATTEMPTS), (LaunchRejected("never"), 1)],
)
def test_an_errand_that_can_not_be_launched_fails_in_the_end(
    rig: Rig, error: Exception, attempts: int
) -> None:
    errand, infrastructure = rig.callback("tell"), Refuses(error)
    rig.carry_out(errand, infrastructure=infrastructure)
    assert rig.source.ends == {errand.id: f"could not be started: {error}"}
    assert infrastructure.attempts == attempts
    assert str(error) in rig.log(errand)
