# SPDX-License-Identifier: Apache-2.0
"""Entry point ``airflow.policy``: Airflow imports this module inside ``import airflow``, in every process.

So whatever goes wrong here must not go further, or nothing of Airflow could be imported; and nothing heavy is
imported before there is a task to look at.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow.policies import hookimpl

if TYPE_CHECKING:
    from airflow_workpools.dags.assignment import Operator

log = logging.getLogger(__name__)


@hookimpl  # type: ignore[untyped-decorator]
def task_policy(task: Operator) -> None:
    """Put a task in its work queue. Airflow calls it for every task, wherever a DAG file is read."""
    from airflow_workpools.dags.assignment import assign

    assign(task)


def _install_keyword() -> None:
    try:
        from airflow_workpools.dags import keyword

        keyword.install()
    except Exception:
        log.warning('Operators do not know work_queue=; queue="pool/queue" does the same', exc_info=True)


_install_keyword()
