# SPDX-License-Identifier: Apache-2.0
"""What commands work with, read anew for each."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_workpools.settings import Settings
from airflow_workpools.store.clock import database_time
from airflow_workpools.store.context import Context
from airflow_workpools.store.db_manager import check_tables
from airflow_workpools.store.jobs import SqlStore
from airflow_workpools.store.pools import refresh_secrets_pools, work_pools
from airflow_workpools.store.sessions import airflow_session

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Context", "opened"]


@contextmanager
def opened() -> Iterator[Context]:
    """Read everything anew, and commit what is changed within.

    :raises WorkpoolsError: if the tables are missing.
    """
    settings = Settings.from_airflow()
    with airflow_session() as session:
        check_tables(session)
    refresh_secrets_pools(settings)
    pools = work_pools(settings, fresh=True)
    with airflow_session() as session:
        now = database_time(session)
        yield Context(settings=settings, pools=pools, store=SqlStore(), session=session, now=now)
