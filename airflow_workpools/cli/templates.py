# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools get-default-base-job-template`` and ``render-job``: what jobs look like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_workpools.cli.changes import assigned, write_template
from airflow_workpools.cli.context import opened
from airflow_workpools.cli.output import reads, show_data
from airflow_workpools.core.dry_run import dry_run, unknown_job
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.infrastructure.registry import default_template

if TYPE_CHECKING:
    from argparse import Namespace


@reads
def get_default_base_job_template(args: Namespace) -> None:
    """Print the base job template that pools of a type have by default."""
    template = default_template(args.type).to_json()
    if args.file is None:
        show_data(template, "json")
    else:
        write_template(args.file, template)
        print(f"Base job template of type {args.type} written to {args.file}")


@reads
def render_job(args: Namespace) -> None:
    """Print the job that given variables would make. What only a real job knows stays a placeholder."""
    ref = WorkQueueRef.parse(args.target)
    with opened() as context:
        pool = context.valid_pool(ref.pool)
        queue = pool.queue(ref.queue)
        job = dry_run(
            pool.base_job_template,
            pool.job_variables,
            queue.job_variables,
            assigned(args.variables),
            context=unknown_job(ref),
        )
    show_data(job, args.output)
