# SPDX-License-Identifier: Apache-2.0
"""Standalone workers that do not come back: a duty of the executor. See ``core.lost`` for the rule."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_workpools.core.pools import WorkPool
from airflow_workpools.infrastructure.registry import is_bound_to_host
from airflow_workpools.store import rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from airflow_workpools.core.pools import InvalidPool
    from airflow_workpools.settings import Settings
    from airflow_workpools.store.protocol import ExecutorStore
    from airflow_workpools.store.records import WorkerRecord

log = logging.getLogger(__name__)


def give_up_lost(
    store: ExecutorStore,
    workers: Iterable[WorkerRecord],
    pools: Mapping[str, WorkPool | InvalidPool],
    *,
    settings: Settings,
    now: datetime,
) -> None:
    """End what only lost workers could look after; no statement where no standalone worker is lost.

    What runs on infrastructure that others can see is left to them: see ``WorkerStore.take_over``.

    :param workers: all that are known, as they were a moment ago.
    """
    grace = settings.lost_worker_grace_seconds
    lost = rules.lost_workers(workers, grace_seconds=grace, now=now)
    if not lost:
        return
    bound = {
        name: pool.start_attempts
        for name, pool in pools.items()
        if isinstance(pool, WorkPool) and is_bound_to_host(pool.type)
    }
    given_up = store.give_up_lost(lost, bound=bound, now=now, grace_seconds=grace)
    if any(given_up):
        log.warning(
            "Of jobs whose worker was lost, %d have failed and %d wait for another worker",
            given_up.failed,
            given_up.requeued,
        )
