# SPDX-License-Identifier: Apache-2.0
"""Jobs as processes: what the process runner does before it forks, and what its jobs do.

Importing this module imports nothing of Airflow.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import sys
import time
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pydantic import TypeAdapter

log = logging.getLogger(__name__)

_NEEDED_BY_WORKLOADS = (
    "airflow.executors.base_executor",
    "airflow.executors.workloads",
    "airflow.sdk.execution_time.callback_supervisor",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.sdk.definitions.asset.metadata",
    "airflow.sdk.definitions.connection",
    "airflow.sdk.definitions.decorators",
    "airflow.dag_processing.bundles.local",
    "airflow.dag_processing.dagbag",
    "airflow.dag_processing.importers.python_importer",  # until Airflow 3.3
    "airflow.sdk.importers.python_importer",  # since 3.4
    "airflow.providers.standard.decorators.bash",
    "airflow.providers.standard.decorators.python",
    "airflow.providers.standard.operators.empty",
    "airflow.version",
    "airflow_workpools.airflow_private.rehearsal",
    "airflow_workpools.dags.assignment",
    "airflow_workpools.dags.executors",
    "airflow_workpools.dags.policy",
    "airflow_workpools.plugin",
    "encodings.idna",  # every look-up of a host name
    "jinja2.ext",
)
"""What workloads were seen to import after their processes were forked. Airflow imports much of it late on purpose,
to be quick where it is not needed; here each job would import it again."""


def load_for_workloads() -> None:
    """Load what workloads need into a process from which others are forked. Nothing of Airflow's is changed by it.

    A forked process that imports this by itself has it for itself, and two times as much of what was there before:
    importing writes into pages that were shared.
    """
    for module in _NEEDED_BY_WORKLOADS:
        with suppress(ImportError):  # one that is missing costs time in each job, nothing else
            import_module(module)
    _do(_workload_decoder, _message_decoders, _load_certificates)


def warm_up_for_workloads() -> None:
    """Do, once, what every workload would do after its process was forked, where it takes time."""
    load_for_workloads()
    _do(
        _supervise_promptly,
        _supervise_callbacks_promptly,
        _share_message_decoders,
        _share_type_adapters,
        _load_log_handler,
        _load_plugins,
        _load_bundle_classes,
        _rehearse_supervising,
        _rehearse_reading,
        _forget_database,
    )


def _do(*steps: Callable[[], object]) -> None:
    for step in steps:
        try:
            step()
        except Exception:
            log.warning("Process runner: %s failed; each job tries for itself", step.__name__, exc_info=True)


@cache
def _workload_decoder() -> TypeAdapter[Any]:
    from airflow.executors import workloads
    from pydantic import TypeAdapter

    return TypeAdapter(workloads.All)


@cache
def _message_decoders() -> Callable[[Any], TypeAdapter[Any]]:
    """Return what makes the decoder of a kind of messages once; that of messages to tasks is made already."""
    from airflow.sdk.execution_time import comms

    make_decoder = cache(comms.TypeAdapter)
    make_decoder(comms.ToTask)
    return make_decoder


def _share_message_decoders() -> None:
    """Let tasks' processes find ready what decodes messages from the supervisor; each would make its own twice."""
    from airflow.sdk.execution_time import comms

    comms.TypeAdapter = _message_decoders()


def _share_type_adapters() -> None:
    """Let tasks find ready what checks a rendered field: each would make one anew for every field it has."""
    from airflow.sdk.execution_time import task_runner
    from pydantic import JsonValue

    task_runner.TypeAdapter = cache(task_runner.TypeAdapter)
    task_runner.TypeAdapter(JsonValue)


def _load_certificates() -> None:
    """Read the certificates that the client trusts, for most of a supervisor's time went there."""
    from airflow.sdk.api import client

    client.Client._get_ssl_context_cached(client.API_SSL_CA_FILE_PATH, client.API_SSL_CERT_PATH)


def _load_log_handler() -> None:
    """Import what writes logs to remote storage, if there is one: its libraries may be large."""
    from airflow.sdk.log import load_remote_log_handler

    load_remote_log_handler()


def _load_plugins() -> None:
    """Load plugins and the listeners among them, as the scheduler does before LocalExecutor forks."""
    from airflow.sdk.listener import get_listener_manager

    get_listener_manager()


def _load_bundle_classes() -> None:
    """Import the classes of the configured DAG bundles."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    DagBundlesManager()


def _rehearse_supervising() -> None:
    """Do once what every supervisor does, so that no job does it for the first time."""
    from airflow_workpools.airflow_private import rehearsal

    rehearsal.rehearse(parse_workload(rehearsal.WORKLOAD))


def _rehearse_reading() -> None:
    """Do once what every task does to find itself in its DAG file."""
    from airflow_workpools.airflow_private import rehearsal

    rehearsal.rehearse_reading()


def _forget_database() -> None:
    """Let go of the metadata database: no job may use it, and after each fork Airflow would set it up anew."""
    from airflow.settings import dispose_orm

    dispose_orm(do_log=False)


def parse_workload(text: str) -> Any:
    """Return the workload that this JSON holds, as ``airflow.sdk.execution_time.execute_workload`` does."""
    from airflow_workpools.airflow_private import errands

    return errands.unpack(_workload_decoder().validate_json(text))


def log_file_of(workload: Any) -> Path | None:
    """Make the file that takes the log of this workload's task, and return it; None if it has none."""
    from airflow.sdk.log import init_log_file

    log_path = getattr(workload, "log_path", None)
    return init_log_file(log_path) if log_path else None


def log_to_output(workload: Any) -> Any:
    """Have what a task writes go to this process's standard output, line by line, and return its workload.

    Its log folder gets it only where remote logging is set up: it is uploaded from there.
    """
    from airflow.sdk.log import configure_logging, load_remote_log_handler

    configure_logging(output=sys.stdout.buffer, json_output=True)
    if load_remote_log_handler() is None:
        # The supervisor of a task without a log file logs where all else does.
        return workload.model_copy(update={"log_path": None})
    return workload


def run_workload(
    workload: Any,
    *,
    server: str | None,
    on_begun: Callable[[], None] = lambda: None,
    log_to_output: bool = False,
) -> int:
    """Run a workload under Airflow's supervisor, as LocalExecutor does; return 0, or raise.

    What the supervisor returns is the exit code of the task's process, and not the job's: whatever became of the
    task, the supervisor has told the API server. It may even have ended that process itself, because the task was
    cleared; Airflow must not hear of that as a failure.

    :param on_begun: called when the task's own code is about to run: all that Airflow does before is over then.
    :param log_to_output: whether :func:`log_to_output` has made the workload: the job is one of a worker elsewhere.
    """
    from airflow.executors.base_executor import BaseExecutor
    from airflow.executors.workloads import ExecuteTask

    if isinstance(workload, ExecuteTask):
        _to_call_when_begun.append(on_begun)
    else:
        on_begun()  # it does not tell when its own code begins; it must not keep tasks from starting
    if log_to_output:
        _wait_for_api_server()
    twice = log_to_output and workload.log_path is not None
    BaseExecutor.run_workload(workload, server=server, subprocess_logs_to_stdout=twice)
    return 0


_LONGEST_PAUSE = 10.0
"""Longest time in seconds between two tries to reach an API server that is away."""
_to_call_when_begun: list[Callable[[], None]] = []


@cache
def _supervise_promptly() -> None:
    """Make Airflow's supervisor notice at once when the task has ended, not ask more than it must, and tell progress.

    Four things, for every task that is run from here on by this process and what it forks:

    - The supervisor learns of the end from its sockets. It may read their end of file a moment before the
      process can be waited for, and then sleeps until the next heartbeat is due: one task in ten or twenty held
      its slot five seconds too long. A pidfd among what it selects on becomes readable when the process *can*
      be waited for.
    - It sends a heartbeat as soon as it has started the task, though starting it (``/run``) has just set the
      time of the last heartbeat. The first one is sent when the first interval is over.
    - It passes on the signal to end, so that the task's ``on_kill`` is called. Since 3.4 it would ignore the signal
      and wait for the task's end: it takes it to mean that a machine is shut down, but here a job is to stop.
    - It is where it shows that a task's own code begins: just before, the task tells its rendered fields.

    Where jobs reach the API server from far away (:func:`_wait_for_api_server`), a heartbeat that fails does not end
    the task before Airflow itself would give it up. Each is tried once, so that the task is not left alone for long.
    """
    from airflow.sdk.execution_time import coordinator, supervisor

    class PromptSubprocess(supervisor.ActivitySubprocess):
        patience_seconds: ClassVar[float] = 0.0

        def _send_heartbeat_if_needed(self) -> None:
            with _asked_once(self.client) if self.patience_seconds else nullcontext():
                super()._send_heartbeat_if_needed()

        def _handle_heartbeat_failures(self, error: Exception) -> None:
            if time.monotonic() - self._last_successful_heartbeat >= self.patience_seconds:
                if self.patience_seconds:
                    self.failed_heartbeats = supervisor.MAX_FAILED_HEARTBEATS - 1  # with this one all
                super()._handle_heartbeat_failures(error)
            elif not self.failed_heartbeats:
                self.failed_heartbeats = 1  # back to none with one that is taken
                supervisor.log.warning(
                    "The API server does not answer; the task goes on",
                    error=str(error) or type(error).__name__,
                )

        def _handle_request(self, msg: Any, *more: Any, **named: Any) -> None:
            if isinstance(msg, supervisor.SetRenderedFields):  # its answer is what the task waits for
                while _to_call_when_begun:
                    _to_call_when_begun.pop()()
            super()._handle_request(msg, *more, **named)

        def wait(self) -> int:
            self._last_heartbeat_attempt = self._last_successful_heartbeat
            with _end_noticed(self), _signals_passed_on(self.pid):
                return int(super().wait())

    # The coordinator for Python tasks looks the class up by this name whenever it starts a task.
    supervisor.ActivitySubprocess = PromptSubprocess
    if hasattr(coordinator, "_warm_shutdown_signals"):
        coordinator._warm_shutdown_signals = nullcontext


def _wait_for_api_server() -> None:
    """Let a task go on while the API server does not answer, nearly as long as Airflow waits before it gives it up.

    After that its next try may run, so it must not. What else it says, its end above all, is repeated for as long.
    """
    from airflow.sdk.api import client
    from airflow.sdk.execution_time import supervisor
    from tenacity import stop_after_delay, stop_all, wait_random_exponential

    patience = 0.9 * supervisor.HEARTBEAT_TIMEOUT
    supervisor.ActivitySubprocess.patience_seconds = patience
    repeated = getattr(client.Client.request, "retry", None)
    if repeated is not None:
        repeated.stop = stop_all(repeated.stop, stop_after_delay(patience))
        longest = min(_LONGEST_PAUSE, client.API_RETRY_WAIT_MAX)
        repeated.wait = wait_random_exponential(min=client.API_RETRY_WAIT_MIN, max=longest)


@contextmanager
def _asked_once(client: Any) -> Iterator[None]:
    """Let a client of the Execution API give up at the first failure."""
    once = getattr(type(client).request, "__wrapped__", None)
    if once is None:
        yield
        return
    client.request = once.__get__(client)
    try:
        yield
    finally:
        del client.request


@cache
def _supervise_callbacks_promptly() -> None:
    """Make Airflow's supervisor of callbacks notice at once, too, when the callback has ended."""
    from airflow.sdk.execution_time import callback_supervisor

    class PromptCallbackSubprocess(callback_supervisor.CallbackSubprocess):
        def wait(self) -> int:
            with _end_noticed(self):
                return int(super().wait())

    callback_supervisor.CallbackSubprocess = PromptCallbackSubprocess


@contextmanager
def _signals_passed_on(pid: int) -> Iterator[None]:
    """Pass on to a task's process the signals that ask its supervisor to end."""

    def pass_on(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _end_noticed(process: Any) -> Iterator[None]:
    """Let what a supervisor selects on become readable once its process can be waited for."""
    try:
        end = _PidFd(process.pid)
    except OSError:  # before Linux 5.3; or the process is waited for already
        yield
        return
    with end:
        # False, "needs no more": the supervisor unregisters it, closes it, and waits for the process.
        on_readable = (lambda _: False), (lambda _: process.selector.unregister(end))
        process.selector.register(end, selectors.EVENT_READ, on_readable)
        yield


class _PidFd:
    """A descriptor that becomes readable when a process has ended, with what a selector needs of a file."""

    def __init__(self, pid: int) -> None:
        self._descriptor: int | None = os.pidfd_open(pid)

    def fileno(self) -> int:
        return -1 if self._descriptor is None else self._descriptor

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> _PidFd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
