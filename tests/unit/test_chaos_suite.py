# SPDX-License-Identifier: Apache-2.0
"""The fault suite sees what it looks for: a suite that sees nothing is passed by everything."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from airflow_workpools.cli.local_records import TaskTry
from tests.airflow.chaos.disk import small_disk
from tests.airflow.chaos.form import FORM_VARIABLE, SEED_VARIABLE, form_of
from tests.airflow.chaos.verdict import problems
from tests.airflow.harness import Execution

LIMITS = {None: 2, "high": 1}


def task_try(
    number: int = 1,
    *,
    index: int = 0,
    state: str = "success",
    queue: str = "high",
    started_at: float | None = None,
) -> TaskTry:
    return TaskTry(
        dag_id="storm",
        run_id="r",
        task_id=queue,
        map_index=index,
        try_number=number,
        state=state,
        queue=f"storm/{queue}",
        pool=f"storm.{queue}",
        pool_slots=1,
        priority_weight=1,
        queued_at=None,
        started_at=started_at,
        ended_at=None if started_at is None else started_at + 3,
    )


def run(
    number: int = 1,
    *,
    index: int = 0,
    queue: str = "high",
    at: float = 0,
    events: str = "start end",
    pid: int = 1,
) -> list[Execution]:
    return [
        Execution(event, "r", queue, index, number, pid, at + second)
        for second, event in enumerate(events.split())
    ]


def test_tasks_that_ran_once_or_once_per_try_are_no_problem() -> None:
    executions = [
        *run(index=0),
        *run(1, index=1, at=5, events="start beat", pid=2),
        *run(2, index=1, at=7, pid=3),
    ]
    latest = [task_try(index=0), task_try(2, index=1)]
    assert problems(executions, latest, [task_try(1, index=1, state="failed")], LIMITS) == []


def test_a_try_that_never_ran_is_airflows_to_try_again_but_no_success() -> None:
    earlier = [task_try(1, state="failed")]
    assert problems(run(2), [task_try(2)], earlier, LIMITS) == []
    assert "0 ends: nothing" in problems([], [task_try()], [], LIMITS)[0]


@pytest.mark.parametrize(
    ("executions", "latest", "what"),
    [
        (run() + run(at=9, pid=2), [task_try()], "high[0] try 1 began 2 times"),
        (run(events="start beat"), [task_try()], "succeeded with 0 ends"),
        (run(), [task_try(state="failed")], "high[0] try 1 is failed"),
        (run() + run(2, at=9), [task_try()], "Airflow knows of no such try"),
        (
            run(index=0) + run(index=1, at=0.5, pid=2),
            [task_try(index=0), task_try(index=1)],
            "2 tasks of high ran at once, the limit is 1",
        ),
        (
            [e for i in range(3) for e in run(index=i, queue="low", at=i / 4, pid=i + 1)],
            [task_try(index=i, queue="low") for i in range(3)],
            "3 tasks of the pool ran at once, the limit is 2",
        ),
    ],
    ids=["run twice", "no end", "lost", "unknown try", "limit of a queue", "limit of the pool"],
)
def test_what_must_not_be_is_seen(executions: list[Execution], latest: list[TaskTry], what: str) -> None:
    assert any(what in problem for problem in problems(executions, latest, [], LIMITS))


def test_a_run_that_was_killed_counts_up_to_its_last_sign_of_life() -> None:
    killed = run(1, index=0, events="start beat beat")
    other = run(1, index=1, at=1.5, pid=2)
    latest = [task_try(2, index=0), task_try(index=1)]
    executions = [*killed, *other, *run(2, index=0, at=9, pid=3)]
    found = problems(executions, latest, [task_try(1, index=0, state="failed")], LIMITS)
    assert found == ["2 tasks of high ran at once, the limit is 1"]


def test_the_process_around_a_tasks_code_counts_too() -> None:
    executions = [*run(index=0, at=1), *run(index=1, at=3, pid=2)]
    latest = [task_try(index=0, started_at=0), task_try(index=1, started_at=2)]
    assert problems(executions, latest, [], LIMITS) == ["2 tasks of high ran at once, the limit is 1"]


def test_all_of_it_runs_only_when_it_is_asked_for_alone() -> None:
    assert sum(form_of({}, "chaos").tasks.values()) == 500
    short = form_of({}, "")
    assert sum(short.tasks.values()) < 500
    assert form_of({}, "airflow and not chaos").tasks == short.tasks
    assert form_of({FORM_VARIABLE: "short"}, "chaos").tasks == short.tasks
    assert form_of({FORM_VARIABLE: "full"}, "").tasks == form_of({}, "chaos").tasks


def test_a_seed_can_be_given_and_is_another_one_each_time_otherwise() -> None:
    assert form_of({SEED_VARIABLE: "17"}, "").seed == 17
    assert len({form_of({}, "").seed for _ in range(20)}) > 1
    with pytest.raises(ValueError, match="must be full or short"):
        form_of({FORM_VARIABLE: "long"}, "")


def test_a_full_disk_is_really_full_until_it_is_freed(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("mounting is not permitted here")
        disk.fill()
        with pytest.raises(OSError, match="No space left") as full:
            (disk.path / "more").write_bytes(b"x" * 5000)
        assert full.value.errno == errno.ENOSPC
        disk.free()
        (disk.path / "more").write_bytes(b"x" * 5000)
    assert not (tmp_path / "disk" / "more").exists()
