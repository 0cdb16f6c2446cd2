# SPDX-License-Identifier: Apache-2.0
"""Jobs as processes on the worker's machine."""

from __future__ import annotations

from airflow_workpools.infrastructure.process.client import ProcessRunner
from airflow_workpools.infrastructure.process.elsewhere import ElsewhereProcessInfrastructure
from airflow_workpools.infrastructure.process.infrastructure import ProcessInfrastructure

__all__ = ["ElsewhereProcessInfrastructure", "ProcessInfrastructure", "ProcessRunner"]
