# SPDX-License-Identifier: Apache-2.0
"""What a work pool's infrastructure would say to a job, found out without running one."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.names import DEFAULT_QUEUE
from airflow_workpools.core.placeholders import Placeholder, PlaceholderKind
from airflow_workpools.core.templates import RenderContext, missing_variables, render
from airflow_workpools.infrastructure.base import LaunchSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_workpools.core.pools import WorkPool


class NothingToTry(Exception):
    """There is no job yet that could be tried; the message is a sentence that says why."""


def trial_job(
    pool: WorkPool, *, environ: Mapping[str, str], connections: Mapping[str, Mapping[str, Any]]
) -> LaunchSpec:
    """Return the job of a task that sets nothing, in the pool's default queue.

    :param environ: the environment of who tries.
    :param connections: fields by connection id, of those that the template asks for.
    :raises NothingToTry: if only a task, or only a worker, knows what is missing.
    :raises InvalidJobVariables: if something is missing that everybody should know.
    """
    template = pool.base_job_template
    layers = (pool.job_variables, pool.queue(DEFAULT_QUEUE).job_variables)
    if missing := missing_variables(template, *layers):
        raise NothingToTry(
            f"No job was tried, since tasks have to give what is required and has no default: {', '.join(missing)}."
        )
    if missing := _missing_environment(pool, environ):
        raise NothingToTry(
            f"No job was tried, since the environment of the worker has to give {', '.join(missing)}, and that of "
            "this server does not."
        )
    job_id = str(uuid.uuid4())
    context = RenderContext(
        dag_id="trial",
        task_id="trial",
        run_id="trial",
        map_index=-1,
        try_number=1,
        work_pool=pool.name,
        work_queue=DEFAULT_QUEUE,
        job_id=job_id,
    )
    configuration = render(template, *layers, context=context, environ=environ, connections=connections)
    labels = {name: str(value) for name, value in vars(context).items()}
    return LaunchSpec(job_id=uuid.UUID(job_id), configuration=configuration, workload="{}", labels=labels)


def _missing_environment(pool: WorkPool, environ: Mapping[str, str]) -> list[str]:
    parsed = (Placeholder.parse(text) for text in sorted(pool.base_job_template.placeholders))
    names = (found.name for found in parsed if found.kind is PlaceholderKind.ENVIRONMENT)
    return [f"${name}" for name in names if name not in environ]
