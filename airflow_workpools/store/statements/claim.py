# SPDX-License-Identifier: Apache-2.0
"""The claim: who claims, what waits, and what is taken."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import and_, bindparam, exists, func, literal, or_, select, true, union_all, update

from airflow_workpools.core.jobs import JobState
from airflow_workpools.store import claim_rules
from airflow_workpools.store.records import WorkerKind, WorkerState
from airflow_workpools.store.statements.common import may_become, occupying, waiting, with_ids
from airflow_workpools.store.tables import jobs, workers

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

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


def lock_worker(worker_id: uuid.UUID) -> Select[Any]:
    """Whether a worker still claims; what would change that, or another claim of its own, waits from now on."""
    return (
        select(workers.c.id)
        .where(workers.c.id == worker_id, workers.c.state == WorkerState.ONLINE.value)
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


def pools_with_waiting(queues: Mapping[str, Sequence[str] | None], team: Team) -> CompoundSelect[Any]:
    """Which of these pools have a job that waits for a worker of this team.

    One look into the index for each, however long its line; longer only where other teams' jobs are in front.

    :param queues: from which queues of each pool it takes jobs; None: from all.
    """
    return union_all(
        *(
            select(literal(name).label("pool")).where(
                exists().where(
                    jobs.c.pool == name,
                    waiting,
                    _of_team(team),
                    true() if names is None else jobs.c.queue.in_(names),
                )
            )
            for name, names in queues.items()
        )
    )


def slots_held(names: Collection[str]) -> Select[Any]:
    """Slots that jobs hold, by queue."""
    return (
        select(jobs.c.pool, jobs.c.queue, func.sum(jobs.c.pool_slots).label("slots"))
        .where(jobs.c.pool.in_(names), occupying)
        .group_by(jobs.c.pool, jobs.c.queue)
    )


def first_waiting(
    pool: str,
    heads: Mapping[str, claim_rules.Head],
    *,
    room: int,
    most: int,
    team: Team,
    others: Collection[str | None],
) -> CompoundSelect[Any]:
    """The head of the line of each queue.

    Jobs that can never start are left out, and those that fit into the worker come on top, so that they are
    not hidden behind those that do not. A job whose older round has not ended has to wait for it.

    :param team: whose jobs the worker can take.
    :param others: teams whose jobs somebody else will take: they keep their place in the line.
    """
    return _first_waiting(pool, tuple(heads.items()), room, most, team, frozenset(others))


@lru_cache(maxsize=200)
def _first_waiting(
    pool: str,
    heads: Sequence[tuple[str, claim_rules.Head]],
    room: int,
    most: int,
    team: Team,
    others: frozenset[str | None],
) -> CompoundSelect[Any]:
    """Make the statement, or take the one of an earlier claim: the pool is locked meanwhile."""
    parts = []
    can_start = or_(*(_of_team(one) for one in (team, *sorted(others, key=str))))
    for queue, head in heads:
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


def take(job_ids: Collection[uuid.UUID], worker_id: uuid.UUID, now: datetime) -> Update:
    """Give waiting jobs to a worker; not one that somebody has set to wait by hand while another worker has it."""
    return (
        update(jobs)
        .where(with_ids(job_ids), may_become(JobState.CLAIMED), jobs.c.worker_id.is_(None))
        .values(state=JobState.CLAIMED.value, worker_id=worker_id, claimed_at=now)
    )
