# SPDX-License-Identifier: Apache-2.0
"""What happens inside the process that runs one job, from the fork to its end.

The order is the point of it. Everything that can be refused is done first and leaves nothing behind; then the
job is claimed by its ``pid`` file; from there on only the task runs. Wherever the process dies:

==============================  ============================================================================
it dies                         so
==============================  ============================================================================
before the ``pid`` file exists  nothing has run; the next launch starts afresh
after it                        nobody launches it again; the runner that reaps it writes how it ended, and if
                                that is gone too the job is seen as gone
==============================  ============================================================================
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import resource
import signal
import sys
import traceback
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from uuid import UUID

from airflow_workpools.errors import LaunchRejected
from airflow_workpools.infrastructure.process.files import JobDirectory, JobExit, JobProcess, write_exit
from airflow_workpools.infrastructure.process.proc import ProcessIdentity
from airflow_workpools.infrastructure.process.variables import ProcessVariables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MB = 1024 * 1024
_MEMORY_TO_START_MB = 32
"""What a job needs beyond what its process starts with, or it could not even say that it lacks memory."""


class Task(Protocol):
    """What a job does. There is one for Airflow's workloads; tests bring their own."""

    def warm_up(self) -> None:
        """Do once, before any job is forked, what every job would have to do; imports above all."""
        ...

    def prepare(self, request: LaunchRequest, user: pwd.struct_passwd | None) -> None:
        """Do what needs the worker's rights.

        :param user: as whom the job will run, if not as the worker's user.
        """
        ...

    def run(self, request: LaunchRequest, on_begun: Callable[[], None]) -> int:
        """Run the job and return its exit code.

        :param on_begun: to be called when the job's own code is about to run. Until then, or until the job has
            ended, it counts as one that starts, of which there are only some at a time.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """What a runner is told to run."""

    job_id: UUID
    directory: Path
    variables: ProcessVariables
    workload: str = field(repr=False)
    server: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 0
    log_to_output: bool = False
    """Whether the task's log goes to standard output, instead of into Airflow's log folder."""

    @classmethod
    def from_frame(cls, frame: Mapping[str, Any]) -> LaunchRequest:
        """Read the frame that :meth:`to_frame` wrote."""
        return cls(
            job_id=UUID(frame["job_id"]),
            directory=Path(frame["directory"]),
            variables=ProcessVariables.model_validate(frame["variables"]),
            workload=frame["workload"],
            server=frame["server"],
            labels=frame["labels"],
            attempt=frame["attempt"],
            log_to_output=frame["log_to_output"],
        )

    def to_frame(self) -> dict[str, Any]:
        return {
            "type": "launch",
            "job_id": str(self.job_id),
            "directory": str(self.directory),
            "variables": self.variables.model_dump(mode="json"),
            "workload": self.workload,
            "server": self.server,
            "labels": dict(self.labels),
            "attempt": self.attempt,
            "log_to_output": self.log_to_output,
        }


LAUNCHED, BEGUN = "launched", "begun"
"""The steps of a start that goes well."""


class Progress:
    """Tells the runner how far the job's start is, a JSON object per line.

    :param descriptor: the writing end of a pipe; closed with the last step, and never passed on to other processes.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        os.register_at_fork(after_in_child=self._close)

    def tell(self, type_: str, reason: str | None = None, *, last: bool = True) -> None:
        """Tell a step; nothing once the last one was told."""
        if self._descriptor is not None:
            with contextlib.suppress(BrokenPipeError):  # the runner is gone; the job goes on
                os.write(self._descriptor, json.dumps({"type": type_, "reason": reason}).encode() + b"\n")
            if last:
                self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def run_job(request: LaunchRequest, task: Task, progress: Progress) -> NoReturn:
    """Be the job: never returns, and runs nothing of what the process was before the fork."""
    code = 1
    try:
        os.setsid()
        reset_signals()
        _reseed()
        code = _launch(request, task, progress)
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(code)


def _launch(request: LaunchRequest, task: Task, progress: Progress) -> int:
    directory = JobDirectory(request.directory)
    try:
        directory.create()
        redirect_output(directory.open_output())
        exit_to = directory.open_exit()
        user = _user(request.variables.user)
        _apply(request.variables, user)
        task.prepare(request, user)
        first = directory.claim(_this_process(request))
    except LaunchRejected as error:
        progress.tell("rejected", str(error))
        return 1
    except Exception as error:
        progress.tell("failed", f"{type(error).__name__}: {error}")
        raise
    if not first:
        progress.tell("exists")
        return 0
    progress.tell(LAUNCHED, last=False)
    if user is not None:
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    return _run(request, task, exit_to, lambda: progress.tell(BEGUN))


def _run(request: LaunchRequest, task: Task, exit_to: int, on_begun: Callable[[], None]) -> int:
    """Run the task and write down how it ended, as the last thing."""
    reason = None
    try:
        exit_code = task.run(request, on_begun)
    except SystemExit as error:
        exit_code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        exit_code, reason = 1, f"{type(error).__name__}: {error}"
        traceback.print_exc()
    _flush()
    exit_ = JobExit(exit_code=exit_code, ended_at=now_text(), reason=reason, max_rss_kb=_max_rss_kb())
    # A full disk is no failure of the task: who reaps this process is told by its code.
    with contextlib.suppress(OSError):
        write_exit(exit_to, exit_)
    # A process can only return 0 to 255; the file holds the rest of the truth.
    return exit_code if 0 <= exit_code <= 255 else 1


def _this_process(request: LaunchRequest) -> JobProcess:
    identity = ProcessIdentity.of(os.getpid())
    if identity is None:
        raise OSError("/proc does not show this process: is it mounted?")
    return JobProcess(
        identity=identity,
        stop_grace_seconds=request.variables.stop_grace_seconds,
        labels={**request.variables.labels, **request.labels},
        attempt=request.attempt,
    )


# -- what the job variables ask for -------------------------------------------------------------------------


def _user(name: str | None) -> pwd.struct_passwd | None:
    """Return as whom to run, or None for the user that the worker runs as."""
    if name is None:
        return None
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise LaunchRejected(f"user '{name}' does not exist on {os.uname().nodename}") from None
    if user.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        worker = pwd.getpwuid(os.geteuid()).pw_name
        raise LaunchRejected(
            f"the job is to run as user '{name}', but the worker runs as '{worker}', not as root"
        )
    return user


def _apply(variables: ProcessVariables, user: pwd.struct_passwd | None) -> None:
    """Give this process what the variables ask for, except the user id: :func:`_launch` changes that last."""
    _apply_environment(variables.env, user)
    if variables.nice is not None:
        _apply_nice(variables.nice)
    if variables.memory_limit_mb is not None:
        _apply_memory_limit(variables.memory_limit_mb)
    if user is not None:
        os.initgroups(user.pw_name, user.pw_gid)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    if variables.working_dir is not None:
        _change_directory(variables.working_dir, user)


def _apply_environment(env: Mapping[str, str | None], user: pwd.struct_passwd | None) -> None:
    if user is not None:
        os.environ.update(HOME=user.pw_dir, USER=user.pw_name, LOGNAME=user.pw_name, SHELL=user.pw_shell)
    for name, value in env.items():
        try:
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        except ValueError as error:
            raise LaunchRejected(f"environment variable {name!r} cannot be set: {error}") from None


def _apply_nice(nice: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError as error:
        raise LaunchRejected(
            f"nice value {nice} cannot be set: {error.strerror}; below 0 needs root"
        ) from None


def _apply_memory_limit(limit_mb: int) -> None:
    # RLIMIT_DATA counts what a process can write to and shares with nobody. RLIMIT_AS would also count what
    # is only reserved: libraries, address space that memory allocators set aside per thread.
    needed_mb = _allocated_mb() + _MEMORY_TO_START_MB
    if limit_mb < needed_mb:
        raise LaunchRejected(
            f"memory_limit_mb is {limit_mb}, but a task needs {needed_mb} before its own code starts"
        )
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_mb * _MB, limit_mb * _MB))
    except (OSError, ValueError) as error:
        raise LaunchRejected(f"memory limit of {limit_mb} MB cannot be set: {error}") from None


def _allocated_mb() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmData:")[2].split()[0]) // 1024


def _change_directory(path: str, user: pwd.struct_passwd | None) -> None:
    """Go there with the rights of the job's user, who may be allowed less than root."""
    try:
        if user is not None:
            os.seteuid(user.pw_uid)
        try:
            os.chdir(path)
        finally:
            if user is not None:
                os.seteuid(0)
    except OSError as error:
        raise LaunchRejected(f"working directory '{path}' cannot be used: {error.strerror}") from None


# -- small things -------------------------------------------------------------------------------------------


def reset_signals() -> None:
    """Let signals do what they do by default; whatever was forked had its own ideas."""
    signal.set_wakeup_fd(-1)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGCHLD,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def redirect_output(output: int) -> None:
    """Send standard output and error to this descriptor, and let standard input be empty."""
    _flush()
    empty = os.open(os.devnull, os.O_RDONLY)
    for descriptor, standard in ((empty, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, standard)
    os.close(empty)
    os.close(output)
    # Whoever was forked may have put something else in their place. What was there is kept: it might close the
    # descriptors that it believes to be its own.
    _replaced.extend((sys.stdout, sys.stderr))
    sys.stdout = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


_replaced: list[object] = []


def _reseed() -> None:
    """Let jobs not all draw the same random numbers. Python sees to that after a fork; NumPy does not."""
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()


def now_text() -> str:
    return datetime.now(timezone.utc).isoformat()


def _max_rss_kb() -> int:
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
