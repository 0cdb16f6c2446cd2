# SPDX-License-Identifier: Apache-2.0
"""A crowd: work pools, task instances and jobs in Airflow's real tables, as many as a benchmark wants.

A run has :data:`RUN_TASKS` tasks, which belong to all queues of one pool in turn; two DAGs share a pool. What runs
belongs to runs of its own, as small as it takes to have one in every pool; it has a job each, and fills every pool to
its limit.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import sqlalchemy as sa

from airflow_workpools.core.names import WorkQueueRef

RUN_TASKS = 100
"""Tasks of a run."""
SCHEDULER = 7
"""Id of the scheduler that has handed the jobs over."""
WORKER = uuid.UUID(int=7)
"""The worker that has them."""


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """How much there is."""

    pools: int = 50
    queues: int = 10
    """Queues of each pool, ``default`` among them."""
    waiting: int = 0
    """Task instances that are ``scheduled``."""
    running: int = 0
    """Task instances that are ``running``, and their jobs."""
    pending: int = 0
    """Jobs that wait to be claimed."""

    @property
    def limit(self) -> int | None:
        """Each pool's limit: what runs fills it. Without anything that runs, there is none."""
        return -(-self.running // self.pools) or None


def fill(engine: sa.Engine, crowd: Crowd) -> None:
    """Empty Airflow's tables and ours, and put a crowd there."""
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "TRUNCATE workpool_job, workpool_queue, workpool_pool, workpool_worker, task_instance, dag_run, dag,"
            " connection, log CASCADE"
        )
        connection.exec_driver_sql("DELETE FROM slot_pool WHERE pool <> 'default_pool'")
        connection.exec_driver_sql(
            "INSERT INTO dag_bundle (name, active) VALUES ('dags', true) ON CONFLICT DO NOTHING"
        )
        _add_pools(connection, crowd)
        connection.execute(sa.text(_WORKER), {"id": WORKER, "now": datetime.now(timezone.utc)})
        for kind, state, number in (
            ("waiting", "scheduled", crowd.waiting),
            ("running", "running", crowd.running),
        ):
            run_tasks = max(1, min(RUN_TASKS, number // crowd.pools)) if kind == "running" else RUN_TASKS
            values = {"kind": kind, "state": state, "number": number, "run_tasks": run_tasks}
            values |= {"pools": crowd.pools, "queues": crowd.queues}
            if number:
                _add_runs(connection, crowd, kind, -(-number // run_tasks))
                connection.execute(sa.text(_TASKS), values)
        connection.execute(sa.text(_JOBS), {"worker": WORKER, "scheduler": SCHEDULER})
        pending = {
            "pools": crowd.pools,
            "queues": crowd.queues,
            "number": crowd.pending,
            "scheduler": SCHEDULER,
        }
        connection.execute(sa.text(_PENDING), pending)
    settle(engine)


def settle(engine: sa.Engine) -> None:
    """Do what autovacuum would have done by now; it is switched off, so that it disturbs no figure."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
        connection.exec_driver_sql("CHECKPOINT")


def pool_name(number: int) -> str:
    return f"pool{number}"


def queue_names(queues: int) -> list[str]:
    return ["default", *(f"queue{n}" for n in range(1, queues))]


def _add_pools(connection: sa.Connection, crowd: Crowd) -> None:
    queues = [
        {"name": name, "priority": 10 + number} for number, name in enumerate(queue_names(crowd.queues))
    ]
    extra = {"type": "process", "queues": queues, "concurrency_limit": crowd.limit}
    connection.execute(
        sa.text(
            "INSERT INTO connection (conn_id, conn_type, extra, is_encrypted, is_extra_encrypted)"
            " VALUES (:name, 'workpool', :extra, false, false)"
        ),
        [{"name": pool_name(n), "extra": json.dumps(extra)} for n in range(crowd.pools)],
    )


def _add_runs(connection: sa.Connection, crowd: Crowd, kind: str, runs: int) -> None:
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun

    now = datetime.now(timezone.utc)
    dags = [f"{kind}{n}" for n in range(2 * crowd.pools)]
    dag = {"is_paused": False, "bundle_name": "dags", "max_active_runs": 16, "is_stale": False}
    dag |= {"max_active_tasks": 1000 if kind == "running" else 16, "max_consecutive_failed_dag_runs": 0}
    dag |= {"has_task_concurrency_limits": False, "exceeds_max_non_backfill": False}
    connection.execute(sa.insert(DagModel.__table__), [dag | {"dag_id": name} for name in dags])
    run = {"run_type": "manual", "run_after": now, "state": "running"}
    connection.execute(
        sa.insert(DagRun.__table__),
        [
            run
            | {"dag_id": dags[n % len(dags)], "run_id": f"run{n}", "logical_date": now - timedelta(minutes=n)}
            for n in range(runs)
        ],
    )


def airflow_pool(pool: int, queue: int) -> str:
    name = "default" if queue == 0 else f"queue{queue}"
    return WorkQueueRef(pool_name(pool), name).airflow_pool


_WORKER = """
INSERT INTO workpool_worker (id, name, hostname, kind, state, started_at, last_heartbeat_at, heartbeat_seconds, version,
                             steady_since)
VALUES (:id, 'worker', 'here', 'embedded', 'online', :now, :now, 86400, '1', :now)
"""
_TASKS = """
INSERT INTO task_instance (id, dag_id, run_id, task_id, map_index, try_number, pool, pool_slots, queue, state,
                           priority_weight, updated_at, scheduled_dttm, start_date, hostname, queued_by_job_id)
SELECT gen_random_uuid(), :kind || run % (2 * :pools), 'run' || run, 'task' || n % :run_tasks, -1, 1,
       CASE WHEN queue = 0 THEN 'pool' || pool ELSE 'pool' || pool || '.queue' || queue END, 1,
       CASE WHEN queue = 0 THEN 'pool' || pool || '/default' ELSE 'pool' || pool || '/queue' || queue END,
       :state, (99 - queue) * 100000 + 1, now(), now(), now(), '', 7
FROM (
    SELECT n, n / :run_tasks AS run, n / :run_tasks % :pools AS pool, n % :run_tasks % :queues AS queue
    FROM generate_series(0, :number - 1) n
) numbers
"""
_JOBS = """
INSERT INTO workpool_job (id, task_instance_id, round, dag_id, task_id, run_id, map_index, try_number, pool, queue,
                          pool_slots, priority_weight, state, workload, job_variables, worker_id, scheduler_job_id,
                          start_timeout_seconds, start_attempts, handed_over_at, claimed_at, started_at)
SELECT id, id, 0, dag_id, task_id, run_id, -1, 1, split_part(queue, '/', 1), split_part(queue, '/', 2), 1,
       priority_weight, 'running', '{}', '{}', :worker, :scheduler, 600, 0, now(), now(), now()
FROM task_instance WHERE state = 'running'
"""
_PENDING = """
INSERT INTO workpool_job (id, task_instance_id, round, dag_id, task_id, run_id, map_index, try_number, pool, queue,
                          pool_slots, priority_weight, state, workload, job_variables, scheduler_job_id,
                          start_timeout_seconds, start_attempts, handed_over_at)
SELECT id, id, 0, 'dag', 'task' || n, 'run', -1, 1, 'pool' || n % :pools,
       CASE WHEN n / :pools % :queues = 0 THEN 'default' ELSE 'queue' || n / :pools % :queues END, 1, n % 10, 'pending',
       repeat('x', 1500), '{}', :scheduler, 600, 0, now()
FROM (SELECT n, gen_random_uuid() AS id FROM generate_series(0, :number - 1) n) numbers
"""
