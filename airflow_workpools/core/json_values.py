# SPDX-License-Identifier: Apache-2.0
"""JSON as plain Python values: reading it, copying it, pointing into it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.wording import type_word

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DEPTH = 64
"""How deep values may be nested; what checks and renders them recurses."""

_PLAIN_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")


class JsonError(ValueError):
    """A value cannot be written as JSON; the message is a sentence without a subject."""


def read_json(text: str) -> Any:
    """Return what a JSON text says.

    :raises JsonError: if it is malformed or nested too deeply; the message tells where.
    """
    try:
        return plain_json(json.loads(text, parse_constant=_refuse_constant))
    except json.JSONDecodeError as error:
        raise JsonError(
            f"is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise JsonError(f"is nested more than {MAX_DEPTH} deep") from error


def plain_json(value: Any) -> Any:
    """Return a deep copy made of dicts, lists, text, numbers, booleans and None only.

    :raises JsonError: if something in it is not JSON; the message names the place and the Python type.
    """
    return _plain(value, ())


def json_path(parts: Iterable[str | int], *, root: str = "$") -> str:
    """Return ``$.like[0]['th.is']``, the place of a value in a document."""
    return root + "".join(_path_step(part) for part in parts)


def as_text(value: Any) -> str:
    """Return a JSON value as it stands inside a text: text as it is, null as nothing, the rest as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _refuse_constant(name: str) -> None:
    raise JsonError(f"is not valid JSON: {name} is no JSON number")


def _path_step(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if _PLAIN_KEY.fullmatch(part) else f"[{part!r}]"


def _plain(value: Any, path: tuple[str | int, ...]) -> Any:
    if len(path) > MAX_DEPTH:
        raise JsonError(f"is nested more than {MAX_DEPTH} deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # of a member of an enumeration, the value; str() would give its name
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, Mapping):
        return {_plain_key(key, path): _plain(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, (*path, index)) for index, item in enumerate(value)]
    raise JsonError(f"must be JSON, but {json_path(path)} is {type_word(value)}")


def _plain_key(key: object, path: tuple[str | int, ...]) -> str:
    if not isinstance(key, str):
        raise JsonError(f"must be JSON, but {json_path(path)} has the key {key!r}, which is not text")
    return str.__str__(key)
