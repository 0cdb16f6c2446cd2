# SPDX-License-Identifier: Apache-2.0
"""The hook behind connections of type ``workpool``: reads and tests a pool's definition."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from airflow_workpools.core.pools import Delivery, PoolSource, WorkPool, parse_work_pool
from airflow_workpools.errors import WorkpoolsError
from airflow_workpools.infrastructure.registry import (
    default_templates,
    infrastructure_class,
    template_checks,
    unusable_kinds,
)
from airflow_workpools.settings import Settings
from airflow_workpools.store.airflow_connections import infrastructure_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

TEST_TIMEOUT_SECONDS = 20.0
"""Longest time the Test button waits for an infrastructure."""


class WorkPoolHook(BaseHook):
    """Work with the connection that defines a work pool.

    :param workpool_conn_id: the connection's id, which is the work pool's name.
    """

    conn_name_attr = "workpool_conn_id"
    default_conn_name = "default"
    conn_type = "workpool"
    hook_name = "Work pool"

    def __init__(self, workpool_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.workpool_conn_id = workpool_conn_id

    def get_conn(self) -> WorkPool:
        """Return the work pool.

        :raises InvalidWorkPool: with all that is wrong with its definition.
        """
        connection = self.get_connection(self.workpool_conn_id)
        return parse_work_pool(
            self.workpool_conn_id,
            connection.extra,
            templates=default_templates(),
            source=PoolSource.DATABASE,
            description=connection.description,
            unusable_types=unusable_kinds(),
            template_checks=template_checks(),
        )

    def test_connection(self) -> tuple[bool, str]:
        """Say whether the definition is valid and the infrastructure can be reached from here."""
        try:
            pool = self.get_conn()
        except WorkpoolsError as error:
            return False, f"The definition is not valid: {error}"
        if pool.type == "process":
            return True, "The definition is valid. Processes start on the hosts of the pool's workers."
        if pool.delivery is Delivery.PULL:
            # The control plane never holds what a pull pool's workers need to reach their infrastructure.
            return True, "The definition is valid. Its workers reach the infrastructure, not this server."
        return self._test_infrastructure(pool)

    def _test_infrastructure(self, pool: WorkPool) -> tuple[bool, str]:
        try:
            connection = self._infrastructure_connection(pool)
            make: Any = infrastructure_class(pool.type)
            infrastructure = make(home=Settings.from_airflow().home, connection=connection)
            asyncio.run(_open_and_close(infrastructure))
        except Exception as error:
            # A back-end's client may raise anything; the person at the form needs its words, not a traceback.
            reason = str(error) or type(error).__name__
            return False, f"The definition is valid, but {pool.type} cannot be reached: {reason}"
        return True, f"The definition is valid and {pool.type} answers."

    def _infrastructure_connection(self, pool: WorkPool) -> Mapping[str, Any] | None:
        if pool.infrastructure_conn_id is None:
            return None
        return infrastructure_fields(self.get_connection(pool.infrastructure_conn_id))


async def _open_and_close(infrastructure: Any) -> None:
    await asyncio.wait_for(infrastructure.open(), TEST_TIMEOUT_SECONDS)
    await infrastructure.close()
