# SPDX-License-Identifier: Apache-2.0
"""A worker that is killed at one point of a job's way."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any, NoReturn

from airflow_workpools.core.jobs import ENDED, JobState
from tests.store.hosts import make_worker

POINTS = ("claimed", "launched", "told that it runs", "seen to end", "told that it ended", "taken over")


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def main(url: str, folder: str, point: str) -> None:
    """Work for the API server at this address, with this folder as home, until it is at one of the points."""
    worker = make_worker(url, Path(folder) / "token", Path(folder))
    client: Any = worker.client
    processes: Any = worker.infrastructures["process"]
    claim, report, take_over, launch = client.claim, client.report, client.take_over, processes.launch

    def dying_claim(*args: Any, **kwargs: Any) -> Any:
        jobs = claim(*args, **kwargs)
        return die() if jobs else jobs

    async def dying_launch(spec: Any) -> Any:
        async for _ in launch(spec):
            die()
        yield  # never: it makes this a generator

    def dying_report(worker_id: Any, reports: Any, **kwargs: Any) -> Any:
        states = {one.state for one in reports}
        if point == "seen to end" and states & ENDED:
            die()
        outcomes = report(worker_id, reports, **kwargs)
        awaited = {JobState.RUNNING} if point == "told that it runs" else ENDED
        return die() if states & awaited else outcomes

    def dying_take_over(*args: Any, **kwargs: Any) -> Any:
        jobs = take_over(*args, **kwargs)
        return die() if jobs else jobs

    if point == "claimed":
        client.claim = dying_claim
    elif point == "launched":
        processes.launch = dying_launch
    elif point == "taken over":
        client.take_over = dying_take_over
    else:
        client.report = dying_report
    asyncio.run(worker.run())
