# SPDX-License-Identifier: Apache-2.0
"""How often somebody may be wrong. Pure: the time is an argument."""

from __future__ import annotations

import math
from collections import OrderedDict, deque

MOST_ADDRESSES = 10_000
"""Of so many addresses failures are remembered; those that were heard of longest ago are forgotten."""


class FailedAttempts:
    """Counts failures by address, and says who has to wait.

    :param most: failures that are allowed within ``seconds``.
    """

    def __init__(self, *, most: int = 10, seconds: float = 60.0) -> None:
        self._most = most
        self._seconds = seconds
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_seconds(self, address: str, now: float) -> int:
        """Return for how many seconds nothing from this address is looked at; 0 if it is.

        :param now: seconds that never go back.
        """
        times = self._failed.get(address)
        if times is None or len(times) < self._most or now - times[0] >= self._seconds:
            return 0
        return math.ceil(self._seconds - (now - times[0]))

    def failed(self, address: str, now: float) -> None:
        """Count a failure."""
        times = self._failed.setdefault(address, deque(maxlen=self._most))
        times.append(now)
        self._failed.move_to_end(address)
        if len(self._failed) > MOST_ADDRESSES:
            self._failed.popitem(last=False)
