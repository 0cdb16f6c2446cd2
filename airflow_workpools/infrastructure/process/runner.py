# SPDX-License-Identifier: Apache-2.0
"""The runner: a warm process with one thread that forks one process per job.

Everything a task needs is imported once, before the first job; a job is then one ``fork`` away and shares
that memory page by page. There is no pool of idle processes: what waits is only the runner.

The runner outlives nothing and nobody depends on it: jobs have sessions and files of their own. When its
worker goes away it takes no new work, goes on reaping its jobs, so that each has its exit written down, and
ends with the last.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from airflow_workpools.airflow_private.telemetry import end_inherited_telemetry
from airflow_workpools.infrastructure.process import frames
from airflow_workpools.infrastructure.process.files import JobDirectory, JobExit
from airflow_workpools.infrastructure.process.independence import become_independent, settle_memory
from airflow_workpools.infrastructure.process.job import (
    BEGUN,
    LAUNCHED,
    LaunchRequest,
    Progress,
    Task,
    now_text,
    redirect_output,
    run_job,
)
from airflow_workpools.infrastructure.process.proc import ProcessIdentity, kill_family

if TYPE_CHECKING:
    from collections.abc import Callable

AIRFLOW_TASK = "airflow_workpools.infrastructure.process.workload:AirflowTask"
"""Where the task is that runs Airflow's workloads."""

_READ_SIZE = 1 << 16
MAX_STARTING = max(4, 2 * (os.cpu_count() or 1))
"""Most jobs that are busy with their start at a time: enough to keep every processor at work."""
MAX_START_SECONDS = 2.0
"""A job whose start takes longer keeps no other waiting: its DAG file waits for something, or the API server does."""


@dataclass
class _Child:
    """A process that was forked to run a job."""

    job_id: UUID
    directory: JobDirectory
    identity: ProcessIdentity
    kill_at: float | None = None
    """When its grace is over, in monotonic seconds."""


@dataclass
class _Start:
    """What is known of a job between its fork and the first line of its own code."""

    job_id: UUID
    counts_until: float
    """Until when it keeps others from starting, in monotonic seconds: it may never say how far it is."""
    has_answered: bool = False
    """Whether the worker has been told what came of the launch."""


class Runner:
    """Serves one worker, through a socket, until it and the last job are gone.

    :param connection: the runner's end of a socket pair; it becomes the runner's own.
    """

    def __init__(self, connection: socket.socket, task: Task) -> None:
        self._task = task
        self._connection: socket.socket | None = connection
        self._selector = selectors.DefaultSelector()
        self._frames = frames.FrameBuffer()
        self._unsent = bytearray()
        self._children: dict[int, _Child] = {}
        self._waiting: deque[LaunchRequest] = deque()
        self._starts: dict[int, _Start] = {}
        """Jobs on their way from the fork to their own code, by the descriptor on which they tell of it."""
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    # -- the loop -------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Work until the worker and the last job are gone."""
        assert self._connection is not None
        self._connection.setblocking(False)
        self._selector.register(self._connection, selectors.EVENT_READ, self._on_worker)
        self._selector.register(self._woken, selectors.EVENT_READ, self._on_signal)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        # Handlers that do nothing: what counts is the byte that each signal puts into the pipe.
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, _nothing)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while self._connection is not None or self._children:
            for key, events in self._selector.select(self._seconds_to_next_deadline()):
                key.data(key.fd, events)
            self._kill_overdue()
            self._launch_waiting()

    def _on_signal(self, descriptor: int, _events: int) -> None:
        numbers = os.read(descriptor, _READ_SIZE)
        if signal.SIGTERM in numbers:
            self._leave_worker()
        self._reap()

    # -- the worker -----------------------------------------------------------------------------------------

    def _on_worker(self, _descriptor: int, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send_rest()
        if not events & selectors.EVENT_READ or self._connection is None:
            return
        # All that was said is read before any of it is done: what a worker asked for that is gone by now,
        # another worker has been asked for too.
        data, is_gone = _read_all(self._connection)
        if is_gone:
            self._leave_worker()
        for frame in self._frames.feed(data):
            if frame["type"] == "stop":
                self._stop(UUID(frame["job_id"]), frame["grace_seconds"])
            elif self._connection is not None:
                self._launch(frame)

    def _leave_worker(self) -> None:
        """The worker is gone, or wants the runner to go: no new work from now on."""
        if self._connection is not None:
            self._selector.unregister(self._connection)
            self._connection.close()
            self._connection = None
            self._waiting.clear()
            # Whoever started the worker may wait until nobody holds its output open any more.
            redirect_output(os.open(os.devnull, os.O_WRONLY))

    def _tell(self, type_: str, job_id: UUID, **values: Any) -> None:
        if self._connection is not None:
            self._unsent += frames.encode({"type": type_, "job_id": str(job_id), **values})
            self._send_rest()

    def _send_rest(self) -> None:
        """Send as much as the worker takes now; the rest waits for it, and the runner does not."""
        assert self._connection is not None
        try:
            while self._unsent:
                del self._unsent[: self._connection.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._leave_worker()
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        self._selector.modify(self._connection, wanted, self._on_worker)

    # -- launching ------------------------------------------------------------------------------------------

    def _launch(self, frame: frames.Frame) -> None:
        try:
            self._waiting.append(LaunchRequest.from_frame(frame))
        except ValueError as error:
            self._tell("failed", UUID(frame["job_id"]), reason=str(error))

    def _launch_waiting(self) -> None:
        """Launch what waits, in its order, as long as few enough jobs are busy with their start.

        Starting a job is nothing but work for the processor, here and in the API server. Many at a time gain nothing:
        each takes longer, and the API server, one process among all of them, opens a database connection for every
        request that piles up.
        """
        now = time.monotonic()
        starting = sum(start.counts_until > now for start in self._starts.values())
        while self._waiting and starting < MAX_STARTING:
            starting += self._fork(self._waiting.popleft())

    def _fork(self, request: LaunchRequest) -> bool:
        try:
            told_at, tell_to = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            self._tell("failed", request.job_id, reason=str(error))
            return False
        # A signal that the child got while it has the runner's handlers would be taken for the runner's.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                os.close(told_at)
                self._run_in_child(request, tell_to)
        except OSError as error:
            os.close(told_at)
            self._tell("failed", request.job_id, reason=f"no process could be forked: {error.strerror}")
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.close(tell_to)
        identity = ProcessIdentity.of(pid)
        assert identity is not None, "a child that was not reaped is always to be seen"
        self._children[pid] = _Child(request.job_id, JobDirectory(request.directory), identity)
        self._starts[told_at] = _Start(request.job_id, time.monotonic() + MAX_START_SECONDS)
        self._selector.register(told_at, selectors.EVENT_READ, self._on_start)
        return True

    def _run_in_child(self, request: LaunchRequest, tell_to: int) -> NoReturn:
        """Let go of what is the runner's, then be the job."""
        try:
            self._selector.close()
            for descriptor in (self._woken, self._wake, *self._starts):
                os.close(descriptor)
            if self._connection is not None:
                self._connection.close()
            run_job(request, self._task, Progress(tell_to))
        finally:
            os._exit(1)

    def _on_start(self, descriptor: int, _events: int) -> None:
        """Pass on what a job says about its start. Nothing: its process died before it could say anything."""
        start = self._starts[descriptor]
        # A line is shorter than what a pipe takes at once, so none comes in parts.
        lines = os.read(descriptor, _READ_SIZE).splitlines()
        is_over = not lines
        for line in lines:
            step = json.loads(line)
            is_over = step["type"] != LAUNCHED
            if step["type"] != BEGUN:
                start.has_answered = True
                self._tell(step["type"], start.job_id, reason=step["reason"])
        if not start.has_answered:
            self._tell("failed", start.job_id, reason="its process died while it started")
        if is_over:
            self._selector.unregister(descriptor)
            os.close(descriptor)
            del self._starts[descriptor]

    # -- the end of jobs ------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Bury every child that has ended, after its exit was written down: until then the pid is its own."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            child = self._children.pop(ended.si_pid, None)
            exit_ = self._write_exit(child, code) if child is not None else None
            os.waitpid(ended.si_pid, 0)
            if child is not None and exit_ is not None:
                self._tell("exited", child.job_id, exit=exit_.to_values())

    def _write_exit(self, child: _Child, code: int) -> JobExit | None:
        """Make sure that the job's exit is on disk; None if this process was not the one that ran the job."""
        if code < 0 or child.kill_at is not None:
            kill_family(child.identity.pid)  # a leader that died or was stopped leaves nobody behind
        process = child.directory.process()
        if process is None or process.identity != child.identity:
            return None
        exit_ = child.directory.exit()
        if exit_ is None:
            exit_ = JobExit(exit_code=code, ended_at=now_text())
            with contextlib.suppress(OSError):  # a full disk: the worker, if it is there, is told anyway
                child.directory.record_exit(exit_)
        return exit_

    # -- stopping -------------------------------------------------------------------------------------------

    def _stop(self, job_id: UUID, grace_seconds: float) -> None:
        """Ask a job to end. Only its first process is asked: that passes it on to the task, once."""
        for pid, child in self._children.items():
            if child.job_id == job_id:
                kill_at = time.monotonic() + grace_seconds
                if child.kill_at is None:
                    child.kill_at = kill_at
                    os.kill(pid, signal.SIGTERM)  # it was not reaped: the pid is its own
                child.kill_at = min(kill_at, child.kill_at)

    def _seconds_to_next_deadline(self) -> float | None:
        times = [child.kill_at for child in self._children.values() if child.kill_at is not None]
        if self._waiting:
            times += [start.counts_until for start in self._starts.values()]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for pid, child in self._children.items():
            if child.kill_at is not None and child.kill_at <= now:
                kill_family(pid)
                child.kill_at = now + 1.0  # looked at again: a process in an uninterruptible call dies later


def _read_all(connection: socket.socket) -> tuple[bytes, bool]:
    """Return what can be read now, and whether the other end is gone."""
    data = bytearray()
    try:
        while piece := connection.recv(_READ_SIZE):
            data += piece
    except BlockingIOError:
        return bytes(data), False
    except OSError:
        pass
    return bytes(data), True


def _nothing(_number: int, _frame: object) -> None:
    pass


# -- becoming the runner ------------------------------------------------------------------------------------


def run_as_runner(connection: socket.socket, make_task: Callable[[], Task]) -> NoReturn:
    """Turn this process into a runner; never returns."""
    code = 1
    try:
        become_independent(keep=connection.fileno())
        task = make_task()
        task.warm_up()
        end_inherited_telemetry()
        settle_memory()
        Runner(connection, task).serve()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def main() -> NoReturn:
    """``python -m airflow_workpools.infrastructure.process.runner DESCRIPTOR [MODULE:NAME]``."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    run_as_runner(connection, lambda: load_task(*sys.argv[2:]))


def load_task(where: str = AIRFLOW_TASK) -> Task:
    """Return the task that ``module:name`` says, or the one that runs Airflow's workloads."""
    import importlib

    module, _, name = where.partition(":")
    task: Task = getattr(importlib.import_module(module), name)()
    return task


if __name__ == "__main__":
    main()
