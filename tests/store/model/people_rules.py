# SPDX-License-Identifier: Apache-2.0
"""Steps of people, of time, and of whoever talks nonsense."""

from __future__ import annotations

import contextlib
import uuid

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from airflow_workpools.core.jobs import ENDED, JobState
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import Conflict
from airflow_workpools.store.records import Report
from tests.store.databases import Crash
from tests.store.model import checks
from tests.store.model.machine import (
    Machine,
    crash_points,
    limits,
    rarely,
    times,
    which,
)
from tests.store.model.world import QUEUES, REFS
from tests.store.rigs import later


class PeopleRules(Machine):
    """Everything else that happens."""

    @rule(
        pool=st.sampled_from(sorted(QUEUES)),
        queue=st.sampled_from((None, "high", "low", "default", "gone")),
        limit=limits,
        priority=st.integers(1, 5),
    )
    def a_limit_or_priority_changes(
        self, pool: str, queue: str | None, limit: int | None, priority: int
    ) -> None:
        """Also what creates pools and queues anew."""
        queues = self.world.queues.setdefault(pool, {})
        if queue is None:
            self.world.limits[pool] = limit
        elif all(priority != other[0] or name == queue for name, other in queues.items()):
            queues[queue] = priority, limit

    @rule(ref=st.sampled_from(REFS), whole_pool=rarely, politely=st.booleans())
    def a_queue_or_pool_is_deleted(self, ref: WorkQueueRef, whole_pool: bool, politely: bool) -> None:
        """By the command, which refuses while jobs are there, or by deleting the connection."""
        arguments = ("forget_pool", ref.pool) if whole_pool else ("forget_queue", ref)
        busy = any(
            job.state not in ENDED and (job.ref.pool == ref.pool if whole_pool else job.ref == ref)
            for job in self.records.values()
        )
        if politely:
            try:
                self.world.stores.ask(*arguments)
            except Conflict:
                assert busy
                return
            assert not busy
        if whole_pool:
            self.world.queues.pop(ref.pool, None)
        else:
            self.world.queues.get(ref.pool, {}).pop(ref.queue, None)

    @rule(ref=st.sampled_from(REFS), whole_pool=st.booleans(), paused=st.booleans(), crash=crash_points)
    def a_queue_or_pool_is_paused(
        self, ref: WorkQueueRef, whole_pool: bool, paused: bool, crash: int | None
    ) -> None:
        with contextlib.suppress(Crash):
            if whole_pool:
                self.world.stores.ask("set_pool_paused", ref.pool, paused, crash=crash)
            else:
                self.world.stores.ask("set_queue_paused", ref, paused, crash=crash)

    @rule(number=which, whole_try=st.booleans(), crash=crash_points)
    def a_job_is_cancelled(self, number: int, whole_try: bool, crash: int | None) -> None:
        if not (id_ := self.job(number)):
            return
        ids = {"task_instance_ids": [self.records[id_].task_instance_id]} if whole_try else {"job_ids": [id_]}
        with contextlib.suppress(Crash):
            self.world.stores.ask("request_cancel", **ids, reason="no more", now=self.world.now, crash=crash)

    @rule(limit=st.sampled_from((1, 2, 100)), seconds=st.sampled_from((0.0, 100.0)), crash=crash_points)
    def old_rows_are_purged(self, limit: int, seconds: float, crash: int | None) -> None:
        before = later(self.world.seconds - seconds)
        with contextlib.suppress(Crash):
            self.world.stores.ask("purge", before=before, limit=limit, crash=crash)
        after = checks.by_id(self.world.stores.records())
        gone = [job for id_, job in self.records.items() if id_ not in after]
        for job in gone:
            assert job.ended_at is not None
            assert job.ended_at < before
            one = self.world.find_try(job.task_instance_id)
            waits = one.is_current and one.state in ("queued", "running", "restarting")
            assert not waits, "an end that a task waits for was purged"
            self.world.forgotten.add(job.id)
        assert len(gone) <= limit

    @rule(refs=st.lists(st.sampled_from(REFS), max_size=3, unique=True))
    def queues_are_polled(self, refs: list[WorkQueueRef]) -> None:
        self.world.stores.ask("poll", refs, now=self.world.now)

    @precondition(lambda self: self.records)
    @rule(number=which, sender=which, state=st.sampled_from([*JobState][1:]), requeues=st.booleans())
    def somebody_talks_nonsense(self, number: int, sender: int, state: JobState, requeues: bool) -> None:
        """A worker's word on a job of which it knows nothing."""
        id_ = self.job(number)
        assert id_ is not None
        worker = self.workers[sender % len(self.workers)].id if self.workers else uuid.UUID(int=0)
        handle = None
        if (process := next((one for one in self.world.processes if one.job_id == id_), None)) is not None:
            handle = process.handle
        if requeues:
            self.world.stores.ask("requeue", worker, [id_], "nonsense", now=self.world.now)
        elif handle is not None or state in ENDED:
            report = Report(job_id=id_, state=state, handle=handle, reason="nonsense")
            self.world.stores.ask("report", worker, [report], now=self.world.now)
        if self.world.stores.store.job(id_) != self.records[id_]:
            self.world.doubtful.add(id_)

    @rule(seconds=times)
    def time_passes(self, seconds: float) -> None:
        self.world.seconds += seconds
        self.world.miss_heartbeats()
