# SPDX-License-Identifier: Apache-2.0
"""Steps of Airflow and its schedulers."""

from __future__ import annotations

import contextlib

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from airflow_workpools.core.jobs import ENDED
from airflow_workpools.core.names import WorkQueueRef
from tests.store.databases import Crash
from tests.store.model import checks
from tests.store.model.machine import (
    MOST_TRIES,
    Machine,
    crash_points,
    rarely,
    which,
)
from tests.store.model.schedulers import Scheduler
from tests.store.model.world import REFS, RESUMED


class AirflowRules(Machine):
    """Tasks and schedulers."""

    # -- Airflow ---------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.tries) < MOST_TRIES)
    @rule(
        refs=st.lists(st.sampled_from(REFS), min_size=1, max_size=4),
        slots=st.sampled_from((1, 1, 1, 2, 3, 5)),
        weight=st.integers(1, 2),
        start_timeout=st.sampled_from((20.0, 60.0, 600.0)),
    )
    def tasks_are_scheduled(
        self, refs: list[WorkQueueRef], slots: int, weight: int, start_timeout: float
    ) -> None:
        for ref in refs:
            self.world.add_try(ref, slots, weight, start_timeout)

    @rule(number=which, most=st.integers(1, 4), crash=crash_points)
    def tasks_are_handed_over(self, number: int, most: int, crash: int | None) -> None:
        scheduled = [one for one in self.world.tries if one.is_current and one.state == "scheduled"]
        if (scheduler := self.scheduler(number)) and scheduled:
            scheduler.hand_over(scheduled[:most], crash=crash)

    @rule(number=which)
    def a_task_resumes(self, number: int) -> None:
        """A trigger fires, or a sensor's time has come: the same try is scheduled again."""
        resting = [one for one in self.world.tries if one.is_current and one.state in RESUMED]
        if resting:
            self.world.becomes(resting[number % len(resting)], "scheduled")

    @rule(
        number=which, state=st.sampled_from(("restarting", "success", "failed", "removed", None, "scheduled"))
    )
    def airflow_or_a_user_moves_a_task_on(self, number: int, state: str | None) -> None:
        current = [one for one in self.world.tries if one.is_current and one.latest_job]
        if not current:
            return
        one = current[number % len(current)]
        fits = {"restarting": ("running",), "scheduled": ("queued",)}.get(str(state), (one.state,))
        if one.state in fits:
            self.world.becomes(one, state)

    @rule(number=which, seconds_ago=st.sampled_from((None, 0.0, 100.0)))
    def a_task_is_cleared(self, number: int, seconds_ago: float | None) -> None:
        current = [one for one in self.world.tries if one.is_current and one.latest_job]
        if current:
            ended_at = None if seconds_ago is None else max(0.0, self.world.seconds - seconds_ago)
            self.world.is_renewed(current[number % len(current)], ended_at=ended_at)

    # -- schedulers ------------------------------------------------------------------------------------------

    @precondition(lambda self: sum(one.alive for one in self.schedulers) < 2)
    @rule()
    def scheduler_starts(self) -> None:
        self.schedulers.append(Scheduler(self.world.number(), self.world))

    @rule(number=which, crash=crash_points)
    def orphans_are_adopted(self, number: int, crash: int | None) -> None:
        if scheduler := self.scheduler(number):
            with contextlib.suppress(Crash):
                scheduler.adopts({one.id for one in self.schedulers if one.alive}, crash=crash)

    @rule(number=which, limit=st.sampled_from((1, 100)), crash=crash_points, passes_over=rarely)
    def ends_are_told(self, number: int, limit: int, crash: int | None, passes_over: bool) -> None:
        if scheduler := self.scheduler(number):
            self.expect_ends_of(scheduler)
            with contextlib.suppress(Crash):
                scheduler.is_told(limit=limit, crash=crash)
                if number % 3:
                    scheduler.acts(passes_over=passes_over)

    def expect_ends_of(self, scheduler: Scheduler) -> None:
        """Every end that is a scheduler's own is there for it until it has acknowledged it."""
        expected = {
            job.id
            for job in self.records.values()
            if job.state in ENDED and job.scheduler_job_id == scheduler.id and job.reported_at is None
        }
        ended = self.world.stores.ask("ended", scheduler.id, limit=1000)
        assert {job.id for job in ended} == expected
        for job in ended:
            newer = [one for one in self.records.values() if one.task_instance_id == job.task_instance_id]
            assert job.latest == all(one.round <= self.records[job.id].round for one in newer)

    @rule(number=which)
    def airflow_acts_on_ends(self, number: int) -> None:
        if scheduler := self.scheduler(number):
            scheduler.acts()

    @rule(number=which, crash=crash_points)
    def jobs_are_reconciled(self, number: int, crash: int | None) -> None:
        if scheduler := self.scheduler(number):
            before = dict(self.records)
            with contextlib.suppress(Crash):
                scheduler.reconciles(crash=crash)
            checks.check_reconciled(before, checks.by_id(self.world.stores.records()), self.world)

    @rule(number=which)
    def stranded_jobs_are_cancelled(self, number: int) -> None:
        if scheduler := self.scheduler(number):
            scheduler.cancels_stranded()

    @rule(number=which)
    def a_scheduler_dies(self, number: int) -> None:
        if number % 4 == 0 and (scheduler := self.scheduler(number)):
            scheduler.alive, scheduler.events = False, []
