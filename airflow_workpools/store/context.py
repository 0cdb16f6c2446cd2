# SPDX-License-Identifier: Apache-2.0
"""What commands and the pool API work with: the work pools, their store, and a transaction to change them in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_workpools.core.pools import InvalidPool, WorkPool
from airflow_workpools.errors import InvalidWorkPool, NotFound
from airflow_workpools.infrastructure.registry import default_templates
from airflow_workpools.store.overview import PoolOverview, overview
from airflow_workpools.store.pool_edits import PoolEditor, unknown_pool

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.core.names import WorkQueueRef
    from airflow_workpools.settings import Settings
    from airflow_workpools.store.pools import AnyPool, Pools
    from airflow_workpools.store.protocol import JobStore


@dataclass(frozen=True)
class Context:
    """What one command, or one request, sees of the work pools."""

    settings: Settings
    pools: Pools
    store: JobStore
    session: Session
    now: datetime

    @property
    def editor(self) -> PoolEditor:
        return PoolEditor(
            session=self.session,
            pools=self.pools,
            store=self.store,
            settings=self.settings.pools,
            templates=default_templates(),
        )

    def pool(self, name: str) -> AnyPool:
        """Return a pool, valid or not.

        :raises NotFound: if there is none; the message names those there are.
        """
        if name not in self.pools:
            raise NotFound(unknown_pool(name, self.pools))
        return self.pools[name]

    def valid_pool(self, name: str) -> WorkPool:
        """Return a pool whose definition is valid.

        :raises NotFound: if there is none.
        :raises InvalidWorkPool: if its definition is not valid.
        """
        pool = self.pool(name)
        if isinstance(pool, InvalidPool):
            raise InvalidWorkPool(f"work pool {name!r} is invalid: {pool.reason}")
        return pool

    def check_queue(self, ref: WorkQueueRef) -> None:
        """Check that a work queue exists.

        :raises NotFound: if there is no such pool or queue.
        :raises InvalidWorkPool: if the pool's definition is not valid.
        """
        self.valid_pool(ref.pool).queue(ref.queue)

    def overview(self, *names: str) -> list[PoolOverview]:
        """Return the named pools as they are doing now; all of them if none is named."""
        pools = {name: self.pool(name) for name in names} or self.pools
        return overview(self.session, pools, self.store, now=self.now)
