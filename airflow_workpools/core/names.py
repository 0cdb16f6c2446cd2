# SPDX-License-Identifier: Apache-2.0
"""How work pools and work queues are named, and which Airflow pool stands for which work queue.

Kept free of imports that cost time: DAG files reach this module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_workpools.errors import InvalidInput

DEFAULT_QUEUE = "default"
"""The work queue that every work pool has."""

DEFAULT_POOL = "default"
"""The process work pool that exists without being declared."""

MAX_NAME_LENGTH = 63
"""Longest name of a work pool or work queue; 63 is what labels on most infrastructure can hold."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?")


def name_problem(name: object, *, what: str) -> str | None:
    """Say what is wrong with the name of a work pool or queue, or None if nothing is.

    A dot is not allowed: it separates pool and queue in the names of Airflow pools, where ``a.b`` must have
    one meaning.
    """
    if not isinstance(name, str) or not name:
        return f"{what} has no name"
    if len(name) > MAX_NAME_LENGTH:
        return f"{what} name {name[:20]!r}… has {len(name)} characters; at most {MAX_NAME_LENGTH} are allowed"
    if not _NAME.fullmatch(name):
        return (
            f"{what} name {name!r} is not allowed: use letters, digits, '-' and '_', "
            "beginning and ending with a letter or digit"
        )
    return None


@dataclass(frozen=True, order=True)
class WorkQueueRef:
    """A work queue by name: what ``work_queue="pool/queue"`` says."""

    pool: str
    queue: str = DEFAULT_QUEUE

    @classmethod
    def parse(cls, text: object) -> WorkQueueRef:
        """Read ``"pool/queue"``, or ``"pool"`` for the pool's default queue.

        :raises InvalidInput: if the text is neither.
        """
        if not isinstance(text, str):
            raise InvalidInput(f'work queue must be text like "pool/queue", not {text!r}')
        pool, slash, queue = text.partition("/")
        ref = cls(pool, queue if slash else DEFAULT_QUEUE)
        problems = [
            problem
            for problem in (
                name_problem(ref.pool, what="work pool"),
                name_problem(ref.queue, what="work queue"),
            )
            if problem
        ]
        if problems:
            raise InvalidInput([f'work queue {text!r} must look like "pool/queue": {p}' for p in problems])
        return ref

    @property
    def airflow_pool(self) -> str:
        """Name of the Airflow pool whose slots gate this queue."""
        return self.pool if self.queue == DEFAULT_QUEUE else f"{self.pool}.{self.queue}"

    def __str__(self) -> str:
        return f"{self.pool}/{self.queue}"


MANAGED_POOL_PREFIX = "Work queue "
_MANAGED_POOL_SUFFIX = ": its slots are set by airflow_workpools"


def airflow_pool_description(ref: WorkQueueRef) -> str:
    """Return the description by which the Airflow pool of a work queue is known as ours."""
    return f"{MANAGED_POOL_PREFIX}{ref}{_MANAGED_POOL_SUFFIX}"


def is_managed_description(description: str | None) -> bool:
    """Say whether an Airflow pool with this description was made for a work queue, and may be changed by us.

    The whole sentence counts, not only its beginning: an Airflow pool that a person has described as
    "Work queue of the night shift" must not be taken over.
    """
    text = description or ""
    return text.startswith(MANAGED_POOL_PREFIX) and text.endswith(_MANAGED_POOL_SUFFIX)
