# SPDX-License-Identifier: Apache-2.0
"""The order of the work queues of a pool: every queue has a number from 1 of its own, and 1 goes first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_workpools.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def lowest_unused(priorities: Collection[int]) -> int:
    """Return the first priority from 1 that none of these is: where a queue goes for which none was said."""
    priority = 1
    while priority in priorities:
        priority += 1
    return priority


def place_queue(priorities: Mapping[str, int], name: str, priority: int | None) -> dict[str, int]:
    """Give one queue, new or not, a priority among the queues of its pool.

    :param priority: None leaves a queue where it is; a new one gets the lowest unused number.
    :return: the priority of every queue; see :func:`place_queues`.
    :raises InvalidInput: if the priority is less than 1.
    """
    if priority is None:
        priority = priorities.get(name) or lowest_unused(priorities.values())
    return place_queues(priorities, {name: priority})


def place_queues(priorities: Mapping[str, int], targets: Mapping[str, int]) -> dict[str, int]:
    """Give queues, new or not, priorities among the queues of their pool, by Prefect's rule.

    Each target is met. A queue whose number is taken by that moves to the next free one, and pushes others
    only if it must: their order stays, and so do gaps.

    :return: the priority of every queue, in order.
    :raises InvalidInput: if two targets are equal or one is less than 1.
    """
    if problems := _target_problems(targets):
        raise InvalidInput(problems)
    placed = {priority: name for name, priority in targets.items()}
    for name, priority in sorted(priorities.items(), key=lambda item: item[1]):
        if name in targets:
            continue
        while priority in placed:
            priority += 1
        placed[priority] = name
    return {placed[priority]: priority for priority in sorted(placed)}


def _target_problems(targets: Mapping[str, int]) -> list[str]:
    problems = []
    first: dict[int, str] = {}
    for name, priority in targets.items():
        if priority < 1:
            problems.append(f"priority of work queue {name!r} must be a whole number from 1, not {priority}")
        elif priority in first:
            problems.append(f"work queues {first[priority]!r} and {name!r} cannot share priority {priority}")
        else:
            first[priority] = name
    return problems
