# SPDX-License-Identifier: Apache-2.0
"""Whether what job variables make of the images in a template are names of images. Pure.

Known as soon as the variables are: a task with a misspelt image need not wait for a slot to be told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.core.json_values import json_path
from airflow_workpools.core.placeholders import (
    NO_VALUE,
    Placeholder,
    PlaceholderKind,
    follow,
    placeholders_in,
    substitute,
)
from airflow_workpools.errors import InvalidInput
from airflow_workpools.infrastructure.image_names import ImageName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

EACH = "*"
"""In the path of images: every item of a list."""


class _NotKnownYet(Exception):
    """A value that only the worker has, or that a job may still give."""


def image_problems(job_configuration: Any, variables: Mapping[str, Any], *paths: Sequence[str]) -> list[str]:
    """Say which job variables make names of images that no image can have.

    :param variables: the values of job variables, as far as they are known.
    :param paths: where images stand in a job's configuration, with :data:`EACH` for the items of a list.
    """
    return [
        f"job variable{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}: {problem}"
        for _, names, image in _found(job_configuration, variables, paths)
        if names and (problem := _problem(image))
    ]


def fixed_image_problems(job_configuration: Any, *paths: Sequence[str]) -> list[str]:
    """Say which images that no job variable has a part in have no name that an image can have."""
    return [
        f"{json_path(('job_configuration', *place))}: {problem}"
        for place, _, image in _found(job_configuration, {}, paths)
        if (problem := _problem(image))
    ]


def _problem(image: str) -> str | None:
    try:
        ImageName.parse(image)
    except InvalidInput as error:
        return str(error)
    return None


_Found = tuple[tuple["str | int", ...], tuple[str, ...], str]
"""Where an image stands, which job variables have a part in it, and its name."""


def _found(
    job_configuration: Any, variables: Mapping[str, Any], paths: Sequence[Sequence[str]]
) -> Iterator[_Found]:
    return (image for path in paths for image in _images(job_configuration, path, variables))


def _images(
    tree: Any,
    path: Sequence[str],
    variables: Mapping[str, Any] | None,
    place: tuple[str | int, ...] = (),
    names: tuple[str, ...] = (),
) -> Iterator[_Found]:
    """Yield the images at a path that are known.

    :param variables: None in what was put in for a placeholder, which is not looked at for others.
    """
    if isinstance(tree, str) and variables is not None and (found := placeholders_in(tree)):
        try:
            tree = _filled(tree, variables)
        except _NotKnownYet:
            return
        variables, names = None, tuple(dict.fromkeys(Placeholder.parse(text).name for text in found))
    if not path:
        if isinstance(tree, str):
            yield place, names, tree
        return
    step, *rest = path
    if step == EACH and isinstance(tree, list):
        for index, item in enumerate(tree):
            yield from _images(item, rest, variables, (*place, index), names)
    elif isinstance(tree, dict) and step in tree:
        yield from _images(tree[step], rest, variables, (*place, step), names)


def _filled(text: str, variables: Mapping[str, Any]) -> Any:
    def value_of(placeholder: Placeholder) -> Any:
        if placeholder.kind is not PlaceholderKind.VARIABLE:
            raise _NotKnownYet
        value = follow(variables, (placeholder.name, *placeholder.path))
        if value is NO_VALUE:
            raise _NotKnownYet
        return value

    return substitute(text, value_of)
