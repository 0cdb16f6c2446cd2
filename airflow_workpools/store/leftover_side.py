# SPDX-License-Identifier: Apache-2.0
"""The store as it is asked what may be removed from infrastructures."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from airflow_workpools.store.sessions import Transactions, add, chunks
from airflow_workpools.store.statements import leftovers as statements
from airflow_workpools.store.tables import installation

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy.orm import Session


class LeftoverSide(Transactions):
    """See :class:`~airflow_workpools.store.protocol.LeftoverStore`."""

    def installation(self) -> uuid.UUID:
        def read(session: Session) -> uuid.UUID | None:
            found: uuid.UUID | None = session.scalar(statements.installation_id())
            return found

        found = self._transaction(read)
        if found is None:
            row = {"number": statements.THE_ONE, "id": uuid.uuid4()}
            self._transaction(lambda session: add(session, installation, row))
            # Somebody else may have been first. A transaction that has looked before would not see that everywhere.
            found = self._transaction(read)
        assert found is not None
        return found

    def over(self, job_ids: Collection[uuid.UUID], *, before: datetime) -> set[uuid.UUID]:
        def work(session: Session) -> set[uuid.UUID]:
            return {
                id_ for some in chunks(job_ids) for id_ in session.scalars(statements.not_over(some, before))
            }

        return set(job_ids) - self._transaction(work)
