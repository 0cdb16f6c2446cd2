# SPDX-License-Identifier: Apache-2.0
"""Placeholders in a tree of JSON values: finding them and putting values in their place.

::

    {{ name }}            a job variable; also {{ name.key }}, {{ name[0] }} and any such path into its value
    {{ $NAME }}           a variable of the worker's environment
    {{ ctx.dag_id }}      a fact of the job
    {{ conn.ID.field }}   a field of an Airflow connection; also {{ conn.ID.extra.key }}. An ID with a dot
                          cannot be written

Braces around anything but letters, digits and ``_ - . [ ] $`` are left alone: other template languages use
them too. A text that is exactly one placeholder becomes the value itself, whatever its type; inside a
longer text the value becomes text. Where there is no value the key or list item is left out, and inside a
text nothing is put. Keys are never looked at, and what was put in is not looked at again.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from airflow_workpools.core.json_values import as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BRACES = re.compile(r"\{\{\s*([A-Za-z0-9_.\[\]$-]+)\s*\}\}")
_ENVIRONMENT_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_PATH = re.compile(r"[A-Za-z0-9_-]+(?:\[[0-9]+\]|\.[A-Za-z0-9_-]+)*")
_STEP = re.compile(r"\[([0-9]+)\]|([A-Za-z0-9_-]+)")

RESERVED = frozenset({"ctx", "conn"})
"""First words of placeholders that are no job variables."""


class _NoValue(Enum):
    NO_VALUE = "no value"


NO_VALUE: Final = _NoValue.NO_VALUE
"""Stands for the value of a placeholder that has none. None is a value: an explicit null."""


class PlaceholderKind(Enum):
    """Where the value of a placeholder comes from."""

    VARIABLE = "job variable"
    ENVIRONMENT = "environment variable"
    CONTEXT = "fact of the job"
    CONNECTION = "connection"


@dataclass(frozen=True)
class Placeholder:
    """One placeholder, taken apart."""

    kind: PlaceholderKind
    name: str
    """Of the job variable, environment variable or fact; the id of the connection."""
    path: tuple[str | int, ...] = ()
    """The way from there into the value."""

    @classmethod
    def parse(cls, text: str) -> Placeholder:
        """Read what stands between the braces.

        :raises ValueError: if it is none of the forms; the message is a sentence.
        """
        if match := _ENVIRONMENT_VARIABLE.fullmatch(text):
            return cls(PlaceholderKind.ENVIRONMENT, match[1])
        if not _PATH.fullmatch(text):
            raise ValueError(
                f"'{{{{ {text} }}}}' is no placeholder: write a variable's name, a path into it like a.b[0], "
                "or $NAME for an environment variable"
            )
        name, *path = [int(index) if index else key for index, key in _STEP.findall(text)]
        if name == "ctx":
            return cls._of_context(path, text)
        if name == "conn":
            return cls._of_connection(path, text)
        return cls(PlaceholderKind.VARIABLE, str(name), tuple(path))

    @classmethod
    def _of_context(cls, path: list[str | int], text: str) -> Placeholder:
        match path:
            case [str(fact)]:
                return cls(PlaceholderKind.CONTEXT, fact)
        raise ValueError(f"'{{{{ {text} }}}}' must look like {{{{ ctx.dag_id }}}}")

    @classmethod
    def _of_connection(cls, path: list[str | int], text: str) -> Placeholder:
        match path:
            case [str(conn_id), str(field), *rest]:
                return cls(PlaceholderKind.CONNECTION, conn_id, (field, *rest))
        raise ValueError(f"'{{{{ {text} }}}}' must look like {{{{ conn.ID.field }}}}")


def placeholders_in(text: str) -> list[str]:
    """Return what stands between the braces of each placeholder in a text, well-formed or not."""
    return _BRACES.findall(text)


def texts_in(tree: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield every text in a tree of JSON values that may hold placeholders, with its place."""
    if isinstance(tree, str):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from texts_in(item, (*path, key))
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            yield from texts_in(item, (*path, index))


def follow(value: Any, path: tuple[str | int, ...]) -> Any:
    """Return what stands at a path into a value, or :data:`NO_VALUE` if the path leads nowhere."""
    for step in path:
        if isinstance(step, int):
            found = isinstance(value, list) and step < len(value)
        else:
            found = isinstance(value, Mapping) and step in value
        if not found:
            return NO_VALUE
        value = value[step]
    return value


def substitute(tree: Any, value_of: Callable[[Placeholder], Any]) -> Any:
    """Return a copy of a tree of JSON values with values in the place of its placeholders.

    :param value_of: gives the value of a placeholder, or :data:`NO_VALUE`.
    :return: the copy; :data:`NO_VALUE` if the tree is nothing but a placeholder that has none.
    :raises ValueError: if a placeholder is malformed.
    """
    if isinstance(tree, str):
        return _substitute_text(tree, value_of)
    if isinstance(tree, Mapping):
        filled = {key: substitute(item, value_of) for key, item in tree.items()}
        return {key: item for key, item in filled.items() if item is not NO_VALUE}
    if isinstance(tree, list):
        return [item for item in (substitute(item, value_of) for item in tree) if item is not NO_VALUE]
    return tree


def _substitute_text(text: str, value_of: Callable[[Placeholder], Any]) -> Any:
    if whole := _BRACES.fullmatch(text):
        return copy.deepcopy(value_of(Placeholder.parse(whole[1])))

    def filling(match: re.Match[str]) -> str:
        value = value_of(Placeholder.parse(match[1]))
        return "" if value is NO_VALUE else as_text(value)

    return _BRACES.sub(filling, text)
