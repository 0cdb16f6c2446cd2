# SPDX-License-Identifier: Apache-2.0
"""What is asked before something is removed from an infrastructure of which no worker knows any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select

from airflow_workpools.store.statements.common import active, with_ids
from airflow_workpools.store.tables import installation, jobs

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy import Select

THE_ONE = 1
"""Number of the one row that says which Airflow this is."""


def installation_id() -> Select[Any]:
    """Which Airflow this is."""
    return select(installation.c.id).where(installation.c.number == THE_ONE)


def not_over(job_ids: Collection[uuid.UUID], before: datetime) -> Select[Any]:
    """Those of these jobs that go on, or ended later than this."""
    return select(jobs.c.id).where(with_ids(job_ids), or_(active, jobs.c.ended_at >= before))
