# SPDX-License-Identifier: Apache-2.0
"""In which pools dead workers have left jobs behind: looked up once in a while for all workers, which ask to take them
over only then.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from airflow_workpools.store.protocol import WorkerStore

LOOK_EVERY = timedelta(seconds=10)


@dataclass
class LeftBehind:
    """Remembers it for a moment. Threads share it: two may look at the same time, which does no harm."""

    store: WorkerStore
    _found: tuple[datetime, set[str]] | None = None

    def any_in(self, pools: Collection[str], *, now: datetime) -> bool:
        """Say whether dead workers may have jobs in one of these pools."""
        found = self._found
        if found is None or abs(now - found[0]) >= LOOK_EVERY:
            found = self._found = now, self.store.pools_left_behind(now=now)
        return not found[1].isdisjoint(pools)

    def look_again(self) -> None:
        """Look when it is asked next: a worker has ended just now."""
        self._found = None
