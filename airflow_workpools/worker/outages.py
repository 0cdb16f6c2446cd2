# SPDX-License-Identifier: Apache-2.0
"""Telling people that the API server can't be spoken with: at once, then at growing intervals, and when it is over."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

MOST_REASONS = 5
"""Of one outage no more reasons are told at once: some hold a number that is another every time."""
FIRST_SECONDS = 60.0
"""After this time it is told again; then after twice the time, and so on."""
MOST_SECONDS = 3600.0


@dataclass
class Outages:
    """Takes in what fails and what works, and says so as often as is of use.

    :param monotonic: seconds that never go back.
    """

    monotonic: Callable[[], float] = time.monotonic
    _since: float | None = None
    _next: float = 0.0
    _interval: float = FIRST_SECONDS
    _said: set[str] = field(default_factory=set)
    """The reasons that were told of this outage."""

    def fails(self, error: Exception) -> None:
        """Note a call that failed."""
        now, reason = self.monotonic(), str(error).partition(" (so for ")[0]
        if self._since is None:
            self._since, self._interval, self._next = now, FIRST_SECONDS, now + FIRST_SECONDS
            log.warning(
                "Worker: %s. Jobs go on; what is to be told of them is kept, and told when it works again",
                reason,
            )
        elif now >= self._next:
            self._interval = min(2 * self._interval, MOST_SECONDS)
            self._next = now + self._interval
            log.warning("Worker: for %.0f min: %s. Trying on", (now - self._since) / 60, reason)
        elif reason not in self._said and len(self._said) < MOST_REASONS:
            log.warning("Worker: %s. Trying on", reason)
        self._said.add(reason)

    def works(self) -> None:
        """Note a call that was answered."""
        if self._since is not None:
            log.info("Worker: the API server answers again, after %.0f s", self.monotonic() - self._since)
            self._since = None
            self._said.clear()
