# SPDX-License-Identifier: Apache-2.0
"""Which jobs a claim takes, and how far it has to look for them; without I/O."""

from __future__ import annotations

from collections import Counter, deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from airflow_workpools.core.slots import QueueLoad, choose

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from airflow_workpools.core.pools import WorkPool, WorkQueue
    from airflow_workpools.core.slots import WaitingJob

MAX_LOOKAHEAD = 1000
"""Most waiting jobs of a queue that one claim looks at, unless the worker wants more."""

FIRST_LINES = 2
"""How many lines are looked at first, where there are many: those of the first queues fill most claims."""
ANY_ROOM = 1_000_000
"""Room of a worker that has no limit of its own: more slots than any pool gives out at a time."""


class Head(NamedTuple):
    """How much of a queue's line has to be looked at."""

    largest: int | None
    """Most slots that a job may ask for and still start, ever; None if there is no limit."""
    length: int
    """How many jobs could make a difference to what is taken from the pool."""

    def shortened(self, most: int) -> Head:
        """Return as much of it as could be taken."""
        return self._replace(length=min(self.length, most))


def wanted(room: int, most: int | None) -> int:
    """Return how many jobs a worker can take at most: each needs a slot."""
    return room if most is None else min(room, most)


def heads(pool: WorkPool, *, paused: Collection[str], held: Mapping[str, int], most: int) -> dict[str, Head]:
    """Say for each queue from which something may start now how much of its line decides on that.

    As many jobs as are wanted at most could be taken, and as many as there are free slots could keep lower
    queues from theirs. What is behind them makes no difference, however long the line.

    :param held: slots that jobs hold, by queue.
    :param most: most jobs that are wanted.
    """
    free = None if pool.concurrency_limit is None else pool.concurrency_limit - sum(held.values())
    found = {}
    for queue in pool.queues:
        own = None if queue.concurrency_limit is None else queue.concurrency_limit - held.get(queue.name, 0)
        may_grow = min((n for n in (free, own) if n is not None), default=most)
        if queue.name not in paused and may_grow > 0:
            limits = [n for n in (pool.concurrency_limit, queue.concurrency_limit) if n is not None]
            length = max(most, min(may_grow, MAX_LOOKAHEAD))
            found[queue.name] = Head(min(limits, default=None), length)
    return found


def looks(pool: WorkPool, heads: Mapping[str, Head], *, most: int) -> list[dict[str, Head]]:
    """Say which lines to look at, and how far, until that :func:`is_enough`.

    :param heads: how much of each line decides in any case; the last look.
    """
    short = {queue.name: heads[queue.name].shortened(most) for queue in in_turn(pool) if queue.name in heads}
    first = dict(islice(short.items(), FIRST_LINES))
    return [first, short, dict(heads)] if len(short) > 2 * FIRST_LINES else [short, dict(heads)]


def is_enough(
    pool: WorkPool,
    chosen: Iterable[WaitingJob],
    *,
    heads: Mapping[str, Head],
    look: Mapping[str, Head],
    found: Mapping[str, int],
    most: int,
) -> bool:
    """Say whether the lines that were looked at decide what is taken, though there are more, or they are longer.

    They do if all that is wanted was chosen before the first line that was not looked at, and by the end of the first
    that goes on behind what was seen of it: what is there would come later, and can only keep slots from lower queues,
    from which nothing is taken then.

    :param heads: how much of each line decides in any case.
    :param look: how much of each line was looked at; of none less than ``most`` jobs.
    :param found: how many jobs were found in each line.
    """
    taken = Counter(job.queue for job in chosen)
    wanted = most
    for queue in in_turn(pool):
        if queue.name not in heads:
            continue
        if queue.name not in look:
            return False
        wanted -= taken[queue.name]
        if wanted <= 0:
            return True
        if heads[queue.name].length > most <= found.get(queue.name, 0):
            return False
    return True


def in_turn(pool: WorkPool) -> list[WorkQueue]:
    """Return the queues of a pool in the order in which they get slots."""
    return sorted(pool.queues, key=lambda queue: (queue.priority, queue.name))


def choose_from(
    pool: WorkPool,
    waiting: Iterable[WaitingJob],
    *,
    paused: Collection[str],
    held: Mapping[str, int],
    room: int,
    overdue_since: datetime | None,
    foreign: Collection[uuid.UUID] = (),
    takes_from: Collection[str] | None = None,
) -> list[WaitingJob]:
    """Choose the jobs of one pool that may start now.

    :param paused: names of the paused queues.
    :param held: slots that jobs hold, by queue; also by queues that the pool has no longer.
    :param foreign: waiting jobs that only workers of other teams take. They get their slots by the same rule, and
        the worker that asks leaves them alone; so no team's jobs overtake those of higher priority of another.
    :param takes_from: queues from which the worker takes jobs; None: from all.
    """
    loads = job_loads(pool, paused=paused, held=held)
    chosen = choose(
        waiting,
        pool_limit=pool.concurrency_limit,
        queues=loads,
        room=ANY_ROOM if foreign else room,
        overdue_since=overdue_since,
        takes_from=takes_from,
    )
    return [job for job in chosen if job.id not in foreign] if foreign else chosen


def job_loads(
    pool: WorkPool,
    *,
    paused: Collection[str],
    held: Mapping[str, int],
    pending: Mapping[str, int] | None = None,
) -> list[QueueLoad]:
    """Return what the rule has to know of each queue of a pool, in slots of jobs.

    :param paused: names of the paused queues.
    :param held: slots that jobs hold, by queue; also by queues that the pool has no longer.
    :param pending: slots of jobs that wait, by queue, for whoever does not give the rule the jobs themselves.
    """
    demand = pending or {}
    loads = [
        QueueLoad(
            name=queue.name,
            priority=queue.priority,
            limit=queue.concurrency_limit,
            open=queue.name not in paused,
            demand=demand.get(queue.name, 0),
            occupied=held.get(queue.name, 0),
        )
        for queue in pool.queues
    ]
    lowest = max(load.priority for load in loads)
    return loads + [
        QueueLoad(name=name, priority=lowest + 1, limit=None, open=False, demand=0, occupied=slots)
        for name, slots in held.items()
        if pool.find_queue(name) is None
    ]


def take_turns(lines: Iterable[Sequence[WaitingJob]], *, room: int, most: int) -> list[WaitingJob]:
    """Fill a worker's room from several pools in turn, so that none with a long backlog starves the others.

    The pool whose first job has waited longest begins. A line whose next job does not fit is done: what is
    behind that job must not overtake it here.
    """
    turns = deque(sorted((deque(line) for line in lines if line), key=lambda line: line[0].handed_over_at))
    taken: list[WaitingJob] = []
    while turns and len(taken) < most:
        line = turns.popleft()
        if line[0].slots > room:
            continue
        taken.append(line.popleft())
        room -= taken[-1].slots
        if line:
            turns.append(line)
    return taken
