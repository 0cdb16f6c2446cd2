# SPDX-License-Identifier: Apache-2.0
"""Pools and queues for people: the rules are those of the command line, from the same functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_workpools.api.pools import translate, wire
from airflow_workpools.api.pools.paging import page_of
from airflow_workpools.api.pools.sparklines import Sparklines, flat
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import InvalidInput
from airflow_workpools.store.overview import overview
from airflow_workpools.store.pool_sources import team_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_workpools.api.pools.access import Caller
    from airflow_workpools.api.pools.desk import Desk
    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.store.context import Context
    from airflow_workpools.store.overview import PoolOverview, QueueOverview


@dataclass(frozen=True)
class PoolService:
    """Does what the routes for pools and queues say."""

    desk: Desk
    sparklines: Sparklines = field(default_factory=Sparklines)

    # -- pools ----------------------------------------------------------------------------------------------

    def list_pools(self, caller: Caller, cursor: str | None, limit: int) -> wire.PoolList:
        with self.desk.reading() as context:
            visible = self.desk.visible(caller, context)
            page = page_of(visible, lambda name: [name], cursor, limit)
            names = {name: visible[name] for name in page.items}
            found = overview(context.session, names, context.store, now=context.now) if names else []
            points = self.sparklines.of_all(context.session, context.now)
            multi_team = context.settings.pools.multi_team
            return wire.PoolList(
                pools=[
                    translate.pool_summary(
                        one, sparkline=flat(points, one.pool.name), **_permissions(caller, one)
                    )
                    for one in found
                ],
                total=page.total,
                next_cursor=page.next_cursor,
                as_of=context.now,
                may_create=caller.may_edit(None, None, "POST"),
                teams=team_names(context.session) if multi_team else [],
            )

    def get_pool(self, caller: Caller, name: str) -> wire.PoolDetail:
        with self.desk.reading() as context:
            return self._detail(caller, context, name)

    def create_pool(self, caller: Caller, request: wire.NewPool) -> wire.PoolDetail:
        caller.check_edit(request.name, request.team_name, "POST")
        names = [queue.name for queue in request.queues]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidInput(f"work queue {twice[0]!r} is given twice")
        with self.desk.changing(request.name) as context:
            pool = context.editor.create_pool(
                request.name,
                translate.pool_definition(request),
                description=request.description,
                paused=request.paused,
                team_name=request.team_name,
            )
            for queue in request.queues:
                if queue.paused:
                    context.store.set_queue_paused(WorkQueueRef(pool.name, queue.name), True)
        return self.get_pool(caller, request.name)

    def update_pool(self, caller: Caller, name: str, request: wire.PoolChange) -> wire.PoolDetail:
        said = request.model_fields_set
        if "type" in said and request.type is None:
            raise InvalidInput("type must not be null: a work pool has one")
        if not said:
            raise InvalidInput("nothing to change was given")
        if "team_name" in said:
            caller.check_edit(name, request.team_name)
        with self.desk.changing(name) as context:
            context.editor.update_pool(
                name,
                translate.pool_changes(request),
                description=(request.description or "") if "description" in said else None,
                team_name=(request.team_name or "") if "team_name" in said else None,
            )
        return self.get_pool(caller, name)

    def delete_pool(self, name: str) -> None:
        with self.desk.changing(name) as context:
            context.editor.delete_pool(name)

    def pause_pool(self, caller: Caller, name: str, *, paused: bool) -> wire.PoolDetail:
        with self.desk.reading() as context:
            context.store.set_pool_paused(context.pool(name).name, paused)
        return self.get_pool(caller, name)

    def _detail(self, caller: Caller, context: Context, name: str) -> wire.PoolDetail:
        (found,) = context.overview(name)
        permissions = _permissions(caller, found)
        return translate.pool_detail(
            found,
            sparkline=flat(self.sparklines.of_all(context.session, context.now), name),
            show=self._show(reveal=permissions["may_edit"]),
            now=context.now,
            **permissions,
        )

    def _show(self, *, reveal: bool) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Return what makes job variables ready to be shown: with their secrets, or without."""
        return lambda variables: translate.shown(variables, None if reveal else self.desk.is_secret)

    # -- queues ---------------------------------------------------------------------------------------------

    def list_queues(self, caller: Caller, pool: str, cursor: str | None, limit: int) -> wire.QueueList:
        with self.desk.reading() as context:
            context.valid_pool(pool)
            (found,) = context.overview(pool)
            show = self._show(reveal=_permissions(caller, found)["may_edit"])
            page = page_of(found.queues, _queue_key, cursor, limit)
            return wire.QueueList(
                queues=[translate.queue_summary(queue, show=show) for queue in page.items],
                total=page.total,
                next_cursor=page.next_cursor,
                as_of=context.now,
            )

    def create_queue(self, caller: Caller, pool: str, request: wire.NewQueue) -> wire.QueueAnswer:
        changes = translate.new_queue_changes(request)
        with self.desk.changing(pool) as context:
            before = context.valid_pool(pool)
            ref = WorkQueueRef(pool, request.name)
            after = context.editor.create_queue(ref, changes, paused=request.paused)
        return self._queue_answer(caller, ref, before, after)

    def update_queue(
        self, caller: Caller, pool: str, queue: str, request: wire.QueueChange
    ) -> wire.QueueAnswer:
        said = request.model_fields_set
        if "priority" in said and request.priority is None:
            raise InvalidInput("priority must not be null: every work queue has one")
        if not said:
            raise InvalidInput("nothing to change was given")
        with self.desk.changing(pool) as context:
            before = context.valid_pool(pool)
            ref = WorkQueueRef(pool, queue)
            after = context.editor.update_queue(ref, translate.queue_changes(request))
        return self._queue_answer(caller, ref, before, after)

    def delete_queue(self, pool: str, queue: str) -> None:
        with self.desk.changing(pool) as context:
            context.valid_pool(pool).queue(queue)
            context.editor.delete_queue(WorkQueueRef(pool, queue))

    def pause_queue(self, caller: Caller, pool: str, queue: str, *, paused: bool) -> wire.QueueAnswer:
        ref = WorkQueueRef(pool, queue)
        with self.desk.reading() as context:
            context.check_queue(ref)
            context.store.set_queue_paused(ref, paused)
            now_is = context.valid_pool(pool)
        return self._queue_answer(caller, ref, now_is, now_is)

    def _queue_answer(
        self, caller: Caller, ref: WorkQueueRef, before: WorkPool, after: WorkPool
    ) -> wire.QueueAnswer:
        old = {queue.name: queue.priority for queue in before.queues}
        with self.desk.reading() as context:
            (found,) = context.overview(ref.pool)
            context.valid_pool(ref.pool).queue(ref.queue)
            queue = next(one for one in found.queues if one.ref == ref)
            return wire.QueueAnswer(
                queue=translate.queue_summary(
                    queue, show=self._show(reveal=_permissions(caller, found)["may_edit"])
                ),
                moved=[
                    wire.MovedQueue(name=one.name, old_priority=old[one.name], new_priority=one.priority)
                    for one in after.queues
                    if one.name != ref.queue and old.get(one.name, one.priority) != one.priority
                ],
                as_of=context.now,
            )


def _queue_key(found: QueueOverview) -> list[Any]:
    return [found.queue.priority, found.queue.name]


def _permissions(caller: Caller, found: PoolOverview) -> dict[str, bool]:
    name, team = found.pool.name, found.pool.team_name
    return {"may_edit": caller.may_edit(name, team), "may_operate": caller.may_operate(name, team)}
