# SPDX-License-Identifier: Apache-2.0
"""Whether this Airflow runs the WorkPoolExecutor, and what tasks call it: read from ``[core] executor``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from airflow_workpools import airflow_private

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.executors.executor_utils import ExecutorName

log = logging.getLogger(__name__)

MODULE_PATHS = frozenset(
    {"airflow_workpools.WorkPoolExecutor", "airflow_workpools.executor.WorkPoolExecutor"}
)


@dataclass(frozen=True, kw_only=True)
class WorkPoolExecutorNames:
    """What tasks call the WorkPoolExecutor."""

    name: str
    """The name to set on a task."""

    names: frozenset[str]
    """Every name that a task may use."""

    is_default: bool
    """Whether a task that names no executor gets this one, whichever team it belongs to."""

    teams: tuple[str | None, ...] = (None,)
    """The team of each one that is configured, in order; None is that of everybody."""

    def covers(self, executor: str | None) -> bool:
        """Say whether a task that names ``executor`` runs on the WorkPoolExecutor."""
        return executor in self.names if executor else self.is_default


@cache
def work_pool_executor() -> WorkPoolExecutorNames | None:
    """Return the names of the WorkPoolExecutor, or None if it is not configured in this process."""
    try:
        return find(airflow_private.configured_executors())
    except Exception:
        # Airflow itself says so where it matters; a task that names no work queue must not fail for it.
        log.warning("[core] executor cannot be read", exc_info=True)
        return None


def find(configured: Sequence[ExecutorName]) -> WorkPoolExecutorNames | None:
    """Find the WorkPoolExecutor among the configured executors."""
    ours = [executor for executor in configured if executor.module_path in MODULE_PATHS]
    if not ours:
        return None
    # Of every team the first is the default. DAG files do not know their team.
    defaults = {executor.team_name: executor for executor in reversed(configured)}
    return WorkPoolExecutorNames(
        name=_common_name(ours),
        names=frozenset(name for executor in ours for name in _names(executor)),
        is_default=all(executor in ours for executor in defaults.values()),
        teams=tuple(dict.fromkeys(executor.team_name for executor in ours)),
    )


def _common_name(ours: Sequence[ExecutorName]) -> str:
    """Return the name that means this executor in every team: the alias if they agree on one."""
    return next(name for name in _names(ours[0]) if all(name in _names(executor) for executor in ours))


def _names(executor: ExecutorName) -> list[str]:
    module_path = executor.module_path
    return [name for name in (executor.alias, module_path, module_path.rpartition(".")[2]) if name]
