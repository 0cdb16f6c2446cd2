# SPDX-License-Identifier: Apache-2.0
"""JSON pointers (RFC 6901): the place of something in a document, as editors take it."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_STEP = re.compile(
    r"""\.(?P<key>[A-Za-z_$][A-Za-z0-9_$-]*)|\[(?P<index>\d+)\]|\[(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\]"""
)
_ROOT = re.compile(r"(?:base_job_template: )?\$(?=[ .\[:])")


def pointer(parts: Iterable[str | int]) -> str:
    """Return the pointer to a place; the whole document is the empty text."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def place_in(problem: str) -> tuple[str | None, str]:
    """Return the place with which a problem begins, like ``$.variables.type``, as a pointer, and the problem.

    None, if it begins with no place.
    """
    root = _ROOT.match(problem)
    if root is None:
        return None, problem
    parts: list[str | int] = []
    at = root.end()
    while step := _STEP.match(problem, at):
        if step["index"] is not None:
            parts.append(int(step["index"]))
        else:
            parts.append(step["key"] if step["key"] is not None else ast.literal_eval(step["text"]))
        at = step.end()
    return pointer(parts), problem
