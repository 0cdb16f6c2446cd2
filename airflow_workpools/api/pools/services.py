# SPDX-License-Identifier: Apache-2.0
"""What the routes call."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from airflow_workpools.api.pools.jobs import JobService
from airflow_workpools.api.pools.service import PoolService
from airflow_workpools.api.pools.templates import TemplateService
from airflow_workpools.api.pools.workers import WorkerService

if TYPE_CHECKING:
    from airflow_workpools.api.pools.desk import Desk
    from airflow_workpools.store.tokens import TokenStore


class Services(NamedTuple):
    desk: Desk
    pools: PoolService
    workers: WorkerService
    jobs: JobService
    templates: TemplateService

    @classmethod
    def of(cls, desk: Desk, tokens: TokenStore) -> Services:
        return cls(
            desk, PoolService(desk), WorkerService(desk, tokens), JobService(desk), TemplateService(desk)
        )
