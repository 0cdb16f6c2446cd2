# SPDX-License-Identifier: Apache-2.0
"""What the pool API takes and answers: jobs, templates, explanations, statistics and the dashboard."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from airflow_workpools.api.pools.wire import Answer, Fault, JsonObject, Name, PoolStatus, Request, Text
from airflow_workpools.core.ends import EndCause
from airflow_workpools.core.explain import Gate, GateStatus, Stage
from airflow_workpools.core.jobs import JobState

# -- jobs ----------------------------------------------------------------------------------------------------


class JobSummary(Answer):
    """A job in a list."""

    id: UUID
    pool: str
    queue: str
    state: JobState
    desired_state: JobState | None
    """How it shall end, if somebody wished its end."""
    reason: str | None
    cause: EndCause | None
    """Why it ended, in one word; null while it has not."""
    exit_code: int | None
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    """-1: the task is not mapped."""
    try_number: int
    slots: int
    worker: str | None
    worker_id: UUID | None
    infrastructure_kind: str | None
    infrastructure_id: str | None
    """By which the infrastructure knows it: a container, a Kubernetes Job, a process."""
    handed_over_at: datetime
    claimed_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    waiting_seconds: float
    """From the hand-over to the claim; until now, if it waits."""
    starting_seconds: float | None
    """From the claim to the start; null before that."""
    running_seconds: float | None


class JobList(Answer):
    """A page of jobs, the newest hand-over first.

    Jobs of DAGs that whoever asks may not see are left out, so a page may be shorter than was asked for.
    """

    jobs: list[JobSummary]
    next_cursor: str | None
    as_of: datetime


class JobEvent(str, Enum):
    """What happened to a job."""

    HANDED_OVER = "handed_over"
    CLAIMED = "claimed"
    START_TIMEOUT_RENEWED = "start_timeout_renewed"
    STARTED = "started"
    ENDED = "ended"
    REPORTED = "reported"
    """Airflow has heard of its end."""


class TimelineEntry(Answer):
    event: JobEvent
    at: datetime


class JobPhase(Answer):
    """A part of the job's life."""

    name: Literal["waiting", "starting", "running"]
    began_at: datetime
    ended_at: datetime | None
    """Null: it goes on."""
    seconds: float


class JobDetail(JobSummary):
    """All about a job."""

    task_instance_id: UUID
    round: int
    """Counts from 0 how often the same try was handed over."""
    priority_weight: int
    team_name: str | None
    start_attempts: int
    """How often it was given back to be started anew."""
    start_timeout_seconds: float
    start_timeout_at: datetime | None
    """When the start timeout ends; null when it does not run."""
    reported_at: datetime | None
    timeline: list[TimelineEntry]
    phases: list[JobPhase]
    infrastructure: dict[str, Any] | None
    """What its worker noted of it."""
    job_variables: dict[str, Any]
    """Those of the task. Secrets are masked."""
    job_configuration: Any
    """Rendered from the pool's template as it is now. Secrets are masked; environment and connections of the worker
    stay placeholders. Null if it can't be rendered."""
    job_configuration_faults: list[Fault]
    """Why it can't be rendered."""
    may_cancel: bool


class CancelRequest(Request):
    reason: Text | None = None


# -- templates -----------------------------------------------------------------------------------------------


class InfrastructureType(Answer):
    """A kind of infrastructure that is installed."""

    type: str
    usable: bool
    problem: str | None
    """Why it can't be used here, and the way out."""
    title: str | None
    description: str | None
    base_job_template: dict[str, Any] | None
    """The one that pools of this type have by default."""
    check_of_templates: bool
    """Whether it knows of faults that no values of variables can mend."""


class InfrastructureTypeList(Answer):
    types: list[InfrastructureType]


class TemplateAnswer(Answer):
    """The base job template of a pool."""

    pool: str
    type: str
    base_job_template: dict[str, Any]
    is_default: bool
    """It is the type's."""
    default_template: dict[str, Any] | None
    masked: bool
    """Secrets are masked, as whoever asks may not change it. It must not be sent back."""


class TemplateRequest(Request):
    base_job_template: JsonObject | None
    """Null: that of the type."""


class ValidateRequest(Request):
    type: Name
    base_job_template: JsonObject


class ValidateAnswer(Answer):
    valid: bool
    faults: list[Fault]
    """With pointers into the template."""


class PreviewRequest(Request):
    queue: Name = "default"
    job_variables: JsonObject = Field(default_factory=dict)
    """As a task would set them."""
    base_job_template: JsonObject | None = None
    """Null: the pool's; else one that is not stored yet."""


class VariableView(Answer):
    """A job variable, and where its value comes from."""

    name: str
    title: str | None
    description: str | None
    value: Any
    source: Literal["template", "pool", "queue", "task"] | None
    """The last place that sets it; null if none does."""
    required: bool
    used: bool
    """Whether a placeholder in the job configuration asks for it."""
    json_schema: Any
    """What it may hold."""


class FieldView(Answer):
    """A value somewhere in the job configuration of the template."""

    pointer: str
    locked: bool
    """No job variable changes it."""
    variables: list[str]
    """Those that change it."""


class PreviewAnswer(Answer):
    """What a job would look like."""

    job_configuration: Any
    """Null if there are faults. What only a real job or its worker knows stays a placeholder."""
    faults: list[Fault]
    variables: list[VariableView]
    fields: list[FieldView]
    """In the order of the template; at most 1,000."""
    masked: bool


# -- explain -------------------------------------------------------------------------------------------------


class GateAnswer(Answer):
    """A gate on the way of a task."""

    gate: Gate
    status: GateStatus
    explanation: str | None
    way_out: str | None
    """What would let the task pass."""
    numbers: dict[str, Any]


class ExplainAnswer(Answer):
    """Where a task instance is on its way, and why."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    state: str | None
    """Airflow's word."""
    stage: Stage
    holding: Gate
    """The gate at which it is."""
    explanation: str | None
    way_out: str | None
    gates: list[GateAnswer]
    job: JobDetail | None
    """The newest job of its present try; null if there is none (any more)."""
    as_of: datetime


# -- statistics ----------------------------------------------------------------------------------------------

Window = Literal["1h", "6h", "24h", "7d"]


class QueueStatistics(Answer):
    """One work queue over the window; lists have one value for each bucket."""

    name: str
    concurrency_limit: int | None
    slots: list[float]
    """Slots used, on average over each bucket."""
    claimed: list[int]
    """Jobs claimed in each bucket."""
    wait_p50_seconds: list[float | None]
    """Median time from hand-over to claim of the jobs claimed in each bucket; null if there were none."""
    wait_p95_seconds: list[float | None]
    window_wait_p50_seconds: float | None
    """The same over the whole window."""
    window_wait_p95_seconds: float | None


class StatisticsAnswer(Answer):
    """How a pool was used."""

    pool: str
    window: Window
    since: datetime
    until: datetime
    bucket_seconds: float
    concurrency_limit: int | None
    queues: list[QueueStatistics]
    """By priority; then queues that are no more."""
    wait_sample: int
    """Of how many jobs wait times were taken: the newest, at most 10,000."""


# -- dashboard -----------------------------------------------------------------------------------------------


class GlanceRow(Answer):
    name: str
    status: PoolStatus
    reason: str | None
    slots_used: int
    concurrency_limit: int | None
    waiting: int
    workers_online: int


class DashboardAnswer(Answer):
    """All work pools at a glance."""

    pools: int
    ready: int
    not_ready: int
    paused: int
    invalid: int
    slots_used: int
    running: int
    waiting: int
    workers_online: int
    """Workers that are online, each counted once."""
    rows: list[GlanceRow]
    """First those that need attention, then the fullest; at most 8."""
    as_of: datetime
