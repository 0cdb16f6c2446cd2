# SPDX-License-Identifier: Apache-2.0
"""What the routes call."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from airflow_workpools.api.pools.jobs import JobService
    from airflow_workpools.api.pools.service import PoolService
    from airflow_workpools.api.pools.templates import TemplateService


class Services(NamedTuple):
    pools: PoolService
    jobs: JobService
    templates: TemplateService
