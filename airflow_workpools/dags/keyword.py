# SPDX-License-Identifier: Apache-2.0
"""The keyword ``work_queue=`` of every operator.

Airflow has no door for a keyword of a provider's, so ``BaseOperator.__init__`` is replaced by one that knows
it and hands everything else on. This has to happen in every process that reads DAG files, before it reads the
first one. Airflow imports :mod:`.policy` that early, but its operators later: :func:`install` leaves word
with the import system, and the keyword is there as soon as they are.

The keyword becomes ``queue="pool/queue"`` at once, so everything after it sees what it knows anyway. Mapped
operators keep their keywords until they are expanded; there the policy turns it into the queue.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

from airflow_workpools import airflow_private
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

log = logging.getLogger(__name__)

KEYWORD = "work_queue"


def install() -> None:
    """Give every operator the keyword, now or as soon as Airflow's operators are imported."""
    operators = sys.modules.get(airflow_private.OPERATOR_MODULE)
    if operators is None:
        sys.meta_path.insert(0, _AfterImport())
    else:
        _extend(operators)


class _AfterImport(MetaPathFinder):
    """Extends the operator module when it has been imported, and then leaves the import system alone."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != airflow_private.OPERATOR_MODULE:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            self._extend_after(spec.loader)
        return spec

    def _extend_after(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            with suppress(ValueError):
                sys.meta_path.remove(self)
            _extend(module)

        loader.exec_module = exec_module


def _extend(operators: ModuleType) -> None:
    """Extend the operator module; without the keyword rather than without Airflow, should that fail."""
    try:
        airflow_private.replace_operator_init(operators, _with_keyword, defaults={KEYWORD: None})
    except Exception:
        log.warning('Operators do not know work_queue=; queue="pool/queue" does the same', exc_info=True)


def _with_keyword(init: Callable[..., None]) -> Callable[..., None]:
    """Return an ``__init__`` that also takes the keyword."""

    def __init__(self: Any, *, work_queue: str | None = None, **arguments: Any) -> None:  # noqa: N807
        chosen = choose_queue(work_queue, arguments.get("queue"), arguments.get("default_args"))
        if chosen is not None:
            arguments["queue"] = parse(chosen, arguments.get("dag"), arguments.get("task_id"))
        init(self, **arguments)

    # Airflow asks for the signature: to check keywords, and to know which ones default_args may set.
    signature = inspect.signature(init)
    *parameters, rest = signature.parameters.values()
    keyword = inspect.Parameter(
        KEYWORD, inspect.Parameter.KEYWORD_ONLY, default=None, annotation="str | None"
    )
    __init__.__signature__ = signature.replace(parameters=[*parameters, keyword, rest])  # type: ignore[attr-defined]
    __init__.__qualname__, __init__.__doc__ = init.__qualname__, init.__doc__
    return __init__


def choose_queue(work_queue: Any, queue: Any, default_args: Mapping[str, Any] | None) -> Any:
    """Return the work queue that a task's keyword asks for, or None if its ``queue`` stands.

    The keyword wins over ``queue``, except where it was only a default and the task itself names a work queue
    natively: what is written next to the task counts.
    """
    defaults = default_args if isinstance(default_args, Mapping) else {}
    only_default = work_queue == defaults.get(KEYWORD) and queue != defaults.get("queue")
    return None if only_default and is_work_queue(queue) else work_queue


def is_work_queue(queue: Any) -> bool:
    """Say whether an operator's ``queue`` means a work queue; no other executor's queue has a slash."""
    return isinstance(queue, str) and "/" in queue


def parse(queue: Any, dag: Any, task_id: Any) -> str:
    """Return the work queue in full, ``"pool/queue"``.

    :raises InvalidInput: naming the task, if it is malformed.
    """
    try:
        return str(WorkQueueRef.parse(queue))
    except InvalidInput as error:
        raise InvalidInput(f"{task_name(dag, task_id)}: {problem}" for problem in error.problems) from None


def task_name(dag: Any, task_id: Any) -> str:
    """Return how messages name a task."""
    dag_id = getattr(dag, "dag_id", None)
    return f"Task {task_id!r} of DAG {dag_id!r}" if dag_id else f"Task {task_id!r}"
