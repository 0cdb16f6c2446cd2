# SPDX-License-Identifier: Apache-2.0
"""Short transactions of the store's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from airflow_workpools.store.statements.common import CHUNK, add_missing, is_transient

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from contextlib import AbstractContextManager

    from sqlalchemy import CursorResult, Executable, Table
    from sqlalchemy.orm import Session

T = TypeVar("T")

SessionFactory = Callable[[], "AbstractContextManager[Session]"]
"""Makes a session that commits when it is left, and rolls back on an error."""

ATTEMPTS = 5
"""How often a transaction is tried that others keep from coming through."""


def airflow_session() -> AbstractContextManager[Session]:
    """Make a session on Airflow's metadata database.

    Not the thread's shared one: the scheduler may be in the middle of a transaction with that.
    """
    from airflow.utils.session import create_session

    return cast("AbstractContextManager[Session]", create_session(scoped=False))


class Transactions:
    """Runs work in transactions of its own.

    :param session_factory: where sessions come from.
    """

    def __init__(self, session_factory: SessionFactory = airflow_session) -> None:
        self._session_factory = session_factory

    def _transaction(self, work: Callable[[Session], T]) -> T:
        """Do all of ``work`` or nothing; again from the start if only another transaction was in the way."""
        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.05, max=1),
            reraise=True,
        )
        for attempt in retrying:
            with attempt, self._session_factory() as session:
                return work(session)
        raise AssertionError("a transaction either comes through or raises")


def chunks(values: Collection[T], *, size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Cut values into parts that one statement can take."""
    listed = list(values)
    for start in range(0, len(listed), size):
        yield listed[start : start + size]


def changed(session: Session, statement: Executable, row: Mapping[str, Any] | None = None) -> int:
    """Execute a change, with the values of a row, and return how many rows it touched."""
    result = session.execute(statement, row, execution_options={"preserve_rowcount": True})
    return int(cast("CursorResult[Any]", result).rowcount)


def add(session: Session, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert a row; say whether it is new."""
    return changed(session, add_missing(session.get_bind().dialect.name, table), row) > 0
