# SPDX-License-Identifier: Apache-2.0
"""Slots that are offered to a queue and not taken, so that a lower queue may have them.

What waits in a work queue is counted as its demand. But Airflow may hold a task back for a reason that no count of
tasks tells: ``max_active_tis_per_dag`` of its operator, the parallelism of an executor, a rule of a later Airflow. The
queue's slots would stay open and unused as long as that lasts, and nobody behind it would get them.

So it is looked at what becomes of an offer. A queue that had room for one more task all the time, over a while and
several rounds of the scheduler, can use no more slots than it held at most in that time. It keeps those; what is beyond
goes to the queues behind it. From time to time, and whenever more waits in it than before, it is offered room for one
task more, in its turn as ever. If it takes that, it is trusted again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Offer:
    """A queue with tasks that wait, as it is now. Numbers are slots."""

    slots: int
    """What it is given."""
    occupied: int
    demand: int
    """How much waits: slots of all tasks that may start, or all tasks in the line where they are more."""
    next_slots: int = 1
    """Slots of the smallest of them."""

    @property
    def is_open(self) -> bool:
        """Whether a task that waits has room."""
        return self.slots - self.occupied >= self.next_slots


@dataclass(frozen=True)
class _Span:
    """A stretch of time in which a queue was looked at."""

    since: float
    """In monotonic seconds."""
    looks: int = 0
    open: bool = True
    """Whether it had room for one more at each look."""
    most: int = 0
    """The most slots that it held."""

    def after(self, offer: Offer) -> _Span:
        return replace(
            self,
            looks=self.looks + 1,
            open=self.open and offer.is_open,
            most=max(self.most, offer.occupied),
        )


@dataclass
class _History:
    now: _Span
    before: _Span | None = None
    usable: int | None = None
    """The most slots that the queue can use; None as long as it is trusted with whatever it asks for."""
    asked_at: float = 0.0
    """When it was last offered room beyond that, in vain."""
    looks_in_vain: int = 0
    demand: int = 0
    """What it asked for when it was looked at last."""
    looked_at: float = 0.0


@dataclass
class Offers:
    """Remembers what became of offers.

    :param span_seconds: a queue is doubted when it had room for one more for two such spans.
    :param ask_seconds: then it is asked so often whether it can use more.
    :param forget_seconds: what was seen so long ago says nothing any more.
    :param looks: so often at least it is looked at in a span, and before an offer counts as made in vain: a scheduler
        that is busy with something else takes nothing.
    """

    span_seconds: float = 5.0
    ask_seconds: float = 20.0
    forget_seconds: float = 30.0
    looks: int = 3
    _histories: dict[str, _History] = field(default_factory=dict)

    def rooms(self, offers: Mapping[str, Offer], *, monotonic: float) -> dict[str, int]:
        """Look at all queues with tasks that wait; return what the doubted ones may take beyond what they hold.

        A queue that isn't among them has nothing to take, and is forgotten.

        :param monotonic: seconds that never go back.
        """
        for name in self._histories.keys() - offers.keys():
            del self._histories[name]
        rooms = {name: self._room(name, offer, monotonic) for name, offer in offers.items()}
        return {name: room for name, room in rooms.items() if room is not None}

    def _room(self, name: str, offer: Offer, monotonic: float) -> int | None:
        history = self._histories.get(name)
        if history is None or self._is_refuted(history, offer, monotonic):
            history = self._histories[name] = _History(now=_Span(monotonic))
        history.looked_at = monotonic
        self._look(history, offer, monotonic)
        has_new, history.demand = offer.demand > history.demand, offer.demand
        if history.usable is None:
            return None
        if has_new:
            history.asked_at, history.looks_in_vain = -math.inf, 0
        room = history.usable - offer.occupied
        if room < offer.next_slots:
            room = self._ask(history, offer, monotonic)
        return room

    def _is_refuted(self, history: _History, offer: Offer, monotonic: float) -> bool:
        """Say whether the queue uses more than it was thought to, or was not looked at for too long to say."""
        uses_more = history.usable is not None and offer.occupied > history.usable
        return uses_more or monotonic - history.looked_at > self.forget_seconds

    def _look(self, history: _History, offer: Offer, monotonic: float) -> None:
        span = history.now = history.now.after(offer)
        if span.looks < self.looks or monotonic - span.since < self.span_seconds:
            return
        before, history.before, history.now = history.before, span, _Span(monotonic)
        if before is None or not (before.open and span.open):
            return
        if history.usable is None:
            history.asked_at = monotonic
        history.usable = max(before.most, span.most)

    def _ask(self, history: _History, offer: Offer, monotonic: float) -> int:
        """Return room for one task if it is time to ask again, and until it was there for some looks."""
        if monotonic - history.asked_at < self.ask_seconds:
            return 0
        history.looks_in_vain += offer.is_open
        if history.looks_in_vain < self.looks:
            return offer.next_slots
        history.asked_at, history.looks_in_vain = monotonic, 0
        return 0
