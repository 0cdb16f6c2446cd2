# SPDX-License-Identifier: Apache-2.0
"""Whatever standalone workers do in whatever order: limits, queues, capacities and drains hold.

As in ``test_model``: each call goes to the store in memory and to one in SQL, which must say and do the same. Here the
workers differ: which pools and queues they name, how many slots they have, whether they drain, are silent, are given
up, or come back late.
"""

from __future__ import annotations

import uuid
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from airflow_workpools.core.jobs import OCCUPYING, JobState
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store import rules
from airflow_workpools.store.records import Report, WorkerKind, WorkerState
from tests.store.model.stores import Stores
from tests.store.rigs import later, new_job, new_worker, pull_pool

if TYPE_CHECKING:
    import sqlalchemy as sa

    from airflow_workpools.store.records import JobRecord, WorkerRecord

POOLS = (
    pull_pool("etl", 5, high=(1, 2), low=(3, None)),
    pull_pool("ml", None),
)
REFS = ("etl/high", "etl/low", "etl/default", "ml/default")
GRACE = 60.0
LIMITS = {"etl": 5}
QUEUE_LIMITS = {("etl", "high"): 2}

which = st.integers(0, 1000)


class StandaloneModel(RuleBasedStateMachine):
    """Workers of pull pools, and the jobs that they take."""

    engine: sa.Engine | None = None

    def __init__(self) -> None:
        super().__init__()
        self.stores = Stores(self.engine)
        self.seconds = 0.0
        self.workers: dict[uuid.UUID, WorkerRecord] = {}
        self.known: dict[uuid.UUID, dict[uuid.UUID, int]] = {}
        """Which claims each worker believes to have."""
        self.ids = 0

    @property
    def now(self):  # type: ignore[no-untyped-def]
        return later(self.seconds)

    def new_id(self) -> uuid.UUID:
        self.ids += 1
        return uuid.UUID(int=self.ids)

    def a_worker(self, number: int) -> WorkerRecord | None:
        workers = list(self.workers.values())
        return workers[number % len(workers)] if workers else None

    def state_of(self, worker: WorkerRecord) -> WorkerState:
        found = {one.id: one for one in self.stores.store.run_state(now=self.now).workers}
        return found[worker.id].state

    # -- steps ----------------------------------------------------------------------------------------------

    @rule(
        pools=st.sampled_from((("etl",), ("ml",), ("etl", "ml"))),
        queues=st.sampled_from((None, None, ("etl/high",), ("etl/low",), ("etl/high", "ml/default"))),
        slots=st.sampled_from((None, 1, 2, 3)),
        host=st.sampled_from(("a", "b")),
    )
    def a_worker_starts(
        self, pools: tuple[str, ...], queues: tuple[str, ...] | None, slots: int | None, host: str
    ) -> None:
        if len(self.workers) >= 5:
            return
        worker = new_worker(
            id=self.new_id(),
            kind=WorkerKind.STANDALONE,
            pools=pools,
            queues=queues,
            slots=slots,
            hostname=host,
            started_at=self.now,
            last_heartbeat_at=self.now,
        )
        self.stores.ask("register_worker", worker, now=self.now)
        self.workers[worker.id], self.known[worker.id] = worker, {}

    @rule(refs=st.lists(st.sampled_from(REFS), min_size=1, max_size=6), slots=st.sampled_from((1, 1, 1, 2)))
    def jobs_are_handed_over(self, refs: list[str], slots: int) -> None:
        if len(self.stores.records()) < 40:
            jobs = [new_job(ref, task_instance_id=self.new_id(), pool_slots=slots) for ref in refs]
            self.stores.together([("hand_over", (job,), {"now": self.now}) for job in jobs])
            for job in jobs:
                self.stores.put("queued", self.now, job)

    @rule(number=which, room=st.sampled_from((1, 2, 64)))
    def a_worker_claims(self, number: int, room: int) -> None:
        if (worker := self.a_worker(number)) is None:
            return
        before = self.stores.records()
        state, held = self.state_of(worker), _slots(before, worker_id=worker.id)
        claimed = self.stores.ask("claim", worker.id, POOLS, room=room, now=self.now)
        taken = [one for one in before if one.id in {job.id for job in claimed}]
        assert state is WorkerState.ONLINE or not taken
        assert all(one.ref.pool in (worker.pools or ()) for one in taken)
        assert worker.queues is None or all(str(one.ref) in worker.queues for one in taken)
        assert _slots(taken) <= room
        assert worker.slots is None or held + _slots(taken) <= max(held, worker.slots)
        self.known[worker.id] |= {job.id: job.start_attempts for job in claimed}
        if state is WorkerState.ONLINE:
            self.nothing_is_left_to_take(worker, room - _slots(taken))

    def nothing_is_left_to_take(self, worker: WorkerRecord, room: int) -> None:
        """A worker that alone serves a queue of its own without limits leaves no job that fits."""
        after = self.stores.records()
        own = None if worker.slots is None else worker.slots - _slots(after, worker_id=worker.id)
        free = room if own is None else min(room, own)
        if worker.pools == ("ml",) and worker.queues is None:
            waiting = [one for one in after if str(one.ref) == "ml/default" and one.state is JobState.PENDING]
            assert all(one.pool_slots > free for one in waiting)

    @rule(number=which, state=st.sampled_from((JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED)))
    def a_worker_reports(self, number: int, state: JobState) -> None:
        worker = self.a_worker(number)
        if worker is None or not self.known[worker.id]:
            return
        id_ = sorted(self.known[worker.id])[number % len(self.known[worker.id])]
        handle = Handle(job_id=id_, kind="process", data={})
        report = Report(job_id=id_, state=state, handle=handle, start_attempts=self.known[worker.id][id_])
        self.stores.ask("report", worker.id, [report], now=self.now)
        if state is not JobState.RUNNING:
            del self.known[worker.id][id_]

    @rule(number=which, drains=st.booleans())
    def people_drain_or_resume(self, number: int, drains: bool) -> None:
        if worker := self.a_worker(number):
            self.stores.ask("drain_worker" if drains else "resume_worker", worker.id)

    @rule(seconds=st.sampled_from((1.0, 9.0, 31.0, 61.0)), silent=st.sets(which, max_size=2))
    def time_passes(self, seconds: float, silent: set[int]) -> None:
        """All but the silent go on with their heartbeats."""
        away = {worker.id for number in silent if (worker := self.a_worker(number))}
        end = self.seconds + seconds
        while self.seconds < end:
            self.seconds = min(end, self.seconds + 10)
            for worker in self.workers.values():
                if worker.id not in away:
                    self.beats(worker)

    def beats(self, worker: WorkerRecord) -> None:
        state = self.stores.ask("heartbeat", worker.id, now=self.now)
        if state is WorkerState.STOPPED:
            self.stores.ask("register_worker", worker, now=self.now)
            mine = {job.id for job in self.stores.ask("mine", worker.id)}
            gone = {id_: n for id_, n in self.known[worker.id].items() if id_ not in mine}
            revoked = self.stores.ask("revoked", gone)
            held = {
                one.id: one.start_attempts
                for one in self.stores.records()
                if one.state in OCCUPYING and one.worker_id is not None
            }
            assert set(revoked) == {id_ for id_, n in gone.items() if held.get(id_) != n}
            for id_ in gone:
                del self.known[worker.id][id_]

    @rule(number=which)
    def a_worker_takes_over(self, number: int) -> None:
        if worker := self.a_worker(number):
            roaming = {"ml": "process"}
            left_behind = self.stores.ask("pools_left_behind", now=self.now)
            taken = self.stores.ask("take_over", worker.id, worker.hostname, now=self.now, roaming=roaming)
            assert all(job.ref.pool in (worker.pools or ()) for job in taken)
            # So a worker of other pools need not ask.
            assert {job.ref.pool for job in taken} <= left_behind
            self.known[worker.id] |= {job.id: job.start_attempts for job in taken}

    @rule()
    def the_scheduler_gives_up_the_lost(self) -> None:
        workers = self.stores.store.run_state(now=self.now).workers
        lost = rules.lost_workers(workers, grace_seconds=GRACE, now=self.now)
        self.stores.ask("give_up_lost", lost, bound={"etl": 2}, now=self.now, grace_seconds=GRACE)

    # -- what holds -----------------------------------------------------------------------------------------

    @invariant()
    def limits_hold(self) -> None:
        records = self.stores.agree(self.now)
        held: Counter[str] = Counter()
        of_queue: Counter[tuple[str, str]] = Counter()
        for one in records:
            if one.state in OCCUPYING:
                held[one.ref.pool] += one.pool_slots
                of_queue[one.ref.pool, one.ref.queue] += one.pool_slots
        assert all(held[pool] <= limit for pool, limit in LIMITS.items())
        assert all(of_queue[ref] <= limit for ref, limit in QUEUE_LIMITS.items())


def _slots(records: list[JobRecord], *, worker_id: uuid.UUID | None = None) -> int:
    """Count the slots of jobs; of a worker's, those that they hold."""
    return sum(
        one.pool_slots
        for one in records
        if worker_id is None or (one.worker_id == worker_id and one.state in OCCUPYING)
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "database", ["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def test_standalone_workers_keep_every_promise(database: str, request: pytest.FixtureRequest) -> None:
    engine = None if database == "memory" else request.getfixturevalue(f"{database}_engine")
    machine = type("Machine", (StandaloneModel,), {"engine": engine})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40 if engine is None else 10,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
