# SPDX-License-Identifier: Apache-2.0
"""The tokens of workers, in the metadata database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.core.worker_tokens import WorkerToken
from airflow_workpools.errors import Conflict, NotFound
from airflow_workpools.store.sessions import Transactions, add, changed
from airflow_workpools.store.statements import tokens as statements
from airflow_workpools.store.tables import tokens

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Row
    from sqlalchemy.orm import Session


class TokenStore(Transactions):
    """Makes, lists and revokes tokens, and looks them up."""

    def add(self, token: WorkerToken) -> None:
        """Store a new token.

        :raises Conflict: if there is one with this id.
        """
        row = {
            "id": token.id,
            "hash": token.hash,
            "pools": list(token.pools),
            "description": token.description,
            "created_at": token.created_at,
            "created_by": token.created_by,
            "expires_at": token.expires_at,
        }
        if not self._transaction(lambda session: add(session, tokens, row)):
            raise Conflict(f"there is a token {token.id} already; try again")

    def find(self, token_id: str) -> WorkerToken | None:
        """Return a token; None if there is none of this id."""

        def work(session: Session) -> WorkerToken | None:
            row = session.execute(statements.token(token_id)).one_or_none()
            return None if row is None else _token(row)

        return self._transaction(work)

    def opens(self, token_id: str, *, now: datetime) -> bool:
        """Say whether a token opens anything (any more)."""
        token = self.find(token_id)
        return token is not None and token.problem(now) is None

    def all(self) -> list[WorkerToken]:
        """Return every token, the oldest first."""
        return self._transaction(lambda session: list(map(_token, session.execute(statements.all_tokens()))))

    def revoke(self, token_id: str, *, now: datetime) -> bool:
        """Let a token open nothing more; say whether it opened anything before.

        :raises NotFound: if there is none.
        """

        def work(session: Session) -> bool:
            if changed(session, statements.revoke(token_id, now)):
                return True
            if session.execute(statements.token(token_id)).one_or_none() is None:
                raise NotFound(
                    f"there is no token {token_id!r}; `airflow workpools token list` shows those there are"
                )
            return False

        return self._transaction(work)

    def note_use(self, token_id: str, *, now: datetime) -> None:
        """Write down that a token was used just now."""
        self._transaction(lambda session: session.execute(statements.note_use(token_id, now)))


def _token(row: Row[Any]) -> WorkerToken:
    """Return a token; one whose pools were changed by hand so that they can't be read opens none."""
    pools = row.pools if isinstance(row.pools, list) else ()
    return WorkerToken(
        id=row.id,
        hash=row.hash,
        pools=tuple(str(name) for name in pools),
        description=row.description,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
