# SPDX-License-Identifier: Apache-2.0
"""The life of a job, as a table.

A *job* is one hand-over of one try of a task instance to a work pool. Its id is the task instance's id. Only
where Airflow hands over the same try again (a deferred task that resumes, a sensor that reschedules
itself) it needs an id of its own: :func:`job_id_for` derives it from the task instance's id and the round.

::

    pending ──► claimed ──► submitted ──► running ──► succeeded
       ▲           │            │            │    └──► failed
       └───────────┘            │            └───────► cancelled
     requeue (never             └──► failed, cancelled, succeeded
     launched, or a start
     that may be retried)

``pending``    waits for a worker; holds no slot.
``claimed``    a worker has taken it and may be launching it. Holds a slot from here on.
``submitted``  the infrastructure has accepted it, but it has not been seen running.
``running``    the infrastructure says it runs.
``succeeded``, ``failed``, ``cancelled``  the infrastructure is known to be gone (or was never there).

What is *wished* is a second fact, ``desired_state``: a wish to cancel must survive any crash between the wish
and the deed. A job whose wish is ``cancelled`` ends in ``cancelled`` however its infrastructure ends,
unless it had ended by itself before it could be stopped.

Everything that guards a change of state derives from :data:`TRANSITIONS`: the ``WHERE state IN`` of the
SQL, and the in-memory store.
"""

from __future__ import annotations

import uuid
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class JobState(str, Enum):
    """States of a job; the values are what the database holds."""

    PENDING = "pending"
    CLAIMED = "claimed"
    SUBMITTED = "submitted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def __str__(self) -> str:
        return self.value


_S = JobState

TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        _S.PENDING: frozenset({_S.CLAIMED, _S.CANCELLED, _S.FAILED}),
        _S.CLAIMED: frozenset({_S.PENDING, _S.SUBMITTED, _S.RUNNING, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
        _S.SUBMITTED: frozenset({_S.PENDING, _S.RUNNING, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
        _S.RUNNING: frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
        _S.SUCCEEDED: frozenset(),
        _S.FAILED: frozenset(),
        _S.CANCELLED: frozenset(),
    }
)
"""From each state, the states that may follow."""

OCCUPYING = frozenset({_S.CLAIMED, _S.SUBMITTED, _S.RUNNING})
"""States in which a job holds slots: its infrastructure is not known to be gone."""

ENDED = frozenset(state for state, following in TRANSITIONS.items() if not following)
"""States that nothing follows."""

ACTIVE = frozenset(JobState) - ENDED
"""States of jobs that still have to end."""


HELD_BY_PLATFORM = "held back by the platform's own queue"
"""How the reason of a job begins that its infrastructure has accepted and does not let start yet."""


def sources_of(target: JobState) -> frozenset[JobState]:
    """Return the states from which ``target`` may follow: the guard of a change to it."""
    return frozenset(state for state, following in TRANSITIONS.items() if target in following)


def job_id_for(task_instance_id: uuid.UUID, round_: int) -> uuid.UUID:
    """Return the id of the job for the ``round_``-th hand-over (from 0) of one try of a task instance."""
    return task_instance_id if round_ == 0 else uuid.uuid5(task_instance_id, f"round-{round_}")
