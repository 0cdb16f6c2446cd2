# SPDX-License-Identifier: Apache-2.0
"""A job's life when it is over: why it ended, in one of a few words, and how long each part of it took.

The word is derived from columns of the job's row, never from the text of its reason: texts are for people and
may change, dashboards count words.
"""

from __future__ import annotations

import signal
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from airflow_workpools.core.exits import signal_of
from airflow_workpools.core.jobs import JobState

if TYPE_CHECKING:
    from datetime import datetime


class EndCause(str, Enum):
    """Why a job ended; the values are what metrics and traces say."""

    SUCCEEDED = "succeeded"
    """Its infrastructure ended well. The task in it may have failed: that is Airflow's to count."""
    CANCELLED = "cancelled"
    """Airflow or an operator wished its end."""
    REFUSED = "refused"
    """It was never stored to wait: its work queue does not exist, or its job variables don't fit."""
    COULD_NOT_START = "could_not_start"
    """The infrastructure would not start it, or lost it before it ran."""
    START_TIMEOUT = "start_timeout"
    """Its task did not run within the pool's start timeout."""
    KILLED = "killed"
    """Killed by SIGKILL: out of memory, or from outside. The exit code is the same for both."""
    EXIT_CODE = "exit_code"
    """It ended with another exit code than 0."""
    LOST = "lost"
    """Nobody knows how it ended: its worker, or the infrastructure that ran it, is gone."""

    def __str__(self) -> str:
        return self.value


def end_cause(
    state: JobState,
    *,
    desired_state: JobState | None,
    exit_code: int | None,
    claimed_at: datetime | None,
    started_at: datetime | None,
) -> EndCause:
    """Say why a job has ended.

    :param desired_state: how it was wished to end, if it was: ``failed`` is what a start timeout wishes.
    """
    if state is JobState.SUCCEEDED:
        return EndCause.SUCCEEDED
    if state is JobState.CANCELLED:
        return EndCause.CANCELLED
    if claimed_at is None:
        return EndCause.REFUSED
    if desired_state is JobState.FAILED:
        return EndCause.START_TIMEOUT
    if exit_code is not None:
        return EndCause.KILLED if signal_of(exit_code) is signal.SIGKILL else EndCause.EXIT_CODE
    if started_at is None and desired_state is None:
        return EndCause.COULD_NOT_START
    return EndCause.LOST


class JobPhase(NamedTuple):
    """A part of a job's life."""

    name: str
    """``pending``, ``starting`` or ``running``."""
    began_at: datetime
    ended_at: datetime
    passed: bool
    """Whether it led to the next part; a job that was cancelled while it waited has not been waited for."""


def phases(
    *,
    handed_over_at: datetime,
    claimed_at: datetime | None,
    started_at: datetime | None,
    ended_at: datetime,
) -> list[JobPhase]:
    """Cut the life of an ended job into its parts, in their order.

    The times come from the clocks of several machines. A part that would end before it began took no time.
    """
    # A job that ran for less than it takes to tell so was never said to run.
    ran = claimed_at is not None and started_at is not None
    marks = [("pending", handed_over_at), ("starting", claimed_at), ("running", started_at if ran else None)]
    begun = [(name, at) for name, at in marks if at is not None]
    found = []
    for n, (name, began_at) in enumerate(begun):
        is_last = n == len(begun) - 1
        until = ended_at if is_last else begun[n + 1][1]
        found.append(JobPhase(name, began_at, max(began_at, until), not is_last or name == "running"))
    return found
