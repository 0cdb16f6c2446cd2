# SPDX-License-Identifier: Apache-2.0
"""What the database has when somebody looks: an hour of work, ten thousand jobs, markup wherever there is text."""

from __future__ import annotations

import json
import uuid
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from airflow_workpools.store import tables
from airflow_workpools.store.records import WorkerKind
from airflow_workpools.store.rows import job_row, worker_row
from tests.store.rigs import new_job, new_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.airflow.harness import AirflowInstance

PROBE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
"""What must be shown as it is, wherever people write something."""

CROWD_POOLS, CROWD_QUEUES, CROWD_JOBS = 50, 20, 10_000
_HOUR = timedelta(hours=1)


@contextmanager
def _database(airflow: AirflowInstance) -> Iterator[sa.Connection]:
    engine = sa.create_engine(airflow.local.database_url)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def _over(queue: str, handed_over: datetime, waited: float, ran: float, **values: Any) -> dict[str, Any]:
    """Return the row of a job that is over, and of which Airflow knows."""
    facts = {name: values.pop(name) for name in ("dag_id", "task_id", "run_id") if name in values}
    claimed = handed_over + timedelta(seconds=waited)
    started = claimed + timedelta(seconds=0.2)
    ended = started + timedelta(seconds=ran)
    times = {"claimed_at": claimed, "started_at": started, "ended_at": ended, "reported_at": ended}
    return {
        **job_row(new_job(queue, **facts), 0, handed_over),
        "state": "succeeded",
        "exit_code": 0,
        "reason": None,
        "handle": None,
        "worker_id": None,
        **times,
        **values,
    }


def an_hour_of_work(airflow: AirflowInstance, pool: str) -> None:
    """Let a pool of ten slots have worked: more and more, a burst of the higher queue, some failures."""
    since = datetime.now(timezone.utc) - _HOUR
    rows = []
    for n in range(300):
        queue = "critical" if n % 25 == 0 else "high" if n % 4 == 0 or 180 <= n < 220 else "low"
        waited = 0.05 if queue == "critical" else 1 + n % 7 if queue == "high" else 2 + n % 23
        failed = n % 40 == 17
        rows.append(
            _over(
                f"{pool}/{queue}",
                since + timedelta(seconds=12 * n),
                waited,
                20 + (n * 7) % 60 - waited + n / 10,
                dag_id="nightly_load" if queue == "low" else "customer_facts",
                task_id="load" if queue == "low" else "refresh",
                run_id=f"scheduled__2026-03-{1 + n % 28:02}T00:00:00+00:00",
                **(
                    {"state": "failed", "exit_code": 1, "reason": "the process ended with 1"}
                    if failed
                    else {}
                ),
            )
        )
    with _database(airflow) as connection:
        connection.execute(sa.insert(tables.jobs), rows)


def a_crowd(airflow: AirflowInstance) -> str:
    """Declare 50 pools of 20 queues that have run 10,000 jobs in the last hour; return the name of one."""
    # Nobody works for them: here it is the pages that are to be tried, not the scheduler.
    definition = {"type": "process", "delivery": "pull", "concurrency_limit": 40}
    queues = {f"queue-{n:02}": {"priority": n + 1} for n in range(1, CROWD_QUEUES)}
    names = [f"crowd-{n:02}" for n in range(CROWD_POOLS)]
    extra = json.dumps({**definition, "queues": queues})
    made = [{"connection_id": name, "conn_type": "workpool", "extra": extra} for name in names]
    airflow.api.call("PATCH", "connections", {"actions": [{"action": "create", "entities": made}]})
    since = datetime.now(timezone.utc) - _HOUR
    rows = []
    for n in range(CROWD_JOBS):
        queue = ["default", *queues][n // CROWD_POOLS % CROWD_QUEUES]
        at = since + timedelta(seconds=0.35 * n)
        rows.append(
            _over(f"{names[n % CROWD_POOLS]}/{queue}", at, n % 30, 10 + n % 90, dag_id=f"dag_{n % 9}")
        )
    with _database(airflow) as connection:
        connection.execute(sa.insert(tables.jobs), rows)
        connection.exec_driver_sql("ANALYZE workpool_job")
    return names[0]


def markup_everywhere(airflow: AirflowInstance, own_job: str) -> str:
    """Put markup wherever somebody can put text; return the name of the pool that has most of it.

    :param own_job: DAG id of a job that really ran, and is over.
    """
    now = datetime.now(timezone.utc)
    variables = {
        "type": "object",
        "properties": {
            "text": {"type": "string", "title": PROBE, "description": PROBE, "default": PROBE},
            "one": {"enum": [PROBE, "b"], "default": PROBE},
            PROBE: {"type": "object", "description": PROBE},
        },
    }
    airflow.create_pool(
        "probe",
        delivery="pull",
        description=PROBE,
        job_variables={"text": PROBE},
        queues={"low": {"description": PROBE, "job_variables": {PROBE: {PROBE: PROBE}}}},
        base_job_template={
            "variables": variables,
            "job_configuration": {"command": "{{ text }} {{ one }}", PROBE: PROBE},
        },
    )
    airflow.create_pool("broken", type=PROBE, description=PROBE)
    worker = new_worker(
        name=PROBE,
        hostname=PROBE,
        version=PROBE[:64],
        kind=WorkerKind.STANDALONE,
        pools=("probe",),
        queues=(f"probe/{PROBE}",),
        hindered={"probe": PROBE},
        heartbeat_seconds=600.0,
        started_at=now,
    )
    said = {"reason": PROBE, "handle": {"kind": PROBE, "data": {"id": PROBE}}, "exit_code": 1}
    job = _over(
        "probe/low",
        now,
        1,
        1,
        dag_id=PROBE,
        task_id=PROBE,
        run_id=PROBE,
        state="failed",
        worker_id=worker.id,
        job_variables={"text": PROBE, PROBE: {PROBE: PROBE}},
        **said,
    )
    token = {
        "id": "probe",
        "hash": uuid.uuid4().hex,
        "pools": ["probe"],
        "description": PROBE,
        "created_by": PROBE,
        "created_at": now,
    }
    with _database(airflow) as connection:
        connection.execute(sa.insert(tables.workers), worker_row(worker, now))
        connection.execute(sa.insert(tables.jobs), job)
        connection.execute(sa.insert(tables.tokens), token)
        connection.execute(sa.update(tables.jobs).where(tables.jobs.c.dag_id == own_job).values(**said))
    return "probe"
