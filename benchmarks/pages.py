# SPDX-License-Identifier: Apache-2.0
"""How long the pages of Airflow's UI wait for their answers: the pool API with all that Airflow puts around it.

Requests go through the app as Airflow's API server mounts it, with a login that it checks, to PostgreSQL; what is
missing is the way over the network.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from airflow_workpools.api.pools.paging import job_cursor
from benchmarks.crowd import Crowd, fill, pool_name, settle
from benchmarks.measuring import summary

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

DAGS = 1_000
"""DAGs of the jobs that are over, as many of each."""
DAYS = 7
"""The time in which they were handed over."""


@dataclass(frozen=True, kw_only=True)
class Past:
    """How much there is to look at."""

    crowd: Crowd
    over: int
    """Jobs of one pool that are over."""


def measure_pages(engine: sa.Engine, past: Past, times: int) -> dict[str, Any]:
    """Measure the list of pools, and pages of a pool's jobs with different filters."""
    fill(engine, past.crowd)
    with engine.begin() as connection:
        connection.execute(
            sa.text(_OVER),
            {
                "pool": pool_name(0),
                "number": past.over,
                "queues": past.crowd.queues,
                "dags": DAGS,
                "days": DAYS,
            },
        )
    settle(engine)
    client = _client()
    pool = f"/v1/pools/{pool_name(0)}"
    questions = {
        "the list": "/v1/pools",
        "a pool": pool,
        "all jobs": f"{pool}/jobs",
        "failed jobs": f"{pool}/jobs?state=failed",
        "jobs of a queue": f"{pool}/jobs?queue=queue1",
        "jobs of a DAG": f"{pool}/jobs?dag_id=over7",
        "failed jobs of a queue and a DAG": f"{pool}/jobs?queue=queue1&dag_id=over11&state=failed",
    }
    questions["jobs in the middle"] = f"{pool}/jobs?cursor={_middle(engine, past)}"
    found: dict[str, Any] = {"past": asdict(past)}
    for name, path in questions.items():
        first, *others = [_ask(client, path) for _ in range(1 + times)]
        found[name] = {"first": first, **summary(others)}
    return found


def _middle(engine: sa.Engine, past: Past) -> str:
    """Return the cursor of the page that begins in the middle of all jobs that are over."""
    statement = (
        "SELECT * FROM workpool_job WHERE ended_at IS NOT NULL ORDER BY handed_over_at OFFSET :half LIMIT 1"
    )
    with engine.connect() as connection:
        row: Any = connection.execute(sa.text(statement), {"half": past.over // 2}).one()
    return job_cursor(row)


def _ask(client: TestClient, path: str) -> float:
    """Return how many milliseconds an answer takes."""
    began = time.perf_counter()
    answer = client.get(path)
    took = (time.perf_counter() - began) * 1000
    assert answer.status_code == 200, (path, answer.text)
    return took


def _client() -> TestClient:
    from airflow.api_fastapi.app import create_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    from airflow_workpools.api.pools.mounted import mounted_pool_app

    token = create_auth_manager().generate_jwt(SimpleAuthManagerUser(username="viewer", role="viewer"))
    return TestClient(mounted_pool_app(), headers={"Authorization": f"Bearer {token}"})


_OVER = """
INSERT INTO workpool_job (id, task_instance_id, round, dag_id, task_id, run_id, map_index, try_number, pool, queue,
                          pool_slots, priority_weight, state, reason, exit_code, workload, job_variables, worker_id,
                          scheduler_job_id, start_timeout_seconds, start_attempts, handed_over_at, claimed_at,
                          started_at, ended_at, reported_at)
SELECT id, id, 0, 'over' || n % :dags, 'task', 'run' || n, -1, 1, :pool,
       CASE WHEN n % :queues = 0 THEN 'default' ELSE 'queue' || n % :queues END, 1, 1,
       CASE WHEN n % 97 = 0 THEN 'failed' WHEN n % 101 = 0 THEN 'cancelled' ELSE 'succeeded' END, 'over', 0,
       repeat('x', 1500), '{}', NULL, 7, 600, 0, at, at + interval '3 seconds', at + interval '4 seconds',
       at + interval '1 minute', at + interval '1 minute'
FROM (
    SELECT n, gen_random_uuid() AS id, now() - (:days * interval '1 day') * n / :number AS at
    FROM generate_series(1, :number) n
) numbers
"""
