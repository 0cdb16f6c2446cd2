# SPDX-License-Identifier: Apache-2.0
"""Where errands wait, and who carries them out.

They wait where Airflow put them: in its own tables of callbacks and connection tests. A place of our own would have
to be kept in line with those, and a job's row has no room for them: it stands for a task instance, in a work queue,
and its slots count. What lacked in Airflow's rows is whose errand it is; a note says so (see ``core.errands``).

- It is written in the scheduler's own transaction, so it is rolled back with it, and two schedulers that queue one
  callback at the same time (Airflow reads pending ones without a lock) have it carried out once.
- Any embedded worker of the executor's team takes what waits: an errand outlives the scheduler that queued it.
- A worker that ends leaves its errands to the next one on its machine, which sees from the errand's directory
  whether it ran. Where the machine is gone, too, the errand fails after some minutes, with that reason: Airflow
  would show it as running for ever.
- No token is stored: it is made when a worker takes the errand.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from airflow_workpools.airflow_private import errands as airflow_errands
from airflow_workpools.core.errands import ErrandKind, handed_over, mark_of, worker_of
from airflow_workpools.store import rows, rules
from airflow_workpools.store.records import WorkerState
from airflow_workpools.store.sessions import Transactions, changed, chunks
from airflow_workpools.store.statements import errands as statements
from airflow_workpools.store.statements import worker as worker_statements

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_workpools.store.records import WorkerRecord

log = logging.getLogger(__name__)

MAX_REASON = 1900
"""Longest reason in characters that Airflow's column for the result of a connection test takes."""
LOST = "its worker is gone, and so is its machine: nobody knows whether it ran, and how it ended"


@dataclass(frozen=True, kw_only=True)
class Errand:
    """An errand that a worker has."""

    id: uuid.UUID
    kind: ErrandKind
    mark: str
    workload: str | None = field(default=None, repr=False)
    """As JSON, with a fresh token; None if it can't be made."""
    problem: str | None = None
    """Why the workload can't be made."""
    log_path: str | None = None
    timeout_seconds: float | None = None
    """Most time it may take, if Airflow gave it a limit that its own process is to keep."""


class ErrandState(NamedTuple):
    """What has become of an errand."""

    state: str
    note: str | None


class ErrandStore(Transactions):
    """Errands in Airflow's tables."""

    # -- for the executor -----------------------------------------------------------------------------------

    @staticmethod
    def hand_over(
        kind: ErrandKind, id_: uuid.UUID, *, session: Session, team_name: str | None = None
    ) -> None:
        """Let an errand wait for a worker of a team, in the scheduler's own transaction."""
        session.execute(statements.hand_over(kind, id_, team_name))

    def states(self, ids: Mapping[uuid.UUID, ErrandKind]) -> dict[uuid.UUID, ErrandState]:
        """Say what has become of errands; one that Airflow has deleted is not in the answer."""

        def work(session: Session) -> dict[uuid.UUID, ErrandState]:
            return {
                row.id: ErrandState(row.state, row.note)
                for kind in ErrandKind
                for some in chunks([id_ for id_ in ids if ids[id_] is kind])
                for row in session.execute(statements.states(kind, some))
            }

        return self._transaction(work)

    # -- for the worker -------------------------------------------------------------------------------------

    def claim(self, worker: WorkerRecord, *, room: Mapping[ErrandKind, int]) -> list[Errand]:
        """Take errands of the worker's team that wait; none, unless the worker is known to be online.

        :param room: how many of each kind it can carry out now.
        """

        def work(session: Session) -> list[Errand]:
            if _state_of(session, worker.id) is not WorkerState.ONLINE:
                return []
            waiting = [
                (kind, id_, handed_over(worker.team_name))
                for kind, most in room.items()
                if most > 0
                for id_ in session.scalars(statements.waiting(kind, worker.team_name, most))
            ]
            return _take(session, worker, waiting)

        return self._transaction(work)

    def take_over(
        self, worker: WorkerRecord, *, known: Collection[uuid.UUID], now: datetime
    ) -> list[Errand] | None:
        """Become the owner of errands that workers of this host left behind, and fail those that are lost.

        :param known: errands that the worker has. Others that are its own were claimed, but it never heard of it.
        :return: None if the worker is not known to be online: others may take its errands from it.
        """

        def work(session: Session) -> list[Errand] | None:
            if _state_of(session, worker.id) is not WorkerState.ONLINE:
                return None
            mine: list[tuple[ErrandKind, uuid.UUID, str]] = []
            workers: dict[uuid.UUID, WorkerRecord] | None = None
            for kind in ErrandKind:
                for id_, note in session.execute(statements.with_workers(kind)).all():
                    if id_ in known:
                        continue
                    if workers is None:
                        workers = _workers(session)
                    owner = workers.get(worker_of(note) or worker.id)
                    if owner is not None and _leaves_to(owner, worker):
                        mine.append((kind, id_, note))
                    elif owner is None or owner.last_heartbeat_at < now - rules.WORKER_LOST_AFTER:
                        log.error("The %s %s failed: %s", kind, id_, LOST)
                        session.execute(statements.fail(kind, id_, note, LOST))
            return _take(session, worker, mine)

        return self._transaction(work)

    def begin(self, errand: Errand) -> None:
        """Say that an errand runs, unless Airflow learns of that by itself."""
        if errand.kind is ErrandKind.CALLBACK and not airflow_errands.CALLBACKS_TELL_THAT_THEY_RUN:
            statement = statements.begin(errand.kind, errand.id, errand.mark)
            self._transaction(lambda session: session.execute(statement))

    def end(self, errand: Errand, failure: str | None) -> bool:
        """Say how an errand ended; return whether that was news.

        A connection test tells its result itself. So what is told here of one that has not is a failure.

        :param failure: why it failed; None if it did not.
        """
        if failure is None and errand.kind is ErrandKind.CONNECTION_TEST:
            failure = "The connection test ended without a result"
        statement = (
            statements.succeed(errand.kind, errand.id, errand.mark)
            if failure is None
            else statements.fail(errand.kind, errand.id, errand.mark, rules.fit_text(failure)[:MAX_REASON])
        )
        return self._transaction(lambda session: changed(session, statement)) > 0


def _state_of(session: Session, worker_id: uuid.UUID) -> WorkerState | None:
    row = session.execute(worker_statements.worker(worker_id)).one_or_none()
    record = None if row is None else rows.worker_record(row)
    return None if record is None else record.state


def _workers(session: Session) -> dict[uuid.UUID, WorkerRecord]:
    found = [rows.worker_record(row) for row in session.execute(worker_statements.all_workers())]
    return {worker.id: worker for worker in found if worker is not None}


def _leaves_to(owner: WorkerRecord, worker: WorkerRecord) -> bool:
    """Say whether an errand of ``owner`` is for ``worker`` to look after from now on."""
    return owner.id == worker.id or (
        owner.state is WorkerState.STOPPED
        and (owner.hostname, owner.kind, owner.team_name) == (worker.hostname, worker.kind, worker.team_name)
    )


def _take(
    session: Session, worker: WorkerRecord, found: Collection[tuple[ErrandKind, uuid.UUID, str]]
) -> list[Errand]:
    mark = mark_of(worker.id, worker.name)
    return [
        _errand(session, kind, id_, mark)
        for kind, id_, before in found
        if before == mark or changed(session, statements.pass_on(kind, id_, before, mark))
    ]


def _errand(session: Session, kind: ErrandKind, id_: uuid.UUID, mark: str) -> Errand:
    """Make an errand with its workload. One that can't be made must not keep others from being carried out."""
    make = (
        airflow_errands.callback_workload
        if kind is ErrandKind.CALLBACK
        else airflow_errands.connection_test_workload
    )
    try:
        made = make(session, id_)
    except SQLAlchemyError:
        raise  # the transaction is lost
    except Exception as error:
        log.exception("The workload of %s %s can't be made", kind, id_)
        return Errand(id=id_, kind=kind, mark=mark, problem=f"{type(error).__name__}: {error}")
    return Errand(
        id=id_,
        kind=kind,
        mark=mark,
        workload=made.text,
        log_path=made.log_path,
        timeout_seconds=made.timeout_seconds,
    )
