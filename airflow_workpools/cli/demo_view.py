# SPDX-License-Identifier: Apache-2.0
"""The demo as it runs: one line per work queue, live in a terminal, now and then where there is none."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airflow_workpools.cli.local_records import TaskTry

PLAIN_SECONDS = 2.0
"""Time between two lines where there is no terminal."""


@dataclass(frozen=True, kw_only=True)
class QueueSnapshot:
    """How many of one queue's tasks run, wait and are done; ``limit`` None means no limit of its own."""

    name: str
    priority: int
    limit: int | None
    running: int = 0
    waiting: int = 0
    done: int = 0
    failed: int = 0

    @property
    def tasks(self) -> int:
        return self.running + self.waiting + self.done + self.failed


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One moment of the demo."""

    seconds: float
    pool: str
    limit: int
    queues: Sequence[QueueSnapshot]

    @property
    def running(self) -> int:
        return sum(queue.running for queue in self.queues)


def count(queue: QueueSnapshot, tries: Iterable[TaskTry]) -> QueueSnapshot:
    """Return the queue's line with what its tasks do now."""
    running = waiting = done = failed = 0
    for task in tries:
        if task.state == "running":
            running += 1
        elif task.state == "success":
            done += 1
        elif task.finished:
            failed += 1
        else:
            waiting += 1
    return QueueSnapshot(
        name=queue.name,
        priority=queue.priority,
        limit=queue.limit,
        running=running,
        waiting=waiting,
        done=done,
        failed=failed,
    )


class View(Protocol):
    """Shows moments of the demo."""

    def show(self, snapshot: Snapshot) -> None: ...


@contextmanager
def open_view(console: Console) -> Iterator[View]:
    """Open the live view in a terminal, else the one that prints lines."""
    if not (console.is_terminal and console.encoding.startswith("utf")):
        yield PlainView(console)
        return
    with Live(console=console, refresh_per_second=8, transient=False) as live:
        yield LiveView(live)


@dataclass
class LiveView:
    """Draws each moment over the last one."""

    live: Live

    def show(self, snapshot: Snapshot) -> None:
        self.live.update(draw(snapshot))


@dataclass
class PlainView:
    """Prints a line every few seconds."""

    console: Console
    interval_seconds: float = PLAIN_SECONDS
    _printed_at: float = float("-inf")

    def show(self, snapshot: Snapshot) -> None:
        if time.monotonic() - self._printed_at >= self.interval_seconds:
            self._printed_at = time.monotonic()
            self.console.print(plain(snapshot), highlight=False, soft_wrap=True)


def plain(snapshot: Snapshot) -> str:
    """Return a moment as one line of text."""
    queues = "  ".join(
        f"{queue.name} {_of(queue.running, queue.limit)} run {queue.waiting} wait {queue.done} done"
        + (f" {queue.failed} failed" if queue.failed else "")
        for queue in snapshot.queues
    )
    return (
        f"{snapshot.seconds:5.1f} s  {snapshot.pool} {_of(snapshot.running, snapshot.limit)} run | {queues}"
    )


def draw(snapshot: Snapshot) -> Group:
    """Return a moment as a table with bars."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for header, side in (("queue", "left"), ("priority", "right"), ("running", "left"), ("", "left")):
        table.add_column(header, justify=side)  # type: ignore[arg-type]
    for header in ("waiting", "done"):
        table.add_column(header, justify="right")
    table.add_column("", justify="left")
    for queue in snapshot.queues:
        table.add_row(
            queue.name,
            str(queue.priority),
            _of(queue.running, queue.limit),
            _slots(queue.running, queue.limit if queue.limit is not None else snapshot.limit),
            str(queue.waiting),
            Text(f"{queue.done}", style="green") + Text(f" {queue.failed}!" if queue.failed else "", "red"),
            ProgressBar(total=max(queue.tasks, 1), completed=queue.done, width=30),
        )
    title = Text.assemble(
        ("work pool ", "dim"), (snapshot.pool, "bold"), f"  {_of(snapshot.running, snapshot.limit)} running  "
    )
    title.append_text(_slots(snapshot.running, snapshot.limit))
    title.append(f"  {snapshot.seconds:.0f} s", style="dim")
    return Group(title, table)


def _of(number: int, limit: int | None) -> str:
    return f"{number}" if limit is None else f"{number}/{limit}"


def _slots(running: int, limit: int) -> Text:
    """Draw slots: full ones, free ones, and in red those beyond the limit."""
    full = min(running, limit)
    return Text.assemble(
        ("■" * full, "cyan"), ("□" * (limit - full), "dim"), ("■" * (running - full), "bold red")
    )
