# SPDX-License-Identifier: Apache-2.0
"""Airflow's own rows of errands: handed over, claimed, taken over, ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.utils.sqlalchemy import UtcDateTime
from sqlalchemy import Integer, String, Text, Uuid, column, or_, select, table, update

from airflow_workpools.core.errands import MARK_BEGINS, ErrandKind, handed_over
from airflow_workpools.store.tables import metadata

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection

    from sqlalchemy import ColumnElement, Select, TableClause, Update

# As far as we read them: Airflow's models would take a second to import.
_callbacks = table(
    "callback",
    column("id", Uuid()),
    column("type", String()),
    column("state", String()),
    column("output", Text()),
    column("priority_weight", Integer()),
    column("created_at", UtcDateTime()),
    schema=metadata.schema,
)
_connection_tests = table(
    "connection_test_request",
    column("id", Uuid()),
    column("state", String()),
    column("result_message", String()),
    column("active_connection_id", String()),
    column("created_at", UtcDateTime()),
    schema=metadata.schema,
)


class _Place(NamedTuple):
    """Where errands of a kind stand."""

    rows: TableClause
    note: ColumnElement[Any]
    order: tuple[ColumnElement[Any], ...]


_PLACES = {
    ErrandKind.CALLBACK: _Place(
        _callbacks, _callbacks.c.output, (_callbacks.c.priority_weight.desc(), _callbacks.c.created_at)
    ),
    ErrandKind.CONNECTION_TEST: _Place(
        _connection_tests, _connection_tests.c.result_message, (_connection_tests.c.created_at,)
    ),
}
_ACTIVE = ("queued", "running")


def hand_over(kind: ErrandKind, id_: uuid.UUID, team_name: str | None) -> Update:
    """Let an errand wait for a worker. One that another scheduler has handed over as well stays as it is."""
    rows, note, _ = _PLACES[kind]
    fresh = or_(note.is_(None), rows.c.state == "pending")
    return update(rows).where(rows.c.id == id_, fresh).values({note: handed_over(team_name)})


def waiting(kind: ErrandKind, team_name: str | None, limit: int) -> Select[Any]:
    """Errands that wait for a worker of this team, in their order."""
    rows, note, order = _PLACES[kind]
    return (
        select(rows.c.id)
        .where(rows.c.state == "queued", note == handed_over(team_name))
        .order_by(*order, rows.c.id)
        .limit(limit)
    )


def pass_on(kind: ErrandKind, id_: uuid.UUID, before: str, mark: str) -> Update:
    """Give an errand to a worker. Of two who try at once, the second finds the note changed."""
    rows, note, _ = _PLACES[kind]
    return (
        update(rows).where(rows.c.id == id_, rows.c.state.in_(_ACTIVE), note == before).values({note: mark})
    )


def with_workers(kind: ErrandKind) -> Select[Any]:
    """Errands that workers carry out."""
    rows, note, order = _PLACES[kind]
    return (
        select(rows.c.id, note.label("note"))
        .where(rows.c.state.in_(_ACTIVE), note.startswith(MARK_BEGINS, autoescape=True))
        .order_by(*order, rows.c.id)
    )


def begin(kind: ErrandKind, id_: uuid.UUID, mark: str) -> Update:
    """Say that a worker's errand runs."""
    rows, note, _ = _PLACES[kind]
    return (
        update(rows)
        .where(rows.c.id == id_, rows.c.state == "queued", note == mark)
        .values({rows.c.state: "running"})
    )


def succeed(kind: ErrandKind, id_: uuid.UUID, mark: str) -> Update:
    """End a worker's errand well. The note stays: nobody can take the errand for one that waits, ever."""
    rows, note, _ = _PLACES[kind]
    return (
        update(rows)
        .where(rows.c.id == id_, rows.c.state.in_(_ACTIVE), note == mark)
        .values({rows.c.state: "success"})
    )


def fail(kind: ErrandKind, id_: uuid.UUID, mark: str, reason: str) -> Update:
    """End a worker's errand badly; its note says why."""
    rows, note, _ = _PLACES[kind]
    values: dict[Any, Any] = {rows.c.state: "failed", note: reason}
    if kind is ErrandKind.CONNECTION_TEST:
        values[rows.c.active_connection_id] = None  # as Airflow does: another test of the connection may come
    return update(rows).where(rows.c.id == id_, rows.c.state.in_(_ACTIVE), note == mark).values(values)


def states(kind: ErrandKind, ids: Collection[uuid.UUID]) -> Select[Any]:
    """What has become of errands."""
    rows, note, _ = _PLACES[kind]
    return select(rows.c.id, rows.c.state, note.label("note")).where(rows.c.id.in_(ids))
