# SPDX-License-Identifier: Apache-2.0
"""Changing work pools: writing the connections that define them.

Everything is checked before anything is written, by the same rules by which definitions are read. Pools from
the environment or a secrets backend are not ours to write; they can be paused, which is run-time state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow.models.connection import Connection
from airflow.models.pool import Pool
from sqlalchemy import delete, select

from airflow_workpools.core.changes import Changes, without_nulls
from airflow_workpools.core.names import (
    DEFAULT_QUEUE,
    WorkQueueRef,
    airflow_pool_description,
    is_managed_description,
    name_problem,
)
from airflow_workpools.core.pools import (
    InvalidPool,
    PoolSource,
    WorkPool,
    WorkQueue,
    parse_work_pool,
    place_queue,
)
from airflow_workpools.errors import Conflict, InvalidInput, InvalidWorkPool, NotFound
from airflow_workpools.infrastructure.registry import template_checks, unusable_kinds, variable_checks
from airflow_workpools.store.pool_sources import CONN_TYPE, ENV_PREFIX
from airflow_workpools.store.team_edits import check_team

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy.orm import Session

    from airflow_workpools.core.templates import BaseJobTemplate
    from airflow_workpools.settings import PoolSettings
    from airflow_workpools.store.pools import AnyPool, Pools
    from airflow_workpools.store.protocol import RunTimeStore


@dataclass(frozen=True)
class _Draft:
    """A definition that has been checked, ready to be written."""

    pool: WorkPool
    definition: Mapping[str, Any]

    def of_team(self, team_name: str | None) -> _Draft:
        return replace(self, pool=replace(self.pool, team_name=team_name))


@dataclass(frozen=True)
class PoolEditor:
    """Creates, changes and deletes work pools and their queues, within ``session``'s transaction."""

    session: Session
    pools: Pools
    """All pools, as they are now."""
    store: RunTimeStore
    settings: PoolSettings
    templates: Mapping[str, BaseJobTemplate]

    # -- work pools -----------------------------------------------------------------------------------------

    def create_pool(
        self,
        name: str,
        definition: Mapping[str, Any],
        *,
        description: str | None = None,
        overwrite: bool = False,
        paused: bool | None = None,
        team_name: str | None = None,
    ) -> WorkPool:
        """Create a work pool.

        :param overwrite: replace the pool if it exists. Queues that the new definition lacks are deleted.
        :param paused: pause or resume it before it can be used; None leaves that as it is, and lets a new one run.
        :param team_name: whom it belongs to; None leaves a pool that exists to its team, empty text takes it away.
        :raises Conflict: if it exists, or if a queue to be deleted, or the pool whose type changes, has jobs that have
            not ended.
        """
        self._check_name_is_free(name, overwrite=overwrite)
        draft = self._checked(name, definition, description).of_team(self._owner(name, team_name))
        self._check_type_may_change(draft.pool)
        dropped = self._forget_queues(name, {queue.name for queue in draft.pool.queues})
        if name not in self.pools:
            paused = bool(paused)
        if paused is not None:
            self.store.set_pool_paused(name, paused)
        self._resume_new_queues(draft.pool)
        self._remove_airflow_pools(dropped)
        self._write(draft)
        return draft.pool

    def update_pool(
        self, name: str, changes: Changes, *, description: str | None = None, team_name: str | None = None
    ) -> WorkPool:
        """Change a pool's definition.

        A pool whose definition is invalid can be changed, too: that is how it is mended.

        :param description: the new one; None leaves it, empty text removes it.
        :param team_name: likewise.
        :raises Conflict: if its type changes while it has jobs that have not ended.
        """
        draft = self._draft(name, changes, description).of_team(self._owner(name, team_name))
        self._check_type_may_change(draft.pool)
        self._write(draft)
        return draft.pool

    def check_update(self, name: str, changes: Changes) -> None:
        """Raise what :meth:`update_pool` would raise for what is wrong with the definition, and change nothing."""
        self._draft(name, changes)

    def delete_pool(self, name: str) -> None:
        """Delete a work pool, its run-time state and its Airflow pools.

        :raises Conflict: if it has jobs that have not ended.
        """
        pool = self._editable(name)
        self.store.forget_pool(name)
        queues = [queue.name for queue in pool.queues] if isinstance(pool, WorkPool) else [DEFAULT_QUEUE]
        self._remove_airflow_pools([WorkQueueRef(name, queue) for queue in queues])
        self.session.execute(delete(Connection).where(Connection.conn_id == name))

    # -- work queues ----------------------------------------------------------------------------------------

    def create_queue(self, ref: WorkQueueRef, changes: Changes, *, paused: bool = False) -> WorkPool:
        """Add a queue to a pool; without a priority it gets the lowest unused one.

        :param paused: pause it before it can be used.
        """
        pool = self._valid(ref.pool)
        if pool.find_queue(ref.queue) is not None:
            raise Conflict(
                f"work pool {ref.pool!r} has a work queue {ref.queue!r} already; "
                f"change it with `airflow workpools queue update {ref}`"
            )
        draft = self._draft_queue(pool, ref, changes).of_team(self._owner(ref.pool))
        self.store.set_queue_paused(
            ref, paused
        )  # one of that name may have been paused, and removed elsewhere
        self._write(draft)
        return draft.pool

    def update_queue(self, ref: WorkQueueRef, changes: Changes) -> WorkPool:
        """Change a queue; if its new priority is taken, the others make room."""
        pool = self._valid(ref.pool)
        pool.queue(ref.queue)
        draft = self._draft_queue(pool, ref, changes).of_team(self._owner(ref.pool))
        self._write(draft)
        return draft.pool

    def delete_queue(self, ref: WorkQueueRef) -> WorkPool:
        """Delete a queue, its run-time state and its Airflow pool.

        :raises Conflict: if it has jobs that have not ended.
        """
        if ref.queue == DEFAULT_QUEUE:
            raise Conflict(
                f"work queue {str(ref)!r} cannot be deleted: every work pool has a queue {DEFAULT_QUEUE!r}; "
                f"to stop it, `airflow workpools queue pause {ref}`"
            )
        pool = self._valid(ref.pool)
        pool.queue(ref.queue)
        self.store.forget_queue(ref)
        self._remove_airflow_pools([ref])
        queues = {queue.name: _queue_definition(queue) for queue in pool.queues if queue.name != ref.queue}
        return self.update_pool(ref.pool, Changes(keys={"queues": queues}))

    # -- what is written, and checked before --------------------------------------------------------------

    def _draft(self, name: str, changes: Changes, description: str | None = None) -> _Draft:
        self._editable(name)
        connection = self._connection(name)
        definition = changes.apply(_definition_in(connection))
        if description is None:
            return self._checked(name, definition, connection.description)
        definition.pop("description", None)  # one that was written there would come back
        return self._checked(name, definition, description)

    def _draft_queue(self, pool: WorkPool, ref: WorkQueueRef, changes: Changes) -> _Draft:
        if problem := name_problem(ref.queue, what="work queue"):
            raise InvalidWorkPool(problem)
        queues = {queue.name: _queue_definition(queue) for queue in pool.queues}
        priorities = {name: queue["priority"] for name, queue in queues.items()}
        if "priority" in changes.keys or ref.queue not in queues:
            priorities = place_queue(priorities, ref.queue, changes.keys.get("priority"))
        queues[ref.queue] = changes.apply(queues.get(ref.queue, {}))
        # All priorities are written down from now on: one that was given out silently must not move later.
        queues = {name: {**queue, "priority": priorities[name]} for name, queue in queues.items()}
        return self._draft(ref.pool, Changes(keys={"queues": queues}))

    def _checked(self, name: str, definition: Mapping[str, Any], description: str | None) -> _Draft:
        definition = without_nulls(definition)
        pool = parse_work_pool(
            name,
            definition,
            templates=self.templates,
            source=PoolSource.DATABASE,
            description=description or None,
            unusable_types=unusable_kinds(),
            template_checks=template_checks(),
            variable_checks=variable_checks(),
            default_start_timeout_seconds=self.settings.start_timeout_seconds,
        )
        self._check_airflow_pools(pool)
        return _Draft(pool, definition)

    def _write(self, draft: _Draft) -> None:
        name = draft.pool.name
        connection = self.session.scalar(select(Connection).where(Connection.conn_id == name))
        if connection is None:
            connection = Connection(conn_id=name, conn_type=CONN_TYPE)
            self.session.add(connection)
        connection.description = draft.pool.description
        connection.team_name = draft.pool.team_name
        connection.set_extra(json.dumps(draft.definition, indent=2))
        self.session.flush()

    def _owner(self, name: str, wanted: str | None = None) -> str | None:
        """Return the team that a pool shall belong to; None leaves it whose it is, empty text takes it away."""
        if wanted is None:
            return self.session.scalar(select(Connection.team_name).where(Connection.conn_id == name))
        if wanted:
            check_team(self.session, wanted, multi_team=self.settings.multi_team)
        return wanted or None

    def _check_name_is_free(self, name: str, *, overwrite: bool) -> None:
        if problem := name_problem(name, what="work pool"):
            raise InvalidWorkPool(problem)
        if alike := [one for one in self.pools if one != name and one.casefold() == name.casefold()]:
            raise Conflict(
                f"there is a work pool {alike[0]!r}, whose name differs from {name!r} only in capitals: to some "
                "databases their Airflow pools are one, and one environment variable defines both; choose another name"
            )
        present = self.pools.get(name)
        if present is not None and present.source is not PoolSource.BUILTIN:
            _check_writable(present)
            if not overwrite:
                raise Conflict(
                    f"work pool {name!r} exists already; change it with `airflow workpools update {name}`, "
                    "or replace it with --overwrite"
                )
        conn_type = self.session.scalar(select(Connection.conn_type).where(Connection.conn_id == name))
        if conn_type not in (None, CONN_TYPE):
            raise Conflict(
                f"connection {name!r} exists and is of type {conn_type!r}, so its name is taken; "
                "choose another name, or delete the connection"
            )

    def _check_type_may_change(self, pool: WorkPool) -> None:
        """Refuse another type while there are jobs whose variables were checked against the template of this one."""
        present = self.pools.get(pool.name)
        if not isinstance(present, WorkPool) or present.type == pool.type:
            return
        active = sum(
            count.jobs for states in self.store.counts([pool.name]).values() for count in states.values()
        )
        if active:
            raise Conflict(
                f"work pool {pool.name!r} has {active} jobs of type {present.type!r} that have not ended; before its "
                f"type can be {pool.type!r}, pause it and wait for them, or cancel them "
                f"(`airflow workpools jobs list --pool {pool.name}`)"
            )

    def _editable(self, name: str) -> AnyPool:
        pool = self.pools.get(name)
        if pool is None:
            raise NotFound(unknown_pool(name, self.pools))
        _check_writable(pool)
        if pool.source is PoolSource.BUILTIN:
            raise Conflict(
                f"work pool {name!r} is built in; to have it otherwise, declare it with "
                f"`airflow workpools create {name}`"
            )
        return pool

    def _valid(self, name: str) -> WorkPool:
        pool = self._editable(name)
        if isinstance(pool, InvalidPool):
            raise InvalidWorkPool(
                f"mend work pool {name!r} first (`airflow workpools update {name}`): {pool.reason}"
            )
        return pool

    def _check_airflow_pools(self, pool: WorkPool) -> None:
        """Refuse a pool whose slots could never be given out, because somebody else owns the Airflow pool."""
        names = [WorkQueueRef(pool.name, queue.name).airflow_pool for queue in pool.queues]
        for airflow_pool, description in self._airflow_pools(names).items():
            if not is_managed_description(description):
                raise Conflict(
                    f"Airflow has a pool {airflow_pool!r} that was not made for a work queue, and work pool "
                    f"{pool.name!r} needs that name; move its tasks to another pool and delete it "
                    f"(`airflow pools delete {airflow_pool}`), or choose another name"
                )

    def _airflow_pools(self, names: Collection[str]) -> dict[str, str | None]:
        statement = select(Pool.pool, Pool.description).where(Pool.pool.in_(names))
        return {row.pool: row.description for row in self.session.execute(statement)}

    def lock(self, name: str) -> None:
        """Keep others from changing a pool until this transaction ends; to be said before pools are read."""
        self.session.execute(select(Connection.id).where(Connection.conn_id == name).with_for_update())

    def _connection(self, name: str) -> Any:
        connection = self.session.scalar(
            select(Connection).where(Connection.conn_id == name).with_for_update()
        )
        if connection is None:
            raise NotFound(unknown_pool(name, self.pools))
        return connection

    def _forget_queues(self, pool: str, kept: Collection[str]) -> list[WorkQueueRef]:
        """Forget the run-time state of the queues that are not kept, and return them; or refuse, and change nothing.

        The jobs say what must stay, whatever the old definition says: it may be invalid.
        """
        for ref in sorted(self.store.counts([pool])):
            if ref.queue not in kept:
                self.store.forget_queue(ref)  # refuses, and says why
        present = self.pools.get(pool)
        old = present.queues if isinstance(present, WorkPool) else ()
        dropped = [WorkQueueRef(pool, queue.name) for queue in old if queue.name not in kept]
        for ref in dropped:
            self.store.forget_queue(ref)
        return dropped

    def _resume_new_queues(self, pool: WorkPool) -> None:
        """Take pauses back that queues have left which were removed elsewhere, as in Airflow's connection form."""
        present = self.pools.get(pool.name)
        if isinstance(present, InvalidPool):
            return  # which queues it had, nobody can tell
        known = {queue.name for queue in present.queues} if present is not None else set()
        for queue in pool.queues:
            if queue.name not in known:
                self.store.set_queue_paused(WorkQueueRef(pool.name, queue.name), False)

    def _remove_airflow_pools(self, refs: Collection[WorkQueueRef]) -> None:
        ours = [airflow_pool_description(ref) for ref in refs]
        names = [ref.airflow_pool for ref in refs]
        self.session.execute(delete(Pool).where(Pool.pool.in_(names), Pool.description.in_(ours)))


def unknown_pool(name: str, pools: Collection[str]) -> str:
    """Say that a work pool does not exist, and which do."""
    return f"there is no work pool {name!r}; there are: {', '.join(sorted(pools))}"


def where_declared(pool: AnyPool) -> str:
    """Say where the definition of a pool stands."""
    if pool.source is PoolSource.ENVIRONMENT:
        return f"{ENV_PREFIX}{pool.name.upper()}"
    return {
        PoolSource.SECRETS: "a secrets backend",
        PoolSource.DATABASE: f"connection {pool.name!r}",
        PoolSource.BUILTIN: "built in",
    }[pool.source]


def is_writable(pool: AnyPool) -> bool:
    """Say whether the place of a pool's definition is ours to write."""
    return pool.source not in (PoolSource.ENVIRONMENT, PoolSource.SECRETS)


def _check_writable(pool: AnyPool) -> None:
    if not is_writable(pool):
        where = where_declared(pool)
        raise Conflict(f"work pool {pool.name!r} is read-only: defined by {where}; it can be paused")


def _definition_in(connection: Any) -> dict[str, Any]:
    """Return the definition that a connection holds, if it is a JSON object at all."""
    try:
        text = connection.get_extra()
        definition = json.loads(text or "{}")
        if not isinstance(definition, dict):
            raise TypeError("it is no JSON object")
    except Exception as error:
        # Another Fernet key, or text that is no JSON object: nothing of it could be kept.
        name, reason = connection.conn_id, str(error) or type(error).__name__
        raise InvalidInput(
            f"the definition of work pool {name!r} cannot be read ({reason}); "
            f"replace it with `airflow workpools create {name} --overwrite`"
        ) from error
    return definition


def _queue_definition(queue: WorkQueue) -> dict[str, Any]:
    return without_nulls(
        {
            "priority": queue.priority,
            "concurrency_limit": queue.concurrency_limit,
            "description": queue.description,
            "job_variables": dict(queue.job_variables) or None,
        }
    )
