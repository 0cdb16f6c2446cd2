# SPDX-License-Identifier: Apache-2.0
"""The image that a work pool's jobs run in unless they name another: its job variable ``image``.

Images that were built here have this provider, so their tasks can start the short way: that is the pool's ``command``
then, unless it has one of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_workpools.core.changes import Changes
from airflow_workpools.core.pools import PoolSource, WorkPool
from airflow_workpools.core.templates import value_problems
from airflow_workpools.errors import InvalidInput
from airflow_workpools.infrastructure.containers import LEAN_COMMAND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_workpools.store.pool_edits import PoolEditor

VARIABLE = "image"
COMMAND = "command"


def set_default_image(editor: PoolEditor, name: str, image: str) -> None:
    """Make an image that was built here the default of a work pool.

    :raises WorkpoolsError: as :func:`check_default_image` does.
    """
    check_default_image(editor, name, image)
    editor.update_pool(name, changes_for(editor.pools.get(name), image))


def check_default_image(editor: PoolEditor, name: str, image: str) -> None:
    """Check that an image could be made the default of a work pool, and change nothing.

    :raises NotFound: if there is no such pool.
    :raises Conflict: if it is not ours to write.
    :raises InvalidInput: if its template has no variable for an image.
    """
    pool = editor.pools.get(name)
    if isinstance(pool, WorkPool) and VARIABLE not in pool.base_job_template.properties:
        raise InvalidInput(
            f"work pool {name!r} (type {pool.type}) runs no images: its base job template has no variable "
            f"{VARIABLE!r}"
        )
    editor.check_update(name, changes_for(pool, image))


def pools_with_images(pools: Mapping[str, object]) -> list[str]:
    """Return the names of those work pools for which an image could be made the default, in alphabetical order."""
    return sorted(
        name
        for name, pool in pools.items()
        if isinstance(pool, WorkPool)
        and pool.source is PoolSource.DATABASE
        and VARIABLE in pool.base_job_template.properties
    )


def changes_for(pool: object, image: str) -> Changes:
    """Return what is to be different in a work pool whose jobs run in an image that was built here."""
    variables: dict[str, object] = {VARIABLE: image}
    if isinstance(pool, WorkPool) and _takes_a_command(pool):
        variables[COMMAND] = list(LEAN_COMMAND)
    return Changes(set_variables=variables)


def _takes_a_command(pool: WorkPool) -> bool:
    """Say whether a pool leaves it to us what its jobs run."""
    declared = pool.base_job_template.properties.get(COMMAND)
    if declared is None or pool.job_variables.get(COMMAND) or declared.get("default"):
        return False
    return not list(value_problems(pool.base_job_template, {COMMAND: list(LEAN_COMMAND)}))
