# SPDX-License-Identifier: Apache-2.0
"""The pool API as Airflow's API server has it: on Airflow's database, with Airflow's login."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fastapi import FastAPI

    from airflow_workpools.core.pools import InvalidPool, WorkPool
    from airflow_workpools.settings import Settings


def mounted_pool_app() -> FastAPI:
    """Return the app. Nothing is asked of the database before the first request."""
    from airflow_workpools.airflow_private.logins import AirflowDoor, is_secret_name
    from airflow_workpools.api.pools.app import pool_app
    from airflow_workpools.api.pools.desk import Desk
    from airflow_workpools.api.pools.services import Services
    from airflow_workpools.settings import Settings
    from airflow_workpools.store.jobs import SqlStore
    from airflow_workpools.store.tokens import TokenStore

    settings = Settings.from_airflow()
    desk = Desk(
        settings=settings,
        store=SqlStore(reserve_after=settings.reserve_after, max_log_bytes=settings.max_log_bytes),
        read_pools=_pools_of(settings),
        is_secret=is_secret_name,
    )
    return pool_app(Services.of(desk, TokenStore()), AirflowDoor(multi_team=settings.pools.multi_team))


def _pools_of(
    settings: Settings, *, monotonic: Callable[[], float] = time.monotonic
) -> Callable[..., Mapping[str, WorkPool | InvalidPool]]:
    """Return what reads the pools. Secrets backends, which are slow, are asked once a minute at most."""
    from airflow_workpools.store.pools import SECRETS_REFRESH_SECONDS, refresh_secrets_pools, work_pools

    asked_at = float("-inf")

    def read_pools(*, fresh: bool = False) -> Mapping[str, WorkPool | InvalidPool]:
        nonlocal asked_at
        if monotonic() - asked_at >= SECRETS_REFRESH_SECONDS:
            asked_at = monotonic()
            refresh_secrets_pools(settings)
        return work_pools(settings, fresh=fresh)

    return read_pools
