# SPDX-License-Identifier: Apache-2.0
"""How the embedded worker carries out errands: as processes of the process runner, beside its jobs.

Each errand is one asyncio task, from its launch to the moment in which its end is stored. Whatever is in the way of
that is tried again, so an errand ends in no other way than by its process, or by the worker's own end: then the
next worker takes it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.core.errands import ErrandKind
from airflow_workpools.errors import InfrastructureUnavailable, LaunchRejected
from airflow_workpools.infrastructure.base import LaunchSpec, Phase
from airflow_workpools.telemetry import add_to_log
from airflow_workpools.worker.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.infrastructure.base import Handle, Infrastructure, Observation
    from airflow_workpools.store.errands import Errand
    from airflow_workpools.store.records import WorkerRecord

log = logging.getLogger(__name__)
T = TypeVar("T")

AT_A_TIME = {ErrandKind.CALLBACK: 16, ErrandKind.CONNECTION_TEST: 8}
"""Most errands of each kind that a worker carries out at a time. Somebody waits for a connection test, so callbacks
that take long must not keep it from starting."""
LAUNCH_ATTEMPTS = 5
STOP_GRACE_SECONDS = 5.0


class ErrandSource(Protocol):
    """What a worker asks and tells of errands. All methods may block; they are called from a thread."""

    def claim(self, worker: WorkerRecord, *, room: Mapping[ErrandKind, int]) -> list[Errand]: ...

    def take_over(
        self, worker: WorkerRecord, *, known: Collection[UUID], now: datetime
    ) -> list[Errand] | None: ...

    def begin(self, errand: Errand) -> None: ...

    def end(self, errand: Errand, failure: str | None) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class ErrandTimes:
    """How often what is done, in seconds."""

    look: float = 10.0
    """At the latest after this time it looks for errands, even when nobody called :meth:`Errands.look_now`."""
    look_again: float = 1.0
    """The same while it is not online yet, or has no room for more."""
    observe: float = 0.25
    """Time between two looks at an errand that runs."""
    overtime: float = 30.0
    """What is added to an errand's own timeout before it is stopped: a hook may hang where no signal ends it."""
    max_retry: float = 30.0


@dataclass
class Errands:
    """Carries errands out, some at a time; more wait in Airflow's tables.

    :param error_in_log: reads from a log why a callback failed.
    """

    worker: WorkerRecord
    source: ErrandSource
    infrastructure: Infrastructure
    clock: Callable[[], datetime]
    error_in_log: Callable[[str], str | None]
    times: ErrandTimes = field(default_factory=ErrandTimes)
    at_a_time: Mapping[ErrandKind, int] = field(default_factory=lambda: AT_A_TIME)
    monotonic: Callable[[], float] = time.monotonic
    may_judge: Callable[[], bool] = lambda: True
    """Says whether others may be taken for dead: not while times can't be compared, because the clock has jumped."""
    is_open: Callable[[], bool] = lambda: True
    """Says whether the infrastructure has been opened."""

    def __post_init__(self) -> None:
        self._look_now = asyncio.Event()
        self._active: dict[UUID, asyncio.Task[None]] = {}
        self._kinds: dict[UUID, ErrandKind] = {}

    def look_now(self) -> None:
        """Look for errands at once: someone knows that there are some."""
        self._look_now.set()

    async def run(self) -> None:
        """Work until cancelled; errands that run go on running."""
        backoff = Backoff(maximum=self.times.max_retry)
        try:
            while True:
                self._look_now.clear()
                try:
                    pause = self.times.look if await self._look() else self.times.look_again
                    backoff.reset()
                except Exception as error:
                    pause = backoff.next()
                    log.warning("Errands: looking failed, again in %.1f s: %s", pause, error, exc_info=True)
                await wait_for(self._look_now, pause)
        finally:
            for task in self._active.values():
                task.cancel()
            await asyncio.gather(*self._active.values(), return_exceptions=True)

    async def _look(self) -> bool:
        """Take what waits, and what others left behind; say whether that was all."""
        if not (self.may_judge() and self.is_open()):
            return False
        left = await asyncio.to_thread(
            self.source.take_over, self.worker, known=set(self._active), now=self.clock()
        )
        if left is None:
            return False
        for errand in left:
            self._start(errand)
        room = self._room()
        claimed = await asyncio.to_thread(self.source.claim, self.worker, room=room)
        for errand in claimed:
            self._start(errand)
        return all(most > 0 for most in self._room().values())

    def _room(self) -> dict[ErrandKind, int]:
        active = Counter(self._kinds.values())
        return {kind: most - active[kind] for kind, most in self.at_a_time.items()}

    def _start(self, errand: Errand) -> None:
        if errand.id in self._active:
            return
        log.info("Errands: took %s %s", errand.kind, errand.id)
        task = asyncio.create_task(self._carry_out(errand), name=f"{errand.kind} {errand.id}")
        self._active[errand.id], self._kinds[errand.id] = task, errand.kind
        task.add_done_callback(lambda _: self._forget(errand))

    def _forget(self, errand: Errand) -> None:
        self._active.pop(errand.id, None)
        self._kinds.pop(errand.id, None)
        self._look_now.set()  # there is room for another

    # -- one errand -----------------------------------------------------------------------------------------

    async def _carry_out(self, errand: Errand) -> None:
        try:
            await self._bring_to_end(errand)
        except Exception:
            log.exception("Errands: %s %s is looked at again", errand.kind, errand.id)
            await asyncio.sleep(self.times.look)

    async def _bring_to_end(self, errand: Errand) -> None:
        if errand.workload is None:
            await self._tell_end(errand, errand.problem)
            return
        try:
            handle = await self._launch(errand, errand.workload)
        except (LaunchRejected, InfrastructureUnavailable) as error:
            await self._tell_end(errand, self._noted(errand, f"could not be started: {error}"))
            return
        await self._insist("say that it runs", errand, lambda: self.source.begin(errand))
        failure = await self._watch(errand, handle)
        await self._tell_end(errand, failure)
        with contextlib.suppress(InfrastructureUnavailable):
            await self.infrastructure.cleanup(handle)

    async def _launch(self, errand: Errand, workload: str) -> Handle:
        spec = LaunchSpec(
            job_id=errand.id,
            configuration={},
            workload=workload,
            labels={"errand": str(errand.kind), "worker": self.worker.name},
        )
        backoff = Backoff(maximum=self.times.max_retry)
        while True:
            try:
                handles = [handle async for handle in self.infrastructure.launch(spec)]
                return handles[-1]
            except InfrastructureUnavailable as error:
                if backoff.failures + 1 >= LAUNCH_ATTEMPTS:
                    raise
                delay = backoff.next()
                log.warning(
                    "Errands: launching %s %s failed, again in %.1f s: %s",
                    errand.kind,
                    errand.id,
                    delay,
                    error,
                )
                await asyncio.sleep(delay)

    async def _watch(self, errand: Errand, handle: Handle) -> str | None:
        """Wait until an errand's process has ended; return why it failed, if it did."""
        limit = errand.timeout_seconds
        overdue_at = None if limit is None else self.monotonic() + limit + self.times.overtime
        stopped = False
        while True:
            seen = (await self.infrastructure.observe([handle]))[errand.id]
            if seen.ended:
                if stopped:
                    return self._noted(errand, f"stopped: it did not end within {limit:g} s")
                return self._failure(errand, seen)
            if overdue_at is not None and not stopped and self.monotonic() >= overdue_at:
                stopped = True
                await self.infrastructure.stop(handle, grace_seconds=STOP_GRACE_SECONDS)
            await asyncio.sleep(self.times.observe)

    def _failure(self, errand: Errand, seen: Observation) -> str | None:
        if seen.phase is Phase.EXITED and seen.exit_code == 0:
            return None
        said = None if errand.log_path is None else self.error_in_log(errand.log_path)
        return said or self._noted(errand, seen.reason or "ended without a reason")

    def _noted(self, errand: Errand, reason: str) -> str:
        """Return a reason of which a callback's log knows nothing, after adding it there."""
        if errand.log_path is not None:
            add_to_log(errand.log_path, f"Callback {errand.id}: {reason}", now=self.clock())
        return reason

    async def _tell_end(self, errand: Errand, failure: str | None) -> None:
        news = await self._insist("store its end", errand, lambda: self.source.end(errand, failure))
        # A connection test has told its result itself, and a callback that somebody else has is none of ours.
        if news and failure is not None:
            log.error("Errands: %s %s failed: %s", errand.kind, errand.id, failure)

    async def _insist(self, what: str, errand: Errand, call: Callable[[], T]) -> T:
        """Do something however long it takes: the database may be away."""
        backoff = Backoff(maximum=self.times.max_retry)
        while True:
            try:
                return await asyncio.to_thread(call)
            except Exception as error:
                delay = backoff.next()
                log.warning(
                    "Errands: could not %s (%s %s), again in %.1f s: %s",
                    what,
                    errand.kind,
                    errand.id,
                    delay,
                    error,
                )
                await asyncio.sleep(delay)


def errands_of(worker: WorkerRecord, infrastructure: Infrastructure, clock: Any) -> Errands:
    """Make what carries errands out for a worker that has the database."""
    from airflow_workpools.airflow_private.errands import error_in_log
    from airflow_workpools.store.errands import ErrandStore

    return Errands(
        worker=worker,
        source=ErrandStore(),
        infrastructure=infrastructure,
        clock=clock,
        error_in_log=error_in_log,
    )
