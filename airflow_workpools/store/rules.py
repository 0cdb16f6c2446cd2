# SPDX-License-Identifier: Apache-2.0
"""What every store decides in the same way, without I/O."""

from __future__ import annotations

import json
from collections import Counter, deque
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_workpools.core.jobs import ENDED, JobState
from airflow_workpools.core.json_values import JsonError, plain_json
from airflow_workpools.core.pools import Delivery
from airflow_workpools.core.slots import QueueLoad, choose
from airflow_workpools.core.wording import counted
from airflow_workpools.errors import InvalidInput, InvalidJobVariables
from airflow_workpools.store.records import MISSED_HEARTBEATS, Report, ReportOutcome, WorkerKind, WorkerState

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.core.slots import WaitingJob
    from airflow_workpools.store.records import ClaimedJob, NewJob, WorkerRecord

POLL_WRITTEN_EVERY = timedelta(seconds=10)
"""A queue's poll is written down at most so often, however many workers poll it."""
SUPERSEDED_AFTER = timedelta(seconds=30)
"""A job may keep a newer hand-over of the same try waiting for so long."""
TOLD_FOR = timedelta(seconds=30)
"""An end is told again if its task is still queued after so long: Airflow passes over task instances that
another transaction has locked, and forgets what it was told."""
WORKER_LOST_AFTER = timedelta(minutes=5)
"""A job that should be stopped is given up when its worker has been silent for so long."""

MAX_LOOKAHEAD = 1000
"""Most waiting jobs of a queue that one claim looks at, unless the worker wants more."""

NOTHING_ROAMS: Mapping[str, str] = MappingProxyType({})
"""No work pool has jobs that workers of several hosts can look after."""

MAX_TEXT = 10_000
"""Longest reason that is kept, in characters."""

WANTED = ("queued", "running")
"""States of a task instance in which a started job is what Airflow wants."""
WAITED_FOR = (*WANTED, "restarting")
"""States of a task instance in which a waiting job is what Airflow wants: it may still be started."""
STOP_AT_ONCE = ("restarting", "removed")
"""States of a task instance in which what runs must stop at once: it was cleared, or is no more."""
OVER = ("success", "failed", "skipped", "upstream_failed", "removed")
"""States of a task instance in which its try is not handed over again."""

TASK_INSTANCE_IS_NOW = "the task instance is now "
CLEARED_OR_GONE = "cleared or gone"
HANDED_OVER_AGAIN = "handed over again"
SUPERSEDED = "the same try was handed over again and waits for this job to end"
WORKER_LOST = "worker lost; the job was to be stopped, and nobody knows whether it still runs"


def start_timeout_reason(pool: str, seconds: float) -> str:
    """Say why a job that did not start in time had to end."""
    return f"did not start within {seconds:g} s (start timeout of work pool '{pool}')"


def unknown_job(*job_ids: uuid.UUID) -> str:
    """Say that jobs do not exist, and why that may be."""
    ids = ", ".join(map(str, job_ids))
    return f"there is no job {ids}: it was mistyped, or it ended so long ago that it was purged"


def has_active_jobs(what: str, active: int) -> str:
    """Say why a work pool or queue can't be deleted, and the way out."""
    has, it = ("has", "it") if active == 1 else ("have", "they")
    them = "it" if active == 1 else "them"
    return (
        f"{what} has {counted(active, 'job')} that {has} not ended; cancel {them} (`airflow workpools jobs cancel`), "
        f"or wait until {it} {has} ended"
    )


# -- hand-over -----------------------------------------------------------------------------------------------


def checked_variables(job: NewJob) -> dict[str, Any]:
    """Return a job's variables as plain JSON.

    :raises InvalidJobVariables: if they are anything else.
    """
    try:
        return dict(plain_json(job.job_variables))
    except JsonError as error:
        raise InvalidJobVariables(f"the job variables {error}") from error


def log_path(workload: str) -> str | None:
    """Return where a workload wants its log."""
    path = _object(workload).get("log_path")
    return path if isinstance(path, str) else None


def context_carrier(workload: str) -> dict[str, str] | None:
    """Return the trace context of a workload's task, if it has one."""
    ti = _object(workload).get("ti")
    carrier = ti.get("context_carrier") if isinstance(ti, dict) else None
    return carrier if isinstance(carrier, dict) else None


def _object(workload: str) -> dict[str, Any]:
    """Read a workload; one that was changed by hand has nothing in it."""
    try:
        found = json.loads(workload)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def with_token(job: ClaimedJob, mint_token: Callable[[uuid.UUID, float], str]) -> ClaimedJob:
    """Put a fresh token into a job's workload: it has to last from now until the task has started, no longer.

    :param mint_token: makes a token for a task instance, valid so many seconds.
    """
    if job.problem is not None:  # it will never be launched, and must not keep the others from being so
        return job
    workload = json.loads(job.workload)
    workload["token"] = mint_token(job.task_instance_id, job.start_timeout_seconds)
    return replace(job, workload=json.dumps(workload))


def fit_text(text: str) -> str:
    """Make a text fit for every database: no NUL, no half characters, and not without end."""
    return text.replace("\x00", "")[:MAX_TEXT].encode(errors="replace").decode()


# -- claim ---------------------------------------------------------------------------------------------------


class Head(NamedTuple):
    """How much of a queue's line has to be looked at."""

    largest: int | None
    """Most slots that a job may ask for and still start, ever; None if there is no limit."""
    length: int
    """How many jobs could make a difference to what is taken from the pool."""

    def shortened(self, most: int) -> Head:
        """Return as much of it as could be taken."""
        return self._replace(length=min(self.length, most))


ANY_ROOM = 1_000_000
"""Room of a worker that has no limit of its own: more slots than any pool gives out at a time."""


def serves(worker: WorkerRecord, pool: WorkPool) -> bool:
    """Say whether a worker serves a work pool, whether it is online or not."""
    return worker.serves(pool.name, push=pool.delivery is Delivery.PUSH, team_name=pool.team_name)


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


def is_enough(
    pool: WorkPool,
    chosen: Iterable[WaitingJob],
    *,
    heads: Mapping[str, Head],
    found: Mapping[str, int],
    most: int,
) -> bool:
    """Say whether lines that were looked at only as far as ``most`` jobs could be taken decide what is taken.

    They do if all that is wanted was chosen by the end of the first line that goes on behind that: what is behind it
    would come later, and can only keep slots from lower queues, from which nothing is taken then.

    :param heads: how much of each line decides in any case.
    :param found: how many jobs were found in each line.
    """
    taken = Counter(job.queue for job in chosen)
    wanted = most
    for queue in sorted(pool.queues, key=lambda queue: (queue.priority, queue.name)):
        wanted -= taken[queue.name]
        if wanted <= 0:
            return True
        if queue.name in heads and heads[queue.name].length > most <= found.get(queue.name, 0):
            return False
    return True


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


def may_judge(worker: WorkerRecord, now: datetime) -> bool:
    """Say whether a worker may take others for dead that are silent.

    The heartbeats of standalone workers pass through the API server. After an outage of it all seem to be silent, and
    who comes back first would take the jobs of those who come a moment later. So it waits until its own heartbeats have
    come without a gap for as long as theirs must have been missing.
    """
    if worker.kind is WorkerKind.EMBEDDED:
        return True
    return worker.steady_for(MISSED_HEARTBEATS * worker.heartbeat_seconds, now)


def lost_workers(
    workers: Iterable[WorkerRecord], *, grace_seconds: float, now: datetime
) -> list[WorkerRecord]:
    """Return standalone workers that have been gone for longer than the grace; see ``core.lost``."""
    known = [worker for worker in workers if worker.kind is WorkerKind.STANDALONE]
    witnessed = any(worker.steady_for(grace_seconds, now) for worker in known if _says_so(worker))
    gone_before = now - timedelta(seconds=grace_seconds)
    return [
        worker
        for worker in known
        if worker.last_heartbeat_at < gone_before
        and (worker.state is WorkerState.STOPPED or (witnessed and worker.silent(now)))
    ]


def _says_so(worker: WorkerRecord) -> bool:
    return worker.state is not WorkerState.STOPPED


def starts_again(state: str, handle: object, start_attempts: int, most: int) -> bool:
    """Say whether a lost worker's job waits again, for another to launch it: it was never launched.

    :param most: how often it is launched at most.
    """
    return state == JobState.CLAIMED.value and handle is None and start_attempts + 1 < most


def pools_of_jobs(worker: WorkerRecord) -> tuple[str, ...] | None:
    """Return the pools whose jobs a worker may be given that another has left; None: all."""
    return (worker.pools or ()) if worker.kind is WorkerKind.STANDALONE else None


def revoked(claims: Mapping[uuid.UUID, int], held: Mapping[uuid.UUID, int]) -> list[uuid.UUID]:
    """Return those of a worker's claims whose job must not go on for it: it has ended, waits again or was claimed anew.

    One that another worker has taken over goes on as it is.

    :param claims: which claim of each job it is, by its ``start_attempts``.
    :param held: the claims that workers have now.
    """
    return [id_ for id_, attempts in claims.items() if held.get(id_) != attempts]


def roams(handle: object, kind: str) -> bool:
    """Say whether a job is on this kind of infrastructure, as far as its stored handle says where it is.

    One without a handle may not have been launched; it is looked for on its pool's infrastructure.
    """
    if handle is None:
        return True
    if not isinstance(handle, dict) or handle.get("kind") != kind:
        return False
    data = handle.get("data")
    return not (isinstance(data, dict) and data.get("bound_to_host"))


def poll_is_due(last_polled_at: datetime | None, now: datetime) -> bool:
    """Say whether a queue's poll is worth writing down."""
    # One that lies ahead was written before the clock was set back.
    return last_polled_at is None or abs(now - last_polled_at) >= POLL_WRITTEN_EVERY


# -- reports -------------------------------------------------------------------------------------------------


def last_reports(reports: Iterable[Report]) -> dict[uuid.UUID, Report]:
    """Keep what was said last of each job.

    :raises InvalidInput: if a report says that a job waits: that is for ``requeue`` to do.
    """
    last = {report.job_id: report for report in reports}
    wrong = [
        f"job {id_} can't be reported as pending; requeue it"
        for id_, report in last.items()
        if report.state is JobState.PENDING
    ]
    if wrong:
        raise InvalidInput(wrong)
    return last


def outcome(report: Report, state: JobState | None, desired_state: JobState | None) -> ReportOutcome:
    """Say what became of a report, from what the job is afterwards.

    :param state: None if the worker has no such job.
    """
    as_wished = report.state is JobState.CANCELLED and state in ENDED and state is desired_state
    return ReportOutcome(report.job_id, state is report.state or as_wished, state)
