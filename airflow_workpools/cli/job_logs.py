# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools jobs logs``: what a job wrote."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from airflow_workpools.cli.context import opened
from airflow_workpools.cli.output import reads
from airflow_workpools.core.jobs import ENDED
from airflow_workpools.core.logs import LogMark, lines_of, structured
from airflow_workpools.errors import NotFound
from airflow_workpools.infrastructure.registry import keeps_log
from airflow_workpools.task_logs import read_chunks

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from airflow_workpools.core.logs import LogChunk
    from airflow_workpools.store.protocol import JobStore
    from airflow_workpools.store.records import JobRecord

LOOK_SECONDS = 1.0


@reads
def logs(args: Namespace) -> None:
    """Print what a job wrote."""
    with opened() as context:
        store = context.store
        job = store.job(args.job)
    if not store.with_log([job.id]):
        _refuse_if_elsewhere(job)
    for line in structured(lines_of(_chunks(store, job, follow=args.follow))):
        print(line if args.output == "json" else _text(line), flush=args.follow)


def _refuse_if_elsewhere(job: JobRecord) -> None:
    """Say where the log of a job is that does not keep it to itself.

    :raises NotFound: if it is not here.
    """
    if job.handle is not None and not keeps_log(job.handle.kind):
        raise NotFound(
            f"the log of job {job.id} is not in the metadata database: jobs of type {job.handle.kind!r} write into "
            f"Airflow's log folder; look at task {job.task_id!r} of run {job.run_id!r} in Airflow's UI"
        )


def _chunks(store: JobStore, job: JobRecord, *, follow: bool) -> Iterator[LogChunk]:
    after: LogMark | None = None
    while True:
        ended = job.state in ENDED  # before the look, so that nothing comes between the two
        for chunk in read_chunks(store, job.id, after):
            after = chunk.mark
            yield chunk
        if ended or not follow:
            return
        time.sleep(LOOK_SECONDS)
        job = store.job(job.id)


def _text(line: str) -> str:
    """Make a line for people of a structured one."""
    try:
        fields: dict[str, Any] = json.loads(line)
        event = fields.pop("event")
    except (ValueError, KeyError, AttributeError):
        return line
    begin = [str(fields.pop(name)) for name in ("timestamp", "level") if fields.get(name) is not None]
    more = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return " ".join([*begin, str(event), *more])
