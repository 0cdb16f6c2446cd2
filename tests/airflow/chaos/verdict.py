# SPDX-License-Identifier: Apache-2.0
"""What the tasks themselves wrote down, held against what Airflow says of them and against the limits; no I/O."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from airflow_workpools.cli.demo_report import Interval, max_concurrency
from airflow_workpools.cli.local_records import TaskTry
from tests.airflow.harness import Execution


class Try(NamedTuple):
    """Which try of which task."""

    task_id: str
    map_index: int
    number: int


def problems(
    executions: Iterable[Execution],
    latest: Iterable[TaskTry],
    earlier: Iterable[TaskTry],
    limits: Mapping[str | None, int],
) -> list[str]:
    """Return what must not be: a task lost, a try run twice, a limit broken.

    :param executions: what the tasks wrote down: ``start``, ``beat`` and ``end`` of each real run.
    :param latest: the last try of each task, as Airflow has it.
    :param earlier: the tries before it.
    :param limits: of queues, and of the pool under None.
    """
    executions = list(executions)
    runs = _runs(executions)
    finals = {Try(task.task_id, task.map_index, task.try_number): task for task in latest}
    known = finals.keys() | {Try(task.task_id, task.map_index, task.try_number) for task in earlier}
    found = [f"{_name(which)} is {task.state}" for which, task in finals.items() if task.state != "success"]
    for which, events in runs.items():
        starts = [event for event in events if event.event == "start"]
        if len(starts) != 1:
            found.append(f"{_name(which)} began {len(starts)} times: {_told(events)}")
        if which not in known:
            found.append(f"{_name(which)} ran, but Airflow knows of no such try: {_told(events)}")
    for which in finals:
        ends = [event for event in runs.get(which, []) if event.event == "end"]
        if len(ends) != 1:
            found.append(
                f"{_name(which)} succeeded with {len(ends)} ends: {_told(runs.get(which, [])) or 'nothing'}"
            )
    most = most_at_once(executions, finals.values(), limits)
    return found + [
        f"{most[queue]} tasks of {queue or 'the pool'} ran at once, the limit is {limit}"
        for queue, limit in limits.items()
        if most[queue] > limit
    ]


def most_at_once(
    executions: Iterable[Execution], latest: Iterable[TaskTry], queues: Iterable[str | None]
) -> dict[str | None, int]:
    """Return the most tasks that ran at the same time, of each queue and, under None, of all.

    Their own notes tell of every try, but only while its code runs; Airflow's times of those that succeeded come from
    the process around it, which begins earlier and ends later. Of other tries Airflow's times mean little.
    """
    noted = intervals(_runs(executions))
    told = [
        Interval(task.started_at, task.ended_at, task.task_id)
        for task in latest
        if task.state == "success" and task.started_at is not None and task.ended_at is not None
    ]
    return {
        queue: max(max_concurrency(i for i in some if queue in (None, i.queue)) for some in (noted, told))
        for queue in queues
    }


def intervals(runs: Mapping[Try, list[Execution]]) -> list[Interval]:
    """Return when each process ran that was ever a task's; one that was killed, up to its last sign of life."""
    times: dict[tuple[str, int, int, int], list[float]] = defaultdict(list)
    for which, events in runs.items():
        for event in events:
            times[which.task_id, which.map_index, which.number, event.pid].append(event.at)
    return [Interval(min(at), max(at), task_id) for (task_id, *_), at in times.items()]


def _runs(executions: Iterable[Execution]) -> dict[Try, list[Execution]]:
    runs: dict[Try, list[Execution]] = defaultdict(list)
    for execution in executions:
        runs[Try(execution.task_id, execution.map_index, execution.try_number)].append(execution)
    return runs


def _name(which: Try) -> str:
    return f"{which.task_id}[{which.map_index}] try {which.number}"


def _told(events: Iterable[Execution]) -> str:
    return ", ".join(f"{e.event} {e.at:.3f} pid {e.pid}" for e in events if e.event != "beat")
