# SPDX-License-Identifier: Apache-2.0
"""A worker with several kinds of infrastructure, of which some can't be reached, or not any more."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from airflow_workpools.core.jobs import HELD_BY_PLATFORM, JobState
from airflow_workpools.core.pools import PoolSource, WorkPool, parse_work_pool
from airflow_workpools.errors import InfrastructureError, InfrastructureUnavailable, NotFound
from airflow_workpools.infrastructure.base import Observation, Phase
from airflow_workpools.testing import TaskInstanceFacts
from airflow_workpools.worker.loop import Worker
from tests.unit.scripted_infrastructure import ScriptedInfrastructure
from tests.unit.test_worker_loop import TEMPLATE, Stage, play, until, working

DOWN = InfrastructureUnavailable("the engine at unix:///run/engine.sock does not answer")


class Engine(ScriptedInfrastructure):
    """Jobs live in the engine, not on the worker's host."""

    kind: ClassVar[str] = "engine"
    bound_to_host: ClassVar[bool] = False

    def __init__(self, platform: dict[uuid.UUID, Observation], connection: dict[str, Any] | None) -> None:
        super().__init__(platform)
        self.connection = connection


def gpu(name: str = "gpu", **definition: Any) -> WorkPool:
    return parse_work_pool(
        name,
        {"type": "engine", **definition},
        templates={"engine": TEMPLATE},
        source=PoolSource.DATABASE,
    )


@dataclass
class Engines:
    """Engines as workers make them, each for a connection."""

    stage: Stage
    platform: dict[uuid.UUID, Observation] = field(default_factory=dict)
    connections: dict[str, dict[str, Any]] = field(default_factory=lambda: {"here": {"host": "h1"}})
    made: list[Engine] = field(default_factory=list)
    prepare: Callable[[Engine], None] = lambda _: None
    import_error: Exception | None = None

    def __post_init__(self) -> None:
        self.stage.pools["gpu"] = gpu(infrastructure_conn_id="here")

    @property
    def last(self) -> Engine:
        return self.made[-1]

    def worker(self, *, hostname: str = "here") -> Worker:
        worker = self.stage.worker()
        return replace(
            worker,
            record=replace(worker.record, hostname=hostname),
            client=replace(worker.client, kinds=frozenset({"process", "engine"})),
            infrastructure_class=self._class_of,
            infrastructure_connection=self._connection,
        )

    def _class_of(self, kind: str) -> Any:
        if self.import_error is not None:
            raise self.import_error
        return self._make

    def _make(self, *, home: Any, connection: dict[str, Any] | None) -> Engine:
        engine = Engine(self.platform, connection)
        self.prepare(engine)
        self.made.append(engine)
        return engine

    def _connection(self, conn_id: str) -> dict[str, Any]:
        if conn_id not in self.connections:
            raise NotFound(f"there is no Airflow connection '{conn_id}'")
        return {"conn_id": conn_id, **self.connections[conn_id]}

    def hindrance(self, pool: str = "gpu") -> str | None:
        return self.stage.store.run_state(now=self.stage.now).hindrance(pool)

    def workers_online(self, pool: str = "gpu") -> int:
        return self.stage.store.run_state(now=self.stage.now).workers_online(pool)


@contextlib.asynccontextmanager
async def dying(worker: Worker) -> AsyncIterator[None]:
    """Have a worker work until it is killed: it says and does nothing more."""
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        for each in asyncio.all_tasks():
            if each is not asyncio.current_task():
                each.cancel()
        await asyncio.gather(task, return_exceptions=True)


# -- what can be used -----------------------------------------------------------------------------------------


def test_an_engine_that_cannot_be_reached_keeps_only_its_own_pools_waiting(caplog):
    async def scenario(stage: Stage) -> None:
        engines, errors = Engines(stage), [DOWN]
        engines.prepare = lambda engine: setattr(engine, "open_errors", errors)
        waiting, other = stage.hand_over("gpu"), stage.hand_over("etl")
        async with working(engines.worker()):
            await until(lambda: stage.record(other).state is JobState.SUBMITTED)
            await until(lambda: engines.hindrance() == str(DOWN))
            assert engines.workers_online("etl") == 1
            assert engines.workers_online() == 0
            assert stage.record(waiting).state is JobState.PENDING
            assert f"no job of work pool 'gpu', all wait: {DOWN}" in caplog.text
            errors.clear()
            await until(lambda: stage.record(waiting).state is JobState.SUBMITTED)
            await until(lambda: engines.hindrance() is None and engines.workers_online() == 1)
            assert stage.record(waiting).start_attempts == 0
        told = [one for one in caplog.records if "no job of work pool 'gpu'" in one.getMessage()]
        assert len(told) == 1

    play(scenario)


def test_an_engine_whose_opening_hangs_keeps_no_other_pool_waiting():
    async def scenario(stage: Stage) -> None:
        engines, hangs = Engines(stage), asyncio.Event()

        async def hang() -> None:
            await hangs.wait()

        engines.prepare = lambda engine: setattr(engine, "open", hang)
        other = stage.hand_over("etl")
        async with working(engines.worker()):
            await until(lambda: stage.record(other).state is JobState.SUBMITTED)
            assert "is being opened" in (engines.hindrance() or "")

    play(scenario)


def test_a_connection_that_does_not_exist_is_told_and_looked_for_again():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        here = engines.connections.pop("here")
        job = stage.hand_over("gpu")
        async with working(engines.worker()):
            await until(lambda: engines.hindrance() == "there is no Airflow connection 'here'")
            engines.connections["here"] = here
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            assert engines.last.connection == {"conn_id": "here", "host": "h1"}

    play(scenario)


def test_a_kind_that_cannot_be_imported_is_told_with_the_way_out():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        engines.import_error = InfrastructureError('Install what it needs: pip install "x[engine]"')
        stage.hand_over("gpu")
        async with working(engines.worker()):
            await until(lambda: 'pip install "x[engine]"' in (engines.hindrance() or ""))

    play(scenario)


def test_pools_that_name_the_same_connection_share_an_infrastructure():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        engines.connections["there"] = {"host": "h2"}
        stage.pools |= {
            "b": gpu("b", infrastructure_conn_id="here"),
            "c": gpu("c", infrastructure_conn_id="there"),
            "d": gpu("d"),
        }
        async with working(engines.worker()):
            await until(lambda: engines.workers_online("c") and engines.workers_online("d"))
            hosts = [engine.connection and engine.connection["host"] for engine in engines.made]
            assert sorted(hosts, key=str) == [None, "h1", "h2"] or sorted(map(str, hosts)) == [
                "None",
                "h1",
                "h2",
            ]

    play(scenario)


def test_an_infrastructure_that_no_pool_and_no_job_needs_is_closed():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        job = stage.hand_over("gpu")
        async with working(engines.worker()):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            del stage.pools["gpu"]
            engines.last.ends(job)
            await until(lambda: stage.record(job).state is JobState.SUCCEEDED)
            await until(lambda: engines.last.closed)
            assert engines.last.cleaned == [job]

    play(scenario)


def test_a_connection_that_has_changed_is_for_new_jobs_and_old_ones_are_watched_to_their_end():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        first = stage.hand_over("gpu")
        async with working(engines.worker()):
            await until(lambda: stage.record(first).state is JobState.SUBMITTED)
            engines.connections["here"] = {"host": "h2"}
            await until(lambda: len(engines.made) == 2)
            second = stage.hand_over("gpu")
            await until(lambda: stage.record(second).state is JobState.SUBMITTED)
            old, new = engines.made
            assert [spec.job_id for spec in new.launched] == [second]
            assert not old.closed
            old.ends(first)
            await until(lambda: stage.record(first).state is JobState.SUCCEEDED)
            await until(lambda: old.closed)
            assert not new.closed

    play(scenario)


# -- what does not answer any more ----------------------------------------------------------------------------


def test_a_job_that_an_outage_keeps_from_being_launched_is_launched_when_it_is_over():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        async with working(engines.worker()):
            await until(lambda: engines.workers_online())
            engine = engines.last
            engine.outage = DOWN
            jobs = [stage.hand_over("gpu") for _ in range(3)]
            await until(lambda: engines.hindrance() == str(DOWN))
            assert all(stage.record(job).state is not JobState.FAILED for job in jobs)
            later = stage.hand_over("gpu")
            other = stage.hand_over("etl")
            await until(lambda: stage.record(other).state is JobState.SUBMITTED)
            assert stage.record(later).state is JobState.PENDING
            engine.outage = None
            await until(lambda: all(stage.record(job).state is JobState.SUBMITTED for job in (*jobs, later)))
            assert sorted(spec.job_id for spec in engine.launched) == sorted([*jobs, later])
            assert [stage.record(job).start_attempts for job in (*jobs, later)] == [0, 0, 0, 0]
            await until(lambda: engines.hindrance() is None)

    play(scenario)


def test_an_outage_is_no_part_of_the_start_timeout():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        job = stage.hand_over("gpu")
        async with working(engines.worker()):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            engines.last.outage = DOWN
            engines.last._changed.set()
            await until(lambda: engines.hindrance() is not None)
            stage.now += timedelta(seconds=59)
            await until(lambda: stage.record(job).starting_since == stage.now)
            stage.now += timedelta(seconds=30)
            assert stage.store.reconcile(now=stage.now, grace_seconds=30).not_started == 0

    play(scenario)


def test_jobs_outlive_an_outage_and_their_ends_are_told_after_it():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        job = stage.hand_over("gpu")
        async with working(engines.worker()):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            engine = engines.last
            engine.outage = DOWN
            engine.ends(job, 3, "exit code 3")
            await until(lambda: engines.hindrance() == str(DOWN))
            assert stage.record(job).state is JobState.SUBMITTED
            engine.outage = None
            await until(lambda: stage.record(job).state is JobState.FAILED)
            await until(lambda: engine.cleaned == [job])

    play(scenario)


def test_what_is_left_of_a_job_is_removed_after_an_outage():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        job = stage.hand_over("gpu")
        async with working(engines.worker()):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            engine = engines.last
            clean_up, failures = engine.cleanup, [DOWN, DOWN]

            async def fail_first(handle: Any) -> None:
                if failures:
                    raise failures.pop()
                await clean_up(handle)

            engine.cleanup = fail_first  # type: ignore[method-assign]
            engine.ends(job)
            await until(lambda: engine.cleaned == [job])

    play(scenario)


@pytest.mark.parametrize("hanging", [1, 3])
def test_launches_that_hang_keep_no_other_pool_waiting_however_many_infrastructures_hang(hanging: int):
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        engines.prepare = lambda engine: setattr(engine, "holds", lambda _: True)
        for n in range(hanging):
            engines.connections[f"engine{n}"] = {"host": f"h{n}"}
            stage.pools[f"gpu{n}"] = gpu(f"gpu{n}", infrastructure_conn_id=f"engine{n}")
            for _ in range(40):
                stage.hand_over(f"gpu{n}")
        del stage.pools["gpu"]

        def asked() -> list[int]:
            return [len(engine.asked) for engine in engines.made]

        async with working(engines.worker()):
            # Where half of the places are taken, nothing more is claimed.
            await until(lambda: len(asked()) == hanging and min(asked()) > 8)
            for _ in range(20):
                other = stage.hand_over("etl", nice=1)
                await until(lambda other=other: stage.record(other).state is JobState.SUBMITTED)
                stage.platform[other] = Observation(phase=Phase.EXITED, exit_code=0)
                await until(lambda other=other: stage.record(other).state is JobState.SUCCEEDED)
            assert max(asked()) <= 16

    play(scenario)


def test_each_infrastructure_says_how_many_jobs_it_takes_at_a_time():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        engines.connections["wide"] = {"host": "h2"}
        stage.pools["wide"] = gpu("wide", infrastructure_conn_id="wide")

        def prepare(engine: Engine) -> None:
            engine.holds = lambda _: True
            engine.launches_in_flight = 32 if engine.connection == {"conn_id": "wide", "host": "h2"} else 3

        engines.prepare = prepare
        for _ in range(40):
            stage.hand_over("gpu")
            stage.hand_over("wide")
        async with working(engines.worker()):
            await until(lambda: sorted(len(engine.asked) for engine in engines.made) == [3, 32])

    play(scenario)


# -- starts that fail -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_job_that_ended_before_it_started_is_launched_again_as_often_as_the_pool_says(attempts: int):
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        stage.pools["gpu"] = gpu(infrastructure_conn_id="here", start_attempts=attempts)
        job = stage.hand_over("gpu")
        async with working(engines.worker()):
            for attempt in range(attempts):
                await until(lambda attempt=attempt: engines.made and len(engines.last.launched) > attempt)
                assert stage.record(job).state is not JobState.FAILED
                engines.last.fails_to_start(job, "no such image")
                await until(lambda attempt=attempt: len(engines.last.cleaned) > attempt)
            await until(lambda: stage.record(job).state is JobState.FAILED)
            names = [spec.name for spec in engines.last.launched]
            assert len(set(names)) == len(names) == attempts
        word = "attempt" if attempts == 1 else "attempts"
        assert stage.record(job).reason == (
            f"The job could not be started: no such image ({attempts} {word})"
        )

    play(scenario)


def test_a_job_that_was_seen_to_run_is_not_launched_again():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        job = stage.hand_over("gpu")
        async with working(engines.worker()):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            engines.last.runs(job)
            await until(lambda: stage.record(job).state is JobState.RUNNING)
            engines.last.fails_to_start(job, "a strange end")
            await until(lambda: stage.record(job).state is JobState.FAILED)
            assert stage.record(job).reason == "a strange end"

    play(scenario)


@pytest.mark.parametrize("step", ["cleanup", "requeue"])
def test_a_worker_that_dies_twice_while_it_launches_a_job_again_loses_nothing(step: str):
    """Before and after what failed to start is removed: the next worker must not take that for an end."""

    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        requeue, reached = stage.store.requeue, asyncio.Event()
        loop = asyncio.get_running_loop()

        async def never(*_: Any) -> None:
            reached.set()
            await asyncio.Event().wait()

        def refuse(*_: Any, **__: Any) -> int:
            loop.call_soon_threadsafe(reached.set)
            raise ConnectionError("dies here")

        if step == "cleanup":
            engines.prepare = lambda engine: setattr(engine, "cleanup", never)
        else:
            stage.store.requeue = refuse  # type: ignore[method-assign]
        job = stage.hand_over("gpu")
        async with dying(engines.worker()):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            engines.last.fails_to_start(job, "no such image")
            await reached.wait()
        for _ in range(2):
            reached.clear()
            stage.now += timedelta(minutes=1)  # the dead have been silent since
            async with dying(engines.worker()):
                await reached.wait()
                assert stage.record(job).state is JobState.SUBMITTED
        engines.prepare, stage.store.requeue = lambda _: None, requeue  # type: ignore[method-assign]
        stage.now += timedelta(minutes=1)
        async with working(engines.worker()):
            await until(lambda: stage.record(job).start_attempts == 1)
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            engines.last.ends(job)
            await until(lambda: stage.record(job).state is JobState.SUCCEEDED)

    play(scenario)


# -- jobs that wait on their infrastructure -------------------------------------------------------------------


def test_a_job_that_the_platforms_queue_holds_has_no_start_timeout_and_a_fresh_token():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        job = stage.hand_over("gpu")
        async with working(engines.worker()):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            engine = engines.last
            engine.holds_back(job, "suspended by the quota of team a")
            await until(lambda: engine.renewed)
            assert f"token of {job} for 60 s" in engine.renewed[0][1]
            told = f"{HELD_BY_PLATFORM}: suspended by the quota of team a"
            await until(lambda: stage.record(job).reason == told)
            for _ in range(5):
                stage.now += timedelta(seconds=20)
                await until(lambda: stage.record(job).starting_since == stage.now)
                assert stage.store.reconcile(now=stage.now, grace_seconds=30).not_started == 0
            engine.sees(job, Observation(phase=Phase.WAITING, reason="0/1 nodes are available"))
            stage.now += timedelta(seconds=19)
            await until(lambda: stage.record(job).reason == "0/1 nodes are available")
            stage.now += timedelta(seconds=42)
            stage.store.reconcile(now=stage.now, grace_seconds=30)
            assert stage.record(job).desired_state is JobState.FAILED
            assert (stage.record(job).reason or "").endswith(": 0/1 nodes are available")

    play(scenario)


def test_why_a_job_waits_is_told_and_forgotten_when_it_runs():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        job = stage.hand_over("gpu")
        async with working(engines.worker()):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
            engines.last.sees(job, Observation(phase=Phase.WAITING, reason="image is being pulled"))
            await until(lambda: stage.record(job).reason == "image is being pulled")
            engines.last.runs(job)
            await until(lambda: stage.record(job).state is JobState.RUNNING)
            assert stage.record(job).reason is None

    play(scenario)


# -- adoption -------------------------------------------------------------------------------------------------


def test_a_job_whose_handle_was_lost_is_looked_for_when_its_engine_answers_and_not_before():
    async def scenario(stage: Stage) -> None:
        engines, errors = Engines(stage), [DOWN]
        launched, not_launched = stage.hand_over("gpu"), stage.hand_over("gpu")
        dead = engines.worker()
        dead.client.register(dead.record, now=stage.now)
        assert len(dead.client.claim(dead.record.id, most=9, now=stage.now)) == 2
        engines.platform[launched] = Observation(phase=Phase.RUNNING)
        stage.now += timedelta(minutes=1)
        engines.prepare = lambda engine: setattr(engine, "open_errors", errors)
        worker = engines.worker()
        async with working(worker):
            await until(lambda: stage.record(launched).worker_id == worker.record.id)
            await until(lambda: len(engines.made) > 3)
            assert stage.record(launched).state is JobState.CLAIMED
            assert stage.record(not_launched).state is JobState.CLAIMED
            errors.clear()
            await until(lambda: stage.record(launched).state is JobState.RUNNING)
            await until(lambda: stage.record(not_launched).state is JobState.SUBMITTED)
            assert [spec.job_id for spec in engines.last.launched] == [not_launched]
            assert stage.record(not_launched).start_attempts == 1

    play(scenario)


def test_a_job_is_adopted_through_the_connection_that_it_was_launched_with():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        engines.connections["there"] = {"host": "h2"}
        job = stage.hand_over("gpu")
        async with working(engines.worker()):
            await until(lambda: stage.record(job).state is JobState.SUBMITTED)
        handle = stage.record(job).handle
        assert handle is not None
        assert handle.conn_id == "here"
        stage.pools["gpu"] = gpu(infrastructure_conn_id="there")
        async with working(engines.worker()):
            await until(lambda: len([one for one in engines.made if one.opened]) == 2)
            by_host = {one.connection["host"]: one for one in engines.made if one.opened and one.connection}
            by_host["h1"].ends(job)
            await until(lambda: by_host["h1"].cleaned == [job])
            assert by_host["h2"].cleaned == []

    play(scenario)


def test_jobs_that_live_elsewhere_are_adopted_by_a_worker_of_another_host_and_processes_are_not():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        in_engine, on_host = stage.hand_over("gpu"), stage.hand_over("etl")
        async with working(engines.worker(hostname="there")):
            await until(
                lambda: all(stage.record(job).state is JobState.SUBMITTED for job in (in_engine, on_host))
            )
        heir = engines.worker(hostname="here")
        async with working(heir):
            await until(lambda: stage.record(in_engine).worker_id == heir.record.id)
            engines.last.ends(in_engine)
            await until(lambda: stage.record(in_engine).state is JobState.SUCCEEDED)
            assert stage.record(on_host).worker_id != heir.record.id

    play(scenario)


# -- cancelling -----------------------------------------------------------------------------------------------


def test_a_job_whose_launch_hangs_can_be_cancelled():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        engines.prepare = lambda engine: setattr(engine, "holds", lambda _: True)
        job = stage.hand_over("gpu")
        async with working(engines.worker()):
            await until(lambda: engines.made and engines.last.asked == [job])
            stage.store.request_cancel(job_ids=[job], reason="cleared", now=stage.now)
            await until(lambda: stage.record(job).state is JobState.CANCELLED)
            assert stage.record(job).reason == "cleared"
            assert engines.last.launched == []

    play(scenario)


def test_a_job_whose_launch_comes_to_its_end_after_the_wish_is_stopped():
    async def scenario(stage: Stage) -> None:
        engines, hangs = Engines(stage), [True]
        engines.prepare = lambda engine: setattr(engine, "holds", lambda _: hangs[0])
        job = stage.hand_over("gpu")
        worker = engines.worker()
        worker = replace(worker, times=replace(worker.times, launch_patience=3600))
        async with working(worker):
            await until(lambda: engines.made and engines.last.asked == [job])
            stage.store.request_cancel(job_ids=[job], reason="cleared", now=stage.now)
            hangs[0] = False
            await until(lambda: stage.record(job).state is JobState.CANCELLED)
            assert engines.last.stopped == [job]

    play(scenario)


def test_a_job_that_an_outage_keeps_from_being_stopped_is_stopped_when_it_is_over():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        job, other = stage.hand_over("gpu"), stage.hand_over("etl")
        async with working(engines.worker()):
            await until(lambda: all(stage.record(one).state is JobState.SUBMITTED for one in (job, other)))
            engines.last.outage = DOWN
            stage.store.request_cancel(job_ids=[job, other], reason="cleared", now=stage.now)
            await until(lambda: stage.record(other).state is JobState.CANCELLED)
            assert stage.record(job).state is JobState.SUBMITTED
            engines.last.outage = None
            await until(lambda: stage.record(job).state is JobState.CANCELLED)
            assert engines.last.stopped == [job]

    play(scenario)


def test_a_job_that_may_not_exist_and_is_not_wanted_any_more_ends_when_that_is_known():
    async def scenario(stage: Stage) -> None:
        engines = Engines(stage)
        async with working(engines.worker()):
            await until(lambda: engines.workers_online())
            engines.last.outage = DOWN
            job = stage.hand_over("gpu")
            await until(lambda: engines.hindrance() == str(DOWN))
            stage.store.task_instances[job] = TaskInstanceFacts(None, stage.now)
            stage.store.reconcile(now=stage.now, grace_seconds=30)
            engines.last.outage = None
            await until(lambda: stage.record(job).state is JobState.CANCELLED)
            assert engines.last.launched == []

    play(scenario)
