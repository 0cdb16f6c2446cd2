# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import signal
from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from airflow_workpools.cli.demo import Demo, Interrupted, Interrupts, example_dag, exclusive, snapshot
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


@pytest.mark.parametrize("name", ["thesis.odt", "airflow.db"])
def test_a_demo_does_not_empty_a_folder_that_is_not_its_own(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("years of work")
    (tmp_path / "logs").mkdir()
    demo = Demo(home=tmp_path, console=Console(file=StringIO()))

    with pytest.raises(WorkpoolsError, match=f"{name}.*choose another --home"), exclusive(tmp_path):
        demo._clear()

    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([name, "logs"])


def test_a_demo_empties_what_an_earlier_one_and_airflow_left(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "airflow.cfg").touch()
    demo = Demo(home=tmp_path, console=Console(file=StringIO()))
    with exclusive(tmp_path):
        (tmp_path / "report.json").touch()

    with exclusive(tmp_path):
        demo._clear()
        assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]


def test_a_file_is_no_folder_for_a_demo(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkpoolsError, match="choose another --home"), exclusive(tmp_path / "file"):
        pass


LANES = {"critical": [3], "high": [3, 3, 3], "low": [7, 7, 7, 7, 6, 6]}
"""How many of each queue's tasks run one after the other in each of the pool's ten slots."""


def run_as_it_should() -> list[TaskTry]:
    return [
        replace(task, started_at=3.0 * number, ended_at=3.0 * number + 3)
        for queue, lanes in LANES.items()
        for length in lanes
        for number, task in enumerate(tries(queue, *["success"] * length))
    ]


def told(home: Path, tasks: list[TaskTry]) -> tuple[int, str]:
    """Return the exit code of a demo whose tasks ran so, and what it printed."""
    output = StringIO()
    return Demo(home=home, console=Console(file=output, width=200))._tell(tasks), output.getvalue()


def test_a_demo_in_which_all_held_succeeds_and_is_summed_up(tmp_path: Path) -> None:
    code, text = told(tmp_path, run_as_it_should())
    assert code == 0
    assert "52 of 52 tasks succeeded in 21.0 s" in text
    assert "10 in work pool 'etl', whose limit is 10" in text
    assert "3 in high (limit 3, priority 5)" in text
    assert "They started in this order: 1 critical, 3 high, 6 low" in text
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "tasks": 52,
        "succeeded": 52,
        "wall_seconds": 21.0,
        "limits": {"pool": 10, "queues": {"critical": 1, "high": 3}},
        "max_running": {"pool": 10, "queues": {"critical": 1, "high": 3, "low": 6}},
    }


def test_a_demo_in_which_something_went_wrong_fails_and_says_what(tmp_path: Path) -> None:
    right = run_as_it_should()
    wrong = {
        "the pool was never full": [replace(task, started_at=0.0, ended_at=0.0) for task in right],
        "queue 'critical' ran 3 tasks at once": [
            replace(task, started_at=0.0) if "critical" in task.queue else task for task in right
        ],
        "51 of 51 did": right[:-1],
        "51 of 52 did": [replace(right[0], state="failed"), *right[1:]],
    }
    for words, tasks in wrong.items():
        code, text = told(tmp_path, tasks)
        assert code == 1
        assert words in text


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
