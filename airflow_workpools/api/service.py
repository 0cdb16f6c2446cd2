# SPDX-License-Identifier: Apache-2.0
"""What workers elsewhere may ask of the job store: that of their own jobs, in the pools of their token, and no more.

The same store as embedded workers use; here each call is bound to a token. A worker's id belongs to the token with
which it registered: to every other, there is no such worker.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from airflow_workpools.api import translate, wire
from airflow_workpools.core.logs import MAX_CHUNK_BYTES, LogChunk
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import Conflict, InvalidInput, NotFound, PoolRefused, TokenRefused, TooLarge
from airflow_workpools.store import claim_rules, rules
from airflow_workpools.store.records import JobFilter, WorkerKind, WorkerRecord, WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.api.left_behind import LeftBehind
    from airflow_workpools.api.served import ServedPools
    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.core.worker_tokens import WorkerToken
    from airflow_workpools.store.protocol import JobStore
    from airflow_workpools.store.records import ClaimedJob


CHECKED_FOR = timedelta(minutes=1)
"""A worker that was found to be of a token is not looked up again for so long."""
MOST_CHECKED = 10_000
"""Most workers that are remembered."""


class OpensAnything(Protocol):
    """Says of a worker token whether it opens anything (any more)."""

    def __call__(self, token_id: str, *, now: datetime) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class WorkerService:
    """Does what a worker asks. Methods may block; threads share it.

    :param mint_token: makes a workload token for a task instance, valid so many seconds.
    :param opens: says of a worker token, by its id, whether it opens anything (any more).
    :param clock: tells the time by which everything here is judged.
    """

    store: JobStore
    served: ServedPools
    left_behind: LeftBehind
    mint_token: Callable[[UUID, float], str]
    opens: OpensAnything
    clock: Callable[[], datetime]
    _polled_at: dict[WorkQueueRef, datetime] = field(default_factory=dict, repr=False)
    """When a poll of each queue was stored last: the heartbeats of a hundred workers need not look that up."""
    _checked: dict[UUID, tuple[WorkerRecord, datetime]] = field(default_factory=dict, repr=False)
    """Workers that were found to be of a token, and when. Whose a worker is changes only when its token opens nothing
    any more, and that is looked up with every request."""

    # -- the worker itself ----------------------------------------------------------------------------------

    def register(self, token: WorkerToken, request: wire.RegisterRequest, version: str) -> wire.WorkerAnswer:
        """Take a worker in.

        :raises PoolRefused: if one of its pools is not the token's, not there, or not a pull pool.
        """
        _check_pools(token, request.pools)
        now = self.clock()
        known, instead_of = self._known(token, request.worker_id, now)
        # Who has been there before may have jobs of the pools that are left.
        find = self.served.to_register if known is None else self.served.claimable
        pools = find(request.pools)
        worker = WorkerRecord(
            id=request.worker_id,
            name=request.name,
            hostname=request.hostname,
            kind=WorkerKind.STANDALONE,
            pools=tuple(dict.fromkeys(request.pools)),
            queues=None if request.queues is None else tuple(dict.fromkeys(request.queues)),
            slots=request.slots,
            started_at=translate.before(request.started_seconds_ago, now),
            last_heartbeat_at=now,
            heartbeat_seconds=request.heartbeat_seconds,
            version=version[:64],
            hindered=_hindered(request.hindered, request.pools),
        )
        with contextlib.suppress(Conflict):  # it has been said before
            self.store.register_worker(
                worker, now=now, token_id=token.id, instead_of=instead_of, call=request.call_number
            )
            if known is not None and known.state is WorkerState.DRAINING:
                self.store.drain_worker(worker.id)
        self._checked.pop(worker.id, None)
        self._poll(worker, pools, now)
        return self._heartbeat(worker, request.hindered, now)

    def _known(
        self, token: WorkerToken, worker_id: UUID, now: datetime
    ) -> tuple[WorkerRecord | None, str | None]:
        """Return who has registered under an id, and the token that this one stands in for, if it does.

        A worker may come with another token when its own opens nothing any more, and the other is for its pools: that
        is how tokens are changed while workers run. Before, knowing a worker's id is of no use to other tokens.

        :raises TokenRefused: if the worker is another token's.
        """
        try:
            known = self.store.worker(worker_id)
        except NotFound:
            return None, None
        if known.token_id == token.id:
            return known, None
        if known.token_id is None or self.opens(known.token_id, now=now):
            raise TokenRefused(
                f"worker {worker_id} has registered with another token; start it anew, with an id of its own"
            )
        _check_pools(token, known.pools or ())
        return known, known.token_id

    def heartbeat(self, token: WorkerToken, request: wire.HeartbeatRequest) -> wire.WorkerAnswer:
        worker = self.check_worker(token, request.worker_id)
        now = self.clock()
        answer = self._heartbeat(worker, request.hindered, now)
        self._poll(worker, self.served.claimable(worker.pools or ()), now)
        return answer

    def _heartbeat(
        self, worker: WorkerRecord, hindered: Mapping[str, str], now: datetime
    ) -> wire.WorkerAnswer:
        state = self.store.heartbeat(worker.id, hindered=dict(hindered), now=now)
        left_behind = self.left_behind.any_in(worker.pools or (), now=now)
        return wire.WorkerAnswer(state=state, as_of=now, left_behind=left_behind)

    def _poll(self, worker: WorkerRecord, pools: Iterable[WorkPool], now: datetime) -> None:
        refs = [WorkQueueRef(pool.name, queue.name) for pool in pools for queue in pool.queues]
        due = [
            ref for ref in refs if worker.takes_from(ref) and rules.poll_is_due(self._polled_at.get(ref), now)
        ]
        if due:
            self.store.poll(due, now=now)
            self._polled_at.update(dict.fromkeys(due, now))

    def installation(self) -> wire.InstallationAnswer:
        return wire.InstallationAnswer(installation=self.store.installation())

    def stop(self, token: WorkerToken, request: wire.StopRequest) -> wire.Done:
        self.check_worker(token, request.worker_id)
        self.store.stop_worker(request.worker_id, now=self.clock())
        self.left_behind.look_again()
        return wire.Done()

    def check_worker(self, token: WorkerToken, worker_id: UUID, pools: Iterable[str] = ()) -> WorkerRecord:
        """Make sure that a worker is one of this token's, and that it may ask for jobs of these pools; return it.

        Its pools and queues are what they were within the last minute; do not go by its state here.

        :raises NotFound: if there is no such worker of this token's.
        :raises PoolRefused: if a pool is not the token's.
        """
        _check_pools(token, pools)
        now = self.clock()
        known = self._checked.get(worker_id)
        if known is not None and known[0].token_id == token.id and abs(now - known[1]) < CHECKED_FOR:
            return known[0]
        worker = self.store.worker(worker_id)
        if worker.token_id != token.id:
            raise NotFound(f"worker {worker_id} is not registered; it has to register before anything else")
        if len(self._checked) >= MOST_CHECKED:
            self._checked.clear()
        self._checked[worker_id] = worker, now
        return worker

    def begin_to_wait(self, token: WorkerToken, request: wire.WaitRequest) -> bool:
        """Make sure that a worker may wait; say whether its work pools are as it knows them.

        :raises NotFound: if there is no such worker of this token's.
        :raises PoolRefused: if a pool is not the token's.
        """
        worker = self.check_worker(token, request.worker_id, request.pools)
        if request.pools_version is None:
            return True
        return self.served.describe(worker.pools or ()).version == request.pools_version

    # -- work pools -----------------------------------------------------------------------------------------

    def pools(self, token: WorkerToken, request: wire.PoolsRequest) -> wire.PoolsAnswer:
        _check_pools(token, request.pools)
        return self.served.describe(request.pools)

    # -- jobs -----------------------------------------------------------------------------------------------

    def claim(self, token: WorkerToken, request: wire.ClaimRequest) -> wire.JobsAnswer:
        self.check_worker(token, request.worker_id, request.pools)
        jobs = self.store.claim(
            request.worker_id,
            self.served.claimable(request.pools),
            room=claim_rules.ANY_ROOM,
            most=request.most,
            now=self.clock(),
            call=request.call_number,
        )
        return _jobs(rules.with_token(job, self.mint_token) for job in jobs)

    def mine(self, token: WorkerToken, request: wire.MineRequest) -> wire.JobsAnswer:
        self.check_worker(token, request.worker_id)
        return _jobs(self.store.mine(request.worker_id, call=request.call_number))

    def over(self, token: WorkerToken, request: wire.OverRequest) -> wire.OverAnswer:
        self.check_worker(token, request.worker_id)
        over = self.store.over(
            request.job_ids, before=translate.before(request.before_seconds_ago, self.clock())
        )
        over -= self._foreign(token, request.job_ids)
        return wire.OverAnswer(job_ids=[id_ for id_ in dict.fromkeys(request.job_ids) if id_ in over])

    def _foreign(self, token: WorkerToken, job_ids: Collection[UUID]) -> set[UUID]:
        """Return those of these jobs that are of other pools than the token's."""
        found = self.store.jobs(JobFilter(job_ids=tuple(job_ids)), limit=wire.MAX_JOBS) if job_ids else []
        return {job.id for job in found if job.ref.pool not in token.pools}

    def revoked(self, token: WorkerToken, request: wire.RevokedRequest) -> wire.RevokedAnswer:
        self.check_worker(token, request.worker_id)
        claims = request.start_attempts
        revoked = set(self.store.revoked(claims))
        # Of jobs of other pools nothing is said that would not be said of jobs that never were.
        revoked |= self._foreign(token, claims)
        return wire.RevokedAnswer(job_ids=[id_ for id_ in claims if id_ in revoked])

    def take_over(self, token: WorkerToken, request: wire.TakeOverRequest) -> wire.JobsAnswer:
        self.check_worker(token, request.worker_id, request.roaming)
        return _jobs(
            self.store.take_over(
                request.worker_id,
                request.hostname,
                now=self.clock(),
                roaming=request.roaming,
                call=request.call_number,
            )
        )

    def renew(self, token: WorkerToken, request: wire.RenewRequest) -> wire.RenewAnswer:
        self.check_worker(token, request.worker_id)
        renewed = self.store.renew(request.worker_id, request.job_ids, now=self.clock())
        usable = (job for job in renewed if job.problem is None)
        return wire.RenewAnswer(
            workloads={job.id: rules.with_token(job, self.mint_token).workload for job in usable}
        )

    def report(self, token: WorkerToken, request: wire.ReportRequest) -> wire.ReportAnswer:
        self.check_worker(token, request.worker_id)
        now = self.clock()
        reports = [translate.report_from_wire(report, now=now) for report in request.reports]
        outcomes = self.store.report(request.worker_id, reports, now=now)
        return wire.ReportAnswer(outcomes=list(map(translate.outcome_to_wire, outcomes)))

    def requeue(self, token: WorkerToken, request: wire.RequeueRequest) -> wire.Done:
        self.check_worker(token, request.worker_id)
        self.store.requeue(
            request.worker_id,
            request.job_ids,
            request.reason,
            now=self.clock(),
            start_attempts=request.start_attempts,
        )
        return wire.Done()

    def wishes(self, token: WorkerToken, request: wire.WishesRequest) -> wire.WishesAnswer:
        self.check_worker(token, request.worker_id)
        found = self.store.wishes(request.worker_id)
        return wire.WishesAnswer(
            wishes=[wire.JobWish(job_id=wish.job_id, reason=wish.reason) for wish in found]
        )

    # -- logs -----------------------------------------------------------------------------------------------

    def log_ends(self, token: WorkerToken, request: wire.LogEndsRequest) -> wire.LogEndsAnswer:
        self.check_worker(token, request.worker_id)
        # To append nothing says where the logs end, and only those of the worker's own jobs.
        nothing = [
            LogChunk(job_id=id_, attempt=attempt, position=0, data=b"")
            for id_, attempt in request.attempts.items()
        ]
        return self._append(request.worker_id, nothing)

    def append_log(self, token: WorkerToken, request: wire.AppendLogRequest) -> wire.LogEndsAnswer:
        """Store what jobs have written.

        :raises TooLarge: if a chunk is larger than one may be; nothing is stored then.
        """
        self.check_worker(token, request.worker_id)
        attempts: dict[UUID, int] = {}
        for chunk in request.chunks:
            if attempts.setdefault(chunk.job_id, chunk.attempt) != chunk.attempt:
                raise InvalidInput(
                    f"the chunks of job {chunk.job_id} are of several attempts; send each by itself"
                )
            if chunk.too_large:
                raise TooLarge(
                    f"a chunk of the log of job {chunk.job_id} has {len(chunk.data)} bytes; "
                    f"at most {MAX_CHUNK_BYTES} are taken: cut it into several"
                )
        return self._append(request.worker_id, [translate.chunk_from_wire(chunk) for chunk in request.chunks])

    def _append(self, worker_id: UUID, chunks: list[LogChunk]) -> wire.LogEndsAnswer:
        ends = self.store.append_log(worker_id, chunks, now=self.clock())
        return wire.LogEndsAnswer(ends={id_: translate.end_to_wire(end) for id_, end in ends.items()})


def _check_pools(token: WorkerToken, names: Iterable[str]) -> None:
    """Make sure that pools are the token's.

    :raises PoolRefused: if one is not. That says nothing about whether there is such a pool.
    """
    foreign = sorted(set(names) - set(token.pools))
    if foreign:
        raise PoolRefused(
            f"token {token.id} is not for work pool {', '.join(map(repr, foreign))}; it is for "
            f"{', '.join(map(repr, token.pools)) or 'none'}: use another one, or make one with "
            f"`airflow workpools token create --pool {foreign[0]}`"
        )


def _hindered(hindered: Mapping[str, str], pools: Collection[str]) -> dict[str, str]:
    return {name: rules.fit_text(reason) for name, reason in hindered.items() if name in pools}


def _jobs(jobs: Iterable[ClaimedJob]) -> wire.JobsAnswer:
    return wire.JobsAnswer(jobs=list(map(translate.job_to_wire, jobs)))
