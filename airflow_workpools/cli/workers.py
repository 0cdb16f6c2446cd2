# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools worker …``: who runs the jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.cli.context import opened
from airflow_workpools.cli.output import reads, show_rows
from airflow_workpools.store.records import JobCount, WorkerState

if TYPE_CHECKING:
    from argparse import Namespace
    from datetime import datetime

    from airflow_workpools.store.records import WorkerRecord

_NONE = JobCount(0, 0)


@reads
def list_workers(args: Namespace) -> None:
    """List workers, in the order in which they started."""
    with opened() as context:
        if args.pool is None:
            workers = context.store.run_state(now=context.now).workers
        else:
            (pool,) = context.overview(args.pool)
            workers = pool.workers
        busy = context.store.worker_counts()
        rows = [
            _row(worker, busy.get(worker.id, _NONE), context.now)
            for worker in workers
            if args.all or worker.state is not WorkerState.STOPPED or worker.id in busy
        ]
    show_rows(rows, args.output)


def _row(worker: WorkerRecord, holds: JobCount, now: datetime) -> dict[str, Any]:
    known = worker_data(worker, now)
    pools = "all push pools" if worker.pools is None else list(worker.pools)
    return {
        "name": known["name"],
        "status": known["status"],
        "kind": known["kind"],
        "hostname": known["hostname"],
        "pools": pools,
        "team_name": known["team_name"],
        "jobs": holds.jobs,
        "slots_used": holds.slots,
        "slots": known["slots"],
        "last_heartbeat_at": known["last_heartbeat_at"],
        "started_at": known["started_at"],
        "version": known["version"],
        "id": known["id"],
    }


def worker_data(worker: WorkerRecord, now: datetime) -> dict[str, Any]:
    """Return what is known of a worker, as JSON."""
    return {
        "id": str(worker.id),
        "name": worker.name,
        "hostname": worker.hostname,
        "kind": worker.kind.value,
        "status": _status(worker, now),
        "slots": worker.slots,
        "team_name": worker.team_name,
        "started_at": worker.started_at.isoformat(),
        "last_heartbeat_at": worker.last_heartbeat_at.isoformat(),
        "version": worker.version,
        "hindered": dict(worker.hindered),
    }


def _status(worker: WorkerRecord, now: datetime) -> str:
    if worker.state is not WorkerState.STOPPED and worker.silent(now):
        return "OFFLINE"
    return worker.state.name
