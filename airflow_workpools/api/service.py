# SPDX-License-Identifier: Apache-2.0
"""What workers elsewhere may ask of the job store: that of their own jobs, in the pools of their token, and no more.

The same store as embedded workers use; here each call is bound to a token. A worker's id belongs to the token with
which it registered: to every other, there is no such worker.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from airflow_workpools.api import translate, wire
from airflow_workpools.core.logs import MAX_CHUNK_BYTES, LogChunk
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import Delivery, InvalidPool, WorkPool
from airflow_workpools.errors import Conflict, InvalidInput, NotFound, PoolRefused, TokenRefused, TooLarge
from airflow_workpools.store import claim_rules, rules
from airflow_workpools.store.records import JobFilter, WorkerKind, WorkerRecord, WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.core.worker_tokens import WorkerToken
    from airflow_workpools.store.protocol import JobStore
    from airflow_workpools.store.records import ClaimedJob


class ReadPools(Protocol):
    """Reads the work pools; anew, if that is asked for."""

    def __call__(self, *, fresh: bool = False) -> Mapping[str, WorkPool | InvalidPool]: ...


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
    read_pools: ReadPools
    mint_token: Callable[[UUID, float], str]
    opens: OpensAnything
    clock: Callable[[], datetime]
    _polled_at: dict[WorkQueueRef, datetime] = field(default_factory=dict, repr=False)
    """When a poll of each queue was stored last: the heartbeats of a hundred workers need not look that up."""
    _described: dict[str, tuple[WorkPool, wire.Pool]] = field(default_factory=dict, repr=False)
    """How each pool is told of, as long as it stays as it is: a base job template is long."""

    # -- the worker itself ----------------------------------------------------------------------------------

    def register(self, token: WorkerToken, request: wire.RegisterRequest, version: str) -> wire.WorkerAnswer:
        """Take a worker in.

        :raises PoolRefused: if one of its pools is not the token's, not there, or not a pull pool.
        """
        _check_pools(token, request.pools)
        now = self.clock()
        known, instead_of = self._known(token, request.worker_id, now)
        # Who has been there before may have jobs of the pools that are left.
        pools = self._pull_pools(request.pools) if known is None else self._served(request.pools)
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
        self._poll(worker, pools, now)
        return self._heartbeat(worker.id, request.hindered, now)

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

    def _pull_pools(self, names: Collection[str]) -> list[WorkPool]:
        """Return those of these pools that can be read.

        :raises PoolRefused: if there is one that is not there, or whose jobs the scheduler's own worker starts.
        """
        known = self.read_pools()
        if any(name not in known for name in names):
            known = self.read_pools(fresh=True)
        for name in names:
            found = known.get(name)
            if found is None:
                raise PoolRefused(
                    f"there is no work pool '{name}'; create it where the scheduler runs: "
                    f"`airflow workpools create {name} --delivery pull`"
                )
            if (problem := _push_problem(found)) is not None:
                raise PoolRefused(f"work pool '{name}': {problem}")
        return [pool for name in names if isinstance(pool := known[name], WorkPool)]

    def heartbeat(self, token: WorkerToken, request: wire.HeartbeatRequest) -> wire.WorkerAnswer:
        worker = self.check_worker(token, request.worker_id)
        now = self.clock()
        answer = self._heartbeat(request.worker_id, request.hindered, now)
        self._poll(worker, self._served(worker.pools or ()), now)
        return answer

    def _heartbeat(self, worker_id: UUID, hindered: Mapping[str, str], now: datetime) -> wire.WorkerAnswer:
        state = self.store.heartbeat(worker_id, hindered=dict(hindered), now=now)
        return wire.WorkerAnswer(state=state, as_of=now)

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
        return wire.Done()

    def check_worker(self, token: WorkerToken, worker_id: UUID, pools: Iterable[str] = ()) -> WorkerRecord:
        """Make sure that a worker is one of this token's, and that it may ask for jobs of these pools; return it.

        :raises NotFound: if there is no such worker of this token's.
        :raises PoolRefused: if a pool is not the token's.
        """
        _check_pools(token, pools)
        worker = self.store.worker(worker_id)
        if worker.token_id != token.id:
            raise NotFound(f"worker {worker_id} is not registered; it has to register before anything else")
        return worker

    # -- work pools -----------------------------------------------------------------------------------------

    def pools(self, token: WorkerToken, request: wire.PoolsRequest) -> wire.PoolsAnswer:
        _check_pools(token, request.pools)
        known = self.read_pools()
        served: list[wire.Pool] = []
        problems: dict[str, str] = {}
        for name in dict.fromkeys(request.pools):
            found = known.get(name)
            if found is None:
                problems[name] = "there is no such work pool (any more)"
            elif isinstance(found, InvalidPool):
                problems[name] = found.reason
            elif (problem := _push_problem(found)) is not None:
                problems[name] = problem
            else:
                served.append(self._describe(found))
        return wire.PoolsAnswer(pools=served, problems=problems)

    def _describe(self, pool: WorkPool) -> wire.Pool:
        known = self._described.get(pool.name)
        if known is None or known[0] is not pool:
            known = self._described[pool.name] = (pool, translate.pool_to_wire(pool))
        return known[1]

    def _served(self, names: Collection[str]) -> list[WorkPool]:
        """Return those of these pools whose jobs can be claimed now."""
        known = self.read_pools()
        found = (known.get(name) for name in dict.fromkeys(names))
        return [pool for pool in found if isinstance(pool, WorkPool) and pool.delivery is Delivery.PULL]

    # -- jobs -----------------------------------------------------------------------------------------------

    def claim(self, token: WorkerToken, request: wire.ClaimRequest) -> wire.JobsAnswer:
        self.check_worker(token, request.worker_id, request.pools)
        jobs = self.store.claim(
            request.worker_id,
            self._served(request.pools),
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


def _push_problem(pool: WorkPool | InvalidPool) -> str | None:
    """Say why workers can't ask for jobs of a pool, or None if they can."""
    if isinstance(pool, InvalidPool) or pool.delivery is Delivery.PULL:
        return None
    return (
        "its jobs are started by the scheduler's own worker (delivery: push); to have them started by others: "
        f"`airflow workpools update {pool.name} --delivery pull`"
    )


def _jobs(jobs: Iterable[ClaimedJob]) -> wire.JobsAnswer:
    return wire.JobsAnswer(jobs=list(map(translate.job_to_wire, jobs)))
