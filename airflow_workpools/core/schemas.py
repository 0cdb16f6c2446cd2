# SPDX-License-Identifier: Apache-2.0
"""JSON Schema (Draft 2020-12) as base job templates use it: is a schema sound, and do values fit it?

A schema here describes the job variables: an object whose properties are the variables. A ``$ref`` may only
point into the same schema, nothing is ever fetched, and a schema may not contain itself.

Complaints never quote a value that they are about, because a job variable may be a secret.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.json_values import MAX_DEPTH, json_path
from airflow_workpools.core.wording import TYPE_WORDS, listing, type_word

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

    Path = tuple[str | int, ...]

_BOUNDS = {
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "minProperties": "must have at least {} keys",
    "maxProperties": "must have at most {} keys",
    "pattern": "must match the pattern {!r}",
    "const": "must be {!r}",
}


class VariablesSchema:
    """The schema of the job variables, ready to check values with."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._validator = _validator_for(schema)

    def complaints(self, values: Mapping[str, Any]) -> list[tuple[Path, str]]:
        """Return what is wrong with the values: places, and sentences without a subject.

        The empty place means the values taken together (one may require another). Missing and unknown
        variables are not among the complaints: whoever asks knows whether the values are complete.
        """
        errors = _errors(self._validator, values)
        return list(dict.fromkeys(explain(error) for error in errors if not _is_of_names(error)))


def schema_problems(schema: Mapping[str, Any]) -> list[tuple[Path, str]]:
    """Return why this cannot be a schema of job variables: places in it, and sentences without a subject."""
    from jsonschema import Draft202012Validator

    meta = Draft202012Validator(Draft202012Validator.META_SCHEMA)
    problems = [explain(error) for error in _errors(meta, dict(schema))]
    if schema.get("type", "object") != "object":
        problems.append((("type",), "must be 'object'"))
    return problems or [((), complaint) for complaint in _flaws(schema)]


def explain(error: ValidationError) -> tuple[Path, str]:
    """Return where the root of a complaint of jsonschema is, and what it is in words."""
    error = _root_cause(error)
    return tuple(error.absolute_path), _words(error)


def allows_null(schema: Any) -> bool:
    """Say whether a schema names null among the types that it allows."""
    if not isinstance(schema, dict):
        return False
    types = schema.get("type", [])
    if types == "null" or (isinstance(types, list) and "null" in types):
        return True
    return any(allows_null(option) for key in ("anyOf", "oneOf") for option in schema.get(key, []))


def _validator_for(schema: Mapping[str, Any]) -> Validator:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    # By default jsonschema fetches what a $ref names over the network; an empty registry looks nowhere.
    registry: Registry[Any] = Registry()
    return Draft202012Validator(dict(schema), registry=registry)


def _errors(validator: Validator, values: Any) -> list[ValidationError]:
    return sorted(validator.iter_errors(values), key=lambda error: json_path(error.absolute_path))


def _is_of_names(error: ValidationError) -> bool:
    # jsonschema gives no place to a variable whose schema is False; no keyword is what it did not keep.
    return not error.absolute_path and error.validator in ("required", "additionalProperties", None)


def _root_cause(error: ValidationError) -> ValidationError:
    """Descend into alternatives: to the one that was meant, if all others allow only other types."""
    while error.context:
        depth = len(error.absolute_path)
        meant = [
            cause for cause in error.context if cause.validator != "type" or len(cause.absolute_path) > depth
        ]
        if not meant:
            break
        error = max(meant, key=lambda cause: len(cause.absolute_path))
    return error


def _words(error: ValidationError) -> str:
    keyword = str(error.validator)
    wanted: Any = error.validator_value
    instance: Any = error.instance
    if error.context:
        types = dict.fromkeys(name for cause in error.context for name in _type_names(cause.validator_value))
        return _wrong_type(instance, types)
    if keyword == "type":
        return _wrong_type(instance, _type_names(wanted))
    if keyword == "enum":
        return "must be one of " + ", ".join(repr(value) for value in wanted)
    if keyword == "required":
        missing = [name for name in wanted if name not in instance]
        return "lacks " + ", ".join(repr(name) for name in missing)
    if keyword == "additionalProperties" and wanted is False:
        known = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        unknown = [name for name in instance if name not in known]
        return f"has keys that are not allowed: {listing(unknown)}; allowed are: {listing(known)}"
    if wanted is None:
        return "is not allowed"  # the schema of it is False
    template = _BOUNDS.get(keyword)
    return template.format(wanted) if template else f"does not satisfy {keyword!r} of its schema"


def _type_names(wanted: Any) -> list[str]:
    return list(wanted) if isinstance(wanted, list) else [str(wanted)]


def _wrong_type(instance: Any, types: Iterable[str]) -> str:
    allowed = [TYPE_WORDS.get(name, name) for name in types]
    return f"must be {' or '.join(allowed)}, not {type_word(instance)}"


def _flaws(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the schema of schemas cannot see: references that lead nowhere or in circles, bad
    patterns."""
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    root = dict(schema)
    uri = DRAFT202012.create_resource(root).id() or ""
    registry: Registry[Any] = Registry().with_resource(uri, DRAFT202012.create_resource(root))
    yield from dict.fromkeys(_flaws_below(root, registry.resolver(uri), (), set()))


def _flaws_below(contents: Any, resolver: Any, above: tuple[int, ...], done: set[int]) -> Iterator[str]:
    """Walk a schema through its parts and references.

    :param above: ids of the schemas on the way here. jsonschema would follow a circle until the stack ends.
    :param done: ids of schemas that were walked through.
    """
    from referencing.jsonschema import DRAFT202012

    if not isinstance(contents, dict) or id(contents) in done:
        return
    if id(contents) in above:
        yield "refers to itself, which is not supported"
        return
    resource = DRAFT202012.create_resource(contents)
    resolver, above = resolver.in_subresource(resource), (*above, id(contents))
    if len(above) > MAX_DEPTH:
        yield f"is nested more than {MAX_DEPTH} deep by its references"
        return
    yield from _bad_patterns(contents)
    yield from _bad_reference(contents, resolver, above, done)
    for part in resource.subresources():
        yield from _flaws_below(part.contents, resolver, above, done)
    done.add(id(contents))


def _bad_reference(
    schema: Mapping[str, Any], resolver: Any, above: tuple[int, ...], done: set[int]
) -> Iterator[str]:
    from referencing.exceptions import Unresolvable

    if "$dynamicRef" in schema:
        yield "uses $dynamicRef, which is not supported"
    if "$ref" not in schema:
        return
    try:
        target = resolver.lookup(schema["$ref"])
    except Unresolvable:
        yield f"has a $ref to {schema['$ref']!r}, which does not exist in it"
    else:
        yield from _flaws_below(target.contents, target.resolver, above, done)


def _bad_patterns(schema: Mapping[str, Any]) -> Iterator[str]:
    for pattern in [
        *([schema["pattern"]] if "pattern" in schema else ()),
        *schema.get("patternProperties", ()),
    ]:
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"has the pattern {pattern!r}, which is no regular expression: {error}"
