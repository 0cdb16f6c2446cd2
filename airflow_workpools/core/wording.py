# SPDX-License-Identifier: Apache-2.0
"""Small words that error messages share, so that all of them read alike."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

TYPE_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
"""From the types of JSON Schema to words for people."""

_PYTHON_TYPES = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}


def type_word(value: Any) -> str:
    """Say what kind of JSON value this is, without telling the value: it may be secret."""
    schema_type = _PYTHON_TYPES.get(type(value))
    return TYPE_WORDS[schema_type] if schema_type else f"a Python {type(value).__name__}"


def listing(names: Iterable[str]) -> str:
    """Return the names in alphabetical order, or ``none``."""
    return ", ".join(sorted(names)) or "none"


def counted(number: int, noun: str) -> str:
    """Return ``1 job``, ``2 jobs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known name that is nearest to a wrong one, or nothing."""
    matches = get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def duration(seconds: float) -> str:
    """Say how long something takes or lies back: ``12 s``, ``5 min``, ``3 h``, ``2 days``."""
    for size, word in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {word}"
    return f"{max(0.0, seconds):.0f} s"
