# SPDX-License-Identifier: Apache-2.0
"""What a job would look like, without what only its worker knows: that stays the placeholder it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.placeholders import Placeholder, PlaceholderKind, placeholders_in, texts_in
from airflow_workpools.core.templates import RenderContext, render

if TYPE_CHECKING:
    from airflow_workpools.core.names import WorkQueueRef
    from airflow_workpools.core.templates import BaseJobTemplate, Layer


def dry_run(template: BaseJobTemplate, *layers: Layer, context: RenderContext) -> Any:
    """Return the job configuration; environment and connections of the worker stay placeholders.

    :raises InvalidJobVariables: with all problems of the variables.
    """
    return render(
        template,
        *layers,
        context=context,
        environ=_Unresolved("$"),
        connections={name: _Unresolved(f"conn.{name}.") for name in template.connection_ids},
    )


def unknown_job(ref: WorkQueueRef) -> RenderContext:
    """Return the facts of a job of which only the work queue is known; the others stay placeholders."""
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


@dataclass(frozen=True)
class TemplateField:
    """A value in a job configuration."""

    path: tuple[str | int, ...]
    variables: tuple[str, ...] = ()
    """Job variables that change it; none, and no task can."""


def fields_of(template: BaseJobTemplate) -> Iterator[TemplateField]:
    """Yield every value in the job configuration of a template, with the job variables that it depends on."""
    for path, value in _leaves(template.job_configuration, ()):
        yield TemplateField(path, tuple(variables_in(value)))


def variables_in(value: Any) -> list[str]:
    """Return the job variables for which a value of a template asks, in their order."""
    found = (Placeholder.parse(text) for _, part in texts_in(value) for text in placeholders_in(part))
    return list(dict.fromkeys(one.name for one in found if one.kind is PlaceholderKind.VARIABLE))


def _leaves(tree: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, item in tree.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(tree, list) and tree:
        for index, item in enumerate(tree):
            yield from _leaves(item, (*path, index))
    else:
        yield path, tree
