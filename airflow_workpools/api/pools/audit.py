# SPDX-License-Identifier: Apache-2.0
"""What Airflow's audit log remembers of a change: who, what, to which pool, and no value that may be a secret. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MASK = "***"
_MOST_TEXT = 200
_MOST_KEYS = 50
_SECRET = ("job_variables", "set_job_variables", "base_job_template")
"""Of these only the names of what is in them are remembered."""


@dataclass(frozen=True)
class AuditRow:
    """A row of Airflow's table ``log``."""

    event: str
    owner: str
    extra: str
    """JSON."""


def audit_row(event: str, user: str, path: Mapping[str, Any], body: Any) -> AuditRow:
    """Return what is to be remembered of a request.

    :param path: what was named in the path.
    :param body: what was sent.
    """
    said = {str(key)[:_MOST_TEXT]: _kept(str(key), value) for key, value in _first(body)}
    named = {key: str(value)[:_MOST_TEXT] for key, value in path.items()}
    return AuditRow(event, user, json.dumps({**said, **named}))


def _first(body: Any) -> list[tuple[Any, Any]]:
    return list(body.items())[:_MOST_KEYS] if isinstance(body, dict) else []


def _kept(key: str, value: Any) -> Any:
    if key in _SECRET:
        return {str(name)[:_MOST_TEXT]: MASK for name, _ in _first(value)}
    if isinstance(value, list):
        return [_kept("", item) for item in value[:_MOST_KEYS]]
    if isinstance(value, dict):
        return {str(name)[:_MOST_TEXT]: _kept(str(name), item) for name, item in _first(value)}
    return value[:_MOST_TEXT] if isinstance(value, str) else value
