# SPDX-License-Identifier: Apache-2.0
"""How a worker speaks with the job store: one small protocol, whatever lies in between.

The embedded worker uses :class:`SqlClient`, one that stands alone
:class:`~airflow_workpools.worker.http_client.HttpClient`. Every call is safe to repeat, so that a lost answer loses
nothing and doubles nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import Delivery, WorkPool
from airflow_workpools.core.teams import may_use
from airflow_workpools.store import claim_rules, rules

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_workpools.core.logs import LogChunk, LogEnd
    from airflow_workpools.core.pools import InvalidPool
    from airflow_workpools.store.protocol import JobStore
    from airflow_workpools.store.records import (
        ClaimedJob,
        Report,
        ReportOutcome,
        Wish,
        WorkerRecord,
        WorkerState,
    )

Pools = Callable[[], "Mapping[str, WorkPool | InvalidPool]"]
MintToken = Callable[[UUID, float], str]
"""Makes a workload token for a task instance, valid so many seconds."""


class WorkerClient(Protocol):
    """What a worker asks and tells. All methods may block; the worker calls them from a thread."""

    def register(self, worker: WorkerRecord, *, now: datetime) -> None:
        """Come online."""

    def heartbeat(self, worker_id: UUID, *, hindered: Mapping[str, str], now: datetime) -> WorkerState:
        """Say "I am alive", and that the queues of this worker are looked at.

        :param hindered: pools that it can't use now, and why.
        :return: what the worker is taken for.
        :raises NotFound: if nobody knows it any more.
        """

    def stop(self, worker_id: UUID, *, now: datetime) -> None:
        """Go offline; what runs may be taken over by others."""

    def installation(self) -> UUID:
        """Return which Airflow this is."""

    def pools(self) -> Mapping[str, WorkPool]:
        """Return the work pools that this worker serves."""

    def claim(
        self, worker_id: UUID, *, most: int, now: datetime, pools: Collection[str] | None = None
    ) -> list[ClaimedJob]:
        """Take so many jobs to launch at most; their workloads carry fresh tokens.

        :param pools: only of these; None: of all that this worker serves.
        """

    def renew(self, worker_id: UUID, job_ids: Sequence[UUID], *, now: datetime) -> Mapping[UUID, str]:
        """Let the start timeout of jobs begin anew; returns their workloads, with tokens that last as long.

        A job that runs, or is not wanted any more, is left out.
        """

    def report(self, worker_id: UUID, reports: Sequence[Report], *, now: datetime) -> list[ReportOutcome]:
        """Tell what became of jobs."""

    def requeue(
        self,
        worker_id: UUID,
        job_ids: Sequence[UUID],
        reason: str,
        *,
        now: datetime,
        start_attempts: Mapping[UUID, int] | None = None,
    ) -> None:
        """Give claimed jobs back that were not launched.

        :param start_attempts: which claim of each job it is, so that this may be said twice.
        """

    def wishes(self, worker_id: UUID) -> list[Wish]:
        """Return this worker's jobs that shall be cancelled, with the reason."""

    def mine(self, worker_id: UUID) -> list[ClaimedJob]:
        """Return the jobs that this worker has."""

    def revoked(self, worker_id: UUID, start_attempts: Mapping[UUID, int]) -> list[UUID]:
        """Return those of these claims that nobody has any more: their jobs must not go on.

        :param start_attempts: which claim of each job it is.
        """

    def over(self, job_ids: Collection[UUID], *, before: datetime) -> set[UUID]:
        """Return those of these jobs that ended before this time, or that nobody knows."""

    def take_over(
        self,
        worker_id: UUID,
        hostname: str,
        *,
        now: datetime,
        roaming: Mapping[str, str] = rules.NOTHING_ROAMS,
    ) -> list[ClaimedJob]:
        """Become the owner of what workers of this host left behind when they died.

        :param roaming: pools whose jobs on this kind of infrastructure may be taken over from workers of any host.
        """

    def log_ends(self, worker_id: UUID, attempts: Mapping[UUID, int]) -> Mapping[UUID, LogEnd]:
        """Say from where on to send the logs of these attempts to start jobs."""

    def append_log(
        self, worker_id: UUID, chunks: Sequence[LogChunk], *, now: datetime
    ) -> Mapping[UUID, LogEnd]:
        """Send what jobs have written; those are missing in the answer that this worker does not have."""


@dataclass(frozen=True, kw_only=True)
class SqlClient:
    """Speaks with the store directly; for the worker that is a child of the scheduler."""

    store: JobStore
    all_pools: Pools
    mint_token: MintToken
    kinds: frozenset[str]
    """Kinds of infrastructure that this worker can use."""
    team_name: str | None = None
    """The worker's team. That of none serves every pool: a team may have no executor of its own."""

    def pools(self) -> Mapping[str, WorkPool]:
        return {
            name: pool
            for name, pool in self.all_pools().items()
            if isinstance(pool, WorkPool)
            and pool.delivery is Delivery.PUSH
            and pool.type in self.kinds
            and (self.team_name is None or may_use(self.team_name, owner=pool.team_name))
        }

    def installation(self) -> UUID:
        return self.store.installation()

    def over(self, job_ids: Collection[UUID], *, before: datetime) -> set[UUID]:
        return self.store.over(job_ids, before=before)

    def register(self, worker: WorkerRecord, *, now: datetime) -> None:
        self.store.register_worker(worker, now=now)
        self._poll(now)

    def heartbeat(self, worker_id: UUID, *, hindered: Mapping[str, str], now: datetime) -> WorkerState:
        state = self.store.heartbeat(worker_id, hindered=hindered, now=now)
        self._poll(now)
        return state

    def _poll(self, now: datetime) -> None:
        refs = [
            WorkQueueRef(pool.name, queue.name) for pool in self.pools().values() for queue in pool.queues
        ]
        self.store.poll(refs, now=now)

    def stop(self, worker_id: UUID, *, now: datetime) -> None:
        self.store.stop_worker(worker_id, now=now)

    def claim(
        self, worker_id: UUID, *, most: int, now: datetime, pools: Collection[str] | None = None
    ) -> list[ClaimedJob]:
        served = [pool for name, pool in self.pools().items() if pools is None or name in pools]
        jobs = self.store.claim(worker_id, served, room=claim_rules.ANY_ROOM, most=most, now=now)
        return [rules.with_token(job, self.mint_token) for job in jobs]

    def renew(self, worker_id: UUID, job_ids: Sequence[UUID], *, now: datetime) -> Mapping[UUID, str]:
        renewed = self.store.renew(worker_id, job_ids, now=now)
        return {
            job.id: rules.with_token(job, self.mint_token).workload for job in renewed if job.problem is None
        }

    def report(self, worker_id: UUID, reports: Sequence[Report], *, now: datetime) -> list[ReportOutcome]:
        return self.store.report(worker_id, reports, now=now)

    def requeue(
        self,
        worker_id: UUID,
        job_ids: Sequence[UUID],
        reason: str,
        *,
        now: datetime,
        start_attempts: Mapping[UUID, int] | None = None,
    ) -> None:
        self.store.requeue(worker_id, job_ids, reason=reason, now=now, start_attempts=start_attempts)

    def wishes(self, worker_id: UUID) -> list[Wish]:
        return self.store.wishes(worker_id)

    def mine(self, worker_id: UUID) -> list[ClaimedJob]:
        return self.store.mine(worker_id)

    def revoked(self, worker_id: UUID, start_attempts: Mapping[UUID, int]) -> list[UUID]:
        return self.store.revoked(start_attempts)

    def take_over(
        self,
        worker_id: UUID,
        hostname: str,
        *,
        now: datetime,
        roaming: Mapping[str, str] = rules.NOTHING_ROAMS,
    ) -> list[ClaimedJob]:
        return self.store.take_over(worker_id, hostname, now=now, roaming=roaming)

    def log_ends(self, worker_id: UUID, attempts: Mapping[UUID, int]) -> Mapping[UUID, LogEnd]:
        return self.store.log_ends(attempts)

    def append_log(
        self, worker_id: UUID, chunks: Sequence[LogChunk], *, now: datetime
    ) -> Mapping[UUID, LogEnd]:
        return self.store.append_log(worker_id, chunks, now=now)
