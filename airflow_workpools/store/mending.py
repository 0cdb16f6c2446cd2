# SPDX-License-Identifier: Apache-2.0
"""Rows of jobs that say what cannot be, because somebody changed them by hand: what is made of them. Pure.

The other columns tell how far a job has come, so a job whose state was overwritten goes on from there. A state that
says that the job has ended is taken for the wish to end it: what runs has to be stopped first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_workpools.core.jobs import ACTIVE, ENDED, JobState

if TYPE_CHECKING:
    import uuid
    from datetime import datetime

CLOCKS_DIFFER_BY = timedelta(seconds=60)
"""A time that lies further ahead than this is taken for wrong: clocks differ by less."""
WISHES = frozenset({JobState.CANCELLED, JobState.FAILED})
"""How a job may be wished to end."""

_STATES = frozenset(state.value for state in JobState)
_ENDED = frozenset(state.value for state in ENDED)
_ACTIVE = frozenset(state.value for state in ACTIVE)
_WISHES = frozenset(state.value for state in WISHES)


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """What has to be known of a job's row to mend it; texts are as they were found."""

    id: uuid.UUID
    dag_id: str
    task_id: str
    run_id: str
    pool: str
    queue: str
    state: str
    desired_state: str | None
    pool_slots: int
    worker_id: uuid.UUID | None
    has_handle: bool
    exit_code: int | None
    claimed_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None


class Mended(NamedTuple):
    """How a row is mended."""

    values: dict[str, Any]
    message: str


def mend(row: JobRow, *, now: datetime) -> Mended | None:
    """Say what to set so that a row makes sense, and what to tell people; None if it does make sense."""
    values: dict[str, Any] = {}
    found: list[str] = []
    if row.ended_at is None:
        _mend_state(row, values, found, now)
    elif row.state not in _ENDED:
        _mend_end(row, values, found)
    state = values.get("state", row.state)
    holds = state in _ACTIVE and state != JobState.PENDING.value and "ended_at" not in values
    if holds and (row.claimed_at is None or row.claimed_at > now + CLOCKS_DIFFER_BY):
        found.append(f"claimed_at is {row.claimed_at or 'empty'}")
        values["claimed_at"] = now
    if row.desired_state is not None and row.desired_state not in _WISHES and "desired_state" not in values:
        found.append(f"desired_state is {row.desired_state!r}")
        values["desired_state"] = None
    if row.pool_slots < 1:
        found.append(f"pool_slots is {row.pool_slots}")
        values["pool_slots"] = 1
    if not values:
        return None
    return Mended(values, _message(row, values, found))


def _mend_state(row: JobRow, values: dict[str, Any], found: list[str], now: datetime) -> None:
    """Mend the state of a job that has not ended."""
    if row.state in _ENDED:
        found.append(f"state is {row.state!r}, but ended_at is empty")
        if row.worker_id is None:
            values["ended_at"] = now
        else:
            wish = JobState.FAILED if row.state == JobState.FAILED.value else JobState.CANCELLED
            values |= {"state": _how_far(row).value, "desired_state": wish.value}
        values["reason"] = f"its row in workpool_job was set to {row.state!r} by hand"
    elif row.state not in _STATES:
        found.append(f"state is {row.state!r}")
        values["state"] = _how_far(row).value
    elif row.state == JobState.PENDING.value and row.worker_id is not None:
        found.append("state is 'pending', but a worker has it")
        values["state"] = _how_far(row).value


def _mend_end(row: JobRow, values: dict[str, Any], found: list[str]) -> None:
    """Mend a job that has an end, but whose state does not say which."""
    found.append(f"state is {row.state!r}, but ended_at is set")
    if row.state in _ACTIVE:
        values["ended_at"] = None
        return
    succeeded = row.exit_code == 0
    values["state"] = (JobState.SUCCEEDED if succeeded else JobState.FAILED).value
    if not succeeded:
        values["reason"] = f"its row in workpool_job was set to {row.state!r} by hand"


def _how_far(row: JobRow) -> JobState:
    """Return the state that the other columns tell of."""
    if row.worker_id is None:
        return JobState.PENDING
    if row.started_at is not None:
        return JobState.RUNNING
    return JobState.SUBMITTED if row.has_handle else JobState.CLAIMED


def _message(row: JobRow, values: dict[str, Any], found: list[str]) -> str:
    new = ", ".join(f"{name} = {value}" for name, value in values.items() if name != "reason")
    return (
        f"Job {row.id} of {row.dag_id}.{row.task_id} ({row.run_id}, {row.pool}/{row.queue}): its row in workpool_job "
        f"was changed by hand: {'; '.join(found)}. Mended: {new}. "
        f"To end a job, use `airflow workpools jobs cancel {row.id}`"
    )
