# SPDX-License-Identifier: Apache-2.0
"""How the priority of a work queue and the weight of a task become one number.

Airflow's scheduler takes waiting tasks in the order of one integer, the task's priority weight: the highest
first. A task in a work queue gets a weight of two parts, so that the queue decides first and the task's own
weight only within its queue::

    weight = rank of the queue x 100,000 + the task's own weight

The rank counts down from 10,000: queue priority 1, the most urgent, has rank 9,999. So no weight reaches one
thousand million, and all fit the 32 bits that the database has for them.
"""

from __future__ import annotations

RANK_STEP = 100_000
"""What one rank of a queue counts for."""

LOWEST_PRIORITY = 10_000
"""Queue priorities from this number on share the lowest rank, 0; so does a queue that is not known."""

MAX_OWN_WEIGHT = RANK_STEP - 1
"""Own weights above it count as this, and those below 0 as 0: a task never leaves the rank of its queue."""


def combined_weight(queue_priority: int | None, own: int) -> int:
    """Return the weight of a task in a queue.

    :param queue_priority: from 1, the most urgent; None if the queue is not known.
    :param own: the weight that the task has without a work queue.
    """
    rank = 0 if queue_priority is None else max(0, LOWEST_PRIORITY - queue_priority)
    return rank * RANK_STEP + min(max(own, 0), MAX_OWN_WEIGHT)


def own_weight(combined: int) -> int:
    """Return the task's own part of a combined weight."""
    return max(combined, 0) % RANK_STEP
