# SPDX-License-Identifier: Apache-2.0
"""From what the store knows to what the pool API answers, and back. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from airflow_workpools.api.pools import wire
from airflow_workpools.core.changes import Changes
from airflow_workpools.core.masking import masked
from airflow_workpools.core.pools import PoolSource, WorkPool
from airflow_workpools.store.pool_edits import is_writable, where_declared
from airflow_workpools.store.records import WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from enum import Enum

    from airflow_workpools.core.worker_tokens import WorkerToken
    from airflow_workpools.store.overview import PoolOverview, QueueOverview
    from airflow_workpools.store.records import JobCount, WorkerRecord

_PLACES = {
    PoolSource.DATABASE: "{} in Airflow's database",
    PoolSource.ENVIRONMENT: "environment variable {} of Airflow's processes",
    PoolSource.SECRETS: "{}",
    PoolSource.BUILTIN: "{}: a pool of this name can be created in its place",
}


def word(status: Enum) -> Any:
    """Return a status as the API says it."""
    return status.name


def pool_summary(
    found: PoolOverview, *, sparkline: Sequence[float], may_edit: bool, may_operate: bool
) -> wire.PoolSummary:
    return wire.PoolSummary(**_summary(found, sparkline, may_edit, may_operate))


def pool_detail(
    found: PoolOverview,
    *,
    sparkline: Sequence[float],
    may_edit: bool,
    may_operate: bool,
    show: Callable[[Mapping[str, Any]], dict[str, Any]],
    now: datetime,
) -> wire.PoolDetail:
    pool = found.pool if isinstance(found.pool, WorkPool) else None
    return wire.PoolDetail(
        **_summary(found, sparkline, may_edit, may_operate),
        start_timeout_seconds=pool.start_timeout_seconds if pool else None,
        start_attempts=pool.start_attempts if pool else None,
        infrastructure_conn_id=pool.infrastructure_conn_id if pool else None,
        job_variables=show(pool.job_variables) if pool else {},
        capacity=found.capacity.total,
        capacity_free=found.capacity.free,
        slots_free=found.free,
        queues=[queue_summary(queue, show=show) for queue in found.queues],
        as_of=now,
    )


def _summary(
    found: PoolOverview, sparkline: Sequence[float], may_edit: bool, may_operate: bool
) -> dict[str, Any]:
    pool = found.pool
    valid = pool if isinstance(pool, WorkPool) else None
    return {
        "name": pool.name,
        "type": valid.type if valid else None,
        "description": valid.description if valid else None,
        "status": word(found.status),
        "reason": found.reason,
        "source": pool.source,
        "declared_in": _PLACES[pool.source].format(where_declared(pool)),
        "read_only": not is_writable(pool),
        "team_name": pool.team_name,
        "paused": found.paused,
        "delivery": valid.delivery if valid else None,
        "concurrency_limit": found.limit,
        "slots_used": found.occupied,
        "running": found.running,
        "waiting": found.waiting,
        "workers_online": found.workers_online,
        "workers": sum(worker.state is not WorkerState.STOPPED for worker in found.workers),
        "queue_count": len(found.queues),
        "sparkline": list(sparkline),
        "may_edit": may_edit,
        "may_operate": may_operate,
    }


def queue_summary(
    found: QueueOverview, *, show: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> wire.QueueSummary:
    queue = found.queue
    return wire.QueueSummary(
        name=queue.name,
        priority=queue.priority,
        concurrency_limit=queue.concurrency_limit,
        description=queue.description,
        paused=found.paused,
        status=word(found.status),
        waiting=found.waiting,
        running=found.running,
        slots_used=found.occupied,
        last_polled_at=found.last_polled_at,
        job_variables=show(queue.job_variables),
        airflow_pool=found.ref.airflow_pool,
        airflow_slots=found.airflow_slots,
    )


def shown(variables: Mapping[str, Any], is_secret: Callable[[str], bool] | None) -> dict[str, Any]:
    """Return job variables, without secrets if there is something that tells what one is."""
    return dict(variables) if is_secret is None else dict(masked(variables, is_secret))


def worker_summary(worker: WorkerRecord, *, pool: str, holds: JobCount, now: datetime) -> wire.WorkerSummary:
    return wire.WorkerSummary(
        id=worker.id,
        name=worker.name,
        hostname=worker.hostname,
        kind=worker.kind.value,
        status=cast("wire.WorkerStatus", worker.status(now)),
        pools=None if worker.pools is None else list(worker.pools),
        queues=None if worker.queues is None else list(worker.queues),
        jobs=holds.jobs,
        slots_used=holds.slots,
        capacity=worker.slots,
        draining=worker.state is WorkerState.DRAINING,
        hindrance=worker.hindered.get(pool),
        team_name=worker.team_name,
        started_at=worker.started_at,
        last_polled_at=worker.last_heartbeat_at,
        version=worker.version,
    )


def token_data(token: WorkerToken, now: datetime) -> dict[str, Any]:
    return {
        "id": token.id,
        "pools": list(token.pools),
        "status": token.status(now),
        "description": token.description,
        "created_at": token.created_at,
        "created_by": token.created_by,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "last_used_at": token.last_used_at,
    }


# -- changes -------------------------------------------------------------------------------------------------


def pool_definition(request: wire.NewPool) -> dict[str, Any]:
    """Return the definition of a pool as its connection has it."""
    queues: dict[str, Any] = {}
    for queue in request.queues:
        queues[queue.name] = queue_definition(queue)
    return {
        "type": request.type,
        "concurrency_limit": request.concurrency_limit,
        "delivery": request.delivery.value,
        "start_timeout": request.start_timeout_seconds,
        "start_attempts": request.start_attempts,
        "infrastructure_conn_id": request.infrastructure_conn_id,
        "job_variables": request.job_variables or None,
        "base_job_template": request.base_job_template,
        "queues": queues or None,
    }


def queue_definition(queue: wire.NewQueue) -> dict[str, Any]:
    return {
        "priority": queue.priority,
        "concurrency_limit": queue.concurrency_limit,
        "description": queue.description,
        "job_variables": queue.job_variables or None,
    }


_POOL_KEYS = {
    "type": "type",
    "concurrency_limit": "concurrency_limit",
    "delivery": "delivery",
    "start_timeout_seconds": "start_timeout",
    "start_attempts": "start_attempts",
    "infrastructure_conn_id": "infrastructure_conn_id",
}
_QUEUE_KEYS = {"priority": "priority", "concurrency_limit": "concurrency_limit", "description": "description"}


def pool_changes(request: wire.PoolChange) -> Changes:
    return _changes(request, _POOL_KEYS)


def queue_changes(request: wire.QueueChange) -> Changes:
    return _changes(request, _QUEUE_KEYS)


def new_queue_changes(request: wire.NewQueue) -> Changes:
    said = request.model_fields_set & _QUEUE_KEYS.keys()
    return Changes(
        keys={_QUEUE_KEYS[name]: value for name in said if (value := getattr(request, name)) is not None},
        set_variables=request.job_variables,
    )


def _changes(request: wire.PoolChange | wire.QueueChange, keys: Mapping[str, str]) -> Changes:
    said = request.model_dump(mode="json", include=request.model_fields_set & keys.keys())
    return Changes(
        keys={keys[name]: value for name, value in said.items()},
        set_variables=request.set_job_variables,
        unset_variables=tuple(request.unset_job_variables),
    )
