# SPDX-License-Identifier: Apache-2.0
"""A pool's jobs in pages, whatever their number."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from airflow_workpools.core.jobs import JobState
from airflow_workpools.store import rows
from airflow_workpools.store.statements import usage as statements

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.orm import Session

    from airflow_workpools.store.records import JobRecord


class JobPage(NamedTuple):
    """Some jobs, the newest hand-over first."""

    jobs: list[JobRecord]
    more: bool
    """Whether there are older ones."""


def job_page(
    session: Session,
    pool: str,
    *,
    states: Collection[JobState] | None = None,
    queue: str | None = None,
    dag_id: str | None = None,
    after: tuple[datetime, UUID] | None = None,
    limit: int,
) -> JobPage:
    """Return a page of a pool's jobs, with one statement.

    :param after: hand-over and id of the last job of the page before.
    """
    statement = statements.page(
        pool,
        set(JobState if states is None else states),
        queue=queue,
        dag_id=dag_id,
        after=after,
        limit=limit + 1,
    )
    found = [rows.job_record(row) for row in session.execute(statement)]
    return JobPage(found[:limit], len(found) > limit)
