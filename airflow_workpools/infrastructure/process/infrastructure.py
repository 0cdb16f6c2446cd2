# SPDX-License-Identifier: Apache-2.0
"""The process kind: jobs are processes on the worker's machine, forked from a warm runner."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ValidationError

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.core.exits import explain_exit
from airflow_workpools.errors import InfrastructureUnavailable, LaunchRejected
from airflow_workpools.infrastructure.base import Handle, LaunchSpec, LivingJob, Observation, Phase
from airflow_workpools.infrastructure.process.client import ProcessRunner
from airflow_workpools.infrastructure.process.files import JobDirectories, JobDirectory, JobExit, JobProcess
from airflow_workpools.infrastructure.process.job import LaunchRequest
from airflow_workpools.infrastructure.process.proc import ProcessIdentity, kill_family, pid_realm
from airflow_workpools.infrastructure.process.stop import Stop
from airflow_workpools.infrastructure.process.variables import ProcessVariables
from airflow_workpools.infrastructure.process.watch import EndWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

log = logging.getLogger(__name__)

_RUNNING = Observation(phase=Phase.RUNNING)
_REAP_SECONDS = 5.0
"""How long a process that has ended may wait for its runner to write down how."""
_LOOK_AGAIN_SECONDS = 0.1
_WRITABLE = (
    "Jobs can't be started without it: make it writable for the scheduler's user, or set [workpools] home"
)
_Wish = tuple[Handle, float]
"""A job that is to be stopped, and when it is to be killed (loop time)."""


class ProcessInfrastructure:
    """Runs jobs as processes, each in a session and a directory of its own.

    :param home: jobs have their directories below it; it belongs to this machine alone.
    :param connection: has no meaning for this kind.
    :param runner: a runner that was forked before the event loop began; without one, a program is started.
    :param api_url: where jobs find Airflow's Execution API; None: as Airflow's configuration says.
    """

    kind: ClassVar[str] = "process"
    runs_at_launch: ClassVar[bool] = True
    variables: ClassVar[type[BaseModel]] = ProcessVariables
    logs_to_output: ClassVar[bool] = False
    """Whether what tasks write goes to their jobs' output, instead of into Airflow's log folder."""

    def __init__(
        self,
        *,
        home: Path,
        connection: Mapping[str, Any] | None = None,
        runner: ProcessRunner | None = None,
        api_url: str | None = None,
        start_runner: Callable[[], ProcessRunner] = ProcessRunner.spawn,
    ) -> None:
        self._directories = JobDirectories(Path(home).absolute())
        self._runner = runner
        self._start_runner = start_runner
        self._starting = asyncio.Lock()
        self._connected = False
        self._has_launched = False
        """Whether our runner has launched anything: if so, its end is no failure to start."""
        self._start_at = 0.0
        """Not before this (loop time) another runner is started."""
        self._runner_backoff = Backoff(initial=1.0, maximum=60.0)
        self._api_url = api_url
        self._own: dict[UUID, _Wish | None] = {}
        """Running jobs of our runner, which will tell when they end; and which of them it was asked to stop."""
        self._exits: dict[UUID, JobExit] = {}
        self._watches: dict[UUID, EndWatch] = {}
        """Running jobs that an earlier runner launched."""
        self._ended_unseen: dict[UUID, float] = {}
        """Since when (loop time) an ended process has waited for its exit to be written down."""
        self._stops: dict[UUID, Stop] = {}
        """Jobs of an earlier runner that are being stopped."""
        self._changed = asyncio.Event()

    @classmethod
    def default_job_configuration(cls) -> Mapping[str, Any]:
        """Return the ``job_configuration`` of the default base job template, with placeholders."""
        return {name: f"{{{{ {name} }}}}" for name in ProcessVariables.model_fields}

    # -- life -----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the home and have a runner."""
        path = self._directories.path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise InfrastructureUnavailable(f"{path} can't be made ({reason}). {_WRITABLE}") from error
        if unwritable := self._unwritable():
            raise InfrastructureUnavailable(unwritable)
        await self._ready_runner()

    def hindrance(self) -> str | None:
        """Say why no job can be launched now, whichever it is; None if nothing is known to hinder."""
        if unwritable := self._unwritable():
            return unwritable
        seconds = self._start_at - asyncio.get_running_loop().time()
        if self._runner is None and seconds > 0:
            failures = self._runner_backoff.failures
            return f"the process runner has ended at its start {failures} times in a row; it is started again soon"
        return None

    def _unwritable(self) -> str | None:
        path = self._directories.path
        # Asked of the kernel, which also knows of file systems that are read-only, and of root's limits.
        return None if os.access(path, os.W_OK | os.X_OK) else f"{path} can't be written to. {_WRITABLE}"

    async def close(self) -> None:
        """Let go of the runner and the watches; the jobs go on."""
        for stop in list(self._stops.values()):
            stop.close()
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        if self._runner is not None:
            await self._runner.close()
            self._runner, self._connected = None, False

    async def _ready_runner(self) -> ProcessRunner:
        async with self._starting:
            if self._runner is None:
                await asyncio.sleep(max(0.0, self._start_at - asyncio.get_running_loop().time()))
                self._runner, self._connected, self._has_launched = self._start_runner(), False, False
            if not self._connected:
                runner = self._runner
                await runner.connect(self._on_exit, lambda: self._on_lost(runner))
                self._connected = True
            return self._runner

    def _on_exit(self, job_id: UUID, exit_: JobExit) -> None:
        self._own.pop(job_id, None)
        self._exits[job_id] = exit_
        self._changed.set()

    def _on_lost(self, runner: ProcessRunner) -> None:
        """The runner died. Its jobs live on and are watched from here; the next launch starts another."""
        if runner is self._runner:
            self._runner, self._connected = None, False
            self._put_next_runner_off(runner)
            wishes = [wish for wish in self._own.values() if wish is not None]
            self._own.clear()
            for handle, kill_at in wishes:
                self._stop_foreign(handle, kill_at - asyncio.get_running_loop().time())
            self._changed.set()

    def _put_next_runner_off(self, ended: ProcessRunner) -> None:
        """Start the next runner at once if the one that ended was of use, else after a growing delay."""
        if self._has_launched:
            self._runner_backoff.reset()
            return
        delay = self._runner_backoff.next()
        self._start_at = asyncio.get_running_loop().time() + delay
        log.error(
            "The process runner (pid %d) ended before it had launched a job, %d times in a row; what it wrote stands "
            "in this log. The next is started in %.1f s at the earliest; jobs wait.",
            ended.pid,
            self._runner_backoff.failures,
            delay,
        )

    # -- launch and find ------------------------------------------------------------------------------------

    async def launch(self, spec: LaunchSpec) -> AsyncIterator[Handle]:
        """Start a job, or adopt the one that was started before under this id."""
        request = self._request(spec)
        directory = self._directories.of(spec.job_id)
        if directory.process() is None:
            runner = await self._ready_runner()
            launched = await runner.launch(request)
            self._has_launched = True
            if launched and spec.job_id not in self._exits and not runner.lost:
                self._own[spec.job_id] = None
        process = directory.process()
        if process is None:
            raise InfrastructureUnavailable(f"{directory.path} disappeared while the job was launched")
        yield handle_of(spec.job_id, directory, process)

    def _request(self, spec: LaunchSpec) -> LaunchRequest:
        try:
            variables = ProcessVariables.model_validate(
                {name: value for name, value in spec.configuration.items() if value is not None}
            )
        except ValidationError as error:
            problems = (
                f"{'.'.join(str(part) for part in problem['loc']) or 'configuration'}: {problem['msg']}"
                for problem in error.errors(include_input=False, include_url=False)
            )
            raise LaunchRejected(f"the job's configuration does not fit: {'; '.join(problems)}") from None
        return LaunchRequest(
            job_id=spec.job_id,
            directory=self._directories.of(spec.job_id).path,
            variables=variables,
            workload=spec.workload,
            server=self._api_url,
            labels=spec.labels,
            attempt=spec.attempt,
            log_to_output=self.logs_to_output,
        )

    async def find(self, job_ids: Collection[UUID]) -> Mapping[UUID, Handle]:
        """Look for jobs by their directories."""
        found = {}
        for job_id in job_ids:
            directory = self._directories.of(job_id)
            if (process := directory.process()) is not None:
                found[job_id] = handle_of(job_id, directory, process)
        return found

    async def alive(self) -> Sequence[LivingJob]:
        """Return the jobs in this home whose process runs."""

        def look() -> list[LivingJob]:
            return [
                LivingJob(
                    handle=handle_of(job_id, directory, process),
                    labels=process.labels,
                    attempt=process.attempt,
                )
                for job_id, directory in self._directories
                if (process := directory.process()) is not None and directory.lives(process)
            ]

        return await asyncio.to_thread(look)

    # -- observe --------------------------------------------------------------------------------------------

    async def observe(self, handles: Sequence[Handle]) -> Mapping[UUID, Observation]:
        """Say what is seen of these jobs."""
        return {handle.job_id: self._observe(handle) for handle in handles}

    def _observe(self, handle: Handle) -> Observation:
        job_id = handle.job_id
        if job_id in self._own:
            return _RUNNING
        if (told := self._exits.get(job_id)) is not None:
            return _exited(told)
        identity, directory = _identity(handle), self._directory(handle)
        lives = identity is not None and self._lives(job_id, identity, directory)
        # Read after the look at the process, so that an exit which it wrote meanwhile is not missed.
        if (written := directory.exit()) is not None:
            return _exited(written)
        if lives or job_id in self._stops:
            return _RUNNING
        return Observation(phase=Phase.GONE, reason=_why_gone(identity))

    def _lives(self, job_id: UUID, identity: ProcessIdentity, directory: JobDirectory) -> bool:
        """Say whether a job of an earlier runner lives, or may have its end written down yet; watch it if so."""
        stat = identity.stat()
        if stat is None:
            return False
        if stat.has_ended:
            return self._may_still_be_reaped(job_id)
        self._watch(job_id, identity, directory)
        return True

    def _watch(self, job_id: UUID, identity: ProcessIdentity, directory: JobDirectory) -> None:
        if job_id not in self._watches:
            self._watches[job_id] = EndWatch(
                identity, lambda: self._on_foreign_end(job_id, identity, directory)
            )

    def _on_foreign_end(self, job_id: UUID, identity: ProcessIdentity, directory: JobDirectory) -> None:
        """A job of an earlier runner has ended, just now: its pid means nothing else yet."""
        self._watches.pop(job_id, None)
        if directory.exit() is None:
            kill_family(identity.pid)  # its first process died: nobody looks after the others
        self._changed.set()

    def _may_still_be_reaped(self, job_id: UUID) -> bool:
        """An earlier runner writes down how a job ended before it reaps it; give it time to."""
        loop = asyncio.get_running_loop()
        since = self._ended_unseen.setdefault(job_id, loop.time())
        if loop.time() - since > _REAP_SECONDS:
            return False
        loop.call_later(_LOOK_AGAIN_SECONDS, self._changed.set)
        return True

    async def wait_for_change(self) -> None:
        """Return when a job has ended, or the runner has."""
        await self._changed.wait()
        self._changed.clear()

    # -- stop and clean up ----------------------------------------------------------------------------------

    async def stop(self, handle: Handle, *, grace_seconds: float) -> None:
        """Ask a job to end; what is left of it when the grace is over is killed."""
        if handle.job_id in self._own and self._runner is not None:
            kill_at = asyncio.get_running_loop().time() + grace_seconds
            self._own[handle.job_id] = (handle, kill_at)
            await self._runner.stop(handle.job_id, grace_seconds=grace_seconds)
        else:
            self._stop_foreign(handle, grace_seconds)

    def _stop_foreign(self, handle: Handle, grace_seconds: float) -> None:
        job_id, identity = handle.job_id, _identity(handle)
        if identity is None:
            return
        if (stop := self._stops.get(job_id)) is None:
            stop = Stop(identity, self._directory(handle), lambda: self._on_stopped(job_id))
            self._stops[job_id] = stop
        stop.kill_after(grace_seconds)

    def _on_stopped(self, job_id: UUID) -> None:
        self._stops.pop(job_id, None)
        self._changed.set()

    async def cleanup(self, handle: Handle) -> None:
        """Remove the job's directory; if it failed, what it wrote last goes to the worker's log."""
        job_id = handle.job_id
        self._own.pop(job_id, None)
        self._exits.pop(job_id, None)
        self._ended_unseen.pop(job_id, None)
        if (watch := self._watches.pop(job_id, None)) is not None:
            watch.close()
        directory = self._directory(handle)
        exit_ = directory.exit()
        # What a task wrote is for those who may see its log.
        output = "" if self.logs_to_output else directory.output_tail()
        if exit_ is not None and exit_.exit_code != 0 and output:
            log.warning("Job %s ended with exit code %d; it wrote:\n%s", job_id, exit_.exit_code, output)
        directory.remove()

    def sweep(self, known_ids: Collection[UUID], *, older_than: timedelta, now: datetime) -> int:
        """Remove what jobs left behind that nobody knows any more; return how many directories."""
        return self._directories.sweep(known_ids, older_than=older_than, now=now)

    def _directory(self, handle: Handle) -> JobDirectory:
        """Return the job's directory, also if a worker with another home launched it."""
        path = Path(handle.data.get("directory", ""))
        is_jobs = path.is_absolute() and path.name == str(handle.job_id) and path.parent.name == "jobs"
        return JobDirectory(path) if is_jobs else self._directories.of(handle.job_id)


def handle_of(job_id: UUID, directory: JobDirectory, process: JobProcess) -> Handle:
    return Handle(
        job_id=job_id,
        kind=ProcessInfrastructure.kind,
        data={
            "directory": str(directory.path),
            "process": asdict(process.identity),
            "stop_grace_seconds": process.stop_grace_seconds,
        },
    )


def _identity(handle: Handle) -> ProcessIdentity | None:
    try:
        return ProcessIdentity(**handle.data["process"])
    except (KeyError, TypeError):
        return None


def _exited(exit_: JobExit) -> Observation:
    words = explain_exit(exit_.exit_code)
    reason = f"{words}: {exit_.reason}" if exit_.reason else words
    return Observation(phase=Phase.EXITED, exit_code=exit_.exit_code, reason=reason)


def _why_gone(identity: ProcessIdentity | None) -> str:
    if identity is not None and identity.realm != pid_realm():
        return "the machine or container that ran it was restarted while it ran"
    pid = identity.pid if identity is not None else "unknown"
    return f"its process (pid {pid}) is gone without a trace: killed, and so was the runner that watched it"
