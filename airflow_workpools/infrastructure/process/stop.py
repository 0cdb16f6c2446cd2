# SPDX-License-Identifier: Apache-2.0
"""Stops a job that no runner of this worker launched. A runner stops its own jobs itself."""

from __future__ import annotations

import asyncio
import signal

from airflow_workpools.infrastructure.process.files import JobDirectory, JobExit
from airflow_workpools.infrastructure.process.job import now_text
from airflow_workpools.infrastructure.process.proc import ProcessIdentity, kill_family
from airflow_workpools.infrastructure.process.watch import EndWatch


async def stop_process(identity: ProcessIdentity, directory: JobDirectory, *, grace_seconds: float) -> None:
    """Ask a job's first process to end; when the grace is over, kill it with everything it started."""
    watch = EndWatch(identity, _nothing)
    try:
        if not identity.signal(signal.SIGTERM):
            return
        try:
            await asyncio.wait_for(watch.wait(), grace_seconds)
        except asyncio.TimeoutError:
            if identity.stat() is None:
                return
            kill_family(identity.pid)
            await watch.wait()
            # Perhaps nobody is left who would see how it ended. We know.
            directory.record_exit(JobExit(exit_code=-signal.SIGKILL, ended_at=now_text()))
    finally:
        watch.close()


def _nothing() -> None:
    pass
