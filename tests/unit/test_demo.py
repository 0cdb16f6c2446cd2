# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import signal
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from airflow_workpools.cli.demo import Interrupted, Interrupts, example_dag, exclusive, snapshot
from airflow_workpools.cli.demo_view import draw, open_view, plain
from airflow_workpools.cli.local_records import TaskTry
from airflow_workpools.errors import WorkpoolsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def tries(queue: str, *states: str | None) -> list[TaskTry]:
    return [
        TaskTry(
            dag_id="d",
            run_id="r",
            task_id=queue,
            map_index=number,
            try_number=1,
            state=state,
            queue=f"etl/{queue}",
            pool=f"etl.{queue}",
            pool_slots=1,
            priority_weight=1,
            queued_at=None,
            started_at=None,
            ended_at=None,
        )
        for number, state in enumerate(states)
    ]


TASKS = [
    *tries("critical", "success"),
    *tries("high", "running", "running", "queued"),
    *tries("low", None, "scheduled", "failed", "success", "running"),
]


def test_a_moment_is_told_in_one_line() -> None:
    assert plain(snapshot(TASKS, 12.34)) == (
        " 12.3 s  etl 3/10 run | critical 0/1 run 0 wait 1 done  high 2/3 run 1 wait 0 done  "
        "low 1 run 2 wait 1 done 1 failed"
    )


def test_a_moment_is_drawn_with_its_slots() -> None:
    console = Console(file=StringIO(), width=100, record=True)
    console.print(draw(snapshot(TASKS, 12.34)))
    pool, header, critical, high, low = console.export_text().splitlines()
    assert "etl  3/10 running  ■■■□□□□□□□  12 s" in pool
    assert header.split() == ["queue", "priority", "running", "waiting", "done"]
    assert critical.split()[:4] == ["critical", "1", "0/1", "□"]
    assert high.split()[:6] == ["high", "5", "2/3", "■■□", "1", "0"]
    assert low.split()[:7] == ["low", "10", "1", "■□□□□□□□□□", "2", "1", "1!"]


def test_slots_beyond_a_limit_are_drawn_too() -> None:
    console = Console(file=StringIO(), width=100, record=True)
    console.print(draw(snapshot(tries("critical", "running", "running"), 1)))
    assert "2/1      ■■" in console.export_text()


def test_where_there_is_no_terminal_lines_are_printed_now_and_then() -> None:
    output = StringIO()
    with open_view(Console(file=output, width=300)) as view:
        for _ in range(3):
            view.show(snapshot(TASKS, 1))
    assert output.getvalue().count("etl 3/10 run") == 1


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path),
        pytest.raises(WorkpoolsError, match="another demo is running"),
        exclusive(tmp_path),
    ):
        pass
    with exclusive(tmp_path):
        pass


def test_the_example_is_found() -> None:
    assert example_dag().name == "reference_example.py"


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    listening = Interrupts()
    listening.listen()
    yield listening
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_first_signal_interrupts_and_the_second_cannot_interrupt_the_cleaning_up(
    interrupts: Interrupts,
) -> None:
    with pytest.raises(Interrupted) as raised:
        signal.raise_signal(signal.SIGTERM)
    assert raised.value.exit_code == 143
    signal.raise_signal(signal.SIGINT)
    assert interrupts.closed
