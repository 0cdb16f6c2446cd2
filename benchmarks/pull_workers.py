# SPDX-License-Identifier: Apache-2.0
"""Workers that speak with a real API server from within the benchmark: many that wait, and one that is busy.

Those that wait are the worker's own loop with the client of standalone workers, and the same intervals; only what would
run jobs is missing, which does nothing while there are none. Each has a host, connections and a clock of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from airflow_workpools import __version__
from airflow_workpools.core.jobs import JobState
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store.records import Report, WorkerKind, WorkerRecord
from airflow_workpools.testing.fake_infrastructure import FakeInfrastructure
from airflow_workpools.worker.http_client import HttpClient
from airflow_workpools.worker.loop import Worker
from airflow_workpools.worker.standalone import WorkerOptions, worker_times
from benchmarks.pull_airflow import LIMIT, POOL, PullAirflow

WORKLOAD_BYTES = 1500
"""About as long as a real task's workload is."""
_PENDING = """
INSERT INTO workpool_job (id, task_instance_id, round, dag_id, task_id, run_id, map_index, try_number, pool, queue,
                          pool_slots, priority_weight, state, workload, job_variables, scheduler_job_id,
                          start_timeout_seconds, start_attempts, handed_over_at)
SELECT id, id, 0, 'dag', 'task', 'run', n, 1, :pool, 'default', 1, 1, 'pending', :workload, '{}', 0, 600, 0, now()
FROM (SELECT n, gen_random_uuid() AS id FROM generate_series(0, :number - 1) n) numbers
"""


def measure_waiting(
    bench: PullAirflow, *, workers: int, seconds: float, spread_seconds: float, settle_seconds: float
) -> dict[str, Any]:
    """Let workers wait for work; return the CPU that this costs, in per cent of one core.

    :param spread_seconds: within this time they come online one after the other.
    :param settle_seconds: time until it is measured, once all are online.
    """
    before = bench.cpu()
    time.sleep(seconds / 4)
    idle = _per_cent(before, bench.cpu(), seconds / 4)
    token = bench.token
    waited = _wait(bench, token, workers, seconds, spread_seconds / workers, settle_seconds)
    return {"idle": idle} | asyncio.run(waited)


async def _wait(
    bench: PullAirflow, token: str, workers: int, seconds: float, pause: float, settle_seconds: float
) -> dict[str, Any]:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4 * workers))
    asked: list[str] = []
    crowd = [_waiting_worker(bench, token, number, asked) for number in range(workers)]
    running = []
    for worker in crowd:
        running.append(asyncio.create_task(worker.run()))
        await asyncio.sleep(pause)
    while await asyncio.to_thread(bench.workers_online) < workers:
        bench.airflow.check_alive()
        await asyncio.sleep(0.5)
    await asyncio.sleep(settle_seconds)
    asked.clear()
    began, before = time.monotonic(), bench.cpu()
    await asyncio.sleep(seconds)
    took, after = time.monotonic() - began, bench.cpu()
    requests = Counter(asked)
    online = await asyncio.to_thread(bench.workers_online)
    for worker in crowd:
        worker.stop()
    await asyncio.gather(*running)
    if online != workers:
        raise SystemExit(
            f"only {online} of {workers} workers were online; nothing measured here means anything"
        )
    return {
        "workers": workers,
        "seconds": took,
        "per_cent": _per_cent(before, after, took),
        "requests_per_second": {name: count / took for name, count in requests.most_common()},
    }


def _per_cent(before: dict[str, float], after: dict[str, float], seconds: float) -> dict[str, float]:
    return {name: 100 * (after[name] - before[name]) / seconds for name in after}


def _waiting_worker(bench: PullAirflow, token: str, number: int, asked: list[str]) -> Worker:
    name = f"waiting-{number}"
    client = _client(bench, token)

    def note(request: httpx.Request) -> None:
        asked.append(request.url.path.rpartition("/")[2])

    client._line._http.event_hooks = {"request": [note]}
    options = WorkerOptions(url=bench.airflow.url, token=token, pools=(POOL,), name=name, home=Path("none"))
    return Worker(
        record=_record(name, options.heartbeat_seconds),
        client=client,
        infrastructures={"process": FakeInfrastructure()},
        clock=_now,
        environ={},
        times=worker_times(options),
        limit=LIMIT,
    )


def measure_throughput(bench: PullAirflow, *, jobs: int) -> dict[str, Any]:
    """Let one worker claim jobs, and report of each that it runs and that it has succeeded; as fast as it can."""
    engine = sa.create_engine(bench.airflow.database_url)
    client, worker = _client(bench, bench.token), _record("busy", 3600.0)
    workload = json.dumps({"type": "ExecuteTask", "filled_up_with": "x" * WORKLOAD_BYTES})
    values = {"pool": POOL, "workload": workload, "number": jobs + LIMIT}
    client.register(worker, now=_now())
    try:
        with engine.begin() as connection:
            connection.execute(sa.text(_PENDING), values)
        _work_off(client, worker.id)  # the first requests cost the API server more
        cpu, began, done = bench.cpu(), time.perf_counter(), 0
        while some := _work_off(client, worker.id):
            done += some
        seconds, spent = time.perf_counter() - began, bench.cpu()
        if done != jobs:
            raise SystemExit(f"{done} of {jobs} jobs were claimed; nothing measured here means anything")
    finally:
        client.stop(worker.id, now=_now())
        client.close()
        with engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM workpool_job"))
        engine.dispose()
    return {
        "jobs": jobs,
        "batch": LIMIT,
        "seconds": seconds,
        "jobs_per_second": jobs / seconds,
        "cpu_ms_per_job": {name: 1000 * (spent[name] - cpu[name]) / jobs for name in cpu},
    }


def _work_off(client: HttpClient, worker_id: uuid.UUID) -> int:
    """Claim as many jobs as a worker has room for, and take them to their end; return how many."""
    jobs = client.claim(worker_id, most=LIMIT, now=_now())
    reports = [
        [Report(job_id=job.id, state=JobState.RUNNING, handle=_handle(job.id)) for job in jobs],
        [Report(job_id=job.id, state=JobState.SUCCEEDED, exit_code=0) for job in jobs],
    ]
    for some in reports if jobs else ():
        refused = [outcome for outcome in client.report(worker_id, some, now=_now()) if not outcome.accepted]
        if refused:
            raise SystemExit(f"{len(refused)} reports were refused; nothing measured here means anything")
    return len(jobs)


def _handle(job_id: uuid.UUID) -> Handle:
    return Handle(job_id=job_id, kind="process", data={"pid": 4711})


def _client(bench: PullAirflow, token: str) -> HttpClient:
    return HttpClient(bench.airflow.url, token, kinds=frozenset({"process"}), pools=(POOL,))


def _record(name: str, heartbeat_seconds: float) -> WorkerRecord:
    return WorkerRecord(
        id=uuid.uuid4(),
        name=name,
        hostname=f"host-of-{name}",
        kind=WorkerKind.STANDALONE,
        pools=(POOL,),
        slots=LIMIT,
        started_at=_now(),
        last_heartbeat_at=_now(),
        heartbeat_seconds=heartbeat_seconds,
        version=__version__,
    )


def _now() -> datetime:
    return datetime.now(timezone.utc)
