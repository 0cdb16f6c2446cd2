# SPDX-License-Identifier: Apache-2.0
"""What jobs wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, exists, or_, select, union_all

from airflow_workpools.store.statements.common import with_ids
from airflow_workpools.store.tables import jobs, logs

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Mapping

    from sqlalchemy import Row, Select
    from sqlalchemy.sql import Delete
    from sqlalchemy.sql.selectable import CompoundSelect

    from airflow_workpools.core.logs import LogMark
    from airflow_workpools.store.statements.common import Condition


def jobs_of_worker(worker_id: uuid.UUID, job_ids: Collection[uuid.UUID]) -> Select[Any]:
    """Which of these jobs a worker has, or had last."""
    return select(jobs.c.id).where(with_ids(job_ids), jobs.c.worker_id == worker_id)


def last_chunks(attempts: Mapping[uuid.UUID, int]) -> CompoundSelect[Any]:
    """The last chunk of each of these logs: one look into the index for each, however long it is."""
    parts = (
        select(logs.c.job_id, logs.c.position, logs.c.size)
        .where(logs.c.job_id == job_id, logs.c.attempt == attempt)
        .order_by(logs.c.position.desc())
        .limit(1)
        for job_id, attempt in attempts.items()
    )
    return union_all(*(select(part.subquery()) for part in parts))


def chunks_after(job_id: uuid.UUID, after: LogMark | None, limit: int) -> Select[Any]:
    """The next chunks of a job's log, in the order in which it is read."""
    return (
        select(logs)
        .where(logs.c.job_id == job_id, *(() if after is None else (_after(after),)))
        .order_by(logs.c.attempt, logs.c.position)
        .limit(limit)
    )


def _after(mark: LogMark) -> Condition:
    attempt, position = logs.c.attempt, logs.c.position
    return or_(attempt > mark.attempt, and_(attempt == mark.attempt, position > mark.position))


def with_log(job_ids: Collection[uuid.UUID]) -> Select[Any]:
    """Which of these jobs have a log here, or a reason."""
    stored = exists().where(logs.c.job_id == jobs.c.id)
    return select(jobs.c.id).where(with_ids(job_ids), stored.correlate(jobs))


def first_chunk_to_stay(job_ids: Collection[uuid.UUID], most: int) -> Select[Any]:
    """The chunk behind the first so many of these jobs', if there are more."""
    return (
        select(logs.c.job_id, logs.c.attempt, logs.c.position)
        .where(logs.c.job_id.in_(job_ids))
        .order_by(logs.c.job_id, logs.c.attempt, logs.c.position)
        .offset(most)
        .limit(1)
    )


def forget(job_ids: Collection[uuid.UUID], up_to: Row[Any] | None) -> Delete:
    """Delete the logs of jobs, all or up to a chunk."""
    all_of_them = delete(logs).where(logs.c.job_id.in_(job_ids))
    if up_to is None:
        return all_of_them
    of_job, of_attempt = logs.c.job_id == up_to.job_id, logs.c.attempt == up_to.attempt
    return all_of_them.where(
        or_(
            logs.c.job_id < up_to.job_id,
            and_(of_job, logs.c.attempt < up_to.attempt),
            and_(of_job, of_attempt, logs.c.position < up_to.position),
        )
    )


def without_log(job_ids: Collection[uuid.UUID]) -> Delete:
    """Delete those of these jobs whose logs are gone."""
    return delete(jobs).where(with_ids(job_ids), ~exists().where(logs.c.job_id == jobs.c.id).correlate(jobs))
