# SPDX-License-Identifier: Apache-2.0
"""Secrets in JSON values are not shown to those who only look. Pure.

What is a secret is told by its name, as Airflow tells it, and by its place in an address. Placeholders are none: they
say where a secret comes from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MASK = "***"

_IN_ADDRESS = re.compile(r"(?<=://)([^\s/@:]*):([^\s/@]+)(?=@)")
_PLACEHOLDER = re.compile(r"\s*\{\{[^{}]*\}\}\s*")
_OF_SCHEMA = ("default", "const", "examples", "enum")
"""What of the schema of a job variable is a value."""


def masked(value: Any, is_secret: Callable[[str], bool], *, name: str = "") -> Any:
    """Return a copy of JSON values with what is secret in them replaced.

    :param is_secret: tells by a name whether its value is.
    :param name: that of the value.
    """
    if isinstance(value, Mapping):
        return _masked_object(value, is_secret, name)
    if isinstance(value, list):
        return [masked(item, is_secret, name=name) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if name and is_secret(name):
        return value if isinstance(value, str) and (not value or _PLACEHOLDER.fullmatch(value)) else MASK
    return _IN_ADDRESS.sub(rf"\1:{MASK}", value) if isinstance(value, str) else value


def _masked_object(value: Mapping[str, Any], is_secret: Callable[[str], bool], name: str) -> dict[str, Any]:
    # As containers have it in a manifest: {"name": "DB_PASSWORD", "value": …}.
    named = value.get("name")
    entry = isinstance(named, str) and "value" in value and is_secret(named)
    return {
        key: masked(
            item, is_secret, name=str(named) if entry and key == "value" else _worse(name, key, is_secret)
        )
        for key, item in value.items()
    }


def _worse(outer: str, key: str, is_secret: Callable[[str], bool]) -> str:
    """What is in something secret is secret, too."""
    return outer if outer and is_secret(outer) else key


def masked_template(template: Mapping[str, Any], is_secret: Callable[[str], bool]) -> dict[str, Any]:
    """Return a base job template with what is secret in it replaced. Schemas stay schemas."""
    variables = dict(template["variables"])
    properties = variables.get("properties")
    if isinstance(properties, Mapping):
        variables["properties"] = {
            name: masked_schema(name, schema, is_secret) for name, schema in properties.items()
        }
    return {
        "variables": variables,
        "job_configuration": masked(template["job_configuration"], is_secret),
    }


def masked_schema(name: str, schema: Any, is_secret: Callable[[str], bool]) -> Any:
    """Return the schema of a job variable with the values in it replaced that are secret."""
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: masked(item, is_secret, name=name) if key in _OF_SCHEMA else item for key, item in schema.items()
    }
