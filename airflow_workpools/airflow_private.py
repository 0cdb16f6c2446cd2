# SPDX-License-Identifier: Apache-2.0
"""Everything of Airflow's that is used here and is not its public interface, in one place.

``tests/unit/test_airflow_private.py`` tells when Airflow changes any of it. Importing this module imports
nothing of Airflow: DAG files reach it.
"""

from __future__ import annotations

import logging
import os
import selectors
import sys
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import ModuleType

    from airflow.api_fastapi.auth.tokens import JWTGenerator
    from airflow.executors.executor_utils import ExecutorName
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.task.priority_strategy import PriorityWeightStrategy
    from pydantic import TypeAdapter
    from sqlalchemy.orm import Session

log = logging.getLogger(__name__)

OPERATOR_MODULE = "airflow.sdk.bases.operator"
"""Where ``BaseOperator`` is defined."""

DEFAULT_AIRFLOW_POOL = "default_pool"
"""The Airflow pool of a task whose author chose none."""

_TASK_RUNNER = "airflow.sdk.execution_time.task_runner"
_DAG_PROCESSOR = "airflow.dag_processing.processor"


def replace_operator_init(
    operators: ModuleType,
    wrap: Callable[[Callable[..., None]], Callable[..., None]],
    *,
    defaults: Mapping[str, Any],
) -> None:
    """Put ``wrap(BaseOperator.__init__)`` in the place of ``BaseOperator.__init__``.

    :param operators: the module :data:`OPERATOR_MODULE`.
    :param wrap: is given the function as it was written, without what Airflow's metaclass has put around it.
    :param defaults: what the keywords that are new are, where ``.partial()`` is not given them.
    """
    base = operators.BaseOperator
    written = base.__init__.__wrapped__
    base.__init__ = operators.BaseOperatorMeta._apply_defaults(wrap(written))
    operators.OPERATOR_DEFAULTS.update(defaults)
    if hasattr(operators.warnings, "delta"):
        # Airflow counts the frames between a warning in __init__ and the DAG file; now there is one more.
        operators.warnings.delta += 1


def running_a_task() -> bool:
    """Say whether this process runs a task (and reads the DAG file only to find it there).

    A task's process and a DAG processor's both speak with a supervisor; only the latter has the DAG
    processor's module.
    """
    return hasattr(sys.modules.get(_TASK_RUNNER), "SUPERVISOR_COMMS") and _DAG_PROCESSOR not in sys.modules


def default_queue() -> str:
    """Return the ``queue`` of an operator whose author chose none."""
    from airflow.sdk.bases.operator import OPERATOR_DEFAULTS

    return str(OPERATOR_DEFAULTS["queue"])


def configured_executors() -> list[ExecutorName]:
    """Return the executors in ``[core] executor``: the first of each team is its default."""
    from airflow.executors.executor_loader import ExecutorLoader

    # Validating teams would ask the database, which the process that reads DAG files must not do.
    return list(ExecutorLoader.get_executor_names(validate_teams=False))


def weight_strategy(rule: str) -> PriorityWeightStrategy:
    """Return Airflow's own strategy for a weight rule: ``downstream``, ``upstream`` or ``absolute``."""
    from airflow.task.priority_strategy import validate_and_load_priority_weight_strategy

    return validate_and_load_priority_weight_strategy(rule)


def stored_task(run: DagRun, task_id: str, session: Session) -> Any | None:
    """Return a task from the DAG as it was stored for a run; None if it is not in it, or no longer."""
    from airflow.models.dagbag import DBDagBag

    run.dag = DBDagBag(load_op_links=False).get_dag_for_run(run, session=session)
    return run.dag.get_task(task_id) if run.dag is not None and run.dag.has_task(task_id) else None


def unmet_dependencies(ti: TaskInstance, task: Any, session: Session) -> list[str]:
    """Return what keeps the scheduler from making a task instance ``scheduled``, in Airflow's words.

    Evaluating some dependencies changes states in the session, which must not be committed afterwards.

    :param task: what :func:`stored_task` returned.
    """
    from airflow.ti_deps.dep_context import DepContext
    from airflow.ti_deps.deps.ready_to_reschedule import ReadyToRescheduleDep

    ti.task = task
    also = {ReadyToRescheduleDep()} if ti.state == "up_for_reschedule" else set()
    context = DepContext(deps=also, ignore_unmapped_tasks=True)
    unmet = ti.get_failed_dep_statuses(context, session=session)
    # What follows is the repr of what Airflow counted.
    return sorted({status.reason.partition(" upstream_states=")[0] for status in unmet})


def mint_workload_token(task_instance_id: UUID, valid_for_seconds: float) -> str:
    """Return a token with which the job of a task instance may start it, once, within so many seconds.

    Airflow makes one when it queues a task. Here a task may wait in the store for any time, so it gets another one
    when it is claimed.
    """
    token: str = _jwt_generator().generate(
        extras={"sub": str(task_instance_id), "scope": "workload"}, valid_for=valid_for_seconds
    )
    return token


@cache
def _jwt_generator() -> JWTGenerator:
    """Return what signs tokens, set up as ``BaseExecutor.jwt_generator`` does."""
    from airflow.api_fastapi.auth.tokens import JWTGenerator, get_signing_args
    from airflow.configuration import conf

    return JWTGenerator(
        valid_for=conf.getint("execution_api", "jwt_expiration_time"),
        audience=conf.get_mandatory_list_value("execution_api", "jwt_audience")[0],
        issuer=conf.get("api_auth", "jwt_issuer", fallback=None),
        **get_signing_args(make_secret_key_if_needed=False),
    )


# -- jobs as processes: what the process runner does before it forks, and what its jobs do --------------------

_NEEDED_BY_WORKLOADS = (
    "airflow.executors.base_executor",
    "airflow.executors.workloads",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.sdk.definitions.asset.metadata",
    "airflow.sdk.definitions.connection",
    "airflow.sdk.definitions.decorators",
    "airflow.dag_processing.bundles.local",
    "airflow.dag_processing.dagbag",
    "airflow.dag_processing.importers.python_importer",
    "airflow.providers.standard.decorators.bash",
    "airflow.providers.standard.decorators.python",
    "airflow.providers.standard.operators.empty",
    "airflow.version",
    "airflow_workpools.dags.assignment",
    "airflow_workpools.dags.executors",
    "airflow_workpools.dags.policy",
    "airflow_workpools.plugin",
    "encodings.idna",  # every look-up of a host name
    "jinja2.ext",
)
"""What workloads were seen to import after their processes were forked. Airflow imports much of it late on purpose,
to be quick where it is not needed; here each job would import it again."""


def warm_up_for_workloads() -> None:
    """Do, once, what every workload would do after its process was forked, where it takes time."""
    for module in _NEEDED_BY_WORKLOADS:
        with suppress(ImportError):  # one that is missing costs time in each job, nothing else
            import_module(module)
    for step in (
        _workload_decoder,
        _supervise_promptly,
        _share_message_decoders,
        _load_certificates,
        _load_log_handler,
        _load_plugins,
        _load_bundle_classes,
        _rehearse_requests,
        _forget_database,
    ):
        try:
            step()
        except Exception:
            log.warning("Process runner: %s failed; each job tries for itself", step.__name__, exc_info=True)


@cache
def _workload_decoder() -> TypeAdapter[Any]:
    from airflow.executors import workloads
    from pydantic import TypeAdapter

    return TypeAdapter(workloads.All)


def _share_message_decoders() -> None:
    """Let tasks' processes find ready what decodes messages from the supervisor; each would make its own twice."""
    from airflow.sdk.execution_time import comms

    comms.TypeAdapter = cache(comms.TypeAdapter)
    comms.TypeAdapter(comms.ToTask)


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


def _rehearse_requests() -> None:
    """Make requests that go nowhere, so that what libraries remember after their first use is there."""
    from airflow.sdk.api.client import Client

    with Client(base_url=None, dry_run=True, token="") as client:
        client.task_instances.heartbeat(UUID(int=0), pid=0)


def _forget_database() -> None:
    """Let go of the metadata database: no job may use it, and after each fork Airflow would set it up anew."""
    from airflow.settings import dispose_orm

    dispose_orm(do_log=False)


def parse_workload(text: str) -> Any:
    """Return the workload that this JSON holds, as ``airflow.sdk.execution_time.execute_workload`` does."""
    return _workload_decoder().validate_json(text)


def log_file_of(workload: Any) -> Path | None:
    """Make the file that takes the log of this workload's task, and return it; None if it has none."""
    from airflow.sdk.log import init_log_file

    log_path = getattr(workload, "log_path", None)
    return init_log_file(log_path) if log_path else None


def run_workload(workload: Any, *, server: str | None) -> int:
    """Run a workload under Airflow's supervisor, as LocalExecutor does; return 0, or raise.

    What the supervisor returns is the exit code of the task's process, and not the job's: whatever became of the
    task, the supervisor has told the API server. It may even have ended that process itself, because the task was
    cleared; Airflow must not hear of that as a failure.
    """
    from airflow.executors.base_executor import BaseExecutor

    BaseExecutor.run_workload(workload, server=server)
    return 0


@cache
def _supervise_promptly() -> None:
    """Make Airflow's supervisor notice at once when the task has ended, and not ask more than it must.

    Two things, for every task that is run from here on by this process and what it forks:

    - The supervisor learns of the end from its sockets. It may read their end of file a moment before the
      process can be waited for, and then sleeps until the next heartbeat is due: one task in ten or twenty held
      its slot five seconds too long. A pidfd among what it selects on becomes readable when the process *can*
      be waited for.
    - It sends a heartbeat as soon as it has started the task, though starting it (``/run``) has just set the
      time of the last heartbeat. The first one is sent when the first interval is over.
    """
    from airflow.sdk.execution_time import supervisor

    class PromptSubprocess(supervisor.ActivitySubprocess):
        def wait(self) -> int:
            self._last_heartbeat_attempt = self._last_successful_heartbeat
            try:
                end = _PidFd(self.pid)
            except OSError:  # before Linux 5.3; or the process is waited for already
                return int(super().wait())
            with end:
                # False, "needs no more": the supervisor unregisters it, closes it, and waits for the process.
                on_readable = (lambda _: False), (lambda _: self.selector.unregister(end))
                self.selector.register(end, selectors.EVENT_READ, on_readable)
                return int(super().wait())

    # The coordinator for Python tasks looks the class up by this name whenever it starts a task.
    supervisor.ActivitySubprocess = PromptSubprocess


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
