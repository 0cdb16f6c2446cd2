# SPDX-License-Identifier: Apache-2.0
"""What holds for every kind of infrastructure.

A kind's test module subclasses :class:`InfrastructureContract` and gives it a fixture ``platform``: a
:class:`Platform`, which is what the jobs run on, seen from outside.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

import pytest

from airflow_workpools.errors import LaunchRejected
from airflow_workpools.infrastructure.base import (
    Handle,
    HasLog,
    Infrastructure,
    LaunchSpec,
    MayLeaveBehind,
    Observation,
    Phase,
)

PATIENCE_SECONDS = 30.0


class Platform(Protocol):
    """What the jobs of one kind run on, seen from outside."""

    def worker(self) -> Infrastructure:
        """Return an infrastructure as a worker that has just started would make it."""
        ...

    def exits_with(self, code: int) -> LaunchSpec:
        """Return a job that ends at once with this exit code."""
        ...

    def waits(self) -> LaunchSpec:
        """Return a job that runs until it is stopped."""
        ...

    def cannot_start(self) -> LaunchSpec:
        """Return a job that the platform refuses for good."""
        ...

    def times_run(self, spec: LaunchSpec) -> int:
        """Return how often the job has begun to run."""
        ...


class LogPlatform(Platform, Protocol):
    """A platform that keeps what its jobs write."""

    def writes(self, *lines: str, goes_on: bool = False) -> LaunchSpec:
        """Return a job that writes these lines, and ends or goes on until it is stopped."""
        ...


@asynccontextmanager
async def working(platform: Platform) -> AsyncIterator[Infrastructure]:
    """Be a worker for a while."""
    infrastructure = platform.worker()
    await infrastructure.open()
    try:
        yield infrastructure
    finally:
        await infrastructure.close()


async def launch(infrastructure: Infrastructure, spec: LaunchSpec) -> Handle:
    """Launch a job and return the last handle."""
    handles = [handle async for handle in infrastructure.launch(spec)]
    return handles[-1]


async def observe(infrastructure: Infrastructure, handle: Handle) -> Observation:
    return (await infrastructure.observe([handle]))[handle.job_id]


async def wait_until(
    infrastructure: Infrastructure, handle: Handle, condition: Callable[[Observation], bool]
) -> Observation:
    """Observe a job, whenever something may have changed, until the condition holds."""

    async def look() -> Observation:
        while not condition(seen := await observe(infrastructure, handle)):
            await infrastructure.wait_for_change()
        return seen

    return await asyncio.wait_for(look(), PATIENCE_SECONDS)


async def wait_for_end(infrastructure: Infrastructure, handle: Handle) -> Observation:
    return await wait_until(infrastructure, handle, lambda seen: seen.ended)


async def wait_for_running(infrastructure: Infrastructure, handle: Handle) -> Observation:
    return await wait_until(infrastructure, handle, lambda seen: seen.phase is Phase.RUNNING)


async def wait_until_begun(platform: Platform, spec: LaunchSpec) -> None:
    """Return when the job itself has begun; a moment before that it may be seen running already."""

    async def look() -> None:
        while not platform.times_run(spec):
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), PATIENCE_SECONDS)


def run(scenario: Any) -> None:
    asyncio.run(scenario)


class InfrastructureContract:
    @pytest.fixture
    def platform(self) -> Platform:
        raise NotImplementedError

    @pytest.mark.parametrize("code", [0, 3])
    def test_a_job_that_ends_is_seen_with_its_exit_code(self, platform: Platform, code: int) -> None:
        async def scenario() -> None:
            async with working(platform) as worker:
                handle = await launch(worker, platform.exits_with(code))
                seen = await wait_for_end(worker, handle)
                assert (seen.phase, seen.exit_code) == (Phase.EXITED, code)
                assert seen.reason

        run(scenario())

    def test_a_job_that_goes_on_is_seen_running(self, platform: Platform) -> None:
        async def scenario() -> None:
            async with working(platform) as worker:
                handle = await launch(worker, platform.waits())
                assert (await wait_for_running(worker, handle)).exit_code is None
                await worker.stop(handle, grace_seconds=0)
                await wait_for_end(worker, handle)

        run(scenario())

    def test_every_job_that_is_asked_for_is_in_the_answer(self, platform: Platform) -> None:
        async def scenario() -> None:
            async with working(platform) as worker:
                handles = [await launch(worker, platform.exits_with(0)) for _ in range(3)]
                handles.append(dataclasses.replace(handles[0], job_id=uuid.uuid4(), data={}))
                seen = await worker.observe(handles)
                assert set(seen) == {handle.job_id for handle in handles}
                assert seen[handles[-1].job_id].phase is Phase.GONE
                assert seen[handles[-1].job_id].reason

        run(scenario())

    def test_launching_a_job_that_runs_adopts_it(self, platform: Platform) -> None:
        async def scenario() -> None:
            spec = platform.waits()
            async with working(platform) as worker:
                first = await launch(worker, spec)
                await wait_until_begun(platform, spec)
                assert await launch(worker, spec) == first
                await worker.stop(first, grace_seconds=0)
                await wait_for_end(worker, first)
            assert platform.times_run(spec) == 1

        run(scenario())

    def test_launching_a_job_that_has_ended_does_not_run_it_again(self, platform: Platform) -> None:
        async def scenario() -> None:
            spec = platform.exits_with(3)
            async with working(platform) as worker:
                await wait_for_end(worker, await launch(worker, spec))
                again = await launch(worker, spec)
                assert (await wait_for_end(worker, again)).exit_code == 3
            assert platform.times_run(spec) == 1

        run(scenario())

    def test_a_job_launched_twice_at_once_runs_once(self, platform: Platform) -> None:
        async def scenario() -> None:
            spec = platform.waits()
            async with working(platform) as one, working(platform) as other:
                handles = await asyncio.gather(*(launch(worker, spec) for worker in (one, other, one, other)))
                assert len({json.dumps(handle.data) for handle in handles}) == 1
                await wait_for_running(other, handles[0])
                await wait_until_begun(platform, spec)
                await one.stop(handles[0], grace_seconds=0)
                await wait_for_end(one, handles[0])
                await wait_for_end(other, handles[0])
            assert platform.times_run(spec) == 1

        run(scenario())

    def test_a_job_that_can_never_start_is_rejected_with_a_reason(self, platform: Platform) -> None:
        async def scenario() -> None:
            async with working(platform) as worker:
                with pytest.raises(LaunchRejected) as rejection:
                    await launch(worker, platform.cannot_start())
                assert str(rejection.value)

        run(scenario())

    def test_jobs_whose_handle_was_lost_are_found(self, platform: Platform) -> None:
        async def scenario() -> None:
            async with working(platform) as worker:
                handle = await launch(worker, platform.waits())
                assert await worker.find([handle.job_id, uuid.uuid4()]) == {handle.job_id: handle}
            async with working(platform) as later:
                assert await later.find([handle.job_id]) == {handle.job_id: handle}
                await later.stop(handle, grace_seconds=0)
                await wait_for_end(later, handle)

        run(scenario())

    def test_a_handle_survives_being_stored_as_json(self, platform: Platform) -> None:
        async def scenario() -> None:
            async with working(platform) as worker:
                handle = await launch(worker, platform.exits_with(0))
                stored = dataclasses.replace(handle, data=json.loads(json.dumps(handle.data)))
                assert stored.kind == worker.kind
                assert (await wait_for_end(worker, stored)).exit_code == 0

        run(scenario())

    def test_a_job_goes_on_when_its_worker_closes_and_the_next_worker_sees_it(
        self, platform: Platform
    ) -> None:
        async def scenario() -> None:
            spec = platform.waits()
            async with working(platform) as worker:
                handle = await launch(worker, spec)
                await wait_until_begun(platform, spec)
                await wait_for_running(worker, handle)
            async with working(platform) as later:
                assert (await observe(later, handle)).phase is Phase.RUNNING
                await later.stop(handle, grace_seconds=0)
                await wait_for_end(later, handle)
            assert platform.times_run(spec) == 1

        run(scenario())

    def test_stopping_ends_a_job_whatever_it_does(self, platform: Platform) -> None:
        async def scenario() -> None:
            async with working(platform) as worker:
                handle = await launch(worker, platform.waits())
                await wait_for_running(worker, handle)
                await worker.stop(handle, grace_seconds=0.1)
                await worker.stop(handle, grace_seconds=0.1)
                assert (await wait_for_end(worker, handle)).exit_code != 0

        run(scenario())

    def test_stopping_what_is_gone_is_fine(self, platform: Platform) -> None:
        async def scenario() -> None:
            async with working(platform) as worker:
                handle = await launch(worker, platform.exits_with(0))
                await wait_for_end(worker, handle)
                await worker.stop(handle, grace_seconds=0)
                assert (await observe(worker, handle)).exit_code == 0
                await worker.cleanup(handle)
                await worker.stop(handle, grace_seconds=0)

        run(scenario())

    def test_cleaning_up_leaves_nothing_and_may_be_repeated(self, platform: Platform) -> None:
        async def scenario() -> None:
            async with working(platform) as worker:
                handle = await launch(worker, platform.exits_with(0))
                await wait_for_end(worker, handle)
                await worker.cleanup(handle)
                await worker.cleanup(handle)
                assert await worker.find([handle.job_id]) == {}
                assert (await observe(worker, handle)).phase is Phase.GONE

        run(scenario())

    def test_the_end_of_a_job_wakes_who_waits_for_a_change(self, platform: Platform) -> None:
        async def scenario() -> None:
            async with working(platform) as worker:
                handle = await launch(worker, platform.waits())
                await wait_for_running(worker, handle)
                waiter = asyncio.create_task(worker.wait_for_change())
                await worker.stop(handle, grace_seconds=0)
                await asyncio.wait_for(waiter, PATIENCE_SECONDS)
                await wait_for_end(worker, handle)

        run(scenario())


class LeftBehindContract:
    """What holds for every kind of infrastructure on which jobs stay until they are removed."""

    def test_what_an_airflow_left_behind_is_found_and_nothing_of_another(self, platform: Platform) -> None:
        async def scenario() -> None:
            ours, other = str(uuid.uuid4()), str(uuid.uuid4())
            of_both = [_of(platform.exits_with(0), whose) for whose in (ours, ours, other)]
            async with working(platform) as worker:
                handles = [await launch(worker, spec) for spec in (*of_both, platform.exits_with(0))]
                for handle in handles:
                    await wait_for_end(worker, handle)
            async with working(platform) as later:
                assert isinstance(later, MayLeaveBehind)
                before = datetime.now(timezone.utc)
                assert await later.left_behind(ours, before=before - timedelta(minutes=10)) == []
                left = await later.left_behind(ours, before=before + timedelta(minutes=10))
                assert sorted(map(_data, left)) == sorted(map(_data, handles[:2]))
                await later.observe(left[:1])
                for handle in left:
                    await later.cleanup(handle)
                assert await later.left_behind(ours, before=before + timedelta(minutes=10)) == []
                assert (await observe(later, handles[2])).phase is Phase.EXITED
                await later.cleanup(handles[2])
                await later.cleanup(handles[3])

        run(scenario())

    def test_what_still_runs_is_left_behind_too(self, platform: Platform) -> None:
        async def scenario() -> None:
            ours = str(uuid.uuid4())
            async with working(platform) as worker:
                await wait_for_running(worker, await launch(worker, _of(platform.waits(), ours)))
            async with working(platform) as later:
                assert isinstance(later, MayLeaveBehind)
                soon = datetime.now(timezone.utc) + timedelta(minutes=10)
                [handle] = await later.left_behind(ours, before=soon)
                assert not (await observe(later, handle)).ended
                await later.stop(handle, grace_seconds=0.1)
                await wait_for_end(later, handle)
                await later.cleanup(handle)

        run(scenario())


def _of(spec: LaunchSpec, installation: str) -> LaunchSpec:
    return dataclasses.replace(spec, labels={**spec.labels, "installation": installation})


def _data(handle: Handle) -> str:
    return json.dumps([str(handle.job_id), dict(handle.data)], sort_keys=True)


async def follow(
    worker: Infrastructure, handle: Handle, *, offset: int = 0, until: bytes | None = None
) -> bytes:
    """Return what is read of a job's log from an offset on, until it ends or has this in it."""
    assert isinstance(worker, HasLog)

    async def read() -> bytes:
        log = b""
        async with aclosing(worker.follow_log(handle, offset=offset)) as chunks:
            async for chunk in chunks:
                log += chunk
                if until is not None and until in log:
                    break
        return log

    return await asyncio.wait_for(read(), PATIENCE_SECONDS)


class LogContract:
    """What holds for every kind of infrastructure that keeps its jobs' logs."""

    def test_the_log_of_a_job_that_has_ended_is_read_to_its_end(self, platform: LogPlatform) -> None:
        async def scenario() -> None:
            async with working(platform) as worker:
                handle = await launch(worker, platform.writes("one", "two", "three"))
                await wait_for_end(worker, handle)
                assert await follow(worker, handle) == b"one\ntwo\nthree\n"

        run(scenario())

    def test_what_a_job_writes_is_read_while_it_runs(self, platform: LogPlatform) -> None:
        async def scenario() -> None:
            async with working(platform) as worker:
                handle = await launch(worker, platform.writes("one", "two", goes_on=True))
                assert await follow(worker, handle, until=b"two\n") == b"one\ntwo\n"
                assert (await observe(worker, handle)).phase is Phase.RUNNING
                await worker.stop(handle, grace_seconds=0)
                await wait_for_end(worker, handle)

        run(scenario())

    def test_following_a_log_ends_when_the_job_does(self, platform: LogPlatform) -> None:
        async def scenario() -> None:
            async with working(platform) as worker:
                handle = await launch(worker, platform.writes("one", goes_on=True))
                following = asyncio.create_task(follow(worker, handle))
                await follow(worker, handle, until=b"one\n")
                await worker.stop(handle, grace_seconds=0)
                assert await following == b"one\n"

        run(scenario())

    def test_another_worker_goes_on_reading_at_an_offset(self, platform: LogPlatform) -> None:
        async def scenario() -> None:
            async with working(platform) as worker:
                handle = await launch(worker, platform.writes("one", "two", goes_on=True))
                await follow(worker, handle, until=b"two\n")
            async with working(platform) as later:
                assert await follow(later, handle, offset=2, until=b"two\n") == b"e\ntwo\n"
                assert await follow(later, handle, offset=4, until=b"two\n") == b"two\n"
                await later.stop(handle, grace_seconds=0)
                await wait_for_end(later, handle)
                assert await follow(later, handle, offset=4) == b"two\n"
                assert await follow(later, handle, offset=8) == b""

        run(scenario())

    def test_following_the_log_of_what_is_gone_ends_at_once(self, platform: LogPlatform) -> None:
        async def scenario() -> None:
            async with working(platform) as worker:
                handle = await launch(worker, platform.writes("one"))
                await wait_for_end(worker, handle)
                await worker.cleanup(handle)
                assert await follow(worker, handle) == b""

        run(scenario())
