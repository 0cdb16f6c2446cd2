# SPDX-License-Identifier: Apache-2.0
"""The pool API on a real database, with the users of Airflow's own auth manager."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.app import create_auth_manager, purge_cached_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models.log import Log
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.routing import Mount

from airflow_workpools.airflow_private.logins import AirflowDoor, is_secret_name
from airflow_workpools.api.pools import wire
from airflow_workpools.api.pools.app import pool_app
from airflow_workpools.api.pools.desk import Desk
from airflow_workpools.api.pools.services import Services
from airflow_workpools.settings import Settings
from airflow_workpools.store.jobs import SqlStore
from airflow_workpools.store.pools import work_pools
from airflow_workpools.store.tokens import TokenStore
from tests.store.rigs import NOW
from tests.store.schedulers import Scheduler, scheduler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx
    import pytest
    import sqlalchemy as sa
    from fastapi import FastAPI

BASE = f"{wire.MOUNT}{wire.PATH}"


@dataclass
class PoolApi:
    """The API, who asks it, and the Airflow behind it."""

    stage: Scheduler
    now: datetime = NOW
    client: TestClient = field(init=False)
    services: Services = field(init=False)
    app: FastAPI = field(init=False)

    def __post_init__(self) -> None:
        settings = Settings.from_airflow()
        desk = Desk(
            settings=settings,
            store=SqlStore(),
            read_pools=lambda *, fresh=False: work_pools(settings, fresh=fresh),
            is_secret=is_secret_name,
            clock=lambda session: self.now,
        )
        self.services = Services.of(desk, TokenStore())
        # Nothing read of the past is kept: here time passes in jumps.
        self.services.pools.sparklines.kept.seconds = self.services.jobs.kept.seconds = 0
        self.app = pool_app(self.services, AirflowDoor(multi_team=settings.pools.multi_team))
        root = Starlette(routes=[Mount(wire.MOUNT, self.app)])
        self.client = TestClient(root, raise_server_exceptions=False)

    @property
    def store(self) -> Any:
        return self.stage.rig.store

    def token(self, role: str | None, *, teams: list[str] | None = None) -> str:
        """Return a login of Airflow's."""
        user = SimpleAuthManagerUser(username=f"the {role}", role=role, teams=teams)
        return str(create_auth_manager().generate_jwt(user))

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        role: str | None = "op",
        teams: list[str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        """Send a request; nobody is logged in where the role is none."""
        headers = dict(options.pop("headers", {}))
        if role is not None:
            headers["Authorization"] = f"Bearer {self.token(role, teams=teams)}"
        if body is not None:
            options["json"] = body
        return self.client.request(method, f"{BASE}{path}", headers=headers, **options)

    def ok(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Send a request that must succeed; return what is answered."""
        answer = self.ask(method, path, body, **options)
        assert answer.is_success, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def refused(self, status: int, method: str, path: str, body: Any = None, **options: Any) -> wire.Problem:
        """Send a request that must be refused so; return why."""
        answer = self.ask(method, path, body, **options)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return wire.Problem.model_validate_json(answer.content)

    def audited(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return what stands in Airflow's audit log: event, user, and what was said."""
        rows = sorted(self.stage.rows(Log), key=lambda row: row.id)
        return [(row.event, row.owner, json.loads(row.extra)) for row in rows]


@contextmanager
def pool_api(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PoolApi]:
    """Serve the pool API on a database."""
    with scheduler(engine, tmp_path / "logs", monkeypatch) as stage:
        purge_cached_app()
        create_auth_manager()
        try:
            yield PoolApi(stage)
        finally:
            purge_cached_app()
