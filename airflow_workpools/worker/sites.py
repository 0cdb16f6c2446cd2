# SPDX-License-Identifier: Apache-2.0
"""The infrastructures that a worker can reach, each through one connection, and which of its pools that lets it use.

A *site* is one kind of infrastructure at one connection; pools that name the same connection share it. It is made
when a pool or a job needs it, opened in the background for as long as that takes, and watched by a task of its own: one
that does not answer keeps no other waiting. Of a pool whose site can't be used nothing is claimed, and people are told
why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.errors import InfrastructureUnavailable, NotFound, WorkpoolsError
from airflow_workpools.infrastructure.base import MayBeHindered, bound_to_host, launches_in_flight
from airflow_workpools.infrastructure.registry import infrastructure_class
from airflow_workpools.worker.waiting import within

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from uuid import UUID

    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.infrastructure.base import Handle, Infrastructure
    from airflow_workpools.store.records import ClaimedJob

log = logging.getLogger(__name__)

ReadConnection = Callable[[str], "Mapping[str, Any]"]
"""Returns the fields of an infrastructure's connection; raises NotFound if there is none. May block."""

BEING_OPENED = "its infrastructure is being opened"
OPEN_SECONDS = 60.0
"""Longest time that opening an infrastructure may take before it is tried anew."""
TOLD_AFTER = 3
"""An infrastructure that has failed to answer so often in a row is told of; less is no news."""


class SiteKey(NamedTuple):
    """Which infrastructure: what kind, reached through which connection."""

    kind: str
    conn_id: str | None = None


class Leftover(NamedTuple):
    """What is to be removed of a job that has ended."""

    handle: Handle
    again: ClaimedJob | None = None
    """The job, if it is to be launched again then."""


@dataclass(eq=False)
class Site:
    """One infrastructure, as this worker reaches it."""

    key: SiteKey
    infrastructure: Infrastructure | None = None
    connection: Mapping[str, Any] | None = field(default=None, repr=False)
    problem: str | None = BEING_OPENED
    """Why it can't be used at all."""
    outage: str | None = None
    """Why it did not answer the last time."""
    failures: int = 0
    """How often in a row it did not answer."""
    is_open: bool = False
    leftovers: dict[UUID, Leftover] = field(default_factory=dict)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """It has been opened, or could not be."""
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """There is something to do here."""
    task: asyncio.Task[None] | None = None

    @property
    def opened(self) -> Infrastructure:
        assert self.infrastructure is not None
        return self.infrastructure

    @property
    def hindrance(self) -> str | None:
        """Why nothing can be launched now, to be told to people."""
        if self.problem is not None:
            return self.problem
        if self.outage is not None and self.failures >= TOLD_AFTER:
            return self.outage
        return self.infrastructure.hindrance() if isinstance(self.infrastructure, MayBeHindered) else None

    @property
    def launch_places(self) -> int:
        """How many jobs may be launched here at a time: what is claimed is out of the reach of priorities."""
        return launches_in_flight(self.infrastructure)

    @property
    def usable(self) -> bool:
        return self.is_open and self.outage is None and self.hindrance is None

    def fails(self, reason: str) -> None:
        """Note that it does not answer: nothing is launched until it does."""
        self.outage = reason
        self.failures += 1

    def works(self) -> None:
        self.outage, self.failures = None, 0

    def remove(self, leftover: Leftover) -> None:
        """Have what is left of a job removed."""
        self.leftovers[leftover.handle.job_id] = leftover
        self.woken.set()


@dataclass(kw_only=True)
class Sites:
    """All sites of a worker.

    :param given: infrastructures that are there already, by kind; they need no connection, and are never let go.
    :param look: one look at what goes on at a site; repeated for ever.
    :param in_use: says whether a job is at a site.
    :param on_change: called when what the worker can use has changed.
    """

    given: Mapping[str, Infrastructure]
    home: Path | None
    connection: ReadConnection
    look: Callable[[Site], Awaitable[None]]
    in_use: Callable[[Site], bool]
    on_change: Callable[[], None]
    max_retry: float
    class_of: Callable[[str], Any] = infrastructure_class
    pools: Mapping[str, WorkPool] = field(default_factory=dict)
    """The pools that the worker serves."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """Of these, which it can't use, and why."""
    _present: dict[SiteKey, Site] = field(default_factory=dict)
    _replaced: list[Site] = field(default_factory=list)
    """Sites whose connection has changed; they go on for the jobs that were launched there."""

    def __iter__(self) -> Iterator[Site]:
        yield from self._present.values()
        yield from self._replaced

    # -- which site -----------------------------------------------------------------------------------------

    def of_pool(self, name: str) -> Site | None:
        """Return where jobs of a pool are launched; None if the worker does not serve it."""
        pool = self.pools.get(name)
        return None if pool is None else self._site(self._key(pool.type, pool.infrastructure_conn_id))

    def of_handle(self, handle: Handle, pool_name: str) -> Site:
        """Return where a job was launched that may be another worker's, or of an earlier definition of its pool."""
        pool = self.pools.get(pool_name)
        conn_id = handle.conn_id
        if conn_id is None and pool is not None and pool.type == handle.kind:  # it was not noted
            conn_id = pool.infrastructure_conn_id
        return self._site(self._key(handle.kind, conn_id))

    def _key(self, kind: str, conn_id: str | None) -> SiteKey:
        return SiteKey(kind) if kind in self.given else SiteKey(kind, conn_id)

    def _site(self, key: SiteKey) -> Site:
        if key not in self._present:
            site = self._present[key] = Site(key, self.given.get(key.kind))
            site.task = asyncio.create_task(self._live(site), name=f"site {key.kind} {key.conn_id or ''}")
        return self._present[key]

    def usable(self) -> list[str]:
        """Return the pools whose jobs can be launched now."""
        return [name for name in self.pools if (site := self.of_pool(name)) is not None and site.usable]

    def roaming(self) -> dict[str, str]:
        """Return the pools that can be used whose jobs workers of any host can look after, with their kinds."""
        return {
            name: site.key.kind
            for name in self.usable()
            if (site := self.of_pool(name)) is not None and not bound_to_host(site.opened)
        }

    # -- what is needed -------------------------------------------------------------------------------------

    def serve(self, pools: Mapping[str, WorkPool]) -> None:
        """Have a site for each of these pools, and let go of those that no pool and no job needs any more."""
        self.pools = dict(pools)
        needed = {self._key(pool.type, pool.infrastructure_conn_id) for pool in pools.values()}
        needed |= {SiteKey(kind) for kind in self.given}
        for key in needed:
            self._site(key)
        idle = [site for site in self if site.key not in needed or site in self._replaced]
        for site in idle:
            if not site.leftovers and not self.in_use(site):
                self._let_go(site)
        self.tell_changes()

    def _let_go(self, site: Site) -> None:
        if site in self._replaced:
            self._replaced.remove(site)
        else:
            del self._present[site.key]
        if site.task is not None:
            site.task.cancel()

    async def settle(self, seconds: float) -> None:
        """Wait until every site has been opened or could not be, so long at most."""
        waiting = [asyncio.ensure_future(site.settled.wait()) for site in self]
        if waiting:
            await asyncio.wait(waiting, timeout=seconds)
        for task in waiting:
            task.cancel()
        self.tell_changes()

    async def close(self) -> None:
        """Let go of everything; what runs goes on running."""
        tasks = [site.task for site in self if site.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look_at_connections(self) -> None:
        """Replace sites whose connection has changed: new jobs go to a fresh one."""
        for site in list(self._present.values()):
            if site.key.conn_id is None or not site.is_open:
                continue
            try:
                connection = await asyncio.to_thread(self.connection, site.key.conn_id)
            except NotFound:
                connection = {}
            except Exception as error:  # what is open goes on
                log.warning("Airflow connection '%s' can't be read: %s", site.key.conn_id, error)
                continue
            if connection != site.connection and self._present.get(site.key) is site:
                log.info(
                    "Airflow connection '%s' has changed: new jobs use it as it is now", site.key.conn_id
                )
                del self._present[site.key]
                self._replaced.append(site)
                self._site(site.key)

    def tell_changes(self) -> None:
        """Tell people of pools that can't be used any more, or can again."""
        problems = {
            name: reason
            for name in self.pools
            if (site := self.of_pool(name)) is not None and (reason := site.hindrance)
        }
        before, self.problems = self.problems, problems
        for name, reason in problems.items():
            if before.get(name) != reason and reason != BEING_OPENED:
                log.error("Worker: claims no job of work pool '%s', all wait: %s", name, reason)
        for name in before.keys() - problems.keys():
            if before[name] != BEING_OPENED:
                log.info("Worker: claims jobs of work pool '%s' again", name)
        if before != problems:
            self.on_change()

    # -- the life of one ------------------------------------------------------------------------------------

    async def _live(self, site: Site) -> None:
        try:
            await self._open(site)
            backoff = Backoff(maximum=self.max_retry)
            while True:
                if await self._look(site):
                    backoff.reset()
                else:
                    await asyncio.sleep(backoff.next())
        finally:
            if site.infrastructure is not None:
                with contextlib.suppress(Exception):
                    await site.infrastructure.close()

    async def _open(self, site: Site) -> None:
        backoff = Backoff(maximum=self.max_retry)
        while not site.is_open:
            try:
                if site.infrastructure is None:
                    site.infrastructure = await self._make(site)
                late = f"{site.key.kind} did not answer within {OPEN_SECONDS:.0f} s"
                await within(site.infrastructure.open(), OPEN_SECONDS, late)
                site.problem, site.is_open = None, True
            except Exception as error:
                if not isinstance(error, WorkpoolsError) and backoff.failures == 0:
                    log.exception("Worker: %s can't be opened", site.key.kind)
                site.problem = str(error) or type(error).__name__
                await self._discard(site)
            site.settled.set()
            self.tell_changes()
            if not site.is_open:
                await asyncio.sleep(backoff.next())

    async def _make(self, site: Site) -> Infrastructure:
        kind, conn_id = site.key
        if conn_id is not None:
            site.connection = await asyncio.to_thread(self.connection, conn_id)
        make = await asyncio.to_thread(self.class_of, kind)
        made: Infrastructure = make(home=self.home, connection=site.connection)
        return made

    async def _discard(self, site: Site) -> None:
        """Make another instance the next time: its connection may be another by then."""
        if site.key.kind in self.given or site.infrastructure is None:
            return
        infrastructure, site.infrastructure = site.infrastructure, None
        with contextlib.suppress(Exception):
            await infrastructure.close()

    async def _look(self, site: Site) -> bool:
        """Look once; say whether that was possible."""
        try:
            await self.look(site)
        except InfrastructureUnavailable as error:
            site.fails(str(error))
            log.log(
                logging.WARNING if site.failures == 1 else logging.DEBUG,
                "Worker: %s does not answer, trying again: %s",
                site.key.kind,
                error,
            )
            self.tell_changes()
            return False
        except Exception:
            log.warning("Worker: looking at %s failed, trying again", site.key.kind, exc_info=True)
            return False
        if site.outage is not None:
            site.works()
            self.tell_changes()
            self.on_change()
        return True
