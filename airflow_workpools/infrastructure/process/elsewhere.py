# SPDX-License-Identifier: Apache-2.0
"""Processes on a host whose log folder Airflow does not read: that of a standalone worker.

What a task writes goes to its job's standard output, and so into the job's directory; the worker reads it there and
sends it on, as it does with containers. Nothing of it stays on the host once the job's end is stored.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_workpools.infrastructure.process.infrastructure import ProcessInfrastructure, handle_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.infrastructure.base import Handle
    from airflow_workpools.infrastructure.process.files import JobExit

_LOOK_SECONDS = 0.25
"""So often it is looked for what a job has written."""


class ElsewhereProcessInfrastructure(ProcessInfrastructure):
    """Runs jobs as processes, and gives what they write to whoever follows it."""

    logs_to_output: ClassVar[bool] = True

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._ended: defaultdict[UUID, asyncio.Event] = defaultdict(asyncio.Event)
        """Jobs whose end is waited for by who follows their logs."""

    async def follow_log(self, handle: Handle, *, offset: int) -> AsyncIterator[bytes]:
        """Yield what a job writes from this byte on, until it has ended."""
        directory = self._directory(handle)
        while True:
            # Seen before what is there is read: what it wrote until its end is not missed.
            is_over = self._observe(handle).ended
            while part := directory.output(offset):
                offset += len(part)
                yield part
            if is_over:
                return
            await self._end_of(handle.job_id, seconds=_LOOK_SECONDS)

    async def _end_of(self, job_id: UUID, *, seconds: float) -> None:
        """Wait until a job has ended, so long at most."""
        ended = asyncio.ensure_future(self._ended[job_id].wait())
        try:
            await asyncio.wait({ended}, timeout=seconds)
        finally:
            ended.cancel()

    def _on_exit(self, job_id: UUID, exit_: JobExit) -> None:
        super()._on_exit(job_id, exit_)
        if job_id in self._ended:
            self._ended[job_id].set()

    async def left_behind(self, installation: str, *, before: datetime) -> Sequence[Handle]:
        """Return the jobs of an Airflow whose directories are in this home, and did not change since this time."""

        def look() -> list[Handle]:
            return [
                handle_of(job_id, directory, process)
                for job_id, directory in self._directories
                if directory.changed_at() < before.timestamp()
                and (process := directory.process()) is not None
                and process.labels.get("installation") == installation
            ]

        return await asyncio.to_thread(look)

    async def cleanup(self, handle: Handle) -> None:
        """Remove the job's directory, and with it what the job wrote."""
        self._ended.pop(handle.job_id, None)
        await super().cleanup(handle)
