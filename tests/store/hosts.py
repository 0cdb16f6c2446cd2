# SPDX-License-Identifier: Apache-2.0
"""Hosts of standalone workers: real loops that speak with a real server of the worker API, and start real processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.infrastructure.process import ElsewhereProcessInfrastructure, ProcessRunner
from airflow_workpools.store.records import WorkerKind
from airflow_workpools.worker.http_client import HttpClient
from airflow_workpools.worker.journal import Journal
from airflow_workpools.worker.log_shipper import LogTimes
from airflow_workpools.worker.loop import Worker
from tests.store.rigs import new_job, new_worker
from tests.unit.process_platform import ElsewhereProcessPlatform
from tests.unit.test_worker_loop import QUICK, until

if TYPE_CHECKING:
    import httpx

    from airflow_workpools.core.jobs import JobState
    from airflow_workpools.infrastructure.base import LaunchSpec
    from tests.store.worker_api import Api

TIMES = replace(
    QUICK,
    heartbeat=0.05,
    claim=0.1,
    wishes=0.05,
    heartbeats_per_take_over=2,
    settle=20.0,
    logs=LogTimes(collect=0.05, wait_at_end=0.5),
)
TASK = "tests.unit.process_tasks:ScriptedTask"


@dataclass
class Host:
    """A machine with a home for workers and a file with their token."""

    api: Api
    platform: ElsewhereProcessPlatform
    name: str = "here"

    def __post_init__(self) -> None:
        self.token_file = self.platform.path / "token"
        self.journal = Journal(self.platform.path / "reports")

    def put_token(self, *pools: str, **values: Any) -> str:
        """Make a token, put it into the file, and return its id."""
        text = self.api.token(*(pools or ("etl",)), **values)
        self.token_file.write_text(text + "\n")
        return text.split("_")[1]

    def revoke(self, token_id: str) -> None:
        self.api.tokens.revoke(token_id, now=self.api.now)

    def worker(self, *, with_file: bool = True, transport: httpx.BaseTransport | None = None) -> Worker:
        """Return a worker of this host, with the token that is in the file now."""
        worker = make_worker(
            self.api.url,
            self.token_file,
            self.platform.path,
            hostname=self.name,
            with_file=with_file,
            transport=transport,
        )
        self.api._clients.append(worker.client)  # type: ignore[arg-type]
        return worker

    def hand_over(self, do: str = "wait") -> LaunchSpec:
        """Hand over a job that does this; return it as the platform knows it."""
        made = self.platform.spec(do)
        (job_id,) = self.api.rig.hand_over(
            new_job(task_instance_id=made.job_id, workload=made.workload), now=self.api.now
        )
        assert job_id == made.job_id
        return made

    def state(self, spec: LaunchSpec) -> JobState:
        return self.api.rig.state(spec.job_id)

    async def running(self, do: str = "wait") -> LaunchSpec:
        """Hand over a job and wait until it runs."""
        made = self.hand_over(do)
        await until(lambda: self.state(made).value == "running" and self.platform.diary(made), 30)
        return made

    async def release(self, spec: LaunchSpec) -> None:
        """Let a job end that waits."""
        await asyncio.to_thread(self.platform.release, spec)


def make_worker(
    url: str,
    token_file: Path,
    path: Path,
    *,
    hostname: str = "here",
    with_file: bool = True,
    transport: httpx.BaseTransport | None = None,
) -> Worker:
    """Return a worker whose home is in this folder, with the token that is in the file now."""
    client = HttpClient(
        url,
        token_file.read_text().strip(),
        kinds=frozenset({"process"}),
        pools=("etl",),
        token_file=token_file if with_file else None,
        timeout_seconds=20,
        transport=transport,
    )
    now = datetime.now(timezone.utc)
    processes = ElsewhereProcessInfrastructure(
        home=path / "home", start_runner=lambda: ProcessRunner.spawn(TASK)
    )
    return Worker(
        record=new_worker(kind=WorkerKind.STANDALONE, pools=("etl",), hostname=hostname, started_at=now),
        client=client,
        infrastructures={"process": processes},
        clock=lambda: datetime.now(timezone.utc),
        environ={},
        times=TIMES,
        journal=Journal(path / "reports"),
    )


@contextlib.asynccontextmanager
async def at_work(worker: Worker) -> AsyncIterator[asyncio.Task[None]]:
    """Let a worker work for a while; its jobs go on afterwards."""
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        worker.stop()
        await task


async def before_long(condition: Callable[[], object]) -> None:
    """Return when something has become true; that takes real processes and real requests."""
    await until(condition, 30)


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


def said(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    """Return what was logged with these words in it."""
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]
