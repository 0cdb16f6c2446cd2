# SPDX-License-Identifier: Apache-2.0
"""Workers and their tokens for people."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_workpools.api.pools import translate, wire
from airflow_workpools.api.pools.paging import page_of
from airflow_workpools.core.worker_tokens import WorkerToken, new_token
from airflow_workpools.errors import Conflict, NotFound
from airflow_workpools.store.records import JobCount, WorkerState
from airflow_workpools.store.worker_edits import living_worker

if TYPE_CHECKING:
    from airflow_workpools.api.pools.access import Caller
    from airflow_workpools.api.pools.desk import Desk
    from airflow_workpools.store.records import WorkerRecord
    from airflow_workpools.store.tokens import TokenStore

_NONE = JobCount(0, 0)


@dataclass(frozen=True)
class WorkerService:
    """Does what the routes for workers and tokens say."""

    desk: Desk
    tokens: TokenStore

    def list_workers(self, pool: str, cursor: str | None, limit: int, *, stopped: bool) -> wire.WorkerList:
        with self.desk.reading() as context:
            (found,) = context.overview(pool)
            holds = context.store.worker_counts()
            listed = [
                worker
                for worker in found.workers
                if stopped or worker.state is not WorkerState.STOPPED or worker.id in holds
            ]
            page = page_of(listed, _worker_key, cursor, limit)
            return wire.WorkerList(
                workers=[
                    translate.worker_summary(
                        worker, pool=pool, holds=holds.get(worker.id, _NONE), now=context.now
                    )
                    for worker in page.items
                ],
                total=page.total,
                next_cursor=page.next_cursor,
                as_of=context.now,
            )

    def drain_worker(self, caller: Caller, pool: str, name_or_id: str, *, drain: bool) -> wire.WorkerSummary:
        with self.desk.reading() as context:
            (found,) = context.overview(pool)
            worker = living_worker(found.workers, name_or_id)
            # It serves them all, so who drains it stops all of them.
            for name in worker.pools or ():
                known = context.pools.get(name)
                caller.check_operate(name, None if known is None else known.team_name)
            (context.store.drain_worker if drain else context.store.resume_worker)(worker.id)
        with self.desk.reading() as context:
            return translate.worker_summary(
                context.store.worker(worker.id),
                pool=pool,
                holds=context.store.worker_counts().get(worker.id, _NONE),
                now=context.now,
            )

    # -- tokens ---------------------------------------------------------------------------------------------

    def list_tokens(self, pool: str, cursor: str | None, limit: int) -> wire.TokenList:
        with self.desk.reading() as context:
            context.pool(pool)
            found = [token for token in self.tokens.all() if pool in token.pools]
            page = page_of(found, _token_key, cursor, limit)
            return wire.TokenList(
                tokens=[
                    wire.TokenSummary(**translate.token_data(token, context.now)) for token in page.items
                ],
                total=page.total,
                next_cursor=page.next_cursor,
                as_of=context.now,
            )

    def create_token(self, caller: Caller, pool: str, request: wire.NewToken) -> wire.TokenMade:
        parts = new_token(secrets.token_hex)
        life = request.expires_in_seconds
        with self.desk.reading() as context:
            token = WorkerToken(
                id=parts.id,
                hash=parts.hash,
                pools=(context.pool(pool).name,),
                description=request.description or None,
                created_at=context.now,
                created_by=caller.name[:250],
                expires_at=None if life is None else context.now + timedelta(seconds=life),
            )
            self.tokens.add(token)
            return wire.TokenMade(**translate.token_data(token, context.now), token=parts.text)

    def revoke_token(self, caller: Caller, pool: str, token_id: str) -> None:
        with self.desk.reading() as context:
            context.pool(pool)
            token = self.tokens.find(token_id)
            if token is None or pool not in token.pools:
                raise NotFound(f"work pool {pool!r} has no token {token_id[:40]!r}")
            for name in token.pools:
                known = context.pools.get(name)
                caller.check_edit(name, None if known is None else known.team_name)
            if not self.tokens.revoke(token_id, now=context.now):
                raise Conflict(f"token {token_id} was revoked before")


def _worker_key(worker: WorkerRecord) -> list[Any]:
    return [worker.started_at.isoformat(), worker.id.hex]


def _token_key(token: WorkerToken) -> list[Any]:
    return [token.created_at.isoformat(), token.id]
