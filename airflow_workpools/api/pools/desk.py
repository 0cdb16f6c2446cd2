# SPDX-License-Identifier: Apache-2.0
"""What the services of the pool API share: the pools as they are now, a transaction, changes one after the other."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from airflow_workpools.errors import NotFound
from airflow_workpools.store.audit import write_audit_row
from airflow_workpools.store.clock import database_time
from airflow_workpools.store.context import Context
from airflow_workpools.store.sessions import airflow_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.api.pools.access import Caller
    from airflow_workpools.api.pools.audit import AuditRow
    from airflow_workpools.core.pools import InvalidPool, WorkPool
    from airflow_workpools.settings import Settings
    from airflow_workpools.store.protocol import JobStore
    from airflow_workpools.store.sessions import SessionFactory


AT_ONCE = 4
"""Requests that ask the database at the same time. Each takes two connections: more could wait for each other."""


class ReadPools(Protocol):
    """Reads the work pools; anew, if that is asked for."""

    def __call__(self, *, fresh: bool = False) -> Mapping[str, WorkPool | InvalidPool]: ...


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What a request works with. Methods may block; threads share it.

    :param is_secret: tells by a name whether its value is not to be shown.
    :param clock: asks the database for its time.
    """

    settings: Settings
    store: JobStore
    read_pools: ReadPools
    is_secret: Callable[[str], bool]
    session_factory: SessionFactory = airflow_session
    clock: Callable[[Session], datetime] = database_time
    _changing: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _at_once: threading.Semaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(AT_ONCE), repr=False
    )

    @contextmanager
    def reading(self) -> Iterator[Context]:
        """Read the pools anew, whoever has changed them in which process, and commit what is changed within."""
        with self._at_once:
            pools = self.read_pools(fresh=True)
            with self.session_factory() as session:
                yield self._context(session, pools)

    @contextmanager
    def changing(self, pool: str) -> Iterator[Context]:
        """The same, and let nobody else change the definition of a pool meanwhile.

        A change writes all queues of a pool: two at the same time would undo each other. Other processes are kept away
        by a lock on the row, where the database has such; SQLite is for one process.
        """
        with self._changing, self._at_once, self.session_factory() as session:
            self._context(session, {}).editor.lock(pool)
            yield self._context(session, self.read_pools(fresh=True))

    def _context(self, session: Session, pools: Mapping[str, WorkPool | InvalidPool]) -> Context:
        return Context(
            settings=self.settings, pools=pools, store=self.store, session=session, now=self.clock(session)
        )

    def team_of(self, pool: str) -> str | None:
        """Return the team that a pool belongs to; None also for one that is not there."""
        known = self.read_pools()
        if pool not in known:
            known = self.read_pools(fresh=True)
        found = known.get(pool)
        return None if found is None else found.team_name

    def audit(self, row: AuditRow) -> None:
        """Write a row into Airflow's audit log."""
        write_audit_row(row.event, owner=row.owner, extra=row.extra, session_factory=self.session_factory)

    def visible(self, caller: Caller, context: Context) -> dict[str, WorkPool | InvalidPool]:
        """Return the pools that the caller may see."""
        return {name: pool for name, pool in context.pools.items() if caller.may_see(name, pool.team_name)}

    def check_visible(self, caller: Caller, pool: str, known: Mapping[str, WorkPool | InvalidPool]) -> None:
        """Refuse what is in a pool that the caller may not see, as if it were not there.

        :raises NotFound: if so.
        """
        found = known.get(pool)
        if not caller.may_see(pool, None if found is None else found.team_name):
            raise NotFound("there is nothing of that id, or it is not yours to see")
