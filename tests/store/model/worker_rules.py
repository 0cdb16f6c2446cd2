# SPDX-License-Identifier: Apache-2.0
"""Steps of workers and of what they launch."""

from __future__ import annotations

import contextlib

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from airflow_workpools.core.jobs import OCCUPYING
from airflow_workpools.errors import NotFound
from airflow_workpools.store.records import WorkerState
from tests.store.databases import Crash
from tests.store.model import checks
from tests.store.model.machine import (
    MOST_WORKERS,
    Machine,
    crash_points,
    rarely,
    which,
)
from tests.store.model.workers import Worker
from tests.store.model.world import ENDS, HOSTS


class WorkerRules(Machine):
    """Workers and processes."""

    @precondition(lambda self: sum(one.alive for one in self.workers) < MOST_WORKERS)
    @rule(host=st.sampled_from(HOSTS), heartbeat_seconds=st.sampled_from((5.0, 10.0)), crash=crash_points)
    def worker_starts(self, host: str, heartbeat_seconds: float, crash: int | None) -> None:
        worker = Worker(self.world.new_id(), host, heartbeat_seconds, self.world)
        with contextlib.suppress(Crash):
            worker.registers(crash=crash)
            self.workers.append(worker)

    @rule(number=which, crash=crash_points)
    def a_worker_beats(self, number: int, crash: int | None) -> None:
        if worker := self.worker(number):
            with contextlib.suppress(Crash):
                worker.beats(crash=crash)
                self.nothing_is_left_behind(worker.host)

    def nothing_is_left_behind(self, host: str) -> None:
        state = self.world.stores.store.run_state(now=self.world.now)
        stopped = {
            one.id for one in state.workers if one.hostname == host and one.state is WorkerState.STOPPED
        }
        left = [one for one in self.world.stores.records() if one.worker_id in stopped]
        assert not [one for one in left if one.state in OCCUPYING], "nobody took over a dead worker's job"

    @rule(
        number=which,
        room=st.sampled_from((0, 1, 2, 4, 64)),
        crash=crash_points,
        lost=rarely,
        only=st.sampled_from((None, "etl")),
        launches=st.booleans(),
    )
    def a_worker_claims(
        self, number: int, room: int, crash: int | None, lost: bool, only: str | None, launches: bool
    ) -> None:
        if not (worker := self.worker(number)):
            return
        self.lost_jobs_are_found(worker)
        pools = [pool for pool in worker.pools if only in (None, pool.name)]
        before = checks.by_id(self.world.stores.records())
        run_state = self.world.stores.store.run_state(now=self.world.now)
        all_pools, worker.pools = worker.pools, pools
        with contextlib.suppress(Crash, NotFound):  # a purge takes away whom it takes for long gone
            claimed = worker.claims(room=room, crash=crash, lost=lost)
            after = checks.by_id(self.world.stores.records())
            checks.check_claim(
                before, after, claimed, pools, run_state, worker_id=worker.id, room=room, now=self.world.now
            )
        worker.pools = all_pools
        if launches:
            for tracked in worker.to_launch:
                worker.launches(tracked, "running")

    def lost_jobs_are_found(self, worker: Worker) -> None:
        if worker.unsure:
            with contextlib.suppress(Crash):
                worker.finds_lost()
            self.every_promise_is_kept()

    @rule(
        number=which,
        how=st.sampled_from(("submitted", "running", "running", "rejected", "unavailable", "forgotten")),
    )
    def a_worker_launches(self, number: int, how: str) -> None:
        if (worker := self.worker(number)) and (waiting := worker.to_launch):
            with contextlib.suppress(Crash):
                worker.launches(waiting[number % len(waiting)], how)

    @rule(number=which)
    def a_worker_observes(self, number: int) -> None:
        if worker := self.worker(number):
            worker.observes()

    @rule(number=which, most=st.sampled_from((1, 100)), copy=st.booleans(), crash=crash_points, lost=rarely)
    def a_worker_reports(self, number: int, most: int, copy: bool, crash: int | None, lost: bool) -> None:
        if worker := self.worker(number):
            worker.tells(most=most, keeps_a_copy=copy, crash=crash, lost=lost)

    @rule(number=which, one_by_one=st.booleans())
    def the_network_delivers_again(self, number: int, one_by_one: bool) -> None:
        senders = [one for one in self.workers if one.copies]
        if senders:
            senders[number % len(senders)].is_delivered_again(number, one_by_one=one_by_one)

    @rule(number=which)
    def a_worker_stops_what_it_should(self, number: int) -> None:
        if worker := self.worker(number):
            worker.stops_wished()

    @rule(number=which, how=st.sampled_from(("killed", "stopped", "declared dead", "drains")))
    def a_worker_leaves(self, number: int, how: str) -> None:
        if not (worker := self.worker(number)) or number % 2:
            return
        if how == "drains":
            worker.ask("drain_worker", worker.id) if self.is_registered(worker) else None
            return
        if how == "stopped":
            worker.tells()
        worker.dies()
        if how != "killed":
            worker.ask("stop_worker", worker.id, now=self.world.now)

    def is_registered(self, worker: Worker) -> bool:
        state = self.world.stores.store.run_state(now=self.world.now)
        return any(one.id == worker.id for one in state.workers)

    @rule(number=which, frozen=st.booleans())
    def a_worker_is_frozen_or_wakes(self, number: int, frozen: bool) -> None:
        which_ones = [one for one in self.workers if one.alive and one.frozen is not frozen]
        if which_ones:
            which_ones[number % len(which_ones)].frozen = frozen

    @rule(number=which, task_end=st.sampled_from(ENDS), steps=st.integers(1, 3))
    def a_process_goes_on(self, number: int, task_end: str, steps: int) -> None:
        for _ in range(steps):
            if running := [one for one in self.world.processes if one.alive]:
                self.world.goes_on(running[number % len(running)], task_end)

    @rule(number=which)
    def a_process_is_killed(self, number: int) -> None:
        if running := [one for one in self.world.processes if one.alive]:
            self.world.exits(running[number % len(running)], -9)
