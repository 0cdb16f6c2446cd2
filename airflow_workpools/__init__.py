# SPDX-License-Identifier: Apache-2.0
"""Work pools, work queues and workers for Apache Airflow.

DAG files import this module, so it imports nothing itself: a name is looked up when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_workpools.dags.arguments import work_queue
    from airflow_workpools.executor import WorkPoolExecutor

__version__ = "0.1.0"

__all__ = ["WorkPoolExecutor", "__version__", "work_queue"]

_HOMES = {
    "WorkPoolExecutor": "airflow_workpools.executor",
    "work_queue": "airflow_workpools.dags.arguments",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
