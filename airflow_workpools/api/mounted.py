# SPDX-License-Identifier: Apache-2.0
"""The worker API as Airflow's API server has it: on Airflow's database, with Airflow's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_workpools import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from fastapi import FastAPI

    from airflow_workpools.core.pools import InvalidPool, WorkPool


def mounted_worker_app() -> FastAPI:
    """Return the app. Nothing is asked of the database before the first request."""
    from airflow_workpools.airflow_private import mint_workload_token
    from airflow_workpools.api.access import Access
    from airflow_workpools.api.app import worker_app
    from airflow_workpools.api.left_behind import LeftBehind
    from airflow_workpools.api.news import NewsDesk
    from airflow_workpools.api.served import ServedPools
    from airflow_workpools.api.service import WorkerService
    from airflow_workpools.settings import Settings
    from airflow_workpools.store.clock import DatabaseClock
    from airflow_workpools.store.jobs import SqlStore
    from airflow_workpools.store.pools import refresh_secrets_pools, work_pools
    from airflow_workpools.store.tokens import TokenStore

    settings = Settings.from_airflow()
    store = SqlStore(reserve_after=settings.reserve_after, max_log_bytes=settings.max_log_bytes)
    database_clock = DatabaseClock()

    def clock() -> datetime:
        database_clock.refresh()
        return database_clock()

    def read_pools(*, fresh: bool = False) -> Mapping[str, WorkPool | InvalidPool]:
        if fresh:
            refresh_secrets_pools(settings)
        return work_pools(settings, fresh=fresh)

    tokens = TokenStore()
    service = WorkerService(
        store=store,
        served=ServedPools(read_pools),
        left_behind=LeftBehind(store),
        mint_token=mint_workload_token,
        opens=tokens.opens,
        clock=clock,
    )
    access = Access(tokens=tokens, clock=clock, version=__version__)
    return worker_app(service, access, NewsDesk(store))
