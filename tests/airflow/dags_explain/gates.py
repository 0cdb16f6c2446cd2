# SPDX-License-Identifier: Apache-2.0
"""DAGs whose tasks come to a stop at one gate each, where they wait until somebody does something about it."""

from __future__ import annotations

import time
from typing import Any

from airflow.sdk import DAG, task


def sleep() -> None:
    time.sleep(600)


def hold(dag_id: str, *, tasks: int = 1, dag: dict[str, Any] | None = None, **arguments: Any) -> DAG:
    """Return a DAG of a mapped task whose instances, once they run, go on for longer than any test."""
    with DAG(dag_id, schedule=None, **(dag or {})) as made:

        @task(task_id="sleep", retries=0, **arguments)
        def run(number: int) -> None:
            sleep()

        run.expand(number=list(range(tasks)))
    return made


# -- Airflow decides

paused_dag = hold("paused_dag", work_queue="open")
one_run = hold("one_run", work_queue="open", dag={"max_active_runs": 1})
max_active_tasks = hold("max_active_tasks", tasks=2, work_queue="open", dag={"max_active_tasks": 1})
per_dag = hold("per_dag", tasks=2, work_queue="open", max_active_tis_per_dag=1)
per_dagrun = hold("per_dagrun", tasks=2, work_queue="open", max_active_tis_per_dagrun=1)
own_pool = hold("own_pool", tasks=2, work_queue="open", pool="db")
missing_pool = hold("missing_pool", work_queue="open", pool="not_there")

with DAG("upstream", schedule=None) as upstream:

    @task(work_queue="open")
    def first() -> None:
        sleep()

    @task(work_queue="open")
    def second() -> None: ...

    first() >> second()

# -- the work pool decides

unknown_pool = hold("unknown_pool", queue="nowhere/low")
unknown_queue = hold("unknown_queue", work_queue="open/nowhere")
invalid = hold("invalid", work_queue="invalid")
taken = hold("taken", work_queue="taken/low")
in_taken = hold("in_taken", work_queue="taken")
paused_pool = hold("paused_pool", work_queue="halted")
paused_queue = hold("paused_queue", work_queue="open/halted")
queue_limit = hold("queue_limit", tasks=2, work_queue="open/one")
pool_limit = hold("pool_limit", tasks=2, work_queue="single")
too_big = hold("too_big", work_queue="single", pool_slots=2)
pair_low = hold("pair_low", work_queue="pair/low")
pair_high = hold("pair_high", work_queue="pair/high", pool_slots=2)
unserved = hold("unserved", work_queue="unserved")

# -- the job. An Airflow pool with room: what holds these, holds them after the hand-over.

later = hold("later", work_queue="later", pool="wide")
slow_start = hold("slow_start", work_queue="slow-start")

with DAG("refused", schedule=None) as refused:

    @task(work_queue="open", executor_config={"imgae": "x"})
    def lost() -> None: ...

    lost()

# More tasks than the executor takes; they hold no slot of their work pool, as it lets nothing start.
crowd = hold("crowd", tasks=40, work_queue="closed", pool="wide", dag={"max_active_tasks": 100})
