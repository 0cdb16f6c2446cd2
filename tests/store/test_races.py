# SPDX-License-Identifier: Apache-2.0
"""Many at once, on real databases. Threads start together at a barrier; nothing is timed."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import uuid
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from airflow_workpools.core.jobs import OCCUPYING, JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.store import rules
from airflow_workpools.store.jobs import SqlStore
from airflow_workpools.store.records import JobFilter, Report
from tests.store.databases import engine_for, session_factory
from tests.store.rigs import NOW, Rig, later, new_job, pull_pool, sql_rig, work_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import sqlalchemy as sa

T = TypeVar("T")

EXAMPLE = work_pool(limit=10, low=(10, None), high=(5, 3), critical=(1, 1))
LIMITS = {"critical": 1, "high": 3, "low": 10, "default": 10}


def together(work: Sequence[Callable[[], T]]) -> list[T]:
    """Do all of it at the same time, each in a thread of its own."""
    barrier = threading.Barrier(len(work))

    def start(one: Callable[[], T]) -> T:
        barrier.wait()
        return one()

    with ThreadPoolExecutor(len(work)) as threads:
        return list(threads.map(start, work))


def occupied(rig: Rig) -> Counter[str]:
    """Return the slots held at one moment, by queue."""
    held: Counter[str] = Counter()
    for ref, states in rig.store.counts().items():
        held[ref.queue] += sum(count.slots for state, count in states.items() if state in OCCUPYING)
    return +held


def test_workers_that_claim_at_the_same_time_fill_the_pool_and_no_more(sql: Rig) -> None:
    workers = [sql.worker() for _ in range(12)]
    for round_ in range(4):
        ids = sql.hand_over(*(new_job(f"etl/{q}") for q in ("low", "high", "critical") for _ in range(8)))
        claims = together([lambda worker=worker: sql.claim(worker, EXAMPLE, room=3) for worker in workers])
        taken = [job.id for jobs in claims for job in jobs]
        assert len(taken) == len(set(taken)) == 10, f"round {round_}"
        assert occupied(sql) == {"critical": 1, "high": 3, "low": 6}
        for worker, jobs in zip(workers, claims, strict=True):
            assert {job.id for job in sql.store.mine(worker)} == {job.id for job in jobs}
            sql.store.report(worker, [Report(job_id=j.id, state=JobState.SUCCEEDED) for j in jobs], now=NOW)
        sql.store.request_cancel(job_ids=ids, reason="next round", now=NOW)


def test_no_limit_is_ever_exceeded_while_jobs_come_and_go(sql: Rig) -> None:
    jobs = [
        new_job(f"etl/{q}", pool_slots=s) for q in ("low", "high", "critical") for s in (1, 1, 2, 1, 3) * 3
    ]
    workers = [sql.worker() for _ in range(4)]
    random.Random(1).shuffle(jobs)
    stop, seen, claimed = threading.Event(), [], Counter[uuid.UUID]()
    startable = [job for job in jobs if job.pool_slots <= LIMITS[job.ref.queue]]

    # One for each, made once: a worker that always has the same room may never have enough for a large job.
    dices = {worker: random.Random(worker.int) for worker in workers}

    def work(worker: uuid.UUID) -> None:
        dice = dices[worker]
        mine = [job.id for job in sql.claim(worker, EXAMPLE, room=dice.randint(1, 6))]
        claimed.update(mine)
        for id_ in mine:
            state = dice.choice((JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED))
            sql.store.report(worker, [Report(job_id=id_, state=state)], now=NOW)
        if not mine and sum(claimed.values()) >= len(startable):
            stop.set()

    def repeat(step: Callable[[], None]) -> None:
        """Do it until everything has been claimed, or somebody has failed."""
        try:
            while not stop.is_set():
                step()
        except BaseException:
            stop.set()
            raise

    def hand_over() -> None:
        if jobs:
            sql.hand_over(jobs.pop())

    steps = [lambda worker=worker: work(worker) for worker in workers]
    steps += [lambda: seen.append(occupied(sql)), hand_over]
    together([lambda step=step: repeat(step) for step in steps])
    assert claimed == Counter({job.task_instance_id: 1 for job in startable})
    assert len(seen) > 5
    assert max(sum(held.values()) for held in seen) <= 10
    for queue, limit in LIMITS.items():
        assert max(held[queue] for held in seen) <= limit


RACES = int(os.environ.get("WORKPOOLS_RACES", "150"))
"""How often workers race for one slot; ``WORKPOOLS_RACES`` makes it more."""


@pytest.mark.postgres
@pytest.mark.timeout(0 if RACES > 1000 else 300)
@pytest.mark.parametrize("what", ["the pool's slot", "the worker's own slot"])
def test_two_who_race_for_one_slot_never_both_get_it(postgres_engine: sa.Engine, what: str) -> None:
    """Two workers for the last slot of a pool; two claims of one worker, as of a request that came twice."""
    sql = sql_rig(postgres_engine)
    if what == "the pool's slot":
        pool, racers = pull_pool(limit=1), [sql.standalone(), sql.standalone()]
    else:
        pool, racers = pull_pool(), [sql.standalone(slots=1)] * 2
    sql.hand_over(*(new_job() for _ in range(RACES + 2)))
    winners = Counter[int]()
    for round_ in range(RACES):
        claims = together([lambda one=one: sql.claim(one, pool, room=9) for one in racers])
        taken = [(n, job.id) for n, jobs in enumerate(claims) for job in jobs]
        assert len(taken) == 1, f"round {round_}"
        assert occupied(sql) == {"default": 1}
        ((winner, id_),) = taken
        winners[winner] += 1
        sql.store.report(racers[winner], [Report(job_id=id_, state=JobState.SUCCEEDED)], now=NOW)
    assert sum(winners.values()) == RACES


def test_a_claim_and_a_drain_at_the_same_time_leave_nothing_claimed_after_the_drain(sql: Rig) -> None:
    for _ in range(20):
        worker = sql.standalone()
        sql.hand_over(*(new_job() for _ in range(3)))
        together(
            [lambda worker=worker: sql.claim(worker, pull_pool(), room=1) for _ in range(3)]
            + [lambda worker=worker: sql.store.drain_worker(worker)]  # type: ignore[list-item]
        )
        held = len(sql.store.mine(worker))
        assert sql.claim(worker, pull_pool()) == []
        assert len(sql.store.mine(worker)) == held


def test_two_schedulers_that_give_up_a_worker_at_the_same_time_do_it_once(sql: Rig) -> None:
    worker, witness = sql.standalone(), sql.standalone(hostname="there")
    sql.claimed(*(new_job() for _ in range(5)), worker=worker)
    for at in range(0, 310, 10):
        sql.store.heartbeat(witness, now=later(at))
    workers = sql.store.run_state(now=later(301)).workers
    lost = rules.lost_workers(workers, grace_seconds=300, now=later(301))
    given_up = together(
        [
            lambda: sql.store.give_up_lost(lost, bound={"etl": 2}, now=later(301), grace_seconds=300)
            for _ in range(4)
        ]
    )
    assert sum(one.requeued for one in given_up) == 5
    assert {job.start_attempts for job in sql.store.jobs()} == {1}


# It has imported once what processes need that claim.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload([__name__])


def _claim_in_a_process(url: str, worker: uuid.UUID) -> list[uuid.UUID]:
    store = SqlStore(session_factory(engine_for(url)))
    claims = [store.claim(worker, [EXAMPLE], room=1, now=NOW) for _ in range(8)]
    return [job.id for jobs in claims for job in jobs]


def test_processes_that_claim_at_the_same_time_share_the_jobs(sql: Rig, engine: sa.Engine) -> None:
    sql.hand_over(*(new_job(f"etl/{q}") for q in ("low", "high", "critical") for _ in range(8)))
    workers = [sql.worker() for _ in range(3)]
    url = engine.url.render_as_string(hide_password=False)
    with ProcessPoolExecutor(3, mp_context=FORKSERVER) as processes:
        claims = list(processes.map(_claim_in_a_process, [url] * 3, workers))
    taken = [id_ for ids in claims for id_ in ids]
    assert len(taken) == len(set(taken)) == 10
    assert occupied(sql) == {"critical": 1, "high": 3, "low": 6}


def test_of_several_heirs_exactly_one_gets_each_job(sql: Rig) -> None:
    for _ in range(4):
        dead = sql.worker()
        ids = sql.claimed(*(new_job() for _ in range(6)), worker=dead)
        sql.store.stop_worker(dead, now=NOW)
        heirs = [sql.worker() for _ in range(8)]
        shares = together(
            [lambda heir=heir: sql.store.take_over(heir, "here", now=later(1)) for heir in heirs]
        )
        assert sorted(job.id for share in shares for job in share) == sorted(ids)
        for heir, share in zip(heirs, shares, strict=True):
            assert {job.id for job in sql.store.mine(heir)} == {job.id for job in share}
            sql.store.report(heir, [Report(job_id=j.id, state=JobState.SUCCEEDED) for j in share], now=NOW)
            sql.store.stop_worker(heir, now=NOW)


def test_a_heartbeat_that_comes_with_the_take_over_decides_who_owns_the_jobs(sql: Rig) -> None:
    for _ in range(5):
        silent, heir = sql.worker(), sql.worker(last_heartbeat_at=later(100))
        (id_,) = sql.claimed(new_job(), worker=silent)
        together(
            [
                lambda silent=silent: sql.store.heartbeat(silent, now=later(100)),
                lambda heir=heir: sql.store.take_over(heir, "here", now=later(100)),
            ]
        )
        owners = [worker for worker in (silent, heir) if sql.store.mine(worker)]
        assert len(owners) == 1
        sql.store.report(owners[0], [Report(job_id=id_, state=JobState.SUCCEEDED)], now=later(101))
        for worker in (silent, heir):
            sql.store.stop_worker(worker, now=later(101))


def test_one_try_handed_over_by_two_schedulers_at_once_has_two_rounds(sql: Rig) -> None:
    for _ in range(10):
        job = new_job()

        def hand_over(job: Any = job) -> uuid.UUID:
            with sql.airflow.session() as session:
                return sql.store.hand_over(job, now=NOW, session=session)

        ids = together([hand_over, hand_over])
        rounds = sql.store.jobs(JobFilter(task_instance_ids=(job.task_instance_id,)))
        assert {record.id for record in rounds} == set(ids)
        assert {record.round for record in rounds} == {0, 1}


def test_a_job_that_is_cancelled_while_it_is_claimed_ends_or_is_wished_to(sql: Rig) -> None:
    worker = sql.worker()
    for _ in range(8):
        ids = sql.hand_over(*(new_job() for _ in range(5)))

        def cancel(ids: Any = ids) -> int:
            return sql.store.request_cancel(job_ids=ids, reason="no", now=later(1))

        changed, claimed = together([cancel, lambda: sql.claim(worker)])
        assert changed == 5 or {job.id for job in claimed} <= set(ids)
        for record in map(sql.record, ids):
            if record.state is JobState.CLAIMED:
                # A wish that came too early for a claim found a waiting job and would have ended it.
                assert changed < 5 or record.desired_state is JobState.CANCELLED
        sql.store.request_cancel(job_ids=ids, reason="no", now=later(2))
        sql.store.report(worker, [Report(job_id=id_, state=JobState.CANCELLED) for id_ in ids], now=later(3))
        assert {sql.state(id_) for id_ in ids} == {JobState.CANCELLED}


def test_nothing_is_claimed_once_a_pause_is_stored(sql: Rig) -> None:
    sql.hand_over(*(new_job() for _ in range(200)))
    workers = [sql.worker() for _ in range(4)]
    stop, started = threading.Event(), threading.Barrier(len(workers) + 1)

    def claim_on(worker: uuid.UUID) -> None:
        started.wait()
        while not stop.is_set():
            sql.claim(worker, room=1)

    def pause() -> Counter[str]:
        started.wait()
        sql.store.set_pool_paused("etl", True)
        before = occupied(sql)
        for worker in workers:
            sql.claim(worker)
        stop.set()
        return before

    with ThreadPoolExecutor(len(workers) + 1) as threads:
        claims = [threads.submit(claim_on, worker) for worker in workers]
        before = threads.submit(pause).result()
        for claim in claims:
            claim.result()
    assert occupied(sql) == before


def test_pausing_one_queue_at_the_same_time_as_another_loses_neither(sql: Rig) -> None:
    refs = [WorkQueueRef("etl", str(n)) for n in range(6)]
    together(
        [
            *(lambda ref=ref: sql.store.set_queue_paused(ref, True) for ref in refs),
            *(lambda: sql.store.poll(refs, now=NOW) for _ in range(3)),
            *(lambda: sql.store.set_pool_paused("etl", True) for _ in range(3)),
        ]
    )
    state = sql.store.run_state(now=NOW)
    assert {ref: state.queue(ref) for ref in refs} == dict.fromkeys(refs, (True, NOW))
    assert state.pool_paused("etl")


def test_those_who_change_the_same_jobs_in_different_orders_all_come_through(sql: Rig) -> None:
    """On PostgreSQL and MariaDB they run into deadlocks; each breaks one transaction, which is tried again."""
    worker = sql.worker()
    ids = sql.claimed(*(new_job() for _ in range(120)), worker=worker)
    sql.store.heartbeat(worker, now=later(9999))

    def shuffled(seed: int) -> list[uuid.UUID]:
        return random.Random(seed).sample(ids, len(ids))

    def report(seed: int) -> None:
        for _ in range(5):
            sql.store.report(
                worker, [Report(job_id=i, state=JobState.RUNNING) for i in shuffled(seed)], now=NOW
            )

    def cancel(seed: int) -> None:
        for some in range(0, 120, 40):
            sql.store.request_cancel(job_ids=shuffled(seed)[some : some + 40], reason="no", now=NOW)

    def reconcile() -> None:
        for _ in range(5):
            sql.store.reconcile(now=later(9999), grace_seconds=0)

    together(
        [*(lambda n=n: report(n) for n in range(4)), *(lambda n=n: cancel(n) for n in range(4)), reconcile]
    )
    records = sql.store.jobs(limit=500)
    assert {record.state for record in records} == {JobState.RUNNING}
    assert {record.desired_state for record in records} <= {JobState.CANCELLED, JobState.FAILED}
