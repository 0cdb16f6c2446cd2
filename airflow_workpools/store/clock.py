# SPDX-License-Identifier: Apache-2.0
"""One clock for all machines: the database's.

Heartbeats, claims and timeouts are compared across machines, whose clocks differ and may be set at any time. So
schedulers and workers ask the database for its time, and count on from there by their own monotonic clock, which
nobody can set. Should the time of the database itself jump, then what was written before and what is written now
can't be compared for a while: nobody is taken for dead then, and nothing for late (:meth:`DatabaseClock.is_settled`).
"""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from sqlalchemy import text

from airflow_workpools.store.sessions import airflow_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from airflow_workpools.store.sessions import SessionFactory

log = logging.getLogger(__name__)

ASK_SECONDS = 10.0
"""Time between two questions to the database: as far as a jump of its clock goes unnoticed."""
JUMP = timedelta(seconds=5)
"""A difference that no slow answer explains."""

_QUESTIONS = {
    # Not now(): that is when the transaction began.
    "postgresql": "SELECT clock_timestamp()",
    "mysql": "SELECT UTC_TIMESTAMP(6)",
}


def host_time() -> datetime:
    """Return what this machine's clock says."""
    return datetime.now(timezone.utc)


def database_time(session: Session) -> datetime:
    """Return what the database's clock says; SQLite has none but this machine's."""
    question = _QUESTIONS.get(session.get_bind().dialect.name)
    if question is None:
        return host_time()
    told: datetime = session.execute(text(question)).scalar_one()
    return told.replace(tzinfo=timezone.utc) if told.tzinfo is None else told.astimezone(timezone.utc)


class DatabaseClock:
    """Tells the database's time without asking for it each time.

    :param ask: asks the database.
    :param monotonic: seconds that never go back.
    """

    def __init__(
        self,
        ask: Callable[[], datetime] | None = None,
        *,
        session_factory: SessionFactory = airflow_session,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask or self._ask_database
        self._session_factory = session_factory
        self._monotonic = monotonic
        self._anchor = host_time()
        self._anchor_at = monotonic()
        self._asked = False
        self._asked_at = float("-inf")
        self._jumped_at = float("-inf")

    def __call__(self) -> datetime:
        """Return the time."""
        return self._anchor + timedelta(seconds=self._monotonic() - self._anchor_at)

    def refresh(self, *, every_seconds: float = ASK_SECONDS) -> None:
        """Ask the database again, if that is due. When it does not answer, the clock just goes on."""
        before = self._monotonic()
        if before - self._asked_at < every_seconds:
            return
        self._asked_at = before
        told = self._ask()
        # It answered somewhere between the question and now.
        after = self._monotonic()
        counted = self()
        self._anchor, self._anchor_at = told, before + (after - before) / 2
        jump = self() - counted
        if self._asked and abs(jump) > JUMP + timedelta(seconds=after - before):
            self._jumped_at = after
            log.warning(
                "The database's clock has jumped by %+.0f s. Nobody is taken for dead and nothing for late until all "
                "have noticed; see that its machine's clock is kept by NTP, and is not set.",
                jump.total_seconds(),
            )
        self._asked = True

    def is_settled(self, seconds: float) -> bool:
        """Say whether the clock has gone on without a jump for so long."""
        return self._monotonic() - self._jumped_at >= seconds

    def _ask_database(self) -> datetime:
        with self._session_factory() as session:
            return database_time(session)
