# SPDX-License-Identifier: Apache-2.0
"""What the pool API takes and answers: common parts, pools, queues, workers and tokens.

In a request a key that is not known is refused, for it may be a slip of the pen. Whoever reads answers should ignore
what they don't know: keys are added, never renamed. Times are in UTC, durations in seconds.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from airflow_workpools.core.json_values import plain_json
from airflow_workpools.core.pools import Delivery, PoolSource

MOUNT = "/workpools/api"
"""Where the API server has the pool API."""
PATH = "/v1"
"""Where under that this version of it is."""

MAX_BODY_BYTES = 2**20
"""Longest request, in bytes."""
MAX_PAGE = 1000
"""Most things that one page of a list has."""
_MAX_INT = 2**31 - 1


def _storable(text: str) -> str:
    """Refuse what no database takes."""
    if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("must not contain NUL, nor half characters")
    return text


Name = Annotated[str, Field(min_length=1, max_length=250), AfterValidator(_storable)]
Text = Annotated[str, Field(max_length=2_000), AfterValidator(_storable)]
Whole = Annotated[int, Field(ge=0, le=_MAX_INT)]
Priority = Annotated[int, Field(ge=1, le=_MAX_INT)]
Seconds = Annotated[float, Field(gt=0, le=_MAX_INT, allow_inf_nan=False)]
JsonObject = Annotated[dict[str, Any], AfterValidator(plain_json)]
Names = Annotated[list[Name], Field(max_length=MAX_PAGE)]

PoolStatus = Literal["READY", "NOT_READY", "PAUSED", "INVALID"]
QueueStatus = Literal["READY", "NOT_READY", "PAUSED"]
WorkerStatus = Literal["ONLINE", "DRAINING", "OFFLINE", "STOPPED"]
TokenStatus = Literal["ACTIVE", "EXPIRED", "REVOKED"]


class Answer(BaseModel):
    """What is answered."""

    # So that the document says of each key that it is there, whether it has a default here or not.
    model_config = ConfigDict(
        frozen=True, json_schema_serialization_defaults_required=True, use_attribute_docstrings=True
    )


class Request(BaseModel):
    """What is asked for; keys that are not known are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


# -- what goes wrong -----------------------------------------------------------------------------------------


class ProblemCode(str, Enum):
    """What kind of problem it is; the text beside it is for people."""

    NOT_LOGGED_IN = "not_logged_in"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    """The state of things forbids it: the name is taken, the pool is read-only or has jobs, the job has ended."""
    TOO_LARGE = "too_large"
    INVALID = "invalid"
    """What was said can't be so."""
    METHOD = "method"
    """Nothing like that can be done here."""
    UNAVAILABLE = "unavailable"
    """The database does not answer now."""


class Fault(Answer):
    """One thing that is wrong, and where."""

    pointer: str | None = None
    """JSON pointer into what was sent, like ``/variables/properties/image``; null where no place can be named."""
    detail: str


class Problem(Answer):
    """The answer to a request that is refused."""

    code: ProblemCode
    detail: str
    """What is wrong, and what to do about it."""
    faults: list[Fault] = Field(default_factory=list)
    """Each thing that is wrong with what was sent, where there may be several."""


# -- work pools ----------------------------------------------------------------------------------------------


class PoolSummary(Answer):
    """A work pool in a list."""

    name: str
    type: str | None
    """Kind of infrastructure; null if the definition can't be read."""
    description: str | None
    status: PoolStatus
    reason: str | None
    """Why it is invalid or can't start jobs; null if nothing is wrong."""
    source: PoolSource
    declared_in: str
    """The place of its definition, in words."""
    read_only: bool
    """Its definition is not to be changed here; it can be paused all the same."""
    team_name: str | None
    paused: bool
    delivery: Delivery | None
    concurrency_limit: int | None
    """Most slots; null is no limit."""
    slots_used: int
    running: int
    """Jobs that hold those slots."""
    waiting: int
    """Tasks and jobs that wait for a slot."""
    workers_online: int
    """Workers that can start its jobs now."""
    workers: int
    """Workers that serve it, but for those that have stopped."""
    queue_count: int
    sparkline: list[float]
    """Slots used over the last hour, the oldest first: at most 60 points, evenly spaced."""
    may_edit: bool
    """Whether whoever asks may change its definition, queues, template and tokens."""
    may_operate: bool
    """Whether whoever asks may pause and resume it and its queues, drain its workers and cancel its jobs."""


class PoolList(Answer):
    """A page of work pools, by name."""

    pools: list[PoolSummary]
    total: int
    next_cursor: str | None
    as_of: datetime
    may_create: bool
    """Whether whoever asks may create a work pool."""
    teams: list[str]
    """Teams to which a pool can be given; empty where nothing belongs to teams."""


class QueueSummary(Answer):
    """A work queue."""

    name: str
    priority: int
    """1 goes first."""
    concurrency_limit: int | None
    description: str | None
    paused: bool
    status: QueueStatus
    waiting: int
    running: int
    slots_used: int
    last_polled_at: datetime | None
    job_variables: dict[str, Any]
    """Over the pool's, under the task's. Secrets are masked for who may not change the pool."""
    airflow_pool: str
    airflow_slots: int | None
    """Slots of that Airflow pool; -1 is no limit, null that there is none yet."""


class QueueList(Answer):
    """A page of a pool's queues, by priority."""

    queues: list[QueueSummary]
    total: int
    next_cursor: str | None
    as_of: datetime


class PoolDetail(PoolSummary):
    """All about a work pool but its template, jobs and workers."""

    start_timeout_seconds: float | None
    start_attempts: int | None
    infrastructure_conn_id: str | None
    job_variables: dict[str, Any]
    """Secrets are masked for who may not change the pool."""
    capacity: int | None
    """Slots that its online workers can fill in all; null is no limit."""
    capacity_free: int | None
    slots_free: int | None
    """Within its limit and its workers' capacity; null is no limit."""
    queues: list[QueueSummary]
    as_of: datetime


class NewQueue(Request):
    """A work queue to create."""

    name: Name
    priority: Priority | None = None
    """Without one it gets the lowest that no queue has."""
    concurrency_limit: Whole | None = None
    description: Text | None = None
    job_variables: JsonObject = Field(default_factory=dict)
    paused: bool = False


class NewPool(Request):
    """A work pool to create."""

    name: Name
    type: Name
    description: Text | None = None
    concurrency_limit: Whole | None = None
    delivery: Delivery = Delivery.PUSH
    start_timeout_seconds: Seconds | None = None
    start_attempts: Priority | None = None
    infrastructure_conn_id: Name | None = None
    job_variables: JsonObject = Field(default_factory=dict)
    base_job_template: JsonObject | None = None
    """Null: that of the type."""
    queues: Annotated[list[NewQueue], Field(max_length=MAX_PAGE)] = Field(default_factory=list)
    """``default`` is always there."""
    paused: bool = False
    team_name: Name | None = None


class PoolChange(Request):
    """What shall be different in a work pool. What is not named stays; null takes a value away."""

    type: Name | None = None
    """May not be null."""
    description: Text | None = None
    concurrency_limit: Whole | None = None
    delivery: Delivery | None = None
    start_timeout_seconds: Seconds | None = None
    start_attempts: Priority | None = None
    infrastructure_conn_id: Name | None = None
    team_name: Name | None = None
    set_job_variables: JsonObject = Field(default_factory=dict)
    unset_job_variables: Names = Field(default_factory=list)


class QueueChange(Request):
    """What shall be different in a work queue. What is not named stays; null takes a value away."""

    priority: Priority | None = None
    """May not be null. If it is taken, the queue that has it moves to the next, and so on until there is room."""
    concurrency_limit: Whole | None = None
    description: Text | None = None
    set_job_variables: JsonObject = Field(default_factory=dict)
    unset_job_variables: Names = Field(default_factory=list)


class MovedQueue(Answer):
    """A queue that made room."""

    name: str
    old_priority: int
    new_priority: int


class QueueAnswer(Answer):
    """A queue after a change."""

    queue: QueueSummary
    moved: list[MovedQueue]
    """Other queues whose priority changed with it."""
    as_of: datetime


# -- workers -------------------------------------------------------------------------------------------------


class WorkerSummary(Answer):
    """A worker that serves the pool."""

    id: UUID
    name: str
    hostname: str
    kind: Literal["embedded", "standalone"]
    status: WorkerStatus
    """OFFLINE: three of its heartbeats are missing."""
    pools: list[str] | None
    """Those it serves; null: all push pools."""
    queues: list[str] | None
    """``pool/queue``; null: all queues of its pools."""
    jobs: int
    slots_used: int
    capacity: int | None
    """Most slots that its jobs may hold; null is no limit of its own."""
    draining: bool
    hindrance: str | None
    """Why it can't start jobs of this pool."""
    team_name: str | None
    started_at: datetime
    last_polled_at: datetime
    """When it was last heard of."""
    version: str


class WorkerList(Answer):
    """A page of workers, in the order in which they started."""

    workers: list[WorkerSummary]
    total: int
    next_cursor: str | None
    as_of: datetime


# -- tokens --------------------------------------------------------------------------------------------------


class TokenSummary(Answer):
    """A token of workers, without what would open anything."""

    id: str
    pools: list[str]
    status: TokenStatus
    description: str | None
    created_at: datetime
    created_by: str | None
    expires_at: datetime | None
    """Null: never."""
    revoked_at: datetime | None
    last_used_at: datetime | None


class TokenList(Answer):
    """A page of tokens, the oldest first."""

    tokens: list[TokenSummary]
    total: int
    next_cursor: str | None
    as_of: datetime


class NewToken(Request):
    """A token to make."""

    description: Text | None = None
    expires_in_seconds: Annotated[int, Field(ge=60, le=36_500 * 86_400)] | None = 365 * 86_400
    """Null: it never expires."""


class TokenMade(TokenSummary):
    """A token that was made. What opens the pool is shown this once."""

    token: str = Field(repr=False)
