# SPDX-License-Identifier: Apache-2.0
"""What waits in our Airflow pools, counted anew in parts.

Counting all that waits takes as long as there is much of it, and the scheduler's loop waits for that. So a heartbeat
counts short lines anew, and of long ones as many as it can afford, in turn. What matters is seen at once: a task that
comes into an empty or short line. What is known of a long line may be some heartbeats old; it is long, so that it wants
all the slots it may have, then as now. Nothing here bounds what runs: that is counted anew each time.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import takewhile
from typing import TYPE_CHECKING

from airflow_workpools.store import airflow_statements as statements
from airflow_workpools.store.loads import Line, TaskGroup

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from datetime import datetime

    from sqlalchemy.orm import Session

BUDGET = 20_000
"""What one heartbeat may count, in tasks; see :func:`cost`."""
GROUP_COST = 10
"""A group of tasks costs as much as so many tasks: it is a row to fetch."""

_EMPTY = Line()
"""Most lines of many are."""


class WaitingLines:
    """What is known of what waits, in the memory of one scheduler.

    :param budget: what one look may count of what is known already.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        self._lines: dict[str, Line] = {}
        self._looks = 0
        self._looked_at: dict[str, int] = {}
        """The number of the look that counted a line last."""

    @property
    def any_waits(self) -> bool:
        """Whether any task was waiting when its line was counted."""
        return any(line.groups for line in self._lines.values())

    def look(
        self, session: Session, airflow_pools: Collection[str], overdue_since: datetime
    ) -> Mapping[str, Line]:
        """Count what is due, and return the lines of these Airflow pools.

        :param overdue_since: when a task of several slots must have become scheduled to be overdue now.
        """
        wanted = set(airflow_pools)
        self._lines = {name: line for name, line in self._lines.items() if name in wanted}
        due = self._due(airflow_pools)
        groups: dict[str, list[TaskGroup]] = defaultdict(list)
        if due:
            asked = {"names": due, "overdue_since": overdue_since}
            # Plain rows, without the ORM's ways: there are thousands.
            for row in session.connection().execute(statements.waiting_tasks(), asked):
                groups[row[0]].append(TaskGroup._make(row))
        self._looks += 1
        for name in due:
            if name not in groups:
                self._lines[name] = _EMPTY
            elif set(self._lines.get(name, _EMPTY).groups) != set(groups[name]):  # they come in any order
                self._lines[name] = Line.of(groups[name])
            self._looked_at[name] = self._looks
        return self._lines

    def _due(self, airflow_pools: Iterable[str]) -> list[str]:
        """Return the lines to count now: the unknown, the short, and those that were not counted for longest."""
        known = sorted((name for name in airflow_pools if name in self._lines), key=self._cost)
        short = list(self._affordable(known, self._budget // 2))
        left = self._budget - sum(map(self._cost, short))
        long = sorted(known[len(short) :], key=lambda name: self._looked_at[name])
        # One at least, or a line that is longer than all that can be afforded would never be counted again.
        turn = list(self._affordable(long, left)) or long[:1]
        return [*(name for name in airflow_pools if name not in self._lines), *short, *turn]

    def _affordable(self, names: Iterable[str], budget: int) -> Iterator[str]:
        spent = 0

        def fits(name: str) -> bool:
            nonlocal spent
            spent += self._cost(name)
            return spent <= budget

        return takewhile(fits, names)

    def _cost(self, name: str) -> int:
        line = self._lines[name]
        return line.tasks + GROUP_COST * len(line.groups)
