# SPDX-License-Identifier: Apache-2.0
"""What keeps a worker from launching any process job at all: it is said, and the jobs wait."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.base import LaunchSpec, MayBeHindered
from airflow_workpools.infrastructure.process import ProcessInfrastructure, ProcessRunner

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


def dead_at_birth() -> ProcessRunner:
    """Start a runner that ends at once."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(["true"], pass_fds=[theirs.fileno()])
    theirs.close()
    process.returncode = 0  # the runner's other side waits for it
    return ProcessRunner(ours, process.pid)


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def spec() -> LaunchSpec:
    return LaunchSpec(job_id=uuid.uuid4(), configuration={}, workload="{}", labels={})


def test_a_runner_that_dies_at_every_start_is_started_after_growing_delays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    early: list[bool] = []

    async def scenario() -> None:
        def start() -> ProcessRunner:
            early.append(asyncio.get_running_loop().time() < infrastructure._start_at)
            return dead_at_birth()

        infrastructure = ProcessInfrastructure(home=tmp_path, connection=None, start_runner=start)
        assert isinstance(infrastructure, MayBeHindered)
        infrastructure._runner_backoff.initial = 0.05
        infrastructure._runner_backoff.draw = lambda: 1.0
        await infrastructure.open()
        for failures in range(1, 4):
            await until(lambda failures=failures: infrastructure._runner_backoff.failures == failures)
            if failures < 3:
                with pytest.raises(InfrastructureUnavailable):
                    async for _ in infrastructure.launch(spec()):
                        pass
        hindrance = infrastructure.hindrance() or ""
        assert "the process runner has ended at its start 3 times in a row" in hindrance
        await infrastructure.close()

    run(scenario())
    assert early == [False] * 3
    assert "3 times in a row" in caplog.text


def test_a_home_that_cannot_be_made_is_named_with_the_way_out() -> None:
    async def scenario() -> None:
        infrastructure = ProcessInfrastructure(home=Path("/proc/nobody-can-make-this"), connection=None)
        with pytest.raises(InfrastructureUnavailable, match=r"/proc/nobody-can-make-this.*workpools. home"):
            await infrastructure.open()
        assert "can't be written to" in (infrastructure.hindrance() or "")

    run(scenario())
