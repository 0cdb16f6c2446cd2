# SPDX-License-Identifier: Apache-2.0
"""What an embedded worker, its runner and its jobs need, loaded by the executor before it forks the worker.

All of them share it then, page by page. A module that is imported after the fork is not only in memory once for each
process that does: to import it writes into pages all over the memory that was shared until then, and each of them is
copied. What needs a thread, a connection or a change of Airflow's behaviour is left to the processes themselves.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_workpools.settings import Settings

_NEEDED_BY_WORKERS = (
    "asyncio",
    "airflow_workpools.airflow_private.errands",
    "airflow_workpools.airflow_private.telemetry",
    "airflow_workpools.infrastructure.process",
    "airflow_workpools.infrastructure.process.runner",
    "airflow_workpools.infrastructure.process.workload",
    "airflow_workpools.store.airflow_connections",
    "airflow_workpools.store.clock",
    "airflow_workpools.store.errands",
    "airflow_workpools.store.jobs",
    "airflow_workpools.worker.client",
    "airflow_workpools.worker.embedded_process",
    "airflow_workpools.worker.errands",
    "airflow_workpools.worker.loop",
    "airflow_workpools.worker.roster",
)


def load_ahead(settings: Settings) -> None:
    """Import modules, and read the work pools once: what that leaves in caches is needed by all."""
    from airflow_workpools.airflow_private import workloads
    from airflow_workpools.store.pools import work_pools

    for module in _NEEDED_BY_WORKERS:
        import_module(module)
    workloads.load_for_workloads()
    work_pools(settings)
