# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools get-default-base-job-template`` and ``render-job``: what jobs look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow_workpools.cli.changes import assigned, write_template
from airflow_workpools.cli.context import opened
from airflow_workpools.cli.output import reads, show_data
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.templates import RenderContext, render
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
        template = pool.base_job_template
        job = render(
            template,
            pool.job_variables,
            queue.job_variables,
            assigned(args.variables),
            context=_context(ref),
            environ=_Unresolved("$"),
            connections={name: _Unresolved(f"conn.{name}.") for name in template.connection_ids},
        )
    show_data(job, args.output)


def _context(ref: WorkQueueRef) -> RenderContext:
    unknown: Any = {
        name: f"{{{{ ctx.{name} }}}}"
        for name in ("dag_id", "task_id", "run_id", "map_index", "try_number", "job_id")
    }
    return RenderContext(work_pool=ref.pool, work_queue=ref.queue, **unknown)


class _Unresolved(Mapping[str, str]):
    """Has a value for every name: the placeholder itself."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> str:
        return f"{{{{ {self._prefix}{name} }}}}"

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
