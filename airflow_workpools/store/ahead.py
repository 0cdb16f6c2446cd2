# SPDX-License-Identifier: Apache-2.0
"""How far tasks may be handed over ahead of free slots; see ``core.ahead``."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_workpools.core.ahead import SHORT_SECONDS, WINDOW_SECONDS, slots_ahead
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import WorkPool
from airflow_workpools.store import airflow_statements
from airflow_workpools.store.statements import executor as statements

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.store.pools import Pools


@dataclass(frozen=True)
class Ahead:
    """How many slots may be given out before they are free."""

    pools: Mapping[str, int] = field(default_factory=dict)
    """By work pool; those in which nothing is handed over ahead are absent."""
    queues: Mapping[WorkQueueRef, int] = field(default_factory=dict)
    """By queue, of those with a limit of their own."""


NOTHING_AHEAD = Ahead()


def look_ahead(session: Session, pools: Pools, *, now: datetime, idle_seconds: float = 1.0) -> Ahead:
    """Say how far tasks may be handed over ahead, by what has ended lately. One statement.

    :param idle_seconds: how long the scheduler sleeps between two looks.
    """
    asked = {
        "ended_since": now - timedelta(seconds=WINDOW_SECONDS),
        "now": now,
        "claimed_since": now - timedelta(seconds=SHORT_SECONDS),
    }
    ended = {
        WorkQueueRef(row.pool, row.queue): int(row.slots)
        for row in session.execute(statements.lately_ended(), asked)
    }
    if not ended:
        return NOTHING_AHEAD
    of_pools, of_queues = {}, {}
    for name in {ref.pool for ref in ended} & pools.keys():
        pool = pools[name]
        if not isinstance(pool, WorkPool):
            continue
        for queue in pool.queues:
            ref = WorkQueueRef(name, queue.name)
            if ref in ended and queue.concurrency_limit is not None:
                of_queues[ref] = slots_ahead(
                    ended[ref], idle_seconds=idle_seconds, limit=queue.concurrency_limit
                )
        in_all = sum(slots for ref, slots in ended.items() if ref.pool == name)
        limit = in_all if pool.concurrency_limit is None else pool.concurrency_limit
        of_pools[name] = slots_ahead(in_all, idle_seconds=idle_seconds, limit=limit)
    return Ahead({name: slots for name, slots in of_pools.items() if slots}, of_queues)


def count_unclaimed(session: Session, work_pools: Collection[str]) -> dict[str, int]:
    """Count the slots of tasks that were handed over and that no worker has claimed, by Airflow pool.

    One statement, or none.

    :param work_pools: those in which tasks are handed over ahead, and those that hold more than their limit: tasks that
        were handed over ahead still wait there.
    """
    if not work_pools:
        return {}
    asked = {"work_pools": sorted(work_pools)}
    return {row.pool: int(row.slots) for row in session.execute(airflow_statements.unclaimed_tasks(), asked)}
