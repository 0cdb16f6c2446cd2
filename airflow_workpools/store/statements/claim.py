# SPDX-License-Identifier: Apache-2.0
"""The claim: who claims, what waits, and what is taken."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import and_, bindparam, exists, func, literal, null, or_, select, true, union_all, update

from airflow_workpools.core.jobs import JobState
from airflow_workpools.store import claim_rules
from airflow_workpools.store.records import WorkerKind, WorkerState
from airflow_workpools.store.statements.common import may_become, occupying, waiting
from airflow_workpools.store.tables import jobs, pools, queues, workers

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Select, Update
    from sqlalchemy.sql.selectable import CompoundSelect

    from airflow_workpools.core.names import WorkQueueRef
    from airflow_workpools.store.statements.common import Condition


class _AnyTeam:
    """Stands for the team of a worker that takes the jobs of all."""


ANY_TEAM = _AnyTeam()

Team: TypeAlias = "str | _AnyTeam | None"
"""Whose jobs a worker takes: those that this team's executor has handed over, or that of none."""


@cache
def worker_and_others() -> Select[Any]:
    """The worker ``worker_id``, and with it those that may claim what it leaves.

    For an embedded one those of other teams; for one that restricts itself to some queues the standalone ones. The
    claims of all others need not read what may be hundreds of rows. Made once.
    """
    worker_id = bindparam("worker_id", type_=workers.c.id.type)
    me = workers.alias("me")
    my_team = select(me.c.team_name).where(me.c.id == worker_id).scalar_subquery()

    def i_am(what: Condition) -> Condition:
        return select(me.c.id).where(me.c.id == worker_id, what).exists()

    of_another_team = and_(
        i_am(me.c.kind == WorkerKind.EMBEDDED.value),
        workers.c.kind == WorkerKind.EMBEDDED.value,
        workers.c.team_name.is_distinct_from(my_team),
    )
    standalone = and_(i_am(me.c.queues.is_not(None)), workers.c.kind == WorkerKind.STANDALONE.value)
    other = or_(of_another_team, standalone)
    return select(workers).where(
        or_(workers.c.id == worker_id, and_(workers.c.state == WorkerState.ONLINE.value, other))
    )


_in_pools = pools.c.name.in_(bindparam("names", expanding=True))


@cache
def lock_all() -> Update:
    """Keep everyone else from the pools ``names``, on SQLite: whoever writes has all of it for itself."""
    return update(pools).where(_in_pools).values(claim_count=pools.c.claim_count + 1)


@cache
def lock_pools() -> Select[Any]:
    """Make everyone else who claims from the pools ``names`` wait until this transaction has ended.

    All are locked in the same order. SQLite knows no such lock; there, :func:`lock_all` comes first.
    """
    return select(pools.c.name, pools.c.paused).where(_in_pools).order_by(pools.c.name).with_for_update()


@cache
def lock_worker() -> Select[Any]:
    """Whether ``worker_id`` still claims; what would change that, or another claim of its own, waits from now on."""
    return (
        select(workers.c.id)
        .where(
            workers.c.id == bindparam("worker_id", type_=workers.c.id.type),
            workers.c.state == WorkerState.ONLINE.value,
        )
        .with_for_update()
    )


def slots_of_workers(worker_ids: Collection[uuid.UUID]) -> Select[Any]:
    """Slots that the jobs of these workers hold, by worker."""
    return (
        select(jobs.c.worker_id, func.sum(jobs.c.pool_slots).label("slots"))
        .where(jobs.c.worker_id.in_(worker_ids), occupying)
        .group_by(jobs.c.worker_id)
    )


def _of_team(team: Team) -> Condition:
    """Jobs that a worker of this team takes."""
    return true() if isinstance(team, _AnyTeam) else jobs.c.team_name == team


def pools_with_waiting(takes_from: Mapping[str, Sequence[str] | None], team: Team) -> CompoundSelect[Any]:
    """Which of these pools have a job that waits for a worker of this team, and whether they have a row to lock.

    One look into the index for each, however long its line; longer only where other teams' jobs are in front.

    :param takes_from: from which queues of each pool it takes jobs; None: from all.
    """
    return union_all(
        *(
            select(literal(name).label("pool"), exists().where(pools.c.name == name).label("has_row")).where(
                exists().where(
                    jobs.c.pool == name,
                    waiting,
                    _of_team(team),
                    true() if names is None else jobs.c.queue.in_(names),
                )
            )
            for name, names in takes_from.items()
        )
    )


@cache
def held_and_paused() -> CompoundSelect[Any]:
    """Slots that jobs hold, by queue, in the pools ``names``; and, without slots, the queues that are paused.

    In one statement, as the pools are locked meanwhile.
    """
    held = (
        select(jobs.c.pool, jobs.c.queue, func.sum(jobs.c.pool_slots).label("slots"))
        .where(jobs.c.pool.in_(bindparam("names", expanding=True)), occupying)
        .group_by(jobs.c.pool, jobs.c.queue)
    )
    paused = select(queues.c.pool, queues.c.name, null()).where(
        queues.c.pool.in_(bindparam("names", expanding=True)), queues.c.paused
    )
    return union_all(held, paused)


def first_waiting(
    lines: Iterable[tuple[str, str, claim_rules.Head]],
    *,
    room: int,
    most: int,
    team: Team,
    others: Collection[str | None],
) -> CompoundSelect[Any]:
    """The head of the line of each of these queues.

    Jobs that can never start are left out, and those that fit into the worker come on top, so that they are
    not hidden behind those that do not. A job whose older round has not ended has to wait for it.

    :param lines: pool and queue, and how much of the queue's line.
    :param team: whose jobs the worker can take.
    :param others: teams whose jobs somebody else will take: they keep their place in the line.
    """
    return _first_waiting(tuple(lines), room, most, team, frozenset(others))


@lru_cache(maxsize=20)  # one of many lines takes megabytes
def _first_waiting(
    lines: Sequence[tuple[str, str, claim_rules.Head]],
    room: int,
    most: int,
    team: Team,
    others: frozenset[str | None],
) -> CompoundSelect[Any]:
    """Make the statement, or take the one of an earlier claim: the pools are locked meanwhile."""
    parts = []
    can_start = or_(*(_of_team(one) for one in (team, *sorted(others, key=str))))
    for pool, queue, head in lines:
        line = _in_line(select(*_claim_order), pool, queue).where(can_start)
        if head.largest is not None:
            line = line.where(jobs.c.pool_slots <= head.largest)
        parts.append(line.limit(head.length))
        if others or room < (claim_rules.ANY_ROOM if head.largest is None else head.largest):
            parts.append(line.where(jobs.c.pool_slots <= room, _of_team(team)).limit(most))
    return union_all(*(select(part.subquery()) for part in parts))


def line(ref: WorkQueueRef, limit: int) -> Select[Any]:
    """The head of the line of a queue, for people to see; without workloads."""
    columns = [column for column in jobs.c if column is not jobs.c.workload]
    return _in_line(select(*columns), ref.pool, ref.queue).limit(limit)


def _in_line(what: Select[Any], pool: str, queue: str) -> Select[Any]:
    return what.where(
        jobs.c.pool == pool,
        jobs.c.queue == queue,
        waiting,
        ~_older_round_is_active(),
    ).order_by(jobs.c.priority_weight.desc(), jobs.c.handed_over_at, jobs.c.id)


_claim_order = (
    jobs.c.id,
    jobs.c.pool,
    jobs.c.queue,
    jobs.c.priority_weight,
    jobs.c.pool_slots,
    jobs.c.handed_over_at,
    jobs.c.team_name,
)


@cache
def _older_round_is_active() -> Condition:
    """An earlier hand-over of the same try has not ended. Made once: a claim asks it for each queue."""
    older = jobs.alias("older")
    return exists().where(
        older.c.task_instance_id == jobs.c.task_instance_id,
        older.c.round < jobs.c.round,
        older.c.ended_at.is_(None),
    )


@cache
def take(*, returns: bool) -> Update:
    """Give the waiting jobs ``ids`` to the worker ``taken_by``, ``now``.

    Not one that somebody has set to wait by hand while another worker has it.

    :param returns: whether to read what was taken with it; not every database can.
    """
    change = (
        update(jobs)
        .where(
            jobs.c.id.in_(bindparam("ids", expanding=True)),
            may_become(JobState.CLAIMED),
            jobs.c.worker_id.is_(None),
        )
        .values(
            state=JobState.CLAIMED.value,
            worker_id=bindparam("taken_by", type_=jobs.c.worker_id.type),
            claimed_at=bindparam("now", type_=jobs.c.claimed_at.type),
        )
    )
    return change.returning(*jobs.c) if returns else change
