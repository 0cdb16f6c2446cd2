# SPDX-License-Identifier: Apache-2.0
"""Telling people what happened to a job, in the places where they look."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_workpools.core.logs import own_line
from airflow_workpools.infrastructure.registry import keeps_log

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.store.protocol import LogStore
    from airflow_workpools.store.records import EndedJob

log = logging.getLogger(__name__)


def write_reasons(
    jobs: Iterable[EndedJob], store: LogStore, *, kinds: Mapping[str, str], now: datetime
) -> None:
    """Add jobs' reasons to their tasks' logs, in Airflow's structured form.

    The log of a task that never started has nothing else in it. A log that can't be written costs the
    line, not more: the reason stands in Airflow's event log, too.

    :param kinds: the types of work pools: of some, the logs of jobs are in the store.
    """
    in_store: dict[UUID, bytes] = {}
    for job in jobs:
        log.warning(
            "Job %s of %s.%s (%s) %s: %s", job.id, job.dag_id, job.task_id, job.ref, job.state, job.reason
        )
        event, kind = f"Work queue {job.ref}: {job.reason}", kinds.get(job.ref.pool)
        if kind is not None and keeps_log(kind):
            in_store[job.id] = own_line(event, level="error", now=now)
        elif job.log_path is not None:
            add_to_log(job.log_path, event, now=now)
    try:
        store.add_reasons(in_store)
    except Exception:
        log.exception("The reasons of %d jobs could not be added to their logs", len(in_store))


def add_to_log(log_path: str, event: str, *, now: datetime) -> None:
    """Add an error to a log that people look at in the UI. One that can't be written costs the line, not more."""
    path = Path(_log_folder(), log_path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(own_line(event, level="error", now=now))
    except OSError as error:
        log.warning("Could not write into the log %s: %s: %s", path, event, error)


def _log_folder() -> str:
    from airflow.configuration import conf

    return str(conf.get("logging", "base_log_folder"))
