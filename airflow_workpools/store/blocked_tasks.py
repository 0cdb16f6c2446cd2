# SPDX-License-Identifier: Apache-2.0
"""Tasks that Airflow would keep waiting for ever without a word: they go on, to fail with the reason.

One that names an unknown work pool or queue waits in an Airflow pool that does not exist; one that names another
team's, in an Airflow pool from which Airflow hands over that team's tasks only.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import WorkPool
from airflow_workpools.store import airflow_statements as statements

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from sqlalchemy.orm import Session

    from airflow_workpools.core.pools import InvalidPool


def unblock_unmapped(
    session: Session,
    executors: Sequence[str],
    *,
    ours_is_default: bool,
    queues: Sequence[str],
    waiting_pools: Sequence[str],
) -> int:
    """Let tasks of unknown work pools and queues go on, to fail with the reason; return how many.

    :param executors: names under which tasks name this executor.
    :param queues: work queues that can be used, as ``"pool/queue"``.
    :param waiting_pools: work pools that are known but can't be used now; their tasks wait.
    """
    result: Any = session.execute(
        statements.unmapped_tasks(
            executors, ours_is_default=ours_is_default, queues=queues, waiting_pools=waiting_pools
        )
    )
    return int(result.rowcount)


def unblock_foreign(
    session: Session,
    executors: Sequence[str],
    *,
    ours_is_default: bool,
    pools: Iterable[WorkPool | InvalidPool],
) -> int:
    """Let tasks in Airflow pools of another team's work pools go on, to fail with the reason; return how many.

    :param executors: names under which tasks name this executor.
    """
    by_team: dict[str, list[str]] = defaultdict(list)
    for pool in pools:
        if isinstance(pool, WorkPool) and pool.team_name is not None:
            by_team[pool.team_name] += [
                WorkQueueRef(pool.name, queue.name).airflow_pool for queue in pool.queues
            ]
    count = 0
    for team_name, names in sorted(by_team.items()):
        result: Any = session.execute(
            statements.foreign_tasks(
                executors, ours_is_default=ours_is_default, airflow_pools=names, team_name=team_name
            )
        )
        count += int(result.rowcount)
    return count


def team_of_dag(session: Session, dag_id: str) -> str | None:
    """Return the team that owns a DAG's bundle."""
    team_name: str | None = session.scalar(statements.team_of_dag(dag_id))
    return team_name


def airflow_pool_of(session: Session, task_instance_id: UUID) -> str | None:
    """Return the Airflow pool that a task is in."""
    name: str | None = session.scalar(statements.airflow_pool_of(task_instance_id))
    return name
