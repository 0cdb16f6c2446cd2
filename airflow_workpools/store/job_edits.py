# SPDX-License-Identifier: Apache-2.0
"""What people do to jobs: all of it or, with a reason, nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_workpools.core.jobs import ENDED
from airflow_workpools.errors import NotFound, StateConflict
from airflow_workpools.store import rules
from airflow_workpools.store.records import JobFilter

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection
    from datetime import datetime

    from airflow_workpools.store.protocol import JobStore
    from airflow_workpools.store.records import JobRecord


def cancel_jobs(
    store: JobStore, job_ids: Collection[uuid.UUID], *, reason: str, now: datetime
) -> list[JobRecord]:
    """Cancel jobs, and return them as they are afterwards: ended, or wished to end.

    One that ends by itself at the same moment has ended as it did.

    :raises NotFound: if one does not exist; none is cancelled then.
    :raises StateConflict: if one has ended already; none is cancelled then.
    """
    ids = list(dict.fromkeys(job_ids))
    jobs = _read(store, ids)
    if ended := [f"job {job.id} ({job.state})" for job in jobs if job.state in ENDED]:
        raise StateConflict(
            f"nothing was cancelled, because these have ended: {', '.join(ended)}; leave out what has ended"
        )
    store.request_cancel(job_ids=ids, reason=reason, now=now)
    return _read(store, ids)


def _read(store: JobStore, ids: Collection[uuid.UUID]) -> list[JobRecord]:
    found = {job.id: job for job in store.jobs(JobFilter(job_ids=tuple(ids)), limit=len(ids))}
    if unknown := [id_ for id_ in ids if id_ not in found]:
        raise NotFound(rules.unknown_job(*unknown))
    return [found[id_] for id_ in ids]
