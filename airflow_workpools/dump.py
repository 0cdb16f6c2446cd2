# SPDX-License-Identifier: Apache-2.0
"""What the executor says of itself when somebody sends the scheduler SIGUSR2: all in one entry of its log.

Written in the signal's handler, in the middle of whatever the scheduler was doing. So what has to be read is read in
a thread, and only for some seconds: whatever lock the interrupted code holds, the rest is told.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import psutil

from airflow_workpools.store.records import WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_workpools.duties import Duties
    from airflow_workpools.store.overview import PoolOverview
    from airflow_workpools.store.records import RunState, WorkerRecord

WORKERS_HEARD_FOR = timedelta(days=1)
"""Workers that have stopped, or were not heard of for so long, are only counted."""
READ_SECONDS = 5.0
"""Longest time that the dump waits for the database."""


@dataclass
class DutyRecord:
    """How the executor's duties have gone.

    :param monotonic: seconds that never go back.
    """

    monotonic: Callable[[], float] = time.monotonic
    _failures: dict[str, tuple[float, int, str]] = field(default_factory=dict)

    def failed(self, name: str, error: Exception) -> None:
        """Note that a duty failed."""
        _, times, _ = self._failures.get(name, (0.0, 0, ""))
        self._failures[name] = (self.monotonic(), times + 1, f"{type(error).__name__}: {error}")

    def failures(self, in_a_row: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """Return the last failure of each duty that ever failed.

        :param in_a_row: of duties that fail now, how often they have failed since they last went well.
        """
        now = self.monotonic()
        return {
            name: {
                "last_failure": error,
                "seconds_ago": round(now - at, 1),
                "failures": times,
                "in_a_row_now": in_a_row.get(name, 0),
            }
            for name, (at, times, error) in self._failures.items()
        }


def dump(
    duties: Duties, *, record: DutyRecord, in_a_row: Mapping[str, int], worker_pid: int | None, jobs: int
) -> str:
    """Return what is known, as JSON for people.

    :param in_a_row: how often each duty that fails now has failed since it last went well.
    :param worker_pid: the embedded worker's process, if there is one.
    :param jobs: how many tasks this executor counts as its own.
    """
    known = {
        "scheduler_job_id": duties.scheduler_job_id,
        "tasks_of_this_scheduler": jobs,
        "seconds_since": duties.ages(time.monotonic()),
        "failures": record.failures(in_a_row),
        "problems": dict(duties.problems()),
        "embedded_worker": _processes(worker_pid),
        **_read_for_a_while(lambda: _of_store(duties), seconds=READ_SECONDS),
    }
    return json.dumps(known, indent=1, default=str)


def _read_for_a_while(read: Callable[[], dict[str, Any]], *, seconds: float) -> dict[str, Any]:
    """Return what ``read`` returns, or why it did not."""
    found: dict[str, Any] = {"pools": f"not read: the database did not answer within {seconds:g} s"}

    def work() -> None:
        try:
            read_now = read()
        except Exception as error:
            read_now = {"pools": f"not read: {type(error).__name__}: {error}"}
        found.update(read_now)

    thread = threading.Thread(target=work, name="work pools: debug dump", daemon=True)
    thread.start()
    thread.join(seconds)
    return dict(found)


def _of_store(duties: Duties) -> dict[str, Any]:
    now = datetime.now(timezone.utc)
    run_state = duties.store.run_state(now=now)
    shown = [worker for worker in run_state.workers if _may_live(worker, now)]
    return {
        "pools": {pool.pool.name: _pool(pool) for pool in duties.overview(run_state)},
        "workers": [_worker(worker, run_state) for worker in shown],
        "workers_of_the_past": len(run_state.workers) - len(shown),
    }


def _may_live(worker: WorkerRecord, now: datetime) -> bool:
    return worker.state is not WorkerState.STOPPED and now - worker.last_heartbeat_at < WORKERS_HEARD_FOR


def _pool(pool: PoolOverview) -> dict[str, Any]:
    if pool.reason is not None and pool.hindrance is None and pool.no_worker is None:
        return {"status": str(pool.status), "paused": pool.paused, "reason": pool.reason}
    return {
        "status": str(pool.status),
        "paused": pool.paused,
        **({"reason": pool.reason} if pool.reason else {}),
        "limit": pool.limit,
        "held": pool.occupied,
        "waiting": pool.waiting,
        "workers_online": pool.workers_online,
        "capacity": pool.capacity.total,
        "capacity_free": pool.capacity.free,
        "queues": {
            queue.ref.queue: {
                "status": str(queue.status),
                "paused": queue.paused,
                "limit": queue.queue.concurrency_limit,
                "held": queue.occupied,
                "pending": queue.pending,
                "capacity_free": pool.capacity.free_of_queues.get(queue.ref.queue, 0),
                "scheduled": queue.scheduled,
            }
            for queue in pool.queues
        },
    }


def _worker(worker: WorkerRecord, run_state: RunState) -> dict[str, Any]:
    return {
        "name": worker.name,
        "state": str(worker.state),
        "online": worker.online(run_state.as_of),
        "heartbeat_seconds_ago": round((run_state.as_of - worker.last_heartbeat_at).total_seconds(), 1),
        "pools": "all push pools" if worker.pools is None else list(worker.pools),
        "queues": None if worker.queues is None else list(worker.queues),
        "slots": worker.slots,
        "version": worker.version,
        "hindered": dict(worker.hindered),
    }


def _processes(worker_pid: int | None) -> dict[str, Any]:
    """Say what runs of the embedded worker: itself, and its children, which are the runners of its jobs."""
    if worker_pid is None:
        return {"pid": None, "status": "not running; it is started again after a delay"}
    with contextlib.suppress(psutil.Error):
        worker = psutil.Process(worker_pid)
        children = {child.pid: " ".join(child.cmdline()) for child in worker.children()}
        return {"pid": worker_pid, "status": worker.status(), "children": children}
    return {"pid": worker_pid, "status": "gone"}
