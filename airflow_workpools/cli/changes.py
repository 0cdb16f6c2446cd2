# SPDX-License-Identifier: Apache-2.0
"""From a command's arguments to keys of a definition; what is allowed is decided where those are read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_workpools.cli.arguments import NO_LIMIT
from airflow_workpools.core.changes import Changes
from airflow_workpools.core.templates import BaseJobTemplate
from airflow_workpools.errors import InvalidInput

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Mapping

    from airflow_workpools.cli.arguments import Assignment

_PLAIN_KEYS = {
    "delivery": "delivery",
    "start_timeout": "start_timeout",
    "start_attempts": "start_attempts",
    "infrastructure_conn_id": "infrastructure_conn_id",
    "priority": "priority",
}


def given_keys(args: Namespace) -> dict[str, Any]:
    """Return the keys for which the command line has a value; None stands for a limit to be removed."""
    keys = {key: value for key in _PLAIN_KEYS if (value := getattr(args, key, None)) is not None}
    if (limit := getattr(args, "concurrency_limit", None)) is not None:
        keys["concurrency_limit"] = limit_or_none(limit)
    if template := getattr(args, "base_job_template", None):
        keys["base_job_template"] = read_template(template)
    return keys


def changes(args: Namespace, **more: Any) -> Changes:
    """Return all changes that the command line asks for."""
    return Changes(
        keys={**given_keys(args), **more},
        set_variables=assigned(args.variables),
        unset_variables=tuple(getattr(args, "unset", None) or ()),
    )


def limit_or_none(limit: int | str) -> int | None:
    return None if limit == NO_LIMIT else int(limit)


def assigned(assignments: Iterable[Assignment] | None) -> dict[str, Any]:
    """Return the job variables that ``--set`` gave."""
    return {one.name: one.value for one in assignments or ()}


def queues(specs: Iterable[tuple[str, dict[str, Any]]] | None) -> dict[str, Any]:
    """Return the work queues that ``--queue`` gave.

    :raises InvalidInput: if one is given twice.
    """
    found: dict[str, Any] = {}
    for name, definition in specs or ():
        if name in found:
            raise InvalidInput(f"work queue {name!r} is given twice")
        found[name] = definition
    return found


def read_template(path: str) -> dict[str, Any]:
    """Read a base job template from a file, or from standard input if the path is ``-``.

    :raises InvalidInput: if there is no such file.
    :raises InvalidTemplate: if it is no template.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidInput(f"base job template {path!r} cannot be read: {reason}") from error
    return BaseJobTemplate.parse(text).to_json()


def write_template(path: str, template: Mapping[str, Any]) -> None:
    """Write a base job template to a file that :func:`read_template` can read.

    :raises InvalidInput: if that is not possible.
    """
    try:
        Path(path).write_text(json.dumps(template, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"base job template {path!r} cannot be written: {error.strerror}") from error
