# SPDX-License-Identifier: Apache-2.0
"""Speaks with the job store through the worker API, where nothing but the API server can be reached.

It is the API server's time that counts: where times are to be told, they are told as seconds before now.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pydantic import ValidationError

from airflow_workpools import __version__
from airflow_workpools.api import translate, wire
from airflow_workpools.errors import InvalidInput
from airflow_workpools.store import rules
from airflow_workpools.store.records import Wish
from airflow_workpools.worker.api_line import ApiLine
from airflow_workpools.worker.credential import Credential

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path
    from uuid import UUID

    import httpx

    from airflow_workpools.core.logs import LogChunk, LogEnd
    from airflow_workpools.core.names import WorkQueueRef
    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.store.records import (
        ClaimedJob,
        Report,
        ReportOutcome,
        WorkerRecord,
        WorkerState,
    )

log = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT_SECONDS = 30.0
"""Longest time that the API server may take to begin an answer, on top of how long it was asked to wait."""
POOLS_SECONDS = 5.0
"""How old what is known of the work pools may be."""
COMPARE_SECONDS = 20.0
"""Time between two questions, along with a wait, whether the work pools are still as they are known. Not with each: two
API servers may know them differently for a while, or for good."""
MAX_LOG_BYTES = 4 * 2**20
"""Most bytes of logs that go into one request."""
CLOCK_OFF_SECONDS = 60.0
"""Clocks that differ by more are told of: nothing here needs them to agree, but logs are easier to read."""


class News(NamedTuple):
    """What a wait has brought."""

    work: bool
    """Whether a claim may bring jobs."""
    wishes: bool
    """Whether jobs shall be cancelled of which that was not known."""
    pools: bool = False
    """Whether the work pools are not as they were known: they are asked for again."""


class HttpClient:
    """Speaks for one worker; a :class:`~airflow_workpools.worker.client.WorkerClient`. Threads may share it.

    A worker's id is that of one process: calls are numbered from one on in each, and a number takes effect once.

    Every call raises :class:`~airflow_workpools.errors.ApiUnavailable` if the API server does not answer,
    :class:`~airflow_workpools.errors.ApiRefused` if it does not do what is asked until somebody changes something, and
    :class:`~airflow_workpools.errors.InvalidInput` if what is said can't be so, or can't be said.

    A token that is not taken any more is read anew from its file. The worker has to register again then: a worker is
    known with its token.

    :param url: of Airflow's API server, as people reach it: ``[api] base_url``.
    :param token: what ``airflow workpools token create`` has shown.
    :param token_file: where there may be another one, when that is not taken any more.
    :param kinds: kinds of infrastructure that this worker can use.
    :param pools: work pools that it serves.
    :param queues: the work queues to which it restricts itself; None: all of those pools.
    :param verify: whether to check the API server's certificate, or the file of the authorities to check it with.
    :param transport: how requests are sent, for tests.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        kinds: frozenset[str],
        pools: tuple[str, ...],
        queues: tuple[WorkQueueRef, ...] | None = None,
        token_file: Path | None = None,
        verify: bool | str = True,
        timeout_seconds: float = TIMEOUT_SECONDS,
        transport: httpx.BaseTransport | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url.rstrip("/")
        self._kinds = kinds
        self._served = pools
        self._queue_names = None if queues is None else [str(ref) for ref in queues]
        self._monotonic = monotonic
        self._numbers = itertools.count(1)
        self._worker_id: UUID | None = None
        self._pools: Mapping[str, WorkPool] | None = None
        self._pools_at = float("-inf")
        self._pools_version: str | None = None
        self._compared_at = float("-inf")
        self._left_behind = True
        self._told: Mapping[str, str] = {}
        self._told_of_clock = False
        self._line = ApiLine(
            self.url,
            Credential(token, token_file, monotonic),
            verify=verify,
            timeout_seconds=timeout_seconds,
            transport=transport,
            monotonic=monotonic,
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._line.close()

    @property
    def problems(self) -> Mapping[str, str]:
        """Which of its work pools can't be served, and why, as it was known last."""
        return self._told

    # -- the worker itself ----------------------------------------------------------------------------------

    def register(self, worker: WorkerRecord, *, now: datetime) -> None:
        self._worker_id = worker.id
        request = wire.RegisterRequest(
            worker_id=worker.id,
            call_number=next(self._numbers),
            name=worker.name,
            hostname=worker.hostname,
            pools=list(worker.pools or self._served),
            queues=self._queue_names,
            slots=worker.slots,
            started_seconds_ago=translate.ago(worker.started_at, now),
            heartbeat_seconds=worker.heartbeat_seconds,
            hindered=_fitting(worker.hindered),
        )
        answer = self._line.call("register", request, wire.WorkerAnswer)
        self._compare_clocks(answer, now)
        # An API server may have looked a moment before the worker ended whose jobs this one is to have.
        self._left_behind = True

    def heartbeat(self, worker_id: UUID, *, hindered: Mapping[str, str], now: datetime) -> WorkerState:
        request = wire.HeartbeatRequest(worker_id=worker_id, hindered=_fitting(hindered))
        answer = self._line.call("heartbeat", request, wire.WorkerAnswer)
        self._compare_clocks(answer, now)
        self._left_behind = self._left_behind or answer.left_behind
        return answer.state

    def stop(self, worker_id: UUID, *, now: datetime) -> None:
        self._line.call("stop", wire.StopRequest(worker_id=worker_id), wire.Done)

    def installation(self) -> UUID:
        answer = self._line.call("installation", wire.InstallationRequest(), wire.InstallationAnswer)
        return answer.installation

    def wait_for_work(
        self, worker_id: UUID, *, most: int, seconds: float, heard: Collection[UUID] = ()
    ) -> News:
        """Return as soon as there may be work for this worker, or a new wish to cancel one of its jobs.

        Nothing is claimed by that: losing the answer costs a second, never a job.

        :param most: how many jobs it could take; 0: it wants to hear of wishes only.
        :param seconds: after this time it returns in any case; at most 30 count.
        :param heard: jobs of which it knows that they shall be cancelled.
        """
        # What was known last is good enough: to claim, they are asked for again.
        request = wire.WaitRequest(
            worker_id=worker_id,
            pools=list(self.pools() if self._pools is None else self._pools),
            queues=self._queue_names,
            most=min(most, wire.MAX_JOBS),
            seconds=min(seconds, wire.MAX_WAIT_SECONDS),
            heard=list(heard)[: wire.MAX_JOBS],
            pools_version=self._version_to_compare(),
        )
        answer = self._line.call("wait", request, wire.WaitAnswer, wait_seconds=request.seconds)
        if answer.pools:
            self._pools_at = float("-inf")
        return News(answer.work, answer.wishes, answer.pools)

    def _version_to_compare(self) -> str | None:
        now = self._monotonic()
        if now - self._compared_at < COMPARE_SECONDS:
            return None
        self._compared_at = now
        return self._pools_version

    # -- work pools -----------------------------------------------------------------------------------------

    def pools(self) -> Mapping[str, WorkPool]:
        if self._pools is None or self._monotonic() - self._pools_at >= POOLS_SECONDS:
            asked_at = self._monotonic()
            answer = self._line.call("pools", wire.PoolsRequest(pools=list(self._served)), wire.PoolsAnswer)
            self._pools, problems = self._usable(answer)
            self._pools_at, self._pools_version = asked_at, answer.version
            self._tell(problems)
        return self._pools

    def _usable(self, answer: wire.PoolsAnswer) -> tuple[dict[str, WorkPool], dict[str, str]]:
        usable: dict[str, WorkPool] = {}
        problems = dict(answer.problems)
        for pool in answer.pools:
            if pool.type not in self._kinds:
                problems[pool.name] = f"it is of type '{pool.type}', which this worker can't use"
                continue
            try:
                usable[pool.name] = translate.pool_from_wire(pool)
            except InvalidInput as error:
                problems[pool.name] = f"it is not understood by version {__version__}: {error}"
        return usable, problems

    def _tell(self, problems: Mapping[str, str]) -> None:
        """Say which work pools can't be served, once."""
        for name, problem in problems.items():
            if self._told.get(name) != problem:
                log.warning("Work pool '%s' can't be served now: %s", name, problem)
        for name in self._told.keys() - problems.keys():
            log.info("Work pool '%s' can be served again", name)
        self._told = problems

    # -- jobs -----------------------------------------------------------------------------------------------

    def claim(
        self, worker_id: UUID, *, most: int, now: datetime, pools: Collection[str] | None = None
    ) -> list[ClaimedJob]:
        known = self.pools()
        names = [name for name in known if pools is None or name in pools]
        if most <= 0 or not names:
            return []
        request = wire.ClaimRequest(
            worker_id=worker_id,
            call_number=next(self._numbers),
            pools=names,
            most=min(most, wire.MAX_JOBS),
        )
        return _jobs(self._line.call("claim", request, wire.JobsAnswer))

    def renew(self, worker_id: UUID, job_ids: Sequence[UUID], *, now: datetime) -> Mapping[UUID, str]:
        workloads: dict[UUID, str] = {}
        for some in _parts(job_ids):
            request = wire.RenewRequest(worker_id=worker_id, job_ids=list(some))
            workloads |= self._line.call("renew", request, wire.RenewAnswer).workloads
        return workloads

    def report(self, worker_id: UUID, reports: Sequence[Report], *, now: datetime) -> list[ReportOutcome]:
        outcomes: list[ReportOutcome] = []
        for some in _parts(reports):
            with _or_invalid():
                request = wire.ReportRequest(
                    worker_id=worker_id,
                    reports=[translate.report_to_wire(report, now=now) for report in some],
                )
            answer = self._line.call("report", request, wire.ReportAnswer)
            outcomes += map(translate.outcome_from_wire, answer.outcomes)
        return outcomes

    def requeue(
        self,
        worker_id: UUID,
        job_ids: Sequence[UUID],
        reason: str,
        *,
        now: datetime,
        start_attempts: Mapping[UUID, int] | None = None,
    ) -> None:
        of_claims = start_attempts or {}
        for some in _parts(job_ids):
            request = wire.RequeueRequest(
                worker_id=worker_id,
                job_ids=list(some),
                reason=rules.fit_text(reason),
                start_attempts={id_: of_claims[id_] for id_ in some if id_ in of_claims},
            )
            self._line.call("requeue", request, wire.Done)

    def wishes(self, worker_id: UUID) -> list[Wish]:
        answer = self._line.call("wishes", wire.WishesRequest(worker_id=worker_id), wire.WishesAnswer)
        return [Wish(wish.job_id, wish.reason) for wish in answer.wishes]

    def mine(self, worker_id: UUID) -> list[ClaimedJob]:
        request = wire.MineRequest(worker_id=worker_id, call_number=next(self._numbers))
        return _jobs(self._line.call("mine", request, wire.JobsAnswer))

    def over(self, job_ids: Collection[UUID], *, before: datetime) -> set[UUID]:
        if self._worker_id is None:
            return set()  # only a worker that is known may ask
        found: set[UUID] = set()
        for some in _parts(list(job_ids)):
            request = wire.OverRequest(
                worker_id=self._worker_id,
                job_ids=list(some),
                before_seconds_ago=translate.ago(before, datetime.now(timezone.utc)),
            )
            found.update(self._line.call("over", request, wire.OverAnswer).job_ids)
        return found

    def revoked(self, worker_id: UUID, start_attempts: Mapping[UUID, int]) -> list[UUID]:
        found: list[UUID] = []
        for some in _parts(list(start_attempts)):
            claims = {id_: start_attempts[id_] for id_ in some}
            request = wire.RevokedRequest(worker_id=worker_id, start_attempts=claims)
            found += self._line.call("revoked", request, wire.RevokedAnswer).job_ids
        return found

    def take_over(
        self,
        worker_id: UUID,
        hostname: str,
        *,
        now: datetime,
        roaming: Mapping[str, str] = rules.NOTHING_ROAMS,
    ) -> list[ClaimedJob]:
        if not self._left_behind:
            return []
        request = wire.TakeOverRequest(
            worker_id=worker_id,
            call_number=next(self._numbers),
            hostname=hostname,
            roaming=dict(roaming),
        )
        jobs = _jobs(self._line.call("take_over", request, wire.JobsAnswer))
        self._left_behind = False  # until a heartbeat is told that there are some
        return jobs

    # -- logs -----------------------------------------------------------------------------------------------

    def log_ends(self, worker_id: UUID, attempts: Mapping[UUID, int]) -> Mapping[UUID, LogEnd]:
        ends: dict[UUID, LogEnd] = {}
        for some in _parts(list(attempts)):
            request = wire.LogEndsRequest(worker_id=worker_id, attempts={id_: attempts[id_] for id_ in some})
            ends |= _ends(self._line.call("log_ends", request, wire.LogEndsAnswer))
        return ends

    def append_log(
        self, worker_id: UUID, chunks: Sequence[LogChunk], *, now: datetime
    ) -> Mapping[UUID, LogEnd]:
        ends: dict[UUID, LogEnd] = {}
        for some in _of_size(chunks):
            with _or_invalid():
                chunks_ = [translate.chunk_to_wire(chunk) for chunk in some]
                request = wire.AppendLogRequest(worker_id=worker_id, chunks=chunks_)
            ends |= _ends(self._line.call("append_log", request, wire.LogEndsAnswer))
        return ends

    def _compare_clocks(self, answer: wire.WorkerAnswer, now: datetime) -> None:
        off = (now - answer.as_of).total_seconds()
        if abs(off) > CLOCK_OFF_SECONDS and not self._told_of_clock:
            log.warning(
                "This machine's clock is %+.0f s off the API server's. Work pools do not mind, but tasks and "
                "certificates may: keep it by NTP",
                off,
            )
        self._told_of_clock = abs(off) > CLOCK_OFF_SECONDS


def _fitting(hindered: Mapping[str, str]) -> dict[str, str]:
    """Return what hinders pools in words that can be sent."""
    return {name: rules.fit_text(reason) for name, reason in hindered.items()}


@contextlib.contextmanager
def _or_invalid() -> Iterator[None]:
    """Say of something that can't be said what the API server would say of it.

    :raises InvalidInput: instead of pydantic's error.
    """
    try:
        yield
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        raise InvalidInput(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in problems) from None


def _jobs(answer: wire.JobsAnswer) -> list[ClaimedJob]:
    return [translate.job_from_wire(job) for job in answer.jobs]


def _ends(answer: wire.LogEndsAnswer) -> dict[UUID, LogEnd]:
    return {id_: translate.end_from_wire(end) for id_, end in answer.ends.items()}


def _parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), wire.MAX_JOBS):
        yield values[start : start + wire.MAX_JOBS]


def _of_size(chunks: Sequence[LogChunk]) -> Iterator[list[LogChunk]]:
    """Cut chunks into lists that one request can take."""
    some: list[LogChunk] = []
    size = 0
    for chunk in chunks:
        if some and (size + len(chunk.data) > MAX_LOG_BYTES or len(some) >= wire.MAX_CHUNKS):
            yield some
            some, size = [], 0
        some.append(chunk)
        size += len(chunk.data)
    if some:
        yield some
