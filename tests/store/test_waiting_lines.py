# SPDX-License-Identifier: Apache-2.0
"""What waits is counted in parts, and what matters is seen at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_workpools.store import airflow_pools
from airflow_workpools.store.airflow_pools import Memory
from airflow_workpools.store.records import RunState
from airflow_workpools.store.slot_plan import Plan
from airflow_workpools.store.waiting_lines import WaitingLines
from tests.store.rigs import NOW, work_pool
from tests.store.schedulers import Scheduler, scheduler, statements_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa

    from airflow_workpools.core.pools import WorkPool

LONG, OTHER, SHORT = "etl.long", "etl.other", "etl.short"
POOL = work_pool("etl", limit=10, short=(1, None), long=(2, None), other=(3, None))


@pytest.fixture
def stage(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    with scheduler(engine, tmp_path / "logs", monkeypatch) as made:
        yield made


@pytest.fixture
def lines() -> WaitingLines:
    """Lines of which the long ones can't all be afforded: twelve tasks of a run cost 22."""
    return WaitingLines(budget=30)


def waiting(stage: Scheduler, lines: WaitingLines) -> dict[str, int]:
    with stage.rig.airflow.session() as session:
        found = lines.look(session, [LONG, OTHER, SHORT], NOW)
    return {name: line.tasks for name, line in found.items()}


def tasks(stage: Scheduler, queue: str, number: int) -> None:
    for _ in range(number):
        stage.task(f"etl/{queue}", "scheduled")


def test_a_task_in_a_short_line_is_seen_at_once_and_long_lines_are_counted_in_turn(
    stage: Scheduler, lines: WaitingLines
) -> None:
    tasks(stage, "long", 12)
    tasks(stage, "other", 12)
    assert waiting(stage, lines) == {LONG: 12, OTHER: 12, SHORT: 0}
    for queue in ("long", "other", "short"):
        tasks(stage, queue, 1)
    seen = [waiting(stage, lines) for _ in range(2)]
    assert [one[SHORT] for one in seen] == [1, 1]
    assert sorted((one[LONG], one[OTHER]) for one in seen) in ([(12, 13), (13, 13)], [(13, 12), (13, 13)])


def test_a_line_longer_than_can_be_afforded_is_counted_again_all_the_same(stage: Scheduler) -> None:
    lines = WaitingLines(budget=1)
    tasks(stage, "long", 12)
    waiting(stage, lines)
    tasks(stage, "long", 1)
    assert waiting(stage, lines)[LONG] == 13


def test_lines_that_are_known_already_are_forgotten_with_their_queue(
    stage: Scheduler, lines: WaitingLines
) -> None:
    tasks(stage, "long", 1)
    waiting(stage, lines)
    assert lines.any_waits
    with stage.rig.airflow.session() as session:
        assert list(lines.look(session, [SHORT], NOW)) == [SHORT]
    assert not lines.any_waits


def allocate(stage: Scheduler, lines: WaitingLines, *pools: WorkPool) -> Plan:
    by_name = {pool.name: pool for pool in pools}
    with stage.rig.airflow.session() as session:
        return airflow_pools.allocate_slots(
            session,
            by_name,
            RunState(as_of=NOW),
            dict.fromkeys(by_name, True),
            overdue_since=NOW,
            memory=Memory(lines),
        )


def test_a_task_of_a_higher_queue_gets_slots_at_once_however_much_else_waits(
    stage: Scheduler, lines: WaitingLines
) -> None:
    tasks(stage, "long", 15)
    tasks(stage, "other", 15)
    allocate(stage, lines, POOL)
    assert not allocate(stage, lines, POOL)
    tasks(stage, "short", 2)
    assert allocate(stage, lines, POOL).change == {SHORT: 2, LONG: 8}


def test_an_allocation_takes_as_many_statements_for_many_pools_queues_and_tasks_as_for_few(
    stage: Scheduler,
) -> None:
    numbers = []
    for pools, queues in ((1, 1), (4, 12)):
        lines = WaitingLines()
        many = [
            work_pool(f"p{n}", limit=5, **{f"q{q}": (q + 1, None) for q in range(queues)})
            for n in range(pools)
        ]
        allocate(stage, lines, *many)
        for n in range(pools):
            for q in range(queues):
                stage.task(f"p{n}/q{q}", "scheduled")
        for _ in range(2):  # one that changes slots, and one that does not
            with statements_of(stage.engine) as sent:
                allocate(stage, lines, *many)
            numbers.append(len(sent))
    assert numbers[:2] == numbers[2:]
