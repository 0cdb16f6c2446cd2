# SPDX-License-Identifier: Apache-2.0
"""How long to wait before trying again."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Backoff:
    """Delays in seconds that double up to a maximum, each shortened at random by up to half.

    The randomness keeps many who failed together from trying again together ("equal jitter", see Marc Brooker,
    *Exponential Backoff And Jitter*, AWS Architecture Blog, 2015).
    """

    initial: float = 0.5
    maximum: float = 30.0
    draw: Callable[[], float] = field(default=random.random, repr=False)
    """Gives a number from 0 to 1."""
    failures: int = 0

    def next(self) -> float:
        """Count a failure and return how long to wait now."""
        # The exponent is bounded so that a long outage does not overflow a float.
        ceiling = min(self.maximum, self.initial * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return ceiling * (0.5 + 0.5 * self.draw())

    def reset(self) -> None:
        """Forget the failures: it worked."""
        self.failures = 0
