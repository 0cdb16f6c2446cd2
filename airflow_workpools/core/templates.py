# SPDX-License-Identifier: Apache-2.0
"""Base job templates: what a work pool's jobs look like, and what of it a task may set.

A template is ``{"variables": …, "job_configuration": …}``. *variables* is the JSON Schema of an object whose
properties are the job variables; *job_configuration* is any JSON with placeholders (see
:mod:`~airflow_workpools.core.placeholders`), each of them declared in *variables*. What is not a
placeholder cannot be changed by a task. A variable that is not declared is refused, against JSON Schema's own
habit, unless *variables* allows more (``additionalProperties``).

The values come in layers, the later over the earlier: the schema's defaults, the pool's job variables, the
queue's, the task's. A variable is taken whole from the latest layer that has it; only ``env`` and
``labels`` are merged key by key, and null for a key takes it out. A default of null in the schema is no
default: it is how typed models say that there is none. Null in a layer is a value.

Everything here is pure: the worker's environment and connections are handed in, inputs are not changed, and
values are copied, never rendered again, so that what a task puts into a variable cannot read the worker's
secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from airflow_workpools.core.json_values import JsonError, json_path, plain_json, read_json
from airflow_workpools.core.placeholders import (
    NO_VALUE,
    RESERVED,
    Placeholder,
    PlaceholderKind,
    follow,
    placeholders_in,
    substitute,
    texts_in,
)
from airflow_workpools.core.schemas import VariablesSchema, allows_null, schema_problems
from airflow_workpools.core.wording import did_you_mean, listing, type_word
from airflow_workpools.errors import InvalidJobVariables, InvalidTemplate

if TYPE_CHECKING:
    from uuid import UUID

    from airflow_workpools.core.names import WorkQueueRef

MERGED_BY_KEY = ("env", "labels")
"""Job variables of which layers are merged key by key."""

Layer = Mapping[str, Any]


class OneJob(Protocol):
    """What a template may ask of a job, whoever knows of it."""

    @property
    def id(self) -> UUID: ...
    @property
    def ref(self) -> WorkQueueRef: ...
    @property
    def dag_id(self) -> str: ...
    @property
    def task_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def map_index(self) -> int: ...
    @property
    def try_number(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class RenderContext:
    """Facts of a job, for ``{{ ctx.… }}``; the field names are what stands after the dot."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    """-1 if the task is not mapped."""
    try_number: int
    work_pool: str
    work_queue: str
    job_id: str

    @classmethod
    def of(cls, job: OneJob) -> RenderContext:
        """Return the facts of a job."""
        return cls(
            dag_id=job.dag_id,
            task_id=job.task_id,
            run_id=job.run_id,
            map_index=job.map_index,
            try_number=job.try_number,
            work_pool=job.ref.pool,
            work_queue=job.ref.queue,
            job_id=str(job.id),
        )


_FACTS = tuple(fact.name for fact in fields(RenderContext))


@dataclass(frozen=True)
class BaseJobTemplate:
    """The variables that a job may set, and the configuration that they are put into."""

    variables: Mapping[str, Any]
    """JSON Schema of an object: its properties are the variables."""
    job_configuration: Any
    """Any JSON, with placeholders."""

    @classmethod
    def parse(cls, value: Mapping[str, Any] | str) -> BaseJobTemplate:
        """Read a template from an object or from JSON text, and check it.

        :raises InvalidTemplate: with all that is wrong; each problem names its place as a JSON path.
        """
        given = _read_template(value)
        problems = _shape_problems(given)
        if problems:
            raise InvalidTemplate(problems)
        template = cls(given["variables"], given["job_configuration"])
        problems = _variables_problems(template) + _placeholder_problems(template)
        if problems:
            raise InvalidTemplate(problems)
        return template

    def to_json(self) -> dict[str, Any]:
        """Return a copy as plain JSON values; :meth:`parse` reads it back."""
        return {
            "variables": plain_json(self.variables),
            "job_configuration": plain_json(self.job_configuration),
        }

    @property
    def placeholders(self) -> frozenset[str]:
        """What stands between the braces of all placeholders."""
        return frozenset(
            found for _, text in texts_in(self.job_configuration) for found in placeholders_in(text)
        )

    @property
    def connection_ids(self) -> frozenset[str]:
        """Ids of the Airflow connections that rendering needs."""
        parsed = (Placeholder.parse(text) for text in self.placeholders)
        return frozenset(p.name for p in parsed if p.kind is PlaceholderKind.CONNECTION)

    @cached_property
    def properties(self) -> Mapping[str, Any]:
        """The schema of each declared variable, by name."""
        declared = self.variables.get("properties")
        if not isinstance(declared, Mapping):
            return {}
        return {name: schema for name, schema in declared.items() if schema is not False}

    @cached_property
    def defaults(self) -> Mapping[str, Any]:
        """The schema's default of each variable that has one."""
        return {
            name: schema["default"]
            for name, schema in self.properties.items()
            if isinstance(schema, Mapping) and schema.get("default") is not None
        }

    @cached_property
    def schema(self) -> VariablesSchema:
        return VariablesSchema(self.variables)

    def allows(self, name: str) -> bool:
        """Say whether a variable of that name may be set."""
        if name in self.properties or self.variables.get("additionalProperties", False) is not False:
            return True
        return any(re.search(pattern, name) for pattern in self.variables.get("patternProperties", {}))


def merge_variables(template: BaseJobTemplate, *layers: Layer) -> dict[str, Any]:
    """Return the job variables that hold, as plain JSON: the schema's defaults, each layer laid over them.

    In ``env`` and ``labels``, null takes a key out. Where the schema says that null is a value there, it
    stays: then the infrastructure knows how to unset what a job would inherit.

    :raises InvalidJobVariables: if a layer is not JSON.
    """
    merged: dict[str, Any] = plain_json(template.defaults)
    for layer in layers:
        for name, value in _plain_layer(layer).items():
            base = merged.get(name) if name in MERGED_BY_KEY else None
            if isinstance(base, dict) and isinstance(value, dict):
                value = base | value
            merged[name] = value
    for name in MERGED_BY_KEY:
        if isinstance(merged.get(name), dict) and not _keeps_null(template, name):
            merged[name] = {key: value for key, value in merged[name].items() if value is not None}
    return merged


def check_variables(template: BaseJobTemplate, *layers: Layer, pool: str | None = None) -> dict[str, Any]:
    """Check what a job would be rendered with, and return it: the job variables that hold.

    :param pool: name of the work pool, for the messages.
    :raises InvalidJobVariables: with all problems: unknown variables (and what is allowed), wrong values,
        missing ones.
    """
    return _checked(template, layers, pool)


def missing_variables(template: BaseJobTemplate, *layers: Layer) -> list[str]:
    """Return the names of job variables that are required, and that nobody has given yet.

    :raises InvalidJobVariables: if a layer is not JSON.
    """
    return _missing(template, merge_variables(template, *layers))


def render(
    template: BaseJobTemplate,
    *layers: Layer,
    context: RenderContext | None,
    environ: Mapping[str, str],
    connections: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    """Return the job configuration with every placeholder replaced, as plain JSON.

    :param context: facts of the job; without it, what asks for them has no value.
    :param environ: the worker's environment.
    :param connections: fields by connection id, at least of :attr:`BaseJobTemplate.connection_ids`.
    :raises InvalidJobVariables: with all problems of the variables, or all connections and fields that are
        missing.
    """
    values = {
        PlaceholderKind.VARIABLE: _checked(template, layers, context.work_pool if context else None),
        PlaceholderKind.ENVIRONMENT: environ,
        PlaceholderKind.CONTEXT: vars(context) if context else {},
        PlaceholderKind.CONNECTION: connections or {},
    }
    missing: set[str] = set()

    def value_of(placeholder: Placeholder) -> Any:
        value = follow(values[placeholder.kind], (placeholder.name, *placeholder.path))
        if value is NO_VALUE and placeholder.kind is PlaceholderKind.CONNECTION:
            missing.add(_missing_connection(placeholder, connections or {}))
        return value

    rendered = substitute(template.job_configuration, value_of)
    if missing:
        raise InvalidJobVariables(sorted(missing))
    return None if rendered is NO_VALUE else rendered


def value_problems(template: BaseJobTemplate, *layers: Layer) -> list[str]:
    """Return what is wrong with variables that need not be complete yet: a pool's or queue's defaults."""
    try:
        merged = merge_variables(template, *layers)
    except InvalidJobVariables as error:
        return list(error.problems)
    return _unknown_problems(template, merged) + _wrong_values(template, merged)


def _read_template(value: Mapping[str, Any] | str) -> Any:
    try:
        return read_json(value) if isinstance(value, str) else plain_json(value)
    except JsonError as error:
        raise InvalidTemplate(f"base job template {error}") from error


def _shape_problems(given: Any) -> list[str]:
    if not isinstance(given, dict):
        return [f"base job template must be an object, not {type_word(given)}"]
    known = ("variables", "job_configuration")
    problems = [f"$.{key} is missing" for key in known if key not in given]
    problems += [
        f"{json_path([key])} is unknown{did_you_mean(key, known)}; a base job template has {listing(known)}"
        for key in sorted(given.keys() - known)
    ]
    if "variables" in given and not isinstance(given["variables"], dict):
        problems.append(f"$.variables must be an object, not {type_word(given['variables'])}")
    return problems


def _variables_problems(template: BaseJobTemplate) -> list[str]:
    problems = [
        f"{json_path(['variables', *path])} {complaint}"
        for path, complaint in schema_problems(template.variables)
    ]
    if problems:
        return problems
    reserved = [
        f"{json_path(['variables', 'properties', name])} is reserved: {{{{ {name}.… }}}} has its own meaning"
        for name in sorted(RESERVED & template.properties.keys())
    ]
    return reserved + [
        f"{json_path(['variables', 'properties', path[0], 'default', *path[1:]])} {complaint}"
        for path, complaint in template.schema.complaints(template.defaults)
        if path
    ]


def _placeholder_problems(template: BaseJobTemplate) -> list[str]:
    return [
        f"{json_path(['job_configuration', *path])}: {problem}"
        for path, text in texts_in(template.job_configuration)
        for found in placeholders_in(text)
        if (problem := _placeholder_problem(found, template))
    ]


def _placeholder_problem(text: str, template: BaseJobTemplate) -> str | None:
    try:
        placeholder = Placeholder.parse(text)
    except ValueError as error:
        return str(error)
    name = placeholder.name
    if placeholder.kind is PlaceholderKind.CONTEXT and name not in _FACTS:
        return f"there is no {{{{ {text} }}}}{did_you_mean(name, _FACTS)}; ctx has {listing(_FACTS)}"
    if placeholder.kind is PlaceholderKind.VARIABLE and name not in template.properties:
        return (
            f"{{{{ {text} }}}} is not declared in $.variables.properties"
            f"{did_you_mean(name, template.properties)}; declared are {listing(template.properties)}"
        )
    return None


def _plain_layer(layer: Layer) -> dict[str, Any]:
    if not isinstance(layer, Mapping):
        raise InvalidJobVariables(f"job variables must be an object, not {type_word(layer)}")
    try:
        plain: dict[str, Any] = plain_json(layer)
    except JsonError as error:
        raise InvalidJobVariables(f"job variables {error}") from error
    return plain


def _keeps_null(template: BaseJobTemplate, name: str) -> bool:
    schema = template.properties.get(name)
    return isinstance(schema, Mapping) and allows_null(schema.get("additionalProperties"))


def _checked(template: BaseJobTemplate, layers: Sequence[Layer], pool: str | None) -> dict[str, Any]:
    """Return the merged variables if nothing is wrong with them."""
    prefix = f"work pool {pool!r}: " if pool else ""
    try:
        merged = merge_variables(template, *layers)
        problems = _unknown_problems(template, merged) + _missing_problems(template, merged)
        problems += _wrong_values(template, merged)
        problems += [f"job variables {what}" for path, what in template.schema.complaints(merged) if not path]
    except InvalidJobVariables as error:
        problems = list(error.problems)
    if problems:
        raise InvalidJobVariables(prefix + problem for problem in problems)
    return merged


def _unknown_problems(template: BaseJobTemplate, values: Mapping[str, Any]) -> list[str]:
    return [
        f"there is no job variable {name!r}{did_you_mean(name, template.properties)}; "
        f"allowed are: {listing(template.properties)}"
        for name in sorted(values)
        if not template.allows(name)
    ]


def _missing_problems(template: BaseJobTemplate, values: Mapping[str, Any]) -> list[str]:
    return [
        f"job variable {name!r} is required, but not given; set it in the task's executor_config, or for all "
        "tasks in the work pool's job variables"
        for name in _missing(template, values)
    ]


def _missing(template: BaseJobTemplate, values: Mapping[str, Any]) -> list[str]:
    return [name for name in template.variables.get("required", []) if name not in values]


def _wrong_values(template: BaseJobTemplate, values: Mapping[str, Any]) -> list[str]:
    return [
        f"job variable {json_path(path[1:], root=str(path[0]))!r} {complaint}"
        for path, complaint in template.schema.complaints(values)
        if path
    ]


def _missing_connection(placeholder: Placeholder, connections: Mapping[str, Mapping[str, Any]]) -> str:
    conn_id, place = placeholder.name, json_path(placeholder.path[1:], root=str(placeholder.path[0]))
    if conn_id not in connections:
        return f"there is no Airflow connection {conn_id!r} here; the base job template takes {place} from it"
    return f"the Airflow connection {conn_id!r} has no {place}; the base job template asks for it"
