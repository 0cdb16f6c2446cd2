# SPDX-License-Identifier: Apache-2.0
"""Tokens are changed, expire and are revoked while workers work: real workers, real requests, real processes."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter

import httpx
import pytest

from airflow_workpools.core.jobs import JobState
from airflow_workpools.errors import ApiRefused, TokenNotTaken
from airflow_workpools.store.records import WorkerState
from tests.store.hosts import Host, at_work, before_long, play, said
from tests.store.rigs import NOW, later
from tests.store.worker_api import pull_pool

WAY = "make another one with `airflow workpools token create`"


def few(told: list[str]) -> bool:
    """Say whether something was told once: twice, where a heartbeat that was under way was answered well between."""
    return 1 <= len(told) <= 2


class Refusals(httpx.BaseTransport):
    """A line that counts what is answered."""

    def __init__(self) -> None:
        self._inner = httpx.HTTPTransport()
        self.statuses: Counter[int] = Counter()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._inner.handle_request(request)
        self.statuses[response.status_code] += 1
        return response


def test_another_token_is_taken_from_the_file_when_the_first_is_revoked_and_no_job_is_lost(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        first = host.put_token()
        worker = host.worker()
        async with at_work(worker):
            job = await host.running()
            second = host.put_token()
            host.revoke(first)
            await before_long(lambda: host.api.rig.store.worker(worker.record.id).token_id == second)
            later_job = await host.running()
            for one in (job, later_job):
                await host.release(one)
                await before_long(lambda one=one: host.state(one) is JobState.SUCCEEDED)
                assert host.platform.times_run(one) == 1
        assert [one.id for one in host.api.rig.store.run_state(now=NOW).workers] == [worker.record.id]

    play(scenario)
    assert len(said(caplog, "there is another token in")) == 1
    assert not said(caplog, "taken for dead")
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_jobs_go_on_without_a_good_token_and_what_became_of_them_is_told_with_the_next(
    host: Host, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    async def scenario() -> None:
        token = host.put_token(expires_at=later(60))
        line = Refusals()
        async with at_work(host.worker(transport=line)):
            job = await host.running()
            if how == "revoked":
                host.revoke(token)
            else:
                host.api.now = later(60)
            await before_long(lambda: said(caplog, f"token {token} "))
            assert host.platform.times_run(job) == 1
            await host.release(job)
            await before_long(lambda: host.journal.job_ids() == {job.job_id})
            await asyncio.sleep(1)  # in which it would ask twenty times
            assert host.state(job) is JobState.RUNNING
            assert line.statuses[401] < 8
            host.put_token()
            await before_long(lambda: host.state(job) is JobState.SUCCEEDED)
            await before_long(lambda: not host.journal.job_ids())
        told = said(caplog, "Jobs go on")[0]
        where = f"{WAY}, and put it into {host.token_file}: it is read again, without a restart"
        assert f"token {token} " in told
        assert where in told

    play(scenario)
    assert few(said(caplog, WAY))
    assert "Traceback" not in caplog.text


def test_a_token_that_is_of_no_use_either_is_told_of_and_the_next_is_taken(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        first = host.put_token()
        async with at_work(host.worker()):
            job = await host.running()
            host.token_file.write_text("")
            host.revoke(first)
            await before_long(lambda: said(caplog, f"there is no token in {host.token_file}"))
            host.put_token("ml")
            await before_long(lambda: said(caplog, "is not for work pool 'etl'; it is for 'ml'"))
            # It opens something, but not this: it has to be revoked, as it would be.
            host.revoke(host.token_file.read_text().split("_")[1])
            host.put_token()
            await host.release(job)
            await before_long(lambda: host.state(job) is JobState.SUCCEEDED)

    play(scenario)


def test_without_a_file_it_is_said_that_the_worker_has_to_be_started_anew(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        token = host.put_token()
        worker = host.worker(with_file=False)
        async with at_work(worker):
            job = await host.running()
            host.revoke(token)
            await before_long(lambda: said(caplog, f"{WAY}, and start the worker with it"))
        host.put_token()
        async with at_work(host.worker(with_file=False)):
            host.api.rig.store.stop_worker(worker.record.id, now=NOW)  # as when it was silent for long
            await host.release(job)
            await before_long(lambda: host.state(job) is JobState.SUCCEEDED)

    play(scenario)


def test_a_worker_that_was_drained_is_so_with_another_token_too(host: Host) -> None:
    async def scenario() -> None:
        first = host.put_token()
        worker = host.worker()
        store = host.api.rig.store
        async with at_work(worker):
            await before_long(lambda: store.run_state(now=NOW).workers)
            store.drain_worker(worker.record.id)
            second = host.put_token()
            host.revoke(first)
            await before_long(lambda: store.worker(worker.record.id).token_id == second)
            await before_long(lambda: store.worker(worker.record.id).state is WorkerState.DRAINING)

    play(scenario)


def test_a_worker_is_another_tokens_only_when_its_own_opens_nothing_and_the_other_is_for_its_pools(
    host: Host,
) -> None:
    api = host.api
    api.pools["ml"] = pull_pool("ml")
    text = api.token("etl", "ml")
    worker = api.online(api.client("etl", "ml", token=text), "etl", "ml")

    def come(*pools: str) -> None:
        client = api.client(*pools)
        for _ in range(2):  # the first has the number of the call with which the worker came
            api.online(client, *pools, id=worker.id)

    with pytest.raises(TokenNotTaken, match="another token"):
        come("etl", "ml")
    api.tokens.revoke(text.split("_")[1], now=NOW)
    with pytest.raises(ApiRefused, match="is not for work pool 'ml'"):
        come("etl")
    come("etl", "ml")
    assert api.rig.store.worker(worker.id).token_id != text.split("_")[1]


def test_a_worker_comes_back_though_one_of_its_pools_is_gone(host: Host) -> None:
    api = host.api
    api.pools["ml"] = pull_pool("ml")
    client = api.client("etl", "ml")
    worker = api.online(client, "etl", "ml")
    del api.pools["ml"]
    api.rig.store.stop_worker(worker.id, now=NOW)
    client.register(worker, now=NOW)
    assert client.heartbeat(worker.id, hindered={}, now=NOW) is WorkerState.ONLINE
    with pytest.raises(ApiRefused, match="there is no work pool 'ml'"):
        api.online(client, "etl", "ml", id=uuid.uuid4())


def test_what_opens_nothing_any_more_is_no_guess(host: Host) -> None:
    """Many workers behind one address show a token that was revoked; those with a new one are not kept waiting."""
    api = host.api
    old = api.token("etl")
    api.tokens.revoke(old.split("_")[1], now=api.now)
    answers = [api.post("pools", old, {"pools": ["etl"]}).status_code for _ in range(20)]
    assert answers == [401] * 20
    assert api.post("pools", api.token("etl"), {"pools": ["etl"]}).status_code == 200


# -- versions -------------------------------------------------------------------------------------------------


def test_a_worker_that_is_too_old_ends_with_the_last_of_its_jobs_and_the_next_one_tells_of_it(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        host.put_token()
        worker = host.worker()
        ours = host.api.access.version
        async with at_work(worker) as working:
            job = await host.running()
            host.api.access.version = "9.9.0"
            await before_long(lambda: said(caplog, "ends when none of its jobs runs"))
            assert not working.done()
            await host.release(job)
            await asyncio.wait_for(working, 60)
        assert "9.9.0" in str(worker.refusal)
        assert host.state(job) is JobState.RUNNING
        assert few(said(caplog, "9.9.0"))
        # The API server goes back, or the worker is upgraded.
        host.api.access.version = ours
        host.api.rig.store.stop_worker(worker.record.id, now=NOW)
        async with at_work(host.worker()):
            await before_long(lambda: host.state(job) is JobState.SUCCEEDED)
        assert host.platform.times_run(job) == 1

    play(scenario)


def test_a_worker_without_jobs_that_is_too_old_ends_at_once(host: Host) -> None:
    async def scenario() -> None:
        host.put_token()
        worker = host.worker()
        host.api.access.version = "9.9.0"
        async with at_work(worker) as working:
            await asyncio.wait_for(working, 60)
        assert "9.9.0" in str(worker.refusal)

    play(scenario)
