# SPDX-License-Identifier: Apache-2.0
"""Which worker people mean, by its name or its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_workpools.core.wording import listing
from airflow_workpools.errors import Conflict, InvalidInput, NotFound
from airflow_workpools.store.records import WorkerState

if TYPE_CHECKING:
    from collections.abc import Collection

    from airflow_workpools.store.records import WorkerRecord


def find_worker(workers: Collection[WorkerRecord], name_or_id: str) -> WorkerRecord:
    """Return the worker that is meant; of several of one name, that which has not ended.

    :raises NotFound: if there is none.
    :raises InvalidInput: if there are several; the message names their ids.
    """
    found = [worker for worker in workers if name_or_id in (worker.name, str(worker.id))]
    if not found:
        raise NotFound(
            f"there is no worker {name_or_id!r}; `airflow workpools worker list --all` shows those there are"
        )
    living = [worker for worker in found if worker.state is not WorkerState.STOPPED]
    if len(living) > 1:
        raise InvalidInput(
            f"there are {len(living)} workers {name_or_id!r}; name one by its id: {listing(str(w.id) for w in living)}"
        )
    return living[0] if living else max(found, key=lambda worker: worker.last_heartbeat_at)


def living_worker(workers: Collection[WorkerRecord], name_or_id: str) -> WorkerRecord:
    """Return the worker that is meant, which has not ended.

    :raises Conflict: if it has.
    """
    worker = find_worker(workers, name_or_id)
    if worker.state is WorkerState.STOPPED:
        raise Conflict(
            f"worker {name_or_id!r} has ended; `airflow workpools worker list` shows those that live"
        )
    return worker
