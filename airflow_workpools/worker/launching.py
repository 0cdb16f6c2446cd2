# SPDX-License-Identifier: Apache-2.0
"""From a claimed job and its pool to what the infrastructure is told. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.core.templates import RenderContext, render
from airflow_workpools.infrastructure.base import LaunchSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_workpools.core.pools import WorkPool
    from airflow_workpools.store.records import ClaimedJob


def launch_spec(
    job: ClaimedJob,
    pool: WorkPool,
    *,
    worker: str,
    installation: str,
    environ: Mapping[str, str],
    connections: Mapping[str, Mapping[str, Any]] | None = None,
) -> LaunchSpec:
    """Render a job through its pool's base job template.

    :param worker: the worker's name, for the labels.
    :param installation: which Airflow this is, for the labels.
    :param environ: the worker's environment, for ``{{ $NAME }}``.
    :param connections: fields of Airflow connections by id, for ``{{ conn.ID.field }}``.
    :raises InvalidJobVariables: if the variables do not fit the template (it may have changed since
    hand-over).
    :raises NotFound: if the pool has no such queue any more.
    """
    queue = pool.queue(job.ref.queue)
    configuration = render(
        pool.base_job_template,
        pool.job_variables,
        queue.job_variables,
        job.job_variables,
        context=RenderContext.of(job),
        environ=environ,
        connections=connections,
    )
    return LaunchSpec(
        job_id=job.id,
        configuration=configuration,
        workload=job.workload,
        labels=labels_of(job, worker=worker, installation=installation),
        attempt=job.start_attempts,
    )


def labels_of(job: ClaimedJob, *, worker: str, installation: str) -> dict[str, str]:
    """Return the labels by which a job is found on its infrastructure."""
    return {
        "installation": installation,
        "work_pool": job.ref.pool,
        "work_queue": job.ref.queue,
        "worker": worker,
        "dag_id": job.dag_id,
        "task_id": job.task_id,
        "run_id": job.run_id,
        "map_index": str(job.map_index),
        "try_number": str(job.try_number),
        "job_id": str(job.id),
    }
