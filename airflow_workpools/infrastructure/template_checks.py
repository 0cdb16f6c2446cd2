# SPDX-License-Identifier: Apache-2.0
"""What is known of a base job template before any job gives it values. Pure.

The rules for a job's configuration hold for a template, too, as far as it has no placeholders: so they are stated once,
and asked of what is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow_workpools.core.placeholders import placeholders_in
from airflow_workpools.errors import LaunchRejected
from airflow_workpools.infrastructure.base import LaunchSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_STAND_IN = "stand-in"


def problems_of(
    job_configuration: Any, *, needed: Sequence[str | int], plan: Callable[[LaunchSpec], object]
) -> list[str]:
    """Say what is wrong with a ``job_configuration``, whatever the values of its placeholders are.

    :param needed: the path of what no job can do without; where a placeholder stands on the way, it may well be there.
    :param plan: makes of a launch what is to be created; raises LaunchRejected if that can't be.
    """
    if not isinstance(job_configuration, dict):
        return ["$.job_configuration must be an object"]
    known = _known(_completed(job_configuration, needed))
    try:
        plan(LaunchSpec(job_id=UUID(int=0), configuration=known, workload="{}"))
    except LaunchRejected as rejected:
        return [str(rejected)]
    return []


def _is_open(value: Any) -> bool:
    """Say whether a value depends on a placeholder."""
    return isinstance(value, str) and any(placeholders_in(value))


def _completed(tree: Any, path: Sequence[str | int]) -> Any:
    """Put something plausible in the place of the first placeholder on a path."""
    if _is_open(tree):
        return _plausible(path)
    if not path:
        return tree
    step, *rest = path
    if isinstance(tree, dict) and step in tree:
        return {**tree, step: _completed(tree[step], rest)}
    if isinstance(tree, list) and tree and step == 0:
        return [_completed(tree[0], rest), *tree[1:]]
    return tree


def _plausible(path: Sequence[str | int]) -> Any:
    if not path:
        return _STAND_IN
    step, *rest = path
    return [_plausible(rest)] if step == 0 else {step: _plausible(rest)}


def _known(tree: Any) -> Any:
    """Leave out what depends on a placeholder."""
    if isinstance(tree, dict):
        return {key: _known(value) for key, value in tree.items() if not _is_open(value)}
    if isinstance(tree, list):
        return [_known(value) for value in tree if not _is_open(value)]
    return tree
