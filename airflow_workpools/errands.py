# SPDX-License-Identifier: Apache-2.0
"""The executor's side of errands: handed over to the embedded worker, and told to the scheduler when they end.

As with LocalExecutor, an errand takes one of the executor's slots (``[core] parallelism``) from the moment the
scheduler queues it until it has ended: its key is in ``running``. It takes no slot of a work pool.

That a callback runs is not told here: by the time the scheduler acts on it, the callback may have ended, and would
be shown as running for ever. The worker writes it, or the callback itself does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from airflow.executors.workloads import ExecuteCallback, TestConnection

from airflow_workpools.core.errands import ErrandKind
from airflow_workpools.store.errands import ErrandStore

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

ASK_SECONDS = 0.5
"""Time between two questions what has become of errands, while there are any."""


class EndedErrand(NamedTuple):
    """An errand of which nothing more is to come."""

    key: Any
    """The key under which Airflow's scheduler knows it."""
    failed: bool | None
    """None: it was not handed over after all, or was deleted."""
    reason: str | None = None


@dataclass
class HandedErrands:
    """The errands that this executor was given and that have not ended."""

    store: ErrandStore = field(default_factory=ErrandStore)
    team_name: str | None = None
    """The executor's team: only workers of this team carry them out."""
    _keys: dict[UUID, Any] = field(default_factory=dict)
    _kinds: dict[UUID, ErrandKind] = field(default_factory=dict)
    _ask_at: float = 0.0

    def hand_over(self, workload: ExecuteCallback | TestConnection, session: Session) -> None:
        """Let an errand wait for a worker, in the scheduler's own transaction."""
        if isinstance(workload, ExecuteCallback):
            kind, id_ = ErrandKind.CALLBACK, UUID(str(workload.callback.id))
        else:
            kind, id_ = ErrandKind.CONNECTION_TEST, workload.connection_test_id
        self.store.hand_over(kind, id_, team_name=self.team_name, session=session)
        self._keys[id_], self._kinds[id_] = workload.key, kind

    def forget(self, key: Any) -> None:
        """Wait no longer for the end of an errand."""
        for id_ in [id_ for id_, known in self._keys.items() if known == key]:
            del self._keys[id_], self._kinds[id_]

    def ended(self, monotonic: float) -> list[EndedErrand]:
        """Return errands that have ended, each once. Asks nobody while there is none to wait for."""
        if not self._keys or monotonic < self._ask_at:
            return []
        self._ask_at = monotonic + ASK_SECONDS
        states = self.store.states(self._kinds)
        ended = []
        for id_, key in list(self._keys.items()):
            found = states.get(id_)
            if found is not None and found.state in ("queued", "running"):
                continue
            del self._keys[id_], self._kinds[id_]
            if found is not None and found.state in ("success", "failed"):
                failed = found.state == "failed"
                ended.append(EndedErrand(key, failed, found.note if failed else None))
            else:  # the scheduler's transaction was rolled back, or somebody deleted it
                ended.append(EndedErrand(key, None))
        return ended
