# SPDX-License-Identifier: Apache-2.0
"""The decorator ``@task.workpool``: a Python task with its work queue and job variables next to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk.bases.decorator import DecoratedOperator, task_decorator_factory

from airflow_workpools.core.names import WorkQueueRef

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from airflow.sdk.bases.decorator import TaskDecorator


class WorkPoolDecoratedOperator(DecoratedOperator, PythonOperator):
    """What a function decorated with ``@task.workpool`` becomes."""

    custom_operator_name = "@task.workpool"
    template_fields: Sequence[str] = ("templates_dict", "op_args", "op_kwargs")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "templates_dict": "json",
        "op_args": "py",
        "op_kwargs": "py",
    }

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        function = {"python_callable": python_callable, "op_args": op_args, "op_kwargs": op_kwargs}
        super().__init__(kwargs_to_upstream=function, **function, **kwargs)


def workpool_task(
    python_callable: Callable[..., Any] | None = None,
    *,
    work_queue: str | None = None,
    job_variables: Mapping[str, Any] | None = None,
    multiple_outputs: bool | None = None,
    **kwargs: Any,
) -> TaskDecorator:
    """Make a function a Python task of a work queue.

    ::

        @task.workpool(work_queue="gpu/training", job_variables={"image": "train:1.4"}, retries=2)
        def train(day): ...

    :param work_queue: ``"pool/queue"``, or ``"pool"`` for the pool's default queue.
    :param job_variables: what this task sets on top of the pool's own settings.
    :param kwargs: arguments of the operator, as for ``@task``.
    """
    if work_queue is not None:
        kwargs["queue"] = str(WorkQueueRef.parse(work_queue))
    if job_variables is not None:
        if "executor_config" in kwargs:
            raise TypeError("job_variables are the executor_config of a task: give one of the two")
        kwargs["executor_config"] = dict(job_variables)
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=WorkPoolDecoratedOperator,
        **kwargs,
    )
