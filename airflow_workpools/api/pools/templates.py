# SPDX-License-Identifier: Apache-2.0
"""Base job templates for people: read, checked, tried out and changed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_workpools.api.pools import wire_jobs
from airflow_workpools.api.pools.problems import faults_of
from airflow_workpools.core.changes import Changes
from airflow_workpools.core.dry_run import dry_run, fields_of, unknown_job, variables_in
from airflow_workpools.core.masking import masked, masked_schema, masked_template
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pointers import pointer
from airflow_workpools.core.templates import BaseJobTemplate, merge_variables
from airflow_workpools.errors import InvalidJobVariables, InvalidTemplate, NotFound
from airflow_workpools.infrastructure.registry import (
    default_templates,
    infrastructure_class,
    kinds,
    template_checks,
    unusable_kinds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_workpools.api.pools.access import Caller
    from airflow_workpools.api.pools.desk import Desk

MAX_FIELDS = 1000


@dataclass(frozen=True)
class TemplateService:
    """Does what the routes for templates say."""

    desk: Desk

    def list_types(self) -> wire_jobs.InfrastructureTypeList:
        return wire_jobs.InfrastructureTypeList(types=[_type(kind) for kind in kinds()])

    def get_template(self, caller: Caller, name: str) -> wire_jobs.TemplateAnswer:
        with self.desk.reading() as context:
            pool = context.valid_pool(name)
        reveal = caller.may_edit(name, pool.team_name)
        template = pool.base_job_template.to_json()
        default = default_templates().get(pool.type)
        return wire_jobs.TemplateAnswer(
            pool=name,
            type=pool.type,
            base_job_template=template if reveal else masked_template(template, self.desk.is_secret),
            is_default=default == pool.base_job_template,
            default_template=None if default is None else default.to_json(),
            masked=not reveal,
        )

    def put_template(
        self, caller: Caller, name: str, request: wire_jobs.TemplateRequest
    ) -> wire_jobs.TemplateAnswer:
        with self.desk.changing(name) as context:
            context.editor.update_pool(name, Changes(keys={"base_job_template": request.base_job_template}))
        return self.get_template(caller, name)

    def validate(self, request: wire_jobs.ValidateRequest) -> wire_jobs.ValidateAnswer:
        try:
            _checked(request.type, request.base_job_template)
        except InvalidTemplate as error:
            return wire_jobs.ValidateAnswer(valid=False, faults=faults_of(error.problems))
        return wire_jobs.ValidateAnswer(valid=True, faults=[])

    def preview(
        self, caller: Caller, name: str, request: wire_jobs.PreviewRequest
    ) -> wire_jobs.PreviewAnswer:
        with self.desk.reading() as context:
            pool = context.valid_pool(name)
        queue = pool.queue(request.queue)
        reveal = caller.may_edit(name, pool.team_name)
        layers = [pool.job_variables, queue.job_variables, request.job_variables]
        try:
            template = pool.base_job_template
            if request.base_job_template is not None:
                template = _checked(pool.type, request.base_job_template)
        except InvalidTemplate as error:
            return wire_jobs.PreviewAnswer(
                job_configuration=None,
                faults=faults_of(error.problems),
                variables=[],
                fields=[],
                masked=not reveal,
            )
        job, faults = None, []
        try:
            job = dry_run(template, *layers, context=unknown_job(WorkQueueRef(name, queue.name)))
        except InvalidJobVariables as error:
            faults = faults_of(error.problems)
        return wire_jobs.PreviewAnswer(
            job_configuration=job if reveal else masked(job, self.desk.is_secret),
            faults=faults,
            variables=[one if reveal else self._hidden(one) for one in _variables(template, layers)],
            fields=[
                wire_jobs.FieldView(
                    pointer=pointer(field.path), locked=not field.variables, variables=list(field.variables)
                )
                for field in islice(fields_of(template), MAX_FIELDS)
            ],
            masked=not reveal,
        )

    def _hidden(self, one: wire_jobs.VariableView) -> wire_jobs.VariableView:
        is_secret = self.desk.is_secret
        return one.model_copy(
            update={
                "value": masked(one.value, is_secret, name=one.name),
                "json_schema": masked_schema(one.name, one.json_schema, is_secret),
            }
        )


def _type(kind: str) -> wire_jobs.InfrastructureType:
    problem = unusable_kinds().get(kind)
    template = default_templates().get(kind)
    about = (infrastructure_class(kind).__doc__ or "").strip() if problem is None else ""
    return wire_jobs.InfrastructureType(
        type=kind,
        usable=problem is None,
        problem=problem,
        title=kind.capitalize(),
        description=" ".join(about.partition("\n\n")[0].split()) or None,
        base_job_template=None if template is None else template.to_json(),
        check_of_templates=kind in template_checks(),
    )


def _checked(kind: str, value: Mapping[str, Any]) -> BaseJobTemplate:
    """Return a template that is good for a kind of infrastructure.

    :raises NotFound: if there is no such kind, or it can't be used here.
    :raises InvalidTemplate: with all that is wrong.
    """
    if kind not in default_templates():
        problem = unusable_kinds().get(kind)
        raise NotFound(
            problem or f"there is no work pool type {kind[:63]!r}; installed are: {', '.join(kinds())}"
        )
    template = BaseJobTemplate.parse(value)
    check = template_checks().get(kind)
    if problems := () if check is None else check(template.job_configuration):
        raise InvalidTemplate(problems)
    return template


def _variables(
    template: BaseJobTemplate, layers: list[Mapping[str, Any]]
) -> Iterator[wire_jobs.VariableView]:
    """Yield what each job variable is, and where its value comes from."""
    try:
        values = merge_variables(template, *layers)
    except InvalidJobVariables:
        values = dict(template.defaults)
    used = set(variables_in(template.job_configuration))
    required = template.variables.get("required", [])
    for name in dict.fromkeys([*template.properties, *values]):
        schema = template.properties.get(name, {})
        described = schema if isinstance(schema, dict) else {}
        yield wire_jobs.VariableView(
            name=name,
            title=_text(described.get("title")),
            description=_text(described.get("description")),
            value=values.get(name),
            source=_source(template, layers, name),
            required=name in required,
            used=name in used,
            json_schema=schema,
        )


def _source(template: BaseJobTemplate, layers: list[Mapping[str, Any]], name: str) -> Any:
    for place, layer in zip(("task", "queue", "pool"), reversed(layers), strict=True):
        if name in layer:
            return place
    return "template" if name in template.defaults else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
