# SPDX-License-Identifier: Apache-2.0
"""The task that jobs run: Airflow's workloads, as LocalExecutor runs them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable

    from airflow_workpools.infrastructure.process.job import LaunchRequest


class AirflowTask:
    """Runs one workload under Airflow's supervisor. What is Airflow's own stands in ``airflow_private.workloads``."""

    def warm_up(self) -> None:
        from airflow_workpools.airflow_private import workloads

        workloads.warm_up_for_workloads()

    def prepare(self, request: LaunchRequest, user: pwd.struct_passwd | None) -> None:
        """Make the task's log file while there is the right to, and give it to the job's user."""
        from airflow_workpools.airflow_private import workloads

        self._workload = workloads.parse_workload(request.workload)
        if request.log_to_output:
            self._workload = workloads.log_to_output(self._workload)
        log_file = workloads.log_file_of(self._workload) if user is not None else None
        if user is not None and log_file is not None:
            os.chown(log_file, user.pw_uid, user.pw_gid)

    def run(self, request: LaunchRequest, on_begun: Callable[[], None]) -> int:
        from airflow_workpools.airflow_private import workloads

        return workloads.run_workload(
            self._workload, server=request.server, on_begun=on_begun, log_to_output=request.log_to_output
        )
