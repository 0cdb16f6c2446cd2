# SPDX-License-Identifier: Apache-2.0
"""Who is logged in to Airflow, and what they may do: what Airflow's own API asks before each request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

    from fastapi import Request


class AirflowDoor:
    """Asks Airflow's auth manager. See :class:`~airflow_workpools.api.pools.access.Door`.

    :param multi_team: whether pools and DAGs belong to teams.
    """

    def __init__(self, *, multi_team: bool) -> None:
        self._multi_team = multi_team

    async def user(self, request: Request) -> Any:
        from airflow.api_fastapi.core_api.security import bearer_scheme, get_user

        # A credential in the header goes before the cookie, as in Airflow's own API.
        return await get_user(request, None, await bearer_scheme(request))

    def name(self, user: Any) -> str:
        return str(user.get_name())

    def may_pool(self, user: Any, method: Any, name: str | None, team: str | None) -> bool:
        from airflow.api_fastapi.app import get_auth_manager
        from airflow.api_fastapi.auth.managers.models.resource_details import PoolDetails

        details = PoolDetails(name=name, team_name=self._team(team))
        return bool(get_auth_manager().is_authorized_pool(method=method, details=details, user=user))

    def may_connection(self, user: Any, method: Any, name: str | None, team: str | None) -> bool:
        from airflow.api_fastapi.app import get_auth_manager
        from airflow.api_fastapi.auth.managers.models.resource_details import ConnectionDetails

        details = ConnectionDetails(conn_id=name, team_name=self._team(team))
        return bool(get_auth_manager().is_authorized_connection(method=method, details=details, user=user))

    def may_tasks(self, user: Any, method: Any, dag_ids: Collection[str]) -> set[str]:
        from airflow.api_fastapi.app import get_auth_manager
        from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails

        teams = self._teams_of(dag_ids)
        manager = get_auth_manager()
        return {
            dag_id
            for dag_id in dag_ids
            if manager.is_authorized_dag(
                method=method,
                access_entity=DagAccessEntity.TASK_INSTANCE,
                details=DagDetails(id=dag_id, team_name=teams.get(dag_id)),
                user=user,
            )
        }

    def _team(self, team: str | None) -> str | None:
        return team if self._multi_team else None

    def _teams_of(self, dag_ids: Collection[str]) -> dict[str, str | None]:
        if not self._multi_team or not dag_ids:
            return {}
        from airflow.models.dag import DagModel

        return dict(DagModel.get_dag_id_to_team_name_mapping(list(dag_ids)))


def is_secret_name(name: str) -> bool:
    """Say whether Airflow hides what is called so."""
    from airflow._shared.secrets_masker import should_hide_value_for_key

    return bool(should_hide_value_for_key(name))
