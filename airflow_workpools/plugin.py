# SPDX-License-Identifier: Apache-2.0
"""What Airflow's plugin manager is told: the priority weight strategies of work queues."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from airflow_workpools.priority import STRATEGIES


class WorkpoolsPlugin(AirflowPlugin):
    """Registers what work queues need in scheduler, DAG processor and API server."""

    name = "workpools"
    priority_weight_strategies: ClassVar[list[Any]] = list(STRATEGIES)
