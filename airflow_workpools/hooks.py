# SPDX-License-Identifier: Apache-2.0
"""The hook behind connections of type ``workpool``: reads and tests a pool's definition."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from airflow_workpools.core.pools import Delivery, PoolSource, WorkPool, parse_work_pool
from airflow_workpools.errors import WorkpoolsError
from airflow_workpools.infrastructure.base import CanBeTried
from airflow_workpools.infrastructure.registry import (
    default_templates,
    infrastructure_class,
    template_checks,
    unusable_kinds,
    variable_checks,
)
from airflow_workpools.settings import Settings
from airflow_workpools.store.airflow_connections import infrastructure_fields, template_fields
from airflow_workpools.trial import NothingToTry, trial_job

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_workpools.infrastructure.base import LaunchSpec

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
            variable_checks=variable_checks(),
        )

    def test_connection(self) -> tuple[bool, str]:
        """Say whether the definition is valid, and whether the infrastructure can be reached and would take a job."""
        try:
            pool = self.get_conn()
        except WorkpoolsError as error:
            return False, f"The definition is not valid: {error}"
        if pool.type == "process":
            return True, "The definition is valid. Processes start on the hosts of the pool's workers."
        if pool.delivery is Delivery.PULL:
            # The control plane never holds what a pull pool's workers need to reach their infrastructure.
            return True, "The definition is valid. Its workers reach the infrastructure, not this server."
        try:
            found = self._tried(pool)
        except _Refused as refusal:
            return False, (
                f"The definition is valid and {pool.type} answers, but it would not take a job with the pool's "
                f"defaults: {refusal}"
            )
        except Exception as error:
            # A back-end's client may raise anything; the person at the form needs its words, not a traceback.
            return False, f"The definition is valid, but {pool.type} cannot be reached: {_words(error)}"
        return True, f"The definition is valid and {pool.type} answers. {found}".rstrip()

    def _tried(self, pool: WorkPool) -> str:
        """Return what the infrastructure says to a job with the pool's defaults, in a sentence, or nothing."""
        connection = None
        if pool.infrastructure_conn_id is not None:
            connection = infrastructure_fields(self.get_connection(pool.infrastructure_conn_id))
        make: Any = infrastructure_class(pool.type)
        infrastructure = make(home=Settings.from_airflow().home, connection=connection)
        return asyncio.run(_tried(infrastructure, lambda: self._trial_job(pool)))

    def _trial_job(self, pool: WorkPool) -> LaunchSpec:
        conn_ids = pool.base_job_template.connection_ids
        connections = {conn_id: template_fields(self.get_connection(conn_id)) for conn_id in conn_ids}
        return trial_job(pool, environ=os.environ, connections=connections)


class _Refused(Exception):
    """An infrastructure that answers, and would not take a job."""


async def _tried(infrastructure: Any, job: Callable[[], LaunchSpec]) -> str:
    await asyncio.wait_for(infrastructure.open(), TEST_TIMEOUT_SECONDS)
    try:
        if not isinstance(infrastructure, CanBeTried):
            return ""
        spec = await asyncio.to_thread(job)
        return await asyncio.wait_for(infrastructure.try_out(spec), TEST_TIMEOUT_SECONDS)
    except NothingToTry as nothing:
        return str(nothing)
    except Exception as error:
        raise _Refused(_words(error)) from error
    finally:
        await infrastructure.close()


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
