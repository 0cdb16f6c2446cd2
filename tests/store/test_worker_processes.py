# SPDX-License-Identifier: Apache-2.0
"""Standalone workers with real processes that are killed, or come back late: no job is lost, and none goes on twice."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.store.records import WorkerState
from tests.store import dying_worker
from tests.store.dying_worker import POINTS
from tests.store.hosts import Host, at_work, before_long, play, said

# -- who comes back late --------------------------------------------------------------------------------------


def give_up(host: Host, worker_id: uuid.UUID) -> None:
    """Do what the executor does when a worker was silent for too long."""
    store, much_later = host.api.rig.store, host.api.now + timedelta(seconds=600)
    # The server's time stands still: a heartbeat that comes between changes nothing.
    lost = store.worker(worker_id)
    given_up = store.give_up_lost([lost], bound={"etl": 2}, now=much_later, grace_seconds=300)
    assert given_up.failed == 1


def test_a_worker_that_was_given_up_stops_its_job_when_it_comes_back(host: Host) -> None:
    async def scenario() -> None:
        host.put_token()
        worker = host.worker()
        async with at_work(worker):
            job = await host.running("end_when_asked")
            await before_long(lambda: "ready" in host.platform.diary(job))
            give_up(host, worker.record.id)
            await before_long(lambda: "asked to end" in host.platform.diary(job))
            await before_long(lambda: not host.platform.directory(job).path.exists())
            assert host.state(job) is JobState.FAILED
            await host.release(await host.running())

    play(scenario)


def test_a_worker_that_is_started_anew_stops_what_its_predecessor_left_and_was_given_up(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        host.put_token()
        first = host.worker()
        async with at_work(first):
            given_up = await host.running("end_when_asked")
            await before_long(lambda: "ready" in host.platform.diary(given_up))
        give_up(host, first.record.id)
        kept = host.hand_over()
        second = host.worker()
        async with at_work(second):
            await before_long(lambda: "asked to end" in host.platform.diary(given_up))
            await before_long(lambda: host.platform.diary(kept))
            await before_long(lambda: host.platform.directory(given_up).exit() is not None)
        # What is given up with a worker that is gone, and what is taken over as it is.
        assert said(
            caplog, f"job {given_up.job_id} of an earlier worker was given up meanwhile, and is stopped"
        )
        third = host.worker()
        async with at_work(third):
            await before_long(lambda: host.api.rig.record(kept.job_id).worker_id == third.record.id)
            await host.release(kept)
            await before_long(lambda: host.state(kept) is JobState.SUCCEEDED)
        assert host.platform.times_run(kept) == 1
        assert not said(caplog, f"job {kept.job_id} of an earlier worker")

    play(scenario)


def test_what_is_left_of_an_earlier_workers_job_that_is_over_is_removed(host: Host) -> None:
    async def scenario() -> None:
        host.put_token()
        first = host.worker()
        async with at_work(first):
            given_up = await host.running()
        give_up(host, first.record.id)
        host.api.now += timedelta(seconds=1200)
        await host.release(given_up)
        second = host.worker()
        second.times = replace(second.times, sweep=0.1, sweep_grace=0.0)
        second.__post_init__()
        async with at_work(second):
            await before_long(lambda: not host.platform.directory(given_up).path.exists())

    play(scenario)


# -- who is killed --------------------------------------------------------------------------------------------


# It has imported what a worker needs once for all of them.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload([dying_worker.__name__])


def killed_worker(host: Host, point: str) -> None:
    """Let a worker work until it is killed at this point; its successor finds that it is gone."""
    arguments = (host.api.url, str(host.platform.path), point)
    process = FORKSERVER.Process(target=dying_worker.main, args=arguments, daemon=True)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    for worker in host.api.rig.store.run_state(now=host.api.now).workers:
        if worker.state is not WorkerState.STOPPED:
            host.api.rig.store.stop_worker(worker.id, now=host.api.now)


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_may_be_killed_at_any_point_of_a_jobs_way(host: Host, point: str) -> None:
    async def scenario() -> None:
        host.put_token()
        ends = point in ("seen to end", "told that it ended")
        job = host.hand_over("end_by_itself" if ends else "wait")
        if point == "taken over":
            await asyncio.to_thread(killed_worker, host, "launched")
        await asyncio.to_thread(killed_worker, host, point)
        async with at_work(host.worker()):
            await before_long(lambda: host.platform.diary(job))
            if not ends:
                await host.release(job)
            await before_long(lambda: host.state(job) is JobState.SUCCEEDED)
            if point != "told that it ended":  # then it is swept later
                await before_long(lambda: not host.platform.directory(job).path.exists())
        assert host.platform.times_run(job) == 1
        assert host.api.rig.record(job.job_id).start_attempts == (1 if point == "claimed" else 0)

    play(scenario)
