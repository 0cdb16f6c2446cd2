# SPDX-License-Identifier: Apache-2.0
"""The image that a work pool's jobs run in unless they name another: its job variable ``image``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_workpools.core.changes import Changes
from airflow_workpools.core.pools import WorkPool
from airflow_workpools.errors import InvalidInput

if TYPE_CHECKING:
    from airflow_workpools.store.pool_edits import PoolEditor

VARIABLE = "image"


def set_default_image(editor: PoolEditor, name: str, image: str) -> None:
    """Make an image the default of a work pool.

    :raises WorkpoolsError: as :func:`check_default_image` does.
    """
    check_default_image(editor, name, image)
    editor.update_pool(name, _change(image))


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
    editor.check_update(name, _change(image))


def _change(image: str) -> Changes:
    return Changes(set_variables={VARIABLE: image})
