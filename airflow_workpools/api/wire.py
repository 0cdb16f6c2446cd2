# SPDX-License-Identifier: Apache-2.0
"""What workers and the API server say to each other: every request and every answer of the worker API.

Both sides use these models. A key that one side does not know is ignored, so that the other may be of the next or the
previous minor version. Times go as seconds before now, as the clock of whoever sends them tells it: the two clocks may
differ by any amount.

A call that makes jobs a worker's own carries a *call number*, each higher than the worker's last: it takes effect once,
however often it arrives, and never once a later one has arrived. Every other call may be repeated as it is.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, Base64Bytes, BaseModel, ConfigDict, Field

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.json_values import plain_json
from airflow_workpools.core.logs import MAX_CHUNK_BYTES
from airflow_workpools.core.names import WorkQueueRef, name_problem
from airflow_workpools.errors import InvalidInput
from airflow_workpools.store.records import WorkerState

MOUNT = "/workpools"
"""Where the API server has what is ours."""
PATH = "/worker/v1"
"""Where under that the worker API is, in this version of its."""
VERSION_HEADER = "X-Workpools-Version"
"""Says with each request and each answer which version of this package speaks."""

MAX_WAIT_SECONDS = 30.0
"""Longest time that one call waits for news."""
MAX_JOBS = 1000
"""Most jobs of which one call speaks."""
MAX_CHUNKS = 1000
"""Most chunks of logs in one call."""
MAX_BODY_BYTES = 8 * 2**20
"""Longest request, in bytes."""
MAX_POOLS = 1000
"""Most work pools that one call names."""
_MAX_INT = 2**31 - 1
_MAX_CALL = 2**31 - 1
_LONG_AGO = 10 * 365 * 86400.0


def _storable(text: str) -> str:
    """Refuse what no database takes."""
    if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("must not contain NUL, nor half characters")
    return text


def _pool_name(text: str) -> str:
    if problem := name_problem(text, what="work pool"):
        raise ValueError(problem)
    return text


def _queue_name(text: str) -> str:
    try:
        return str(WorkQueueRef.parse(text))
    except InvalidInput as error:
        raise ValueError(str(error)) from error


Name = Annotated[str, Field(min_length=1, max_length=250), AfterValidator(_storable)]
Reason = Annotated[str, Field(max_length=20_000), AfterValidator(_storable)]
PoolName = Annotated[str, AfterValidator(_pool_name)]
QueueName = Annotated[str, AfterValidator(_queue_name)]
"""A work queue as ``pool/queue``."""
Ago = Annotated[float, Field(ge=0, le=_LONG_AGO, allow_inf_nan=False)]
"""Seconds before now."""
Count = Annotated[int, Field(ge=0, le=_MAX_INT)]
CallNumber = Annotated[int, Field(ge=1, le=_MAX_CALL)]
JsonObject = Annotated[dict[str, Any], AfterValidator(plain_json)]
Pools = Annotated[list[PoolName], Field(max_length=MAX_POOLS)]
JobIds = Annotated[list[UUID], Field(max_length=MAX_JOBS)]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True)


# -- what goes wrong -----------------------------------------------------------------------------------------


class ProblemCode(str, Enum):
    """What kind of problem it is; the text beside it is for people."""

    TOKEN = "token"
    """There is no token, or it does not open anything (any more)."""
    POOL = "pool"
    """The token is not for this work pool, or it is none that workers can ask for."""
    WORKER = "worker"
    """The worker is not known: it has to register."""
    VERSION = "version"
    """The versions of worker and API server are too far apart."""
    REPEATED = "repeated"
    """The call was made already, or a later one has overtaken it."""
    INVALID = "invalid"
    """What was said can't be so."""
    TOO_LARGE = "too_large"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    """Too many wrong tokens came from this address."""
    UNAVAILABLE = "unavailable"
    """The API server can't do it now."""


class Problem(Model):
    """The answer to a request that is refused."""

    code: ProblemCode
    detail: str
    """What is wrong, and what to do about it."""


# -- the worker itself ---------------------------------------------------------------------------------------


class OfWorker(Model):
    """A request of a worker that has registered."""

    worker_id: UUID


class Numbered(OfWorker):
    """A request that takes effect once."""

    call_number: CallNumber


class RegisterRequest(Numbered):
    name: Name
    hostname: Name
    pools: Annotated[list[PoolName], Field(min_length=1, max_length=MAX_POOLS)]
    queues: Annotated[list[QueueName], Field(max_length=MAX_POOLS)] | None = None
    """The work queues to which the worker restricts itself; none given: all of its pools."""
    slots: Annotated[int, Field(ge=1, le=_MAX_INT)] | None = None
    """Most slots that it fills at a time; none given: no limit of its own."""
    started_seconds_ago: Ago
    heartbeat_seconds: Annotated[float, Field(ge=0.1, le=3600, allow_inf_nan=False)]
    hindered: dict[PoolName, Reason] = Field(default_factory=dict, max_length=MAX_POOLS)


class HeartbeatRequest(OfWorker):
    hindered: dict[PoolName, Reason] = Field(default_factory=dict, max_length=MAX_POOLS)
    """Work pools that it can't use now, and why."""


class WorkerAnswer(Model):
    state: WorkerState
    as_of: datetime
    """The API server's time."""
    left_behind: bool = True
    """Whether dead workers may have jobs in the worker's pools; if not, it need not ask to take them over."""


class InstallationRequest(Model):
    pass


class InstallationAnswer(Model):
    installation: UUID
    """Which Airflow this is: what a worker launches carries it."""


class StopRequest(OfWorker):
    pass


class Done(Model):
    """It is done."""


# -- work pools ----------------------------------------------------------------------------------------------


class Queue(Model):
    name: str
    priority: int
    concurrency_limit: int | None = None
    description: str | None = None
    job_variables: dict[str, Any] = Field(default_factory=dict)


class Pool(Model):
    """What a worker has to know of a work pool."""

    name: str
    type: str
    description: str | None = None
    concurrency_limit: int | None = None
    start_timeout_seconds: float
    start_attempts: int
    infrastructure_conn_id: str | None = None
    """Name of the connection, which the worker looks up where it runs. What is in it is never sent."""
    queues: list[Queue]
    base_job_template: dict[str, Any]
    job_variables: dict[str, Any] = Field(default_factory=dict)
    team_name: str | None = None


class PoolsRequest(Model):
    pools: Pools


class PoolsAnswer(Model):
    pools: list[Pool]
    problems: dict[str, str] = Field(default_factory=dict)
    """Those that can't be served now, and why."""
    version: str | None = None
    """Another one for every other answer."""


# -- jobs ----------------------------------------------------------------------------------------------------


class JobHandle(Model):
    """How a launched job is found again."""

    kind: Annotated[str, Field(min_length=1, max_length=63), AfterValidator(_storable)]
    data: JsonObject = Field(default_factory=dict)
    conn_id: Name | None = None
    failed_start: Reason | None = None


class Job(Model):
    """A job as its worker sees it."""

    id: UUID
    task_instance_id: UUID
    queue: str
    """``pool/queue``"""
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int
    workload: str = Field(repr=False)
    job_variables: dict[str, Any] = Field(default_factory=dict)
    handle: JobHandle | None = None
    state: JobState
    desired_state: JobState | None = None
    start_timeout_seconds: float
    start_attempts: int
    reason: str | None = None
    problem: str | None = None


class JobsAnswer(Model):
    jobs: list[Job]


class ClaimRequest(Numbered):
    pools: Pools
    most: Annotated[int, Field(ge=1, le=MAX_JOBS)]


class MineRequest(Numbered):
    """Its answer has all jobs that the worker has: what was called before takes no effect after it."""


class TakeOverRequest(Numbered):
    hostname: Name
    roaming: dict[PoolName, Name] = Field(default_factory=dict, max_length=MAX_POOLS)
    """Work pools whose jobs on this kind of infrastructure a worker of any host can look after."""


class WaitRequest(OfWorker):
    """Asks to be answered when there may be work, or a wish that is not known, or else after so many seconds."""

    pools: Pools
    queues: Annotated[list[QueueName], Field(max_length=MAX_POOLS)] | None = None
    most: Annotated[int, Field(ge=0, le=MAX_JOBS)] = 1
    """How many jobs the worker could take; 0: it wants to hear of wishes only."""
    seconds: Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS, allow_inf_nan=False)]
    heard: JobIds = Field(default_factory=list)
    """Jobs whose wish the worker knows."""
    pools_version: Annotated[str, Field(max_length=64)] | None = None
    """Of what the worker knows of its work pools. If they are not like that, the answer comes at once."""


class WaitAnswer(Model):
    work: bool
    """Whether a claim may bring jobs."""
    wishes: bool
    """Whether there are wishes that the worker does not know."""
    pools: bool = False
    """Whether its work pools are not as the worker knows them."""


class RenewRequest(OfWorker):
    job_ids: JobIds


class RenewAnswer(Model):
    workloads: dict[UUID, str] = Field(repr=False)


class JobReport(Model):
    job_id: UUID
    state: JobState
    handle: JobHandle | None = None
    exit_code: Annotated[int, Field(ge=-_MAX_INT, le=_MAX_INT)] | None = None
    reason: Reason | None = None
    started_seconds_ago: Ago | None = None
    start_attempts: Count | None = None


class RevokedRequest(OfWorker):
    start_attempts: Annotated[dict[UUID, Count], Field(max_length=MAX_JOBS)]
    """Which claim of each job it is."""


class RevokedAnswer(Model):
    job_ids: list[UUID]
    """Those that nobody has any more."""


class OverRequest(OfWorker):
    job_ids: JobIds
    before_seconds_ago: Ago


class OverAnswer(Model):
    job_ids: list[UUID]
    """Those that ended before then, or that nobody knows."""


class ReportRequest(OfWorker):
    reports: Annotated[list[JobReport], Field(max_length=MAX_JOBS)]


class Outcome(Model):
    job_id: UUID
    accepted: bool
    state: JobState | None = None
    """What the job is now; none: it is no job of this worker's."""


class ReportAnswer(Model):
    outcomes: list[Outcome]
    """In the order of the reports."""


class RequeueRequest(OfWorker):
    job_ids: JobIds
    reason: Reason
    start_attempts: dict[UUID, Count] = Field(default_factory=dict, max_length=MAX_JOBS)


class WishesRequest(OfWorker):
    pass


class JobWish(Model):
    job_id: UUID
    reason: str | None = None


class WishesAnswer(Model):
    wishes: list[JobWish]


# -- logs ----------------------------------------------------------------------------------------------------


class Chunk(Model):
    job_id: UUID
    attempt: Annotated[int, Field(ge=0, lt=1_000_000)] = 0
    position: Count
    data: Base64Bytes = Field(repr=False)
    """In base64; at most :data:`~airflow_workpools.core.logs.MAX_CHUNK_BYTES` bytes."""

    @property
    def too_large(self) -> bool:
        return len(self.data) > MAX_CHUNK_BYTES


class AppendLogRequest(OfWorker):
    chunks: Annotated[list[Chunk], Field(max_length=MAX_CHUNKS)]


class LogEndsRequest(OfWorker):
    attempts: Annotated[dict[UUID, Annotated[int, Field(ge=0, lt=1_000_000)]], Field(max_length=MAX_JOBS)]


class End(Model):
    position: int
    full: bool = False


class LogEndsAnswer(Model):
    """By job; those are missing that the worker does not have."""

    ends: dict[UUID, End]
