# SPDX-License-Identifier: Apache-2.0
"""What all steps have in common: the world, who is there, and what must hold after each."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from tests.store.model import checks
from tests.store.model.schedulers import Scheduler
from tests.store.model.stores import Stores
from tests.store.model.workers import Worker
from tests.store.model.world import World

if TYPE_CHECKING:
    import sqlalchemy as sa

    from airflow_workpools.store.records import JobRecord

MOST_TRIES = 14
MOST_WORKERS = 4

which = st.integers(0, 1000)
"""Picks one of those that are there."""
crash_points = st.sampled_from((None, None, None, None, None, 1, 2, 3, 4, 6, 9))
"""The statement at which the one who asks dies."""
rarely = st.sampled_from((False,) * 7 + (True,))
limits = st.sampled_from((None, 0, 1, 2, 3, 5))
times = st.sampled_from((1.0, 1.0, 11.0, 31.0, 61.0, 400.0))


class Machine(RuleBasedStateMachine):
    """One world, and the jobs as they were after the last step."""

    engine: sa.Engine | None = None

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Stores(self.engine))
        self.schedulers: list[Scheduler] = []
        self.workers: list[Worker] = []
        self.records: dict[uuid.UUID, JobRecord] = {}

    def scheduler(self, number: int) -> Scheduler | None:
        alive = [one for one in self.schedulers if one.alive]
        return alive[number % len(alive)] if alive else None

    def worker(self, number: int) -> Worker | None:
        working = [one for one in self.workers if one.works]
        return working[number % len(working)] if working else None

    def job(self, number: int) -> uuid.UUID | None:
        ids = sorted(self.records)
        return ids[number % len(ids)] if ids else None

    @invariant()
    def every_promise_is_kept(self) -> None:
        after = checks.by_id(self.world.stores.agree(self.world.now))
        checks.check_step(self.records, after, self.world)
        self.world.forgotten -= after.keys()
        self.records = after
