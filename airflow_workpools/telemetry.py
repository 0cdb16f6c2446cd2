# SPDX-License-Identifier: Apache-2.0
"""Telling people what happened to a job, in the places where they look."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_workpools.store.records import EndedJob

log = logging.getLogger(__name__)


def write_reason(job: EndedJob, *, now: datetime) -> None:
    """Add a job's reason to its task's log, in Airflow's structured form.

    The log of a task that never started has nothing else in it. A log that can't be written costs the
    line, not more: the reason stands in Airflow's event log, too.
    """
    log.warning(
        "Job %s of %s.%s (%s) %s: %s", job.id, job.dag_id, job.task_id, job.ref, job.state, job.reason
    )
    if job.log_path is not None:
        add_to_log(job.log_path, f"Work queue {job.ref}: {job.reason}", now=now)


def add_to_log(log_path: str, event: str, *, now: datetime) -> None:
    """Add an error to a log that people look at in the UI. One that can't be written costs the line, not more."""
    line = {"timestamp": now.isoformat(), "level": "error", "event": event, "logger": "airflow_workpools"}
    path = Path(_log_folder(), log_path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        log.warning("Could not write into the log %s: %s: %s", path, event, error)


def _log_folder() -> str:
    from airflow.configuration import conf

    return str(conf.get("logging", "base_log_folder"))
