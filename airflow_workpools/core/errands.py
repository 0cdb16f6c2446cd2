# SPDX-License-Identifier: Apache-2.0
"""Errands: what Airflow hands an executor besides tasks. Callbacks of missed deadlines, and tests of connections.

An errand is no job: it has no work queue, holds no slot of a work pool, and Airflow keeps it in a table of its own,
with a column for a note that Airflow itself writes only when the errand has ended. Until then the note says whose
errand it is. That note, changed by guarded updates, decides that an errand is carried out once.

=====================  ===================================================================================
the note               means
=====================  ===================================================================================
empty                  the executor was not given it
:func:`handed_over`    it waits for a worker; written in the transaction in which the scheduler queues it
:func:`mark_of`        that worker carries it out
=====================  ===================================================================================
"""

from __future__ import annotations

import re
import uuid
from enum import Enum

HANDED_OVER = "Handed over to WorkPoolExecutor; waits for its worker"
"""The note of what waits for a worker of no team."""
MARK_BEGINS = "With worker "
_MARK = re.compile(rf"{MARK_BEGINS}.* \(([0-9a-f-]{{36}})\)\Z", re.DOTALL)


class ErrandKind(str, Enum):
    CALLBACK = "callback"
    CONNECTION_TEST = "connection test"

    def __str__(self) -> str:
        return self.value


def handed_over(team_name: str | None) -> str:
    """Return the note of an errand that waits for a worker of this team."""
    return f"{HANDED_OVER} of team '{team_name}'" if team_name else HANDED_OVER


def mark_of(worker_id: uuid.UUID, worker_name: str) -> str:
    """Return the note of an errand that this worker carries out: for people, and for :func:`worker_of`."""
    return f"{MARK_BEGINS}{worker_name} ({worker_id})"


def worker_of(mark: str) -> uuid.UUID | None:
    """Return who carries an errand out, or None if the note says something else."""
    found = _MARK.match(mark)
    try:
        return uuid.UUID(found[1]) if found else None
    except ValueError:
        return None
