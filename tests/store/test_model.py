# SPDX-License-Identifier: Apache-2.0
"""Whatever schedulers, workers, people and crashes do to the store in whatever order: its promises hold.

A state machine takes random steps in a world of Airflow, schedulers, workers and processes (``model/``). Each call
goes to the store in memory and to one in SQL, which must say and do the same. After each step the promises in
``model/checks.py`` are checked, and at the end that with working actors everything ends.

``WORKPOOLS_MODEL_EXAMPLES`` and ``WORKPOOLS_MODEL_STEPS`` make longer runs.
"""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from airflow_workpools.core.names import WorkQueueRef
from tests.store.model import checks
from tests.store.model.airflow_rules import AirflowRules
from tests.store.model.machine import MOST_TRIES, times, which
from tests.store.model.people_rules import PeopleRules
from tests.store.model.worker_rules import WorkerRules
from tests.store.model.world import ENDS, HOSTS, REFS, RESUMED


class StoreModel(AirflowRules, WorkerRules, PeopleRules):
    """All steps, how it begins, and how everything ends."""

    @initialize(task_end=st.sampled_from(ENDS), how_far=st.integers(0, 6), seconds=times)
    def everyone_starts(self, task_end: str, how_far: int, seconds: float) -> None:
        """Begin where something is going on already: most steps make sense only then."""
        self.scheduler_starts()
        for host in HOSTS:
            self.worker_starts(host=host, heartbeat_seconds=10.0, crash=None)
        self.tasks_are_scheduled(refs=list(REFS[:3]), slots=1, weight=1, start_timeout=20.0)
        self.tasks_are_handed_over(number=0, most=2, crash=None)
        self.every_promise_is_kept()
        self.a_worker_claims(number=0, room=2, crash=None, lost=False, only=None, launches=how_far > 0)
        self.a_process_goes_on(number=0, task_end=task_end, steps=how_far % 4)
        self.time_passes(seconds=seconds)
        self.a_process_goes_on(number=1, task_end="deferred", steps=how_far // 2)

    @rule(number=which, refs=st.lists(st.sampled_from(REFS[:3]), max_size=3), task_end=st.sampled_from(ENDS))
    def things_go_well(self, number: int, refs: list[WorkQueueRef], task_end: str) -> None:
        """Without this, random steps hardly ever come far."""
        if len(self.world.tries) < MOST_TRIES:
            self.tasks_are_scheduled(refs=refs, slots=1, weight=1, start_timeout=20.0)
        self.a_task_resumes(number)
        self.tasks_are_handed_over(number=number, most=4, crash=None)
        self.every_promise_is_kept()
        self.a_worker_claims(number=number, room=64, crash=None, lost=False, only=None, launches=True)
        self.every_promise_is_kept()
        self.a_process_goes_on(number=number, task_end=task_end, steps=2)

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:
            self.everything_ends()

    # -- liveness --------------------------------------------------------------------------------------------

    def everything_ends(self) -> None:
        """From wherever this has come to, with working actors every job ends, and Airflow hears of it."""
        self.people_make_way()
        for round_ in range(40):
            self.world.seconds += 12.0 if round_ < 8 else 60.0
            self.a_round_of_work()
            self.every_promise_is_kept()
            if self.is_over():
                break
        self.world.stores.agree(self.world.now, thoroughly=True)
        checks.check_end(list(self.records.values()), self.world)
        for scheduler in self.schedulers:
            if scheduler.alive:
                assert self.world.stores.ask("ended", scheduler.id, limit=10) == []
        for _ in range(6):
            self.world.seconds += 1
            self.old_rows_are_purged(limit=1, seconds=0.0, crash=None)
            self.every_promise_is_kept()

    def people_make_way(self) -> None:
        """What waits for people may wait for ever; so they resume, and raise limits."""
        for ref in REFS:
            self.world.stores.ask("set_pool_paused", ref.pool, False)
            self.world.stores.ask("set_queue_paused", ref, False)
        self.world.limits = {pool: limit and max(5, limit) for pool, limit in self.world.limits.items()}
        self.world.limits = {pool: 5 if limit == 0 else limit for pool, limit in self.world.limits.items()}
        self.world.queues = {
            pool: {name: (priority, None) for name, (priority, _) in queues.items()}
            for pool, queues in self.world.queues.items()
        }
        for worker in self.workers:
            worker.frozen = False
        if not any(one.alive for one in self.schedulers):
            self.scheduler_starts()
        draining = [one for one in self.workers if one.works]
        for worker in draining[1:]:
            worker.dies()
        self.worker_starts(host=HOSTS[0], heartbeat_seconds=10.0, crash=None)

    def a_round_of_work(self) -> None:
        alive = {one.id for one in self.schedulers if one.alive}
        for scheduler in self.schedulers:
            if scheduler.alive:
                scheduler.is_told()
                scheduler.acts()
                scheduler.adopts(alive)
                scheduler.reconciles()
                scheduler.cancels_stranded()
                self.every_promise_is_kept()
        self.world.miss_heartbeats()
        for one in self.world.tries:
            if one.is_current and one.state in RESUMED:
                self.world.becomes(one, "scheduled")
        scheduled = [one for one in self.world.tries if one.is_current and one.state == "scheduled"]
        if scheduled:
            next(one for one in self.schedulers if one.alive).hand_over(scheduled)
            self.every_promise_is_kept()
        working = [one for one in self.workers if one.works]
        for worker in working:
            if self.is_registered(worker):
                worker.ask("heartbeat", worker.id, now=self.world.now)
        for worker in working:
            worker.beats()
            self.every_promise_is_kept()
            self.lost_jobs_are_found(worker)
            worker.claims(room=64)
            self.every_promise_is_kept()
            for tracked in worker.to_launch:
                worker.launches(tracked, "running")
            worker.stops_wished()
            worker.observes()
            worker.tells()
            self.every_promise_is_kept()
        for process in self.world.processes:
            if process.alive:
                self.world.goes_on(process, "success")

    def is_over(self) -> bool:
        try:
            checks.check_end(list(self.records.values()), self.world)
        except AssertionError:
            return False
        return not any(
            job.scheduler_job_id == one.id and job.ended_at is not None and job.reported_at is None
            for one in self.schedulers
            if one.alive
            for job in self.records.values()
        )


EXAMPLES = int(os.environ.get("WORKPOOLS_MODEL_EXAMPLES", "0"))
STEPS = int(os.environ.get("WORKPOOLS_MODEL_STEPS", "30"))


@pytest.mark.timeout(0 if EXAMPLES else 300)
@pytest.mark.parametrize(
    ("database", "examples"),
    [
        pytest.param(None, 60, id="memory"),
        pytest.param("sqlite", 12, id="sqlite"),
        pytest.param("postgres", 12, id="postgres", marks=pytest.mark.postgres),
    ],
)
def test_the_promises_hold(request: pytest.FixtureRequest, database: str | None, examples: int) -> None:
    class Model(StoreModel):
        engine = database and request.getfixturevalue(f"{database}_engine")

    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=EXAMPLES or examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
