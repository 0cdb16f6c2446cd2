# SPDX-License-Identifier: Apache-2.0
"""What Airflow's plugin manager is told: the priority weight strategies of work queues, where logs of tasks are, the
APIs of people and of workers, and the pages in Airflow's UI; in the API server, also who listens for marks of tasks."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from airflow_workpools.priority import STRATEGIES


class WorkpoolsPlugin(AirflowPlugin):
    """Registers what work queues need in scheduler, DAG processor and API server."""

    name = "workpools"
    priority_weight_strategies: ClassVar[list[Any]] = list(STRATEGIES)

    @property
    def fastapi_apps(self) -> list[Any]:
        """Return pool API, worker API and what serves the pages.

        Only the API server asks, when it starts: then it learns where logs are, and who listens for marks.
        """
        from airflow.listeners.listener import get_listener_manager

        from airflow_workpools import marks, ui
        from airflow_workpools.airflow_private.task_logs import read_logs_with
        from airflow_workpools.api.mounted import mounted_worker_app
        from airflow_workpools.api.pools.mounted import mounted_pool_app
        from airflow_workpools.api.pools.wire import MOUNT as POOLS_MOUNT
        from airflow_workpools.api.wire import MOUNT
        from airflow_workpools.task_logs import task_logs

        read_logs_with(task_logs().read)
        # Not as `listeners` of the plugin, which are for every process: wherever there is any, Airflow refuses DAGs in
        # which a task has `end_from_trigger=True`. Only the API server tells of marks.
        get_listener_manager().add_listener(marks)
        return [
            # Before the last one, under whose prefix theirs are: the first that fits is asked.
            *ui.fastapi_apps(),
            {"app": mounted_pool_app(), "url_prefix": POOLS_MOUNT, "name": "Work pools"},
            {"app": mounted_worker_app(), "url_prefix": MOUNT, "name": "Workers of work pools"},
        ]

    @property
    def react_apps(self) -> list[Any]:
        """Return the pages, if this installation has them."""
        from airflow_workpools import ui

        return ui.react_apps()
