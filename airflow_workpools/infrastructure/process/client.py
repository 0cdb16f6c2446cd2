# SPDX-License-Identifier: Apache-2.0
"""The worker's side of the runner."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING
from uuid import UUID

from airflow_workpools.errors import InfrastructureUnavailable, LaunchRejected
from airflow_workpools.infrastructure.process import frames
from airflow_workpools.infrastructure.process.files import JobExit

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_workpools.infrastructure.process.job import LaunchRequest, Task


class ProcessRunner:
    """A runner, seen from its worker. Made by :meth:`fork` or :meth:`spawn`."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self._connection = connection
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None
        self._launching: dict[UUID, asyncio.Future[frames.Frame]] = {}
        self.lost = False

    @classmethod
    def fork(cls, task: Callable[[], Task] | None = None) -> ProcessRunner:
        """Fork a runner from this process, which must have one thread, no event loop and no connections.

        :param task: makes what the jobs do; called in the runner.
        """
        from airflow_workpools.infrastructure.process.runner import load_task, run_as_runner

        ours, theirs = socket.socketpair()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            run_as_runner(theirs, task or load_task)
        theirs.close()
        return cls(ours, pid)

    @classmethod
    def spawn(cls, task: str | None = None) -> ProcessRunner:
        """Start a runner as a program of its own: possible at any time, at the price of a cold start.

        :param task: ``module:name`` of what makes what the jobs do.
        """
        ours, theirs = socket.socketpair()
        module = "airflow_workpools.infrastructure.process.runner"
        command = [sys.executable, "-m", module, str(theirs.fileno()), *([task] if task else [])]
        with theirs:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )
        # It is waited for below, by its pid; Popen must not do it too, nor complain that nobody did.
        process.returncode = 0
        return cls(ours, process.pid)

    async def connect(self, on_exit: Callable[[UUID, JobExit], None], on_lost: Callable[[], None]) -> None:
        """Begin to listen.

        :param on_exit: called when a job that this runner launched has ended.
        :param on_lost: called when the runner is gone.
        """
        reader, self._writer = await asyncio.open_unix_connection(sock=self._connection)
        self._listener = asyncio.create_task(
            self._listen(reader, on_exit, on_lost), name=f"process runner {self.pid}"
        )

    async def launch(self, request: LaunchRequest) -> bool:
        """Have a job launched; False if another process runs it, or ran it, already.

        :raises LaunchRejected: if it can never start.
        :raises InfrastructureUnavailable: if it did not start now.
        """
        waiting = self._launching.get(request.job_id)
        if waiting is None:
            waiting = self._launching[request.job_id] = asyncio.get_running_loop().create_future()
            try:
                await self._send(request.to_frame())
            except InfrastructureUnavailable:
                del self._launching[request.job_id]
                raise
        answer = await asyncio.shield(waiting)
        if answer["type"] == "rejected":
            raise LaunchRejected(answer["reason"])
        if answer["type"] == "failed":
            raise InfrastructureUnavailable(f"the job's process could not be started: {answer['reason']}")
        return bool(answer["type"] == "launched")

    async def stop(self, job_id: UUID, *, grace_seconds: float) -> None:
        """Have a job stopped that this runner launched."""
        await self._send({"type": "stop", "job_id": str(job_id), "grace_seconds": grace_seconds})

    async def close(self) -> None:
        """Let the runner go: it ends when its last job has."""
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        self._connection.close()

    async def _send(self, frame: frames.Frame) -> None:
        if self._writer is None or self.lost:
            raise InfrastructureUnavailable("the process runner is not there")
        try:
            self._writer.write(frames.encode(frame))
            await self._writer.drain()
        except OSError as error:
            raise InfrastructureUnavailable(f"the process runner does not answer: {error}") from error

    async def _listen(
        self,
        reader: asyncio.StreamReader,
        on_exit: Callable[[UUID, JobExit], None],
        on_lost: Callable[[], None],
    ) -> None:
        # Whatever the runner said before it ended is heard first.
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                length = frames.body_length(await reader.readexactly(frames.HEADER))
                self._hear(frames.decode(await reader.readexactly(length)), on_exit)
        self.lost = True
        for waiting in self._launching.values():
            if not waiting.done():
                waiting.set_exception(InfrastructureUnavailable("the process runner ended meanwhile"))
                waiting.exception()  # whoever waited may have gone
        self._launching.clear()
        on_lost()
        with contextlib.suppress(ChildProcessError):
            await asyncio.to_thread(os.waitpid, self.pid, 0)

    def _hear(self, frame: frames.Frame, on_exit: Callable[[UUID, JobExit], None]) -> None:
        job_id = UUID(frame["job_id"])
        if frame["type"] == "exited":
            on_exit(job_id, JobExit(**frame["exit"]))
            return
        waiting = self._launching.pop(job_id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(frame)
