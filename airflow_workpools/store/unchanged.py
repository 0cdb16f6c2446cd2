# SPDX-License-Identifier: Apache-2.0
"""What has not changed since the last time need not be computed again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Last(Generic[T]):
    """The last answer to a question, and what it was an answer to.

    Comparing costs little: where the parts of two values are the same objects, Python looks no further.
    """

    def __init__(self) -> None:
        self._known: tuple[object, T] | None = None

    def answer(self, asked: object, compute: Callable[[], T]) -> T:
        """Compute an answer, or return the last one if that was asked, too."""
        if self._known is None or self._known[0] != asked:
            self._known = asked, compute()
        return self._known[1]
