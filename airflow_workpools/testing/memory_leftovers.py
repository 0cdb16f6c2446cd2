# SPDX-License-Identifier: Apache-2.0
"""The store in memory as it is asked what may be removed from infrastructures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_workpools.testing.memory_jobs import MemoryJobs

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection
    from datetime import datetime


class LeftoverSide(MemoryJobs):
    """See :class:`~airflow_workpools.store.protocol.LeftoverStore`."""

    def installation(self) -> uuid.UUID:
        return self._installation

    def over(self, job_ids: Collection[uuid.UUID], *, before: datetime) -> set[uuid.UUID]:
        with self._lock:
            records = [job.record for job in self._given(job_ids)]
        return set(job_ids) - {one.id for one in records if one.ended_at is None or one.ended_at >= before}
