# SPDX-License-Identifier: Apache-2.0
"""Tasks that a person marks as ended, or whose run is: what runs them is stopped as soon as that is stored.

A listener of Airflow's. It is called in the API server for each task instance that is marked, and wherever a task
ends by itself; of that the executor hears otherwise. A process whose task is over may be finishing, so the executor
waits with it; of a task that was marked nothing is to be finished. Should this not come through, Airflow tells the
task's own supervisor with its next heartbeat, and the executor notices after its grace.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.orm import Session

log = logging.getLogger(__name__)

_MARKED = "airflow_workpools.marked"
"""Where a session keeps what it has marked, by the new state, until it is committed."""


@hookimpl  # type: ignore[untyped-decorator]
def on_task_instance_success(previous_state: Any, task_instance: Any) -> None:
    """Airflow calls it when a task has succeeded, or was marked so."""
    _note(previous_state, task_instance, "success")


@hookimpl  # type: ignore[untyped-decorator]
def on_task_instance_failed(previous_state: Any, task_instance: Any) -> None:
    """Airflow calls it when a task has failed, or was marked so."""
    _note(previous_state, task_instance, "failed")


@hookimpl  # type: ignore[untyped-decorator]
def on_task_instance_skipped(previous_state: Any, task_instance: Any) -> None:
    """Airflow calls it when a task has skipped itself, or was marked so."""
    _note(previous_state, task_instance, "skipped")


def _note(previous_state: Any, task_instance: Any, state: str) -> None:
    """Have the jobs of a task instance stopped that was marked, as soon as the mark is stored.

    Not before: a job's row must not be locked by a request that waits for others, nor a request fail because of it.
    """
    if previous_state is not None:  # it came to its end by itself; of a mark Airflow tells no state before
        return
    from sqlalchemy import event
    from sqlalchemy.orm import object_session

    session = object_session(task_instance)
    if session is None:
        return
    if not event.contains(session, "after_commit", _stop_marked):
        event.listen(session, "after_commit", _stop_marked)
        event.listen(session, "after_rollback", _forget)
    session.info.setdefault(_MARKED, {}).setdefault(state, set()).add(task_instance.id)


def _forget(session: Session) -> None:
    session.info.pop(_MARKED, None)


def _stop_marked(session: Session) -> None:
    if session.in_nested_transaction():  # a savepoint: what it holds is not stored yet
        return
    marked: dict[str, set[UUID]] = session.info.pop(_MARKED, {})
    try:
        for state, ids in marked.items():
            _stop(ids, state)
    except Exception:  # the mark itself is stored, and whoever asked for it is to hear that
        log.exception("Jobs of tasks that were marked are stopped some seconds later")


def _stop(task_instance_ids: set[UUID], state: str) -> None:
    from airflow_workpools.dags.executors import work_pool_executor
    from airflow_workpools.store import rules
    from airflow_workpools.store.clock import database_time
    from airflow_workpools.store.jobs import SqlStore
    from airflow_workpools.store.sessions import airflow_session

    if work_pool_executor() is None:  # there may be no table of jobs
        return
    with airflow_session() as session:
        now = database_time(session)
    reason = f"{rules.TASK_INSTANCE_IS_NOW}{state}"
    SqlStore().request_cancel(task_instance_ids=task_instance_ids, reason=reason, now=now)
