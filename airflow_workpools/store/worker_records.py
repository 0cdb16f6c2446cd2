# SPDX-License-Identifier: Apache-2.0
"""What is known of a worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping

    from airflow_workpools.core.names import WorkQueueRef

MISSED_HEARTBEATS = 3
"""A worker is offline when this many of its heartbeats are missing."""


class WorkerKind(str, Enum):
    EMBEDDED = "embedded"
    """A child process of the executor."""
    STANDALONE = "standalone"
    """A process of its own, which serves pull pools."""

    def __str__(self) -> str:
        return self.value


class WorkerState(str, Enum):
    ONLINE = "online"
    DRAINING = "draining"
    """Claims nothing more; goes on watching what it has."""
    STOPPED = "stopped"
    """Ended, or taken for dead and its jobs given to another. It must register again before it claims."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class WorkerRecord:
    """A worker."""

    id: uuid.UUID
    name: str
    hostname: str
    kind: WorkerKind
    pools: tuple[str, ...] | None = None
    """Work pools it serves; None for all push pools."""
    queues: tuple[str, ...] | None = None
    """Work queues of those to which it restricts itself, as ``"pool/queue"``; None for all of them."""
    slots: int | None = None
    """Most slots that its jobs may hold at a time; None for no limit of its own."""
    state: WorkerState = WorkerState.ONLINE
    started_at: datetime
    last_heartbeat_at: datetime
    heartbeat_seconds: float
    version: str
    team_name: str | None = None
    hindered: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Work pools whose jobs it can't launch now, and why."""
    steady_since: datetime | None = field(default=None, compare=False)
    """Since when its heartbeats have come without a gap; None before it is registered."""
    token_id: str | None = field(default=None, compare=False)
    """Id of the token with which it registered; None if it needs none."""

    def serves(self, pool: str, *, push: bool, team_name: str | None = None) -> bool:
        """Say whether it serves a pool, whether it is online or not.

        An embedded worker serves push pools, of its own team and of none; that of no team those of all, as tasks of a
        team may also be given to the executor of none. A standalone worker serves the pull pools that it names, whoever
        hands their jobs over: which it may name is what its token says.

        :param push: whether the pool is a push pool.
        :param team_name: the pool's team.
        """
        named = self.pools is not None and pool in self.pools
        if self.kind is WorkerKind.STANDALONE:
            return named and not push
        of_team = team_name is None or self.team_name in (None, team_name)
        return of_team and (named or (self.pools is None and push))

    def takes_from(self, ref: WorkQueueRef) -> bool:
        """Say whether it takes jobs of a queue, of a pool that it serves."""
        return self.queues is None or str(ref) in self.queues

    def online(self, now: datetime) -> bool:
        """Say whether it is alive and claims jobs."""
        return self.state is WorkerState.ONLINE and not self.silent(now)

    def can_use(self, pool: str, now: datetime) -> bool:
        """Say whether it claims jobs of a pool that it serves."""
        return self.online(now) and pool not in self.hindered

    def steady_for(self, seconds: float, now: datetime) -> bool:
        """Say whether its heartbeats have come for so long without a gap.

        Then those of others could have come, too: whatever they pass through was there all the time.
        """
        since = self.steady_since
        return since is not None and not self.silent(now) and now - since >= timedelta(seconds=seconds)

    def silent(self, now: datetime) -> bool:
        """Say whether so many heartbeats are missing that it must be taken for dead.

        A heartbeat from that far ahead is one from before the clock was set back.
        """
        return abs(now - self.last_heartbeat_at) > timedelta(
            seconds=MISSED_HEARTBEATS * self.heartbeat_seconds
        )

    def status(self, now: datetime) -> str:
        """Return a word for how it is doing: ONLINE, DRAINING, OFFLINE or STOPPED."""
        if self.state is not WorkerState.STOPPED and self.silent(now):
            return "OFFLINE"
        return self.state.name
