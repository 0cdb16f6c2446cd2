# SPDX-License-Identifier: Apache-2.0
"""Work pools and work queues: what they are, and how one is made from its definition."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.definitions import PoolDefinition, QueueDefinition, read_definition
from airflow_workpools.core.names import DEFAULT_QUEUE, MAX_NAME_LENGTH, name_problem
from airflow_workpools.core.priorities import lowest_unused, place_queue, place_queues
from airflow_workpools.core.templates import BaseJobTemplate, merge_variables, value_problems
from airflow_workpools.core.wording import did_you_mean, listing
from airflow_workpools.errors import InvalidTemplate, InvalidWorkPool, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import datetime

    TemplateChecks = Mapping[str, Callable[[Any], Iterable[str]]]
    """By type."""
    VariableChecks = Mapping[str, Callable[[Any, Mapping[str, Any]], Iterable[str]]]
    """By type."""

__all__ = [
    "DEFAULT_START_ATTEMPTS",
    "DEFAULT_START_TIMEOUT_SECONDS",
    "QUEUE_READY_FOR",
    "Delivery",
    "InvalidPool",
    "PoolSource",
    "PoolStatus",
    "QueueStatus",
    "WorkPool",
    "WorkQueue",
    "parse_work_pool",
    "place_queue",
    "place_queues",
    "pool_status",
    "queue_status",
]

DEFAULT_START_TIMEOUT_SECONDS = 600.0
"""How long a job may take from its claim to the start of its task, where nothing else is said."""

DEFAULT_START_ATTEMPTS = 2
"""How often a job is launched before its failure to start is the failure of the try, where nothing else is said."""

AIRFLOW_DEFAULT_POOL = "default_pool"
"""The Airflow pool that Airflow makes for itself; a work pool of this name would share it."""

QUEUE_READY_FOR = timedelta(seconds=60)
"""A queue is ready for so long after a worker last polled it."""


class Delivery(str, Enum):
    """How jobs reach a worker."""

    PUSH = "push"
    """The scheduler's embedded worker starts them."""
    PULL = "pull"
    """Separate workers poll for them."""

    def __str__(self) -> str:
        return self.value


class PoolSource(str, Enum):
    """Where the definition of a work pool stands."""

    DATABASE = "database"
    """A connection in Airflow's database: the only one that UI and CLI can change."""
    ENVIRONMENT = "environment"
    """A connection in an environment variable."""
    SECRETS = "secrets"
    """A connection in a secrets backend."""
    BUILTIN = "builtin"
    """Nowhere: it exists without being declared."""

    def __str__(self) -> str:
        return self.value


class PoolStatus(str, Enum):
    """What a work pool can do at the moment."""

    READY = "ready"
    """A worker is online, and nothing hinders it."""
    NOT_READY = "not_ready"
    """No worker is online that can launch its jobs."""
    PAUSED = "paused"
    INVALID = "invalid"
    """Its definition cannot be read."""

    def __str__(self) -> str:
        return self.value


class QueueStatus(str, Enum):
    """What a work queue can do at the moment."""

    READY = "ready"
    """A worker polled it lately."""
    NOT_READY = "not_ready"
    PAUSED = "paused"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class WorkQueue:
    """A line of waiting work inside a work pool."""

    name: str
    priority: int
    """From 1, which goes first; unique in its pool."""
    concurrency_limit: int | None = None
    """Most pool slots that its jobs may hold; None is no limit, 0 delivers nothing."""
    description: str | None = None
    job_variables: Mapping[str, Any] = field(default_factory=dict)
    """Over the pool's, under the task's."""


@dataclass(frozen=True, kw_only=True)
class WorkPool:
    """A named kind of infrastructure, with its limit, its queues and the look of its jobs."""

    name: str
    type: str
    """Kind of infrastructure: ``process``, ``docker``, …"""
    description: str | None = None
    concurrency_limit: int | None = None
    """Most pool slots that its jobs may hold; None is no limit, 0 delivers nothing."""
    delivery: Delivery = Delivery.PUSH
    start_timeout_seconds: float = DEFAULT_START_TIMEOUT_SECONDS
    """From the claim of a job to the start of its task. Waiting for a slot is no part of it."""
    start_attempts: int = DEFAULT_START_ATTEMPTS
    """How often a job is launched at most before its failure to start is the failure of the try."""
    infrastructure_conn_id: str | None = None
    """Airflow connection with address and credentials of the infrastructure."""
    queues: tuple[WorkQueue, ...]
    """By priority; ``default`` is always among them."""
    base_job_template: BaseJobTemplate
    job_variables: Mapping[str, Any] = field(default_factory=dict)
    """The pool's defaults: over those of the template, under those of queue and task."""
    source: PoolSource = PoolSource.BUILTIN
    team_name: str | None = None

    def find_queue(self, name: str) -> WorkQueue | None:
        """Return the queue of that name, or None if there is none."""
        return next((queue for queue in self.queues if queue.name == name), None)

    def queue(self, name: str) -> WorkQueue:
        """Return the queue of that name.

        :raises NotFound: if there is none; the message names those there are.
        """
        found = self.find_queue(name)
        if found is None:
            there_are = ", ".join(sorted(queue.name for queue in self.queues))
            raise NotFound(f"work pool {self.name!r} has no work queue {name!r}; it has: {there_are}")
        return found


@dataclass(frozen=True, kw_only=True)
class InvalidPool:
    """A work pool whose definition cannot be read: it exists, and nothing runs in it until it is mended."""

    name: str
    reason: str
    source: PoolSource
    team_name: str | None = None


def pool_status(*, paused: bool, workers_online: int) -> PoolStatus:
    """Return the status of a work pool that could be read. Workers make it ready, but never end a pause."""
    if paused:
        return PoolStatus.PAUSED
    return PoolStatus.READY if workers_online > 0 else PoolStatus.NOT_READY


def queue_status(*, paused: bool, last_polled_at: datetime | None, now: datetime) -> QueueStatus:
    """Return the status of a work queue: ready for :data:`QUEUE_READY_FOR` after each poll, unless paused."""
    if paused:
        return QueueStatus.PAUSED
    polled_lately = last_polled_at is not None and abs(now - last_polled_at) <= QUEUE_READY_FOR
    return QueueStatus.READY if polled_lately else QueueStatus.NOT_READY


def parse_work_pool(
    name: str,
    definition: Mapping[str, Any] | str | None,
    *,
    templates: Mapping[str, BaseJobTemplate],
    source: PoolSource,
    description: str | None = None,
    default_start_timeout_seconds: float = DEFAULT_START_TIMEOUT_SECONDS,
    unusable_types: Mapping[str, str] = MappingProxyType({}),
    template_checks: TemplateChecks = MappingProxyType({}),
    variable_checks: VariableChecks = MappingProxyType({}),
) -> WorkPool:
    """Make a work pool from its definition, the ``extra`` of its connection.

    :param definition: JSON text or an object with the keys of
        :class:`~airflow_workpools.core.definitions.PoolDefinition`.
    :param templates: the default base job template of each known type.
    :param unusable_types: types that are known but can't be used here, and why.
    :param template_checks: what finds the faults of a template of a type that no values of variables can mend.
    :param variable_checks: what finds values of job variables that no job of a type can be launched with.
    :param description: holds where the definition has none.
    :raises InvalidWorkPool: with all that is wrong; each problem names the pool, the key and what is allowed.
    """
    try:
        given, problems = read_definition(definition)
    except ValueError as error:
        unreadable = f"its definition (the connection's extra) {error}"
        raise _invalid(name, [*_name_problems(name), unreadable]) from error
    template, template_problems = _template(given, templates, template_checks)
    problems += [
        *_name_problems(name),
        *_type_problems(given, templates, unusable_types),
        *template_problems,
        *_queue_problems(given.queues),
        *(_job_variable_problems(given, template, variable_checks) if template else ()),
    ]
    if problems or template is None:
        raise _invalid(name, problems)
    return WorkPool(
        name=name,
        type=given.type or "",
        description=given.description or description,
        concurrency_limit=given.concurrency_limit,
        delivery=Delivery(given.delivery or Delivery.PUSH),
        start_timeout_seconds=given.start_timeout or default_start_timeout_seconds,
        start_attempts=given.start_attempts or DEFAULT_START_ATTEMPTS,
        infrastructure_conn_id=given.infrastructure_conn_id,
        queues=_queues(given.queues),
        base_job_template=template,
        job_variables=given.job_variables,
        source=source,
    )


def _invalid(name: str, problems: Iterable[str]) -> InvalidWorkPool:
    shown = repr(name) if len(name) <= MAX_NAME_LENGTH else f"{name[:20]!r}…"
    return InvalidWorkPool(f"work pool {shown}: {problem}" for problem in problems)


def _name_problems(name: str) -> Iterator[str]:
    if not name:
        yield "it has no name"
    elif problem := name_problem(name, what="its"):
        yield problem
    if name == AIRFLOW_DEFAULT_POOL:
        yield f"its name {name!r} is taken by Airflow's own default pool; choose another"


def _type_problems(
    given: PoolDefinition, templates: Mapping[str, BaseJobTemplate], unusable: Mapping[str, str]
) -> Iterator[str]:
    if given.type is None:
        yield f"type is missing; known types are: {listing(templates)}"
    elif given.type in unusable:
        yield unusable[given.type]
    elif given.type not in templates:
        yield (
            f"type {given.type!r} is unknown{did_you_mean(given.type, templates)}; "
            f"known types are: {listing(templates)}"
        )


def _template(
    given: PoolDefinition, templates: Mapping[str, BaseJobTemplate], checks: TemplateChecks
) -> tuple[BaseJobTemplate | None, list[str]]:
    """Return the pool's template, its own or its type's, or None and what is wrong with it."""
    if not given.base_job_template:
        return templates.get(given.type or ""), []
    try:
        template = BaseJobTemplate.parse(given.base_job_template)
    except InvalidTemplate as error:
        return None, [f"base_job_template: {problem}" for problem in error.problems]
    check = checks.get(given.type or "")
    found = () if check is None else check(template.job_configuration)
    return template, [f"base_job_template: {problem}" for problem in found]


def _queue_problems(queues: Mapping[str, QueueDefinition]) -> Iterator[str]:
    first: dict[int, str] = {}
    spelled: dict[str, str] = {}
    for name, queue in queues.items():
        if problem := name_problem(name, what="work queue"):
            yield problem
        if (other := spelled.setdefault(name.casefold(), name)) != name:
            yield (
                f"work queues {other!r} and {name!r} differ only in capitals, and to MariaDB and MySQL their Airflow "
                "pools are one; rename one of them"
            )
        if queue.priority is None:
            continue
        if queue.priority in first:
            yield (
                f"work queues {first[queue.priority]!r} and {name!r} both have priority {queue.priority}; "
                "give each its own, or none for the lowest unused"
            )
        first.setdefault(queue.priority, name)


def _job_variable_problems(
    given: PoolDefinition, template: BaseJobTemplate, checks: VariableChecks
) -> Iterator[str]:
    check = checks.get(given.type or "")

    def problems_together(*layers: Mapping[str, Any]) -> Iterable[str]:
        return check(template.job_configuration, merge_variables(template, *layers)) if check else ()

    of_pool = [*value_problems(template, given.job_variables)] or [*problems_together(given.job_variables)]
    yield from of_pool
    for name, queue in given.queues.items():
        of_queue = [*value_problems(template, queue.job_variables)]
        if not of_pool and not of_queue:
            of_queue = [*problems_together(given.job_variables, queue.job_variables)]
        for problem in of_queue:
            yield f"work queue {name!r}: {problem}"


def _queues(given: Mapping[str, QueueDefinition]) -> tuple[WorkQueue, ...]:
    """Return the queues by priority. One that is not given a priority gets the lowest unused, in order."""
    given = given if DEFAULT_QUEUE in given else {DEFAULT_QUEUE: QueueDefinition(), **given}
    taken = {queue.priority for queue in given.values() if queue.priority is not None}
    queues = []
    for name, queue in given.items():
        priority = queue.priority or lowest_unused(taken)
        taken.add(priority)
        queues.append(
            WorkQueue(
                name=name,
                priority=priority,
                concurrency_limit=queue.concurrency_limit,
                description=queue.description,
                job_variables=queue.job_variables,
            )
        )
    return tuple(sorted(queues, key=lambda queue: queue.priority))
