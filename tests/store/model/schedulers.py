# SPDX-License-Identifier: Apache-2.0
"""Schedulers with their executors, as far as the store has to do with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.jobs import JobState
from airflow_workpools.store.records import JobFilter
from tests.store.databases import Crash
from tests.store.model.stores import ALL
from tests.store.model.world import GRACE_SECONDS, Try, World

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from airflow_workpools.store.records import EndedJob


@dataclass(eq=False)
class Scheduler:
    """A scheduler's process. What it has been told and not acted on dies with it."""

    id: int
    world: World
    alive: bool = True
    events: list[EndedJob] = field(default_factory=list)

    def ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        try:
            return self.world.stores.ask(method, *arguments, **named)
        except Crash:
            self.alive, self.events = False, []
            raise

    # -- hand-over -------------------------------------------------------------------------------------------

    def hand_over(self, tries: Sequence[Try], *, crash: int | None = None) -> None:
        """Hand over scheduled tries in one transaction; a task of a queue that is not there fails at once."""
        calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        for one in tries:
            job = self._job(one)
            if self.world.has(one.job.ref):
                calls.append(("hand_over", (job,), {"now": self.world.now}))
            else:
                calls.append(("hand_over_failed", (job, "unknown queue"), {"now": self.world.now}))
        try:
            ids: list[uuid.UUID] = self.world.stores.together(calls, crash=crash)
        except Crash:
            self.alive, self.events = False, []
            return
        for one, id_ in zip(tries, ids, strict=True):
            one.scheduler, one.latest_job = self.id, id_
            self.world.becomes(one, "queued")

    def _job(self, one: Try) -> Any:
        from dataclasses import replace

        return replace(one.job, scheduler_job_id=self.id)

    # -- ends of jobs ----------------------------------------------------------------------------------------

    def is_told(self, *, limit: int = ALL, crash: int | None = None) -> None:
        """Ask for ends and remember that they are being told."""
        ended = self.ask("ended", self.id, limit=limit)
        if ended:
            self.ask("mark_reported", [job.id for job in ended], now=self.world.now, crash=crash)
            self.events += [job for job in ended if job.latest]

    def acts(self, *, passes_over: bool = False) -> None:
        """Do what Airflow does with the ends; it passes over task instances that somebody has locked."""
        events, self.events = self.events, []
        for event in () if passes_over else events:
            one = self.world.find_try(event.task_instance_id)
            if not one.is_current or one.latest_job != event.id or one.scheduler != self.id:
                continue
            if one.state == "restarting" and event.state is not JobState.FAILED:
                self.world.is_renewed(one, ended_at=None)
            elif one.state in ("queued", "running", "restarting"):
                self.world.becomes(one, "failed")

    # -- every few seconds -----------------------------------------------------------------------------------

    def reconciles(self, *, crash: int | None = None) -> None:
        self.ask("reconcile", now=self.world.now, grace_seconds=GRACE_SECONDS, crash=crash)

    def cancels_stranded(self) -> None:
        """Cancel waiting jobs whose queue was deleted."""
        waiting = [ref for ref, states in self.ask("counts").items() if JobState.PENDING in states]
        for ref in waiting:
            if not self.world.has(ref):
                which = JobFilter(queues=(ref,), states=frozenset({JobState.PENDING}))
                stranded = [job.id for job in self.ask("jobs", which, limit=ALL)]
                self.ask("request_cancel", job_ids=stranded, reason="deleted", now=self.world.now)

    # -- restarts --------------------------------------------------------------------------------------------

    def adopts(self, alive: set[int], *, crash: int | None = None) -> None:
        """Take over the task instances of dead schedulers; those without a job are begun anew."""
        orphans = [
            one
            for one in self.world.tries
            if one.is_current
            and one.state in ("queued", "running", "restarting")
            and one.scheduler not in alive
        ]
        if not orphans:
            return
        adopted = self.ask("adopt", [one.id for one in orphans], self.id, crash=crash)
        for one in orphans:
            if one.id in adopted:
                one.scheduler = self.id
            else:
                self.world.is_renewed(one, ended_at=None)
