# SPDX-License-Identifier: Apache-2.0
"""The store in memory and, beside it, one in SQL: what is asked of one is asked of both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_workpools.errors import WorkpoolsError
from airflow_workpools.store.records import JobFilter
from airflow_workpools.testing import MemoryStore
from airflow_workpools.testing.memory_jobs import StoredJob
from tests.store.databases import Crash, crash_at
from tests.store.rigs import Rig, memory_rig, sql_rig

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterable
    from datetime import datetime

    import sqlalchemy as sa

    from airflow_workpools.store.protocol import JobStore
    from airflow_workpools.store.records import JobRecord, NewJob

ALL = 10_000
IN_SCHEDULERS_TRANSACTION = frozenset({"hand_over", "hand_over_failed", "adopt"})


class Stores:
    """Two stores that must say and do the same.

    A crash breaks SQL off at a statement and must leave nothing behind, so the one in memory is not asked then.

    :param engine: the database; None for the store in memory alone, whose crashes come before anything is done.
    """

    def __init__(self, engine: sa.Engine | None) -> None:
        self.engine = engine
        self.memory = memory_rig()
        self.sql = None if engine is None else sql_rig(engine)

    @property
    def rigs(self) -> list[Rig]:
        return [self.memory] if self.sql is None else [self.sql, self.memory]

    @property
    def store(self) -> JobStore:
        """The one that is believed."""
        return self.rigs[0].store

    def ask(self, method: str, *arguments: Any, crash: int | None = None, **named: Any) -> Any:
        """Return what the stores say, or raise the error that both raise.

        :param crash: the statement at which the asking process dies, unless the answer comes before.
        """
        return self.together([(method, arguments, named)], crash=crash)[0]

    def together(
        self, calls: Iterable[tuple[str, tuple[Any, ...], dict[str, Any]]], *, crash: int | None = None
    ) -> list[Any]:
        """Ask several things, in one transaction if they are the scheduler's."""
        calls = list(calls)

        def ask(rig: Rig) -> list[Any]:
            if calls[0][0] not in IN_SCHEDULERS_TRANSACTION:
                return [getattr(rig.store, method)(*given, **named) for method, given, named in calls]
            with rig.airflow.session() as session:
                return [
                    getattr(rig.store, method)(*given, session=session, **named)
                    for method, given, named in calls
                ]

        said: Any = None
        if self.sql is not None:
            try:
                said = self._until_crash(lambda: outcome(lambda: ask(self.sql)), crash)  # type: ignore[arg-type]
            except Crash:
                if any(method == "reconcile" for method, _, _ in calls):  # several transactions on purpose
                    self._remember()
                raise
        elif crash is not None and crash < 3:
            raise Crash
        expected = outcome(lambda: ask(self.memory))
        assert said is None or said == expected, f"{calls}: SQL says {said}, memory {expected}"
        if isinstance(expected, Refused):
            raise expected.error
        return list(expected)

    def _until_crash(self, call: Callable[[], Any], crash: int | None) -> Any:
        if crash is None:
            return call()
        assert self.engine is not None
        with crash_at(self.engine, crash):
            return call()

    def _remember(self) -> None:
        """Put what is in SQL into memory: how far a process that died had come is for SQL to say."""
        memory = self.memory.store
        assert isinstance(memory, MemoryStore)
        for record in self.records():
            memory._jobs[record.id] = StoredJob(record, memory._jobs[record.id].workload)

    # -- Airflow ---------------------------------------------------------------------------------------------

    def put(self, state: str | None, updated_at: datetime, job: NewJob) -> None:
        for rig in self.rigs:
            rig.airflow.put(state, updated_at, job)

    def remove(self, job: NewJob, ended_at: datetime | None) -> None:
        for rig in self.rigs:
            rig.airflow.remove(job, ended_at)

    # -- what there is ---------------------------------------------------------------------------------------

    def records(self) -> list[JobRecord]:
        return self.store.jobs(limit=ALL)

    def of_task_instance(self, task_instance_id: uuid.UUID) -> list[JobRecord]:
        """Return the rounds of a try, the newest last."""
        found = self.store.jobs(JobFilter(task_instance_ids=(task_instance_id,)), limit=ALL)
        return sorted(found, key=lambda record: record.round)

    def agree(self, now: datetime, *, thoroughly: bool = False) -> list[JobRecord]:
        """Check that both stores hold the same; return the jobs."""
        seen = [_seen(rig.store, now, thoroughly=thoroughly) for rig in self.rigs]
        for name in seen[0]:
            assert seen[0][name] == seen[-1][name], name
        jobs: list[JobRecord] = seen[0]["jobs"]
        return jobs


@dataclass(frozen=True)
class Refused:
    """An error, equal to another one with the same words."""

    kind: type[Exception]
    text: str
    error: Exception = field(compare=False)


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except WorkpoolsError as error:
        return Refused(type(error), str(error), error)


def _seen(store: JobStore, now: datetime, *, thoroughly: bool) -> dict[str, Any]:
    state = store.run_state(now=now)
    seen: dict[str, Any] = {
        "jobs": store.jobs(limit=ALL),
        "paused": {name for name, paused in state.pools.items() if paused},
        "queues": state.queues,
        "workers": state.workers,
    }
    if thoroughly:
        schedulers = {job.scheduler_job_id for job in seen["jobs"]}
        seen |= {
            "counts": store.counts(),
            "ended": [store.ended(one, limit=ALL) for one in schedulers],
            "active": [store.active(one) for one in schedulers],
            "active counts": [store.active_count(one) for one in schedulers],
            "mine": [store.mine(worker.id) for worker in state.workers],
            "wishes": [store.wishes(worker.id) for worker in state.workers],
        }
    return seen
