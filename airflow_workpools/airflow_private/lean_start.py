# SPDX-License-Identifier: Apache-2.0
"""A task in a process of its own, as in a container: started with no more of Airflow than it needs.

What a person waits for there is Python importing Airflow. ``airflow.sdk.execution_time.execute_workload`` goes through
the executors, and with them through the models of the metadata database that no task may use; it imports a parser of
Python that only virtual environment operators need; it reads a list of metrics with the slow one of two YAML parsers;
and Python's garbage collector goes again and again over what was imported, of which nothing is garbage. Without these
four a start takes 0.6 of the CPU.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
from contextlib import contextmanager
from importlib import import_module, reload
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

_DECORATORS = "airflow.sdk.definitions._internal.decorators"
"""The one module of Airflow's that imports libcst; it makes a class of its own of one there."""


def can_run(text: str) -> bool:
    """Say whether this workload, as JSON, is a task; of others there are few, and Airflow knows how to run them."""
    try:
        return bool(json.loads(text)["type"] == "ExecuteTask")
    except (ValueError, KeyError, TypeError):
        return False


def run_task(text: str) -> None:
    """Run the task of a workload under Airflow's supervisor; its log goes to standard output, too, line by line."""
    with _no_collecting(), _libcst_when_needed(), _yaml_by_libyaml():
        supervise, task = _imported(text)
    supervise(
        ti=task.ti,
        bundle_info=task.bundle_info,
        dag_rel_path=task.dag_rel_path,
        token=task.token,
        server=_execution_api(),
        log_path=task.log_path,
        subprocess_logs_to_stdout=True,
        sentry_integration=getattr(task, "sentry_integration", ""),
    )


def _imported(text: str) -> tuple[Any, Any]:
    from airflow_workpools.airflow_private.workloads import _supervise_promptly

    try:
        _supervise_promptly()
    except Exception:
        log.warning("The end of a task may be noticed some seconds late", exc_info=True)
    from airflow.executors.workloads.task import ExecuteTask
    from airflow.sdk.execution_time.supervisor import supervise_task
    from airflow.sdk.log import configure_logging

    # What the supervisor forks runs the task: imported here, it is imported once.
    import_module("airflow.sdk.execution_time.task_runner")
    configure_logging(output=sys.stdout.buffer, json_output=True)
    _forget_database()
    return supervise_task, ExecuteTask.model_validate_json(text)


def _forget_database() -> None:
    """Let go of the metadata database, if importing Airflow has set it up."""
    if "airflow.settings" in sys.modules:
        from airflow.settings import dispose_orm

        dispose_orm(do_log=False)


def _execution_api() -> str:
    """Return where tasks talk to, by the rule of Airflow's executors."""
    from airflow.configuration import conf

    base_url = conf.get("api", "base_url", fallback="/")
    if base_url.startswith("/"):
        base_url = f"http://localhost:8080{base_url}"
    return str(conf.get("core", "execution_api_server_url", fallback=f"{base_url.rstrip('/')}/execution/"))


@contextmanager
def _no_collecting() -> Iterator[None]:
    """Collect no garbage meanwhile, and never look at what is there afterwards: it stays until the end."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _yaml_by_libyaml() -> Iterator[None]:
    """Have YAML read by libyaml meanwhile, where that is: the same in an eighth of the time."""
    yaml: Any = import_module("yaml")  # it comes without types
    loader = getattr(yaml, "CSafeLoader", None)
    if loader is None:
        yield
        return
    slow, yaml.safe_load = yaml.safe_load, lambda stream: yaml.load(stream, loader)
    try:
        yield
    finally:
        yaml.safe_load = slow


@contextmanager
def _libcst_when_needed() -> Iterator[None]:
    """Put a stand-in in libcst's place while Airflow is imported; the real one comes when its parser is first used."""
    if "libcst" in sys.modules or _DECORATORS in sys.modules:
        yield
        return
    stand_in = sys.modules["libcst"] = _LibcstStandIn("libcst")
    try:
        yield
    finally:
        if sys.modules.get("libcst") is stand_in:
            del sys.modules["libcst"]


class _LibcstStandIn(ModuleType):
    """Has what is needed to define Airflow's class, and for all else lets that be defined anew with the real libcst.

    Reloading keeps the module's namespace, so a function of it that is being run goes on with the real class.
    """

    CSTTransformer = object

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get("libcst") is self:
            del sys.modules["libcst"]
        real = import_module("libcst")
        if (decorators := sys.modules.get(_DECORATORS)) is not None:
            reload(decorators)
        return getattr(real, name)
