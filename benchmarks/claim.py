# SPDX-License-Identifier: Apache-2.0
"""How many jobs a second workers can claim together: processes that claim from the same pools all at once."""

from __future__ import annotations

import multiprocessing
import time
import uuid
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from benchmarks.crowd import Crowd, pool_name, queue_names

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

    from airflow_workpools.core.pools import WorkPool

CLAIMERS = 8


def measure_claims(
    engine: sa.Engine, crowd: Crowd, *, most: int, jobs: int, claimers: int = CLAIMERS
) -> dict[str, Any]:
    """Let workers claim until so many jobs are claimed; all serve all pools.

    :param most: most jobs that a worker takes with one claim.
    """
    url = engine.url.render_as_string(hide_password=False)
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(claimers + 1), context.Queue()
    processes = [
        context.Process(target=_claim_for_ever, args=(url, crowd, most, jobs // claimers, barrier, results))
        for _ in range(claimers)
    ]
    for process in processes:
        process.start()
    barrier.wait(timeout=120)
    began = time.perf_counter()
    found = [results.get(timeout=300) for _ in processes]
    seconds = time.perf_counter() - began
    for process in processes:
        process.join()
    claimed = sum(len(ids) for ids in found)
    distinct = len(set().union(*found))
    if distinct != claimed:
        raise SystemExit(
            f"{claimed - distinct} jobs were claimed twice; nothing measured here means anything"
        )
    return {"jobs_per_second": claimed / seconds, "claimed": claimed, "claimers": claimers, "most": most}


def work_pools_of(crowd: Crowd) -> list[WorkPool]:
    """Return the crowd's pools as workers know them."""
    from airflow_workpools.core.pools import WorkPool, WorkQueue
    from airflow_workpools.core.templates import BaseJobTemplate

    template = BaseJobTemplate(variables={}, job_configuration={})
    queues = tuple(
        WorkQueue(name=name, priority=10 + number, concurrency_limit=None)
        for number, name in enumerate(queue_names(crowd.queues))
    )
    limit = (
        1_000_000  # a pool that is full has nothing to claim; with a limit, all that runs has to be counted
    )
    return [
        WorkPool(
            name=pool_name(n),
            type="process",
            concurrency_limit=limit,
            queues=queues,
            base_job_template=template,
        )
        for n in range(crowd.pools)
    ]


def _claim_for_ever(url: str, crowd: Crowd, most: int, jobs: int, barrier: Barrier, results: Any) -> None:
    """Claim in a process of its own until there are ``jobs`` jobs."""
    from airflow_workpools.store.claim_rules import ANY_ROOM
    from airflow_workpools.store.jobs import SqlStore
    from airflow_workpools.store.records import WorkerKind, WorkerRecord
    from tests.store.databases import engine_for, session_factory

    engine = engine_for(url)
    store, pools, now = SqlStore(session_factory(engine)), work_pools_of(crowd), datetime.now(timezone.utc)
    worker = WorkerRecord(
        id=uuid.uuid4(),
        name="claimer",
        hostname="here",
        kind=WorkerKind.EMBEDDED,
        started_at=now,
        last_heartbeat_at=now,
        heartbeat_seconds=3600.0,
        version="1",
    )
    store.register_worker(worker, now=now)
    store.claim(worker.id, pools, room=ANY_ROOM, most=0, now=now)
    barrier.wait(timeout=120)
    taken: list[uuid.UUID] = []
    while len(taken) < jobs:
        found = store.claim(worker.id, pools, room=ANY_ROOM, most=most, now=datetime.now(timezone.utc))
        if not found:
            break
        taken += [job.id for job in found]
    results.put(taken)
    engine.dispose()
