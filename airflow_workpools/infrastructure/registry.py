# SPDX-License-Identifier: Apache-2.0
"""The kinds of infrastructure that are installed, found through the entry point group
``airflow_workpools.infrastructure``. Ours use the same door as anybody's.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from airflow_workpools.core.templates import BaseJobTemplate
from airflow_workpools.errors import InfrastructureError, NotFound, WorkpoolsError
from airflow_workpools.infrastructure.base import ChecksTemplates, ChecksVariables, HasLog, bound_to_host

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from airflow_workpools.infrastructure.base import Infrastructure

log = logging.getLogger(__name__)

GROUP = "airflow_workpools.infrastructure"


@cache
def _entry_points() -> Mapping[str, EntryPoint]:
    return {entry_point.name: entry_point for entry_point in entry_points(group=GROUP)}


def kinds() -> tuple[str, ...]:
    """Return the kinds that are installed, in alphabetical order."""
    return tuple(sorted(_entry_points()))


@cache
def infrastructure_class(kind: str) -> type[Infrastructure]:
    """Return the class of a kind of infrastructure.

    :raises NotFound: if no installed package brings that kind.
    :raises InfrastructureError: if what brings it cannot be imported; the message says what to install.
    """
    entry_point = _entry_points().get(kind)
    if entry_point is None:
        raise NotFound(f"there is no work pool type {kind!r}; installed are: {', '.join(kinds()) or 'none'}")
    try:
        loaded: type[Infrastructure] = entry_point.load()
    except Exception as error:
        raise InfrastructureError(
            f"work pool type {kind!r} ({entry_point.value}) cannot be imported: {error}{_hint(entry_point)}"
        ) from error
    if loaded.kind != kind:
        raise InfrastructureError(
            f"work pool type {kind!r} leads to {entry_point.value}, which calls itself {loaded.kind!r}"
        )
    return loaded


def _hint(entry_point: EntryPoint) -> str:
    """Say how to install what a kind needs, if its package has an extra for it."""
    package = entry_point.dist
    if package is None or entry_point.name not in (package.metadata.get_all("Provides-Extra") or ()):
        return ""
    return f'. Install what it needs: pip install "{package.name}[{entry_point.name}]"'


@cache
def default_template(kind: str) -> BaseJobTemplate:
    """Return the base job template of a kind, made from its typed job variables.

    :raises NotFound: if no installed package brings that kind.
    :raises InfrastructureError: if the package that brings it cannot be imported.
    """
    loaded = infrastructure_class(kind)
    return BaseJobTemplate.parse(
        {
            "variables": loaded.variables.model_json_schema(),
            "job_configuration": loaded.default_job_configuration(),
        }
    )


@cache
def unusable_kinds() -> Mapping[str, str]:
    """Return the kinds that are installed and can't be used here, each with the reason and the way out."""
    problems = {}
    for kind in kinds():
        try:
            default_template(kind)
        except WorkpoolsError as error:
            problems[kind] = str(error)
    return problems


@cache
def default_templates() -> Mapping[str, BaseJobTemplate]:
    """Return the base job template of every kind that can be used here; the others are left out."""
    unusable = unusable_kinds()
    for kind, problem in unusable.items():
        log.info("Work pool type %r is left out: %s", kind, problem)
    return {kind: default_template(kind) for kind in kinds() if kind not in unusable}


@cache
def template_checks() -> Mapping[str, Callable[[Any], Sequence[str]]]:
    """Return what finds the faults of a ``job_configuration``, for each kind that knows of some and can be used."""
    classes: dict[str, Any] = {kind: infrastructure_class(kind) for kind in default_templates()}
    has_check = ChecksTemplates.template_problems.__name__
    return {kind: loaded.template_problems for kind, loaded in classes.items() if hasattr(loaded, has_check)}


@cache
def variable_checks() -> Mapping[str, Callable[[Any, Mapping[str, Any]], Sequence[str]]]:
    """Return what finds values of job variables that no job can be launched with, for each kind that knows of some."""
    classes: dict[str, Any] = {kind: infrastructure_class(kind) for kind in default_templates()}
    has_check = ChecksVariables.variable_problems.__name__
    return {kind: loaded.variable_problems for kind, loaded in classes.items() if hasattr(loaded, has_check)}


@cache
def is_bound_to_host(kind: str) -> bool:
    """Say whether only workers of the host on which a job of this kind was launched can look after it.

    Where that depends on the connection, it is said. Of a kind that can't be imported here it is not known, and not
    said.
    """
    try:
        loaded: Any = infrastructure_class(kind)
    except WorkpoolsError:
        return False
    return bound_to_host(loaded)


@cache
def keeps_log(kind: str) -> bool:
    """Say whether what jobs of a kind write is not in Airflow's log folder: its worker fetches it.

    A kind that can't be imported here has its workers elsewhere, and so its logs.
    """
    try:
        return hasattr(infrastructure_class(kind), HasLog.follow_log.__name__)
    except WorkpoolsError:
        return True
