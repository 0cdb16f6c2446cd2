# SPDX-License-Identifier: Apache-2.0
"""Whatever is done in whatever order: the store in memory and the one on SQLite say and do the same."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_workpools.core.jobs import ENDED, TRANSITIONS, JobState, job_id_for
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import WorkpoolsError
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store.records import Report
from tests.store.rigs import Rig, later, memory_rig, new_job, new_worker, sql_rig, work_pool

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa

    Step = tuple[str, Callable[["Walk"], Any]]

TASKS = [uuid.UUID(int=n) for n in range(1, 7)]
WORKERS = [uuid.UUID(int=100 + n) for n in range(3)]
JOBS = [job_id_for(task, round_) for task in TASKS for round_ in range(3)]
QUEUES = ("etl/default", "etl/high", "etl/gone", "ml/default")
POOLS = [
    [work_pool("etl", limit=3, high=(1, 2))],
    [work_pool("etl", high=(1, None)), work_pool("ml", limit=1)],
    [work_pool("etl", limit=5, high=(1, 1)), work_pool("ml")],
]
TI_STATES = (None, "queued", "running", "restarting", "scheduled", "success", "up_for_retry", "removed")


class Walk:
    """One store on its way: the clock moves on with every step."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.store = rig.store
        self.seconds = 0.0
        self.jobs = {task: new_job(task_instance_id=task) for task in TASKS}

    @property
    def now(self) -> Any:
        return later(self.seconds)

    def hand_over(self, task: uuid.UUID, queue: str, slots: int, weight: int) -> Any:
        ref = WorkQueueRef.parse(queue)
        job = replace(
            self.jobs[task],
            ref=ref,
            pool_slots=slots,
            priority_weight=weight,
            start_timeout_seconds=60.0 * slots,
        )
        return self.rig.hand_over(job, now=self.now)

    def task_instance(self, task: uuid.UUID, state: str | None) -> None:
        if self.store.jobs(limit=500):
            self.rig.airflow.put(state, self.now, self.jobs[task])

    def adopt(self, scheduler: int) -> Any:
        with self.rig.airflow.session() as session:
            return self.store.adopt(TASKS, scheduler, session=session)

    def told(self, scheduler: int, limit: int) -> Any:
        ended = self.store.ended(scheduler, limit=limit)
        self.store.mark_reported([job.id for job in ended], now=self.now)
        return ended

    def seen(self) -> Any:
        """Return all that can be seen from outside."""
        state = self.store.run_state(now=self.now)
        return {
            "jobs": self.store.jobs(limit=500),
            "counts": self.store.counts(),
            "paused": {name for name, paused in state.pools.items() if paused},
            "queues": state.queues,
            "workers": state.workers,
            "ended": [self.store.ended(scheduler, limit=99) for scheduler in (7, 8)],
            "active": [self.store.active(scheduler) for scheduler in (7, 8)],
            "mine": [self.store.mine(worker) for worker in WORKERS],
            "wishes": [self.store.wishes(worker) for worker in WORKERS],
            "lines": {queue: self.store.line(WorkQueueRef.parse(queue), limit=9) for queue in QUEUES},
            "held": self.store.worker_counts(),
            "purgeable": self.store.purgeable(before=later(self.seconds - 200)),
        }


tasks, workers, jobs = st.sampled_from(TASKS), st.sampled_from(WORKERS), st.sampled_from(JOBS)
some_jobs = st.lists(jobs, max_size=4, unique=True)


def steps_of(
    name: str, call: Callable[..., Any], *arguments: st.SearchStrategy[Any]
) -> st.SearchStrategy[Step]:
    return st.tuples(*arguments).map(lambda given: (f"{name}{given}", lambda walk: call(walk, *given)))


def _register(walk: Walk, worker: uuid.UUID, seconds: float) -> None:
    walk.store.register_worker(
        new_worker(id=worker, heartbeat_seconds=seconds, started_at=walk.now), now=walk.now
    )


def _report(walk: Walk, worker: uuid.UUID, ids: list[uuid.UUID], state: JobState, reason: str | None) -> Any:
    reports = [
        Report(
            job_id=id_,
            state=state,
            reason=reason,
            exit_code=3 if state in ENDED else None,
            handle=Handle(job_id=id_, kind="process", data={"n": n}) if n % 2 else None,
        )
        for n, id_ in enumerate(ids)
    ]
    return walk.store.report(worker, reports, now=walk.now)


hand_over = steps_of(
    "hand_over", Walk.hand_over, tasks, st.sampled_from(QUEUES), st.integers(1, 3), st.integers(1, 3)
)
claim = steps_of(
    "claim",
    lambda walk, worker, pools, room: walk.store.claim(worker, pools, room=room, now=walk.now),
    workers,
    st.sampled_from(POOLS),
    st.integers(0, 5),
)
report = steps_of(
    "report", _report, workers, some_jobs, st.sampled_from(JobState), st.sampled_from((None, "because"))
)
rare = st.one_of(
    steps_of("register", _register, workers, st.sampled_from((10.0, 60.0))),
    steps_of(
        "requeue",
        lambda walk, worker, ids: walk.store.requeue(worker, ids, "again", now=walk.now),
        workers,
        some_jobs,
    ),
    steps_of(
        "cancel",
        lambda walk, ids, of: walk.store.request_cancel(
            job_ids=ids, task_instance_ids=of, reason="no", now=walk.now
        ),
        some_jobs,
        st.lists(tasks, max_size=1),
    ),
    steps_of("task instance", Walk.task_instance, tasks, st.sampled_from(TI_STATES)),
    steps_of(
        "reconcile",
        lambda walk, grace: walk.store.reconcile(now=walk.now, grace_seconds=grace),
        st.sampled_from((0.0, 30.0)),
    ),
    steps_of("heartbeat", lambda walk, worker: walk.store.heartbeat(worker, now=walk.now), workers),
    steps_of("drain", lambda walk, worker: walk.store.drain_worker(worker), workers),
    steps_of("stop", lambda walk, worker: walk.store.stop_worker(worker, now=walk.now), workers),
    steps_of("take over", lambda walk, worker: walk.store.take_over(worker, "here", now=walk.now), workers),
    steps_of("adopt", Walk.adopt, st.sampled_from((7, 8))),
    steps_of("tell", Walk.told, st.sampled_from((7, 8)), st.integers(1, 3)),
    steps_of("pause", lambda walk, paused: walk.store.set_pool_paused("etl", paused), st.booleans()),
    steps_of(
        "pause queue",
        lambda walk, paused: walk.store.set_queue_paused(WorkQueueRef("etl", "high"), paused),
        st.booleans(),
    ),
    steps_of("poll", lambda walk: walk.store.poll([WorkQueueRef("etl")], now=walk.now)),
    steps_of("forget", lambda walk: walk.store.forget_pool("etl")),
    steps_of(
        "purge",
        lambda walk, limit: walk.store.purge(before=later(walk.seconds - 200), limit=limit),
        st.integers(1, 3),
    ),
)
step = st.one_of(hand_over, claim, report, rare, rare)
moves = st.lists(st.tuples(step, st.sampled_from((0.0, 1.0, 20.0, 400.0))), min_size=5, max_size=40)


def take(walk: Walk, step: Callable[[Walk], Any]) -> Any:
    """Return what a step answers, be it an error."""
    try:
        return step(walk)
    except WorkpoolsError as error:
        return type(error), str(error)


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(moves)
def test_both_stores_say_and_do_the_same(sqlite_engine: sa.Engine, moves: list[tuple[Step, float]]) -> None:
    memory, sqlite = Walk(memory_rig()), Walk(sql_rig(sqlite_engine))
    for walk in (memory, sqlite):
        _register(walk, WORKERS[0], 60.0)
        _register(walk, WORKERS[1], 10.0)
    before: dict[uuid.UUID, JobState] = {}
    for (name, step), seconds in moves:
        assert take(memory, step) == take(sqlite, step), name
        seen = memory.seen()
        assert seen == sqlite.seen(), name

        after = {record.id: record.state for record in seen["jobs"]}
        for id_, state in after.items():
            was = before.get(id_, state)
            reachable = (
                {was}
                | TRANSITIONS[was]
                | {later for next_ in TRANSITIONS[was] for later in TRANSITIONS[next_]}
            )
            assert state in reachable, name
            assert was not in ENDED or state is was, name
        before = after
        memory.seconds += seconds
        sqlite.seconds += seconds
