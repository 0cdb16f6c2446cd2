# SPDX-License-Identifier: Apache-2.0
"""Who may do what with the pool API: Airflow's own login, and Airflow's permissions on pools, connections and DAGs.

A route asks for a :class:`Caller` through one of the :class:`Guards`; a test walks all routes to see that each does.
"""

# Without postponed annotations: FastAPI has to see the types that are made in a function.

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from fastapi import Depends, HTTPException, Request
from fastapi.security import APIKeyCookie, HTTPBearer

from airflow_workpools.api.pools.audit import AuditRow, audit_row

Method = Literal["GET", "POST", "PUT", "DELETE"]

COOKIE = "_token"
"""In which a browser has Airflow's login."""

_bearer = HTTPBearer(
    scheme_name="token",
    description="A token of Airflow's `/auth/token`",
    auto_error=False,
    bearerFormat="JWT",
)
_cookie = APIKeyCookie(
    name=COOKIE, scheme_name="login", description="The login of Airflow's UI", auto_error=False
)


class Door(Protocol):
    """Airflow's login and its permissions."""

    async def user(self, request: Request) -> Any:
        """Return who is logged in.

        :raises HTTPException: with 401 if nobody is, 403 if the login is not good any more.
        """
        ...

    def name(self, user: Any) -> str:
        """Return what the audit log calls a user."""
        ...

    def may_pool(self, user: Any, method: Method, name: str | None, team: str | None) -> bool:
        """Say whether a user may do this with a pool of this team."""
        ...

    def may_connection(self, user: Any, method: Method, name: str | None, team: str | None) -> bool:
        """Say whether a user may do this with a connection of this team."""
        ...

    def may_tasks(self, user: Any, method: Method, dag_ids: Collection[str]) -> set[str]:
        """Return those of these DAGs with whose task instances a user may do this."""
        ...


class Records(Protocol):
    """What guards ask of the service."""

    def team_of(self, pool: str) -> str | None:
        """Return the team that a pool belongs to; None also for one that is not there."""
        ...

    def audit(self, row: AuditRow) -> None:
        """Write a row into Airflow's audit log."""
        ...


@dataclass(frozen=True)
class Caller:
    """Who asks."""

    user: Any
    name: str
    door: Door

    def may_see(self, pool: str, team: str | None) -> bool:
        return self.door.may_pool(self.user, "GET", pool, team)

    def may_edit(self, pool: str | None, team: str | None, method: Method = "PUT") -> bool:
        """Say whether the definition of a pool may be changed, which is a connection."""
        return self.door.may_pool(self.user, method, pool, team) and self.door.may_connection(
            self.user, method, pool, team
        )

    def check_edit(self, pool: str | None, team: str | None, method: Method = "PUT") -> None:
        """Refuse who may not change the definition of a pool.

        :raises HTTPException: 403.
        """
        if not self.may_edit(pool, team, method):
            raise HTTPException(403, _forbidden(method, "pools and connections", pool))

    def may_operate(self, pool: str, team: str | None) -> bool:
        """Say whether a pool may be paused, its workers drained and its jobs cancelled."""
        return self.door.may_pool(self.user, "PUT", pool, team)

    def check_operate(self, pool: str, team: str | None) -> None:
        """Refuse who may not.

        :raises HTTPException: 403.
        """
        if not self.may_operate(pool, team):
            raise HTTPException(403, _forbidden("PUT", "pools", pool))

    def tasks(self, method: Method, dag_ids: Collection[str]) -> set[str]:
        """Return those of these DAGs with whose task instances the caller may do this."""
        return self.door.may_tasks(self.user, method, dag_ids)

    def check_tasks(self, method: Method, dag_id: str) -> None:
        """Refuse who may not do this with the task instances of a DAG.

        :raises HTTPException: 403.
        """
        if dag_id not in self.tasks(method, {dag_id}):
            raise HTTPException(403, f"you may not {_VERBS[method]} task instances of DAG {dag_id!r}")


_VERBS = {"GET": "see", "POST": "create", "PUT": "change", "DELETE": "delete"}


def _forbidden(method: Method, what: str, pool: str | None) -> str:
    where = "" if pool is None else f" (work pool {pool[:100]!r})"
    return f"you may not {_VERBS[method]} {what}{where}; ask for a role that may, like Op"


@dataclass(frozen=True)
class Guards:
    """What stands before every route."""

    door: Door
    records: Records

    @property
    def caller(self) -> Callable[..., Any]:
        """Let in who is logged in."""
        door = self.door

        async def caller(
            request: Request,
            _bearer: Annotated[Any, Depends(_bearer)],
            _cookie: Annotated[Any, Depends(_cookie)],
        ) -> Caller:
            user = await door.user(request)
            return Caller(user, door.name(user), door)

        return caller

    def reads(self) -> Any:
        """Let in who may see pools, and the one in the path."""
        guards, caller = self, self.caller

        def reads(request: Request, caller: Annotated[Caller, Depends(caller)]) -> Caller:
            pool = request.path_params.get("pool")
            guards._check(caller, "GET", pool)
            return caller

        return Depends(reads)

    def writes(self, event: str, method: Method = "PUT", *, definition: bool = True) -> Any:
        """Let in who may change pools, and the one in the path, and write that down.

        :param event: what the audit log calls it.
        :param definition: whether it is the definition that changes, which is a connection.
        """
        guards, caller = self, self.caller

        def writes(
            request: Request,
            caller: Annotated[Caller, Depends(caller)],
            body: Annotated[Any, Depends(_body)],
        ) -> Caller:
            pool = request.path_params.get("pool")
            guards._check(caller, method, pool, definition=definition)
            guards.records.audit(audit_row(event, caller.name, request.path_params, body))
            return caller

        writes.event = event  # type: ignore[attr-defined]
        return Depends(writes)

    def _check(self, caller: Caller, method: Method, pool: str | None, *, definition: bool = False) -> None:
        team = None if pool is None else self.records.team_of(pool)
        if not caller.door.may_pool(caller.user, method, pool, team):
            raise HTTPException(403, _forbidden(method, "pools", pool))
        if definition:
            caller.check_edit(pool, team, method)


async def _body(request: Request) -> Any:
    """Return what was sent, for the audit log; whether it is good, others decide."""
    try:
        return await request.json()
    except (ValueError, RecursionError):
        return None
