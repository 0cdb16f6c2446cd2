# SPDX-License-Identifier: Apache-2.0
"""An executor that does nothing, beside which one sees what an executor costs."""

from __future__ import annotations

from airflow.executors.base_executor import BaseExecutor


class IdleExecutor(BaseExecutor):
    """Runs no task."""

    is_local = True
    serve_logs = True  # as LocalExecutor and WorkPoolExecutor have it

    def start(self) -> None:
        """Do nothing."""

    def sync(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def terminate(self) -> None:
        """Do nothing."""
