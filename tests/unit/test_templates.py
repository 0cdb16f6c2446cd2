# SPDX-License-Identifier: Apache-2.0
"""Base job templates: what is refused when a template is saved, how layers merge, what rendering gives."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.core.json_values import JsonError, plain_json
from airflow_workpools.core.templates import (
    BaseJobTemplate,
    RenderContext,
    check_variables,
    merge_variables,
    render,
    value_problems,
)
from airflow_workpools.errors import InvalidJobVariables, InvalidTemplate

CONTEXT = RenderContext(
    dag_id="daily",
    task_id="load",
    run_id="manual__2026-01-01",
    map_index=-1,
    try_number=2,
    work_pool="etl",
    work_queue="critical",
    job_id="0199c0de-0000-7000-8000-000000000001",
)

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name not in ("ctx", "conn"))


KEYWORDS = ["type", "properties", "additionalProperties", "required", "default", "$ref", "anyOf", "pattern"]
KEYWORDS += ["items", "enum", "minimum", "patternProperties", "dependentRequired", "const", "a"]


def template(job_configuration: Any, **properties: Any) -> BaseJobTemplate:
    """A template whose variables have these schemas; those of ``required`` are required."""
    required = properties.pop("required", [])
    return BaseJobTemplate.parse(
        {
            "variables": {"properties": properties, "required": required},
            "job_configuration": job_configuration,
        }
    )


def rendered(job_configuration: Any, /, **variables: Any) -> Any:
    """The configuration with these variables, none of which is restricted."""
    found = BaseJobTemplate({}, job_configuration).placeholders | variables.keys()
    any_of_them = {name.split(".")[0].split("[")[0]: {} for name in found if not name.startswith(("$", "c"))}
    return render(
        template(job_configuration, **any_of_them), variables, context=CONTEXT, environ={"HOME": "/root"}
    )


def problems(definition: Any) -> tuple[str, ...]:
    with pytest.raises(InvalidTemplate) as caught:
        BaseJobTemplate.parse(definition)
    return caught.value.problems


def variable_problems(of: BaseJobTemplate, *layers: Any, **keywords: Any) -> tuple[str, ...]:
    with pytest.raises(InvalidJobVariables) as caught:
        check_variables(of, *layers, **keywords)
    return caught.value.problems


class TestRendering:
    @given(json_values.filter(lambda tree: "{{" not in json.dumps(tree)))
    def test_a_tree_without_placeholders_renders_to_itself(self, tree):
        assert render(template(tree), context=None, environ={}) == tree

    @given(json_values)
    def test_a_value_that_is_exactly_one_placeholder_keeps_its_type(self, value):
        result = rendered({"here": "{{ value }}"}, value=value)
        assert result == {"here": value}
        assert type(result["here"]) is type(value)

    @given(st.text(), st.text(), st.text(alphabet=" ", max_size=3))
    def test_inside_text_a_value_becomes_text_and_the_rest_of_the_text_stays(self, before, after, space):
        before, after = before.replace("{", ""), after.replace("}", "")
        result = rendered(f"{before}-{{{{{space}value{space}}}}}-{after}", value="x y")
        assert result == f"{before}-x y-{after}"

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (3, "3"),
            (0.5, "0.5"),
            (True, "true"),
            (None, ""),
            ("ä", "ä"),
            (["a", 1], '["a", 1]'),
            ({"k": None}, '{"k": null}'),
        ],
    )
    def test_text_gets_numbers_and_structures_as_json_and_null_as_nothing(self, value, text):
        assert rendered("<{{ value }}>", value=value) == f"<{text}>"

    @given(st.sampled_from(["{{ other }}", "{{ $HOME }}", "{{ ctx.dag_id }}", "{{ conn.db.password }}"]))
    def test_what_was_put_in_is_not_rendered_again(self, hostile):
        result = rendered({"whole": "{{ value }}", "part": "a {{ value }}"}, value=hostile, other="secret")
        assert result == {"whole": hostile, "part": f"a {hostile}"}

    def test_two_values_side_by_side_do_not_make_a_new_placeholder(self):
        assert rendered("{{ a }}{{ b }}", a="{{ $", b="HOME }}") == "{{ $HOME }}"

    def test_a_key_or_item_without_a_value_is_left_out_and_inside_text_nothing_is_put(self):
        result = rendered(
            {
                "key": "{{ gone }}",
                "items": [1, "{{ gone }}", 2],
                "text": "a{{ gone }}b",
                "in": {"x": "{{ gone }}"},
            }
        )
        assert result == {"items": [1, 2], "text": "ab", "in": {}}

    def test_an_explicit_null_is_kept(self):
        assert rendered({"key": "{{ value }}", "items": ["{{ value }}"]}, value=None) == {
            "key": None,
            "items": [None],
        }

    def test_keys_are_not_templated(self):
        assert rendered({"{{ value }}": "{{ value }}"}, value=1) == {"{{ value }}": 1}

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("value.a.b", [1, {"c": "deep"}]),
            ("value.a.b[1].c", "deep"),
            ("value.a.b[0]", 1),
            ("value.a-b_c", "dashed"),
        ],
    )
    def test_paths_lead_into_values(self, path, expected):
        value = {"a": {"b": [1, {"c": "deep"}]}, "a-b_c": "dashed"}
        assert rendered([f"{{{{ {path} }}}}"], value=value) == [expected]

    @pytest.mark.parametrize("path", ["value.b", "value.a[2]", "value.a.x", "value[0]", "value.a[0].b"])
    def test_a_path_that_leads_nowhere_has_no_value(self, path):
        assert rendered([f"{{{{ {path} }}}}"], value={"a": [1, 2]}) == []

    @pytest.mark.parametrize(
        "text", ["{{ range .Items }}", "{{}}", "{{ a b }}", "{ value }", "{{ f(x) }}", "{{ 'x' }}"]
    )
    def test_braces_of_other_template_languages_are_left_alone(self, text):
        assert rendered(text) == text

    def test_the_workers_environment_is_given_and_what_is_not_in_it_has_no_value(self):
        result = rendered({"home": "{{ $HOME }}", "in": "{{ $HOME }}/x", "gone": "{{ $NOT_THERE }}"})
        assert result == {"home": "/root", "in": "/root/x"}

    def test_facts_of_the_job_are_given_with_their_types(self):
        result = rendered({"name": "{{ ctx.dag_id }}-{{ ctx.task_id }}", "try": "{{ ctx.try_number }}"})
        assert result == {"name": "daily-load", "try": 2}

    @pytest.mark.parametrize("fact", vars(CONTEXT))
    def test_every_fact_can_be_asked_for(self, fact):
        assert rendered([f"{{{{ ctx.{fact} }}}}"]) == [getattr(CONTEXT, fact)]

    def test_without_a_job_its_facts_have_no_value(self):
        asking = template({"name": "{{ ctx.dag_id }}", "text": "x{{ ctx.dag_id }}"})
        assert render(asking, context=None, environ={}) == {"text": "x"}

    def test_fields_of_connections_are_given_into_their_extra_too(self):
        asking = template({"secret": "{{ conn.db.password }}", "region": "{{ conn.db.extra.region }}"})
        assert asking.connection_ids == {"db"}
        connections = {"db": {"password": "s3cret", "extra": {"region": "eu"}}}
        result = render(asking, context=None, environ={}, connections=connections)
        assert result == {"secret": "s3cret", "region": "eu"}

    def test_connections_and_fields_that_are_missing_are_all_named_instead_of_left_out(self):
        asking = template(["{{ conn.db.password }}", "{{ conn.s3.login }}", "x{{ conn.db.extra.region }}"])
        with pytest.raises(InvalidJobVariables) as caught:
            render(asking, context=None, environ={}, connections={"db": {"extra": {}}})
        assert caught.value.problems == (
            "the Airflow connection 'db' has no extra.region; the base job template asks for it",
            "the Airflow connection 'db' has no password; the base job template asks for it",
            "there is no Airflow connection 's3' here; the base job template takes login from it",
        )

    @given(st.dictionaries(names, json_values, max_size=4), st.data())
    def test_inputs_are_not_changed_and_what_is_returned_is_a_copy(self, variables, data):
        texts = st.sampled_from([f"{{{{ {name} }}}}" for name in variables] or ["x"])
        tree = data.draw(
            st.recursive(texts | scalars.filter(lambda s: "{{" not in str(s)), st.lists, max_leaves=6)
        )
        filled = template(tree, **{name: {} for name in variables})
        before = copy.deepcopy((filled.to_json(), variables))
        result = render(filled, variables, context=None, environ={})
        assert (filled.to_json(), variables) == before
        scribble(result)
        assert (filled.to_json(), variables) == before

    def test_a_value_put_in_twice_is_two_values(self):
        result = rendered({"one": "{{ value }}", "other": "{{ value }}"}, value={"a": [1]})
        scribble(result["one"])
        assert result["other"] == {"a": [1]}

    def test_what_is_returned_shares_nothing_with_a_connection(self):
        connections = {"db": {"extra": {"region": "eu"}}}
        asking = template(["{{ conn.db.extra }}"])
        scribble(render(asking, context=None, environ={}, connections=connections))
        assert connections == {"db": {"extra": {"region": "eu"}}}

    def test_a_job_that_is_nothing_but_a_placeholder_without_value_is_null(self):
        assert rendered("{{ gone }}") is None

    def test_rendering_checks_the_variables_and_names_the_pool(self):
        with pytest.raises(InvalidJobVariables, match="work pool 'etl': there is no job variable 'imgae'"):
            render(template({}, image={}), {"imgae": "x"}, context=CONTEXT, environ={})


def scribble(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            scribble(item)
        value.append("scribbled")
    elif isinstance(value, dict):
        for item in value.values():
            scribble(item)
        value["scribbled"] = True


class TestLayers:
    @given(
        st.lists(st.dictionaries(names.filter(lambda n: n not in ("env", "labels")), json_values), max_size=4)
    )
    def test_a_variable_comes_whole_from_the_last_layer_that_has_it(self, layers):
        expected = {name: value for layer in layers for name, value in layer.items()}
        assert merge_variables(template({}), *layers) == expected

    def test_the_order_is_schema_pool_queue_task(self):
        image = {"type": "string", "default": "schema"}
        one = template({}, image=image)
        assert merge_variables(one)["image"] == "schema"
        assert merge_variables(one, {"image": "pool"})["image"] == "pool"
        assert merge_variables(one, {"image": "pool"}, {}, {"image": "task"})["image"] == "task"

    def test_an_object_replaces_an_object(self):
        one = template({}, resources={"default": {"cpu": 1, "memory": 2}})
        assert merge_variables(one, {"resources": {"cpu": 3}}) == {"resources": {"cpu": 3}}

    @pytest.mark.parametrize("name", ["env", "labels"])
    def test_env_and_labels_merge_key_by_key_and_null_takes_a_key_out(self, name):
        one = template({}, **{name: {"type": "object", "default": {"a": "1", "b": "1"}}})
        merged = merge_variables(one, {name: {"b": "2", "c": "2"}}, {name: {"a": None, "d": "3"}})
        assert merged == {name: {"b": "2", "c": "2", "d": "3"}}

    def test_a_key_taken_out_can_come_back_in_a_later_layer(self):
        one = template({}, env={"default": {"a": "1"}})
        assert merge_variables(one, {"env": {"a": None}}, {"env": {"a": "2"}}) == {"env": {"a": "2"}}

    @pytest.mark.parametrize(
        "values", [{"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}]
    )
    def test_where_the_schema_says_that_null_is_a_value_the_infrastructure_gets_it(self, values):
        one = template({}, env={"type": "object", "additionalProperties": values})
        assert merge_variables(one, {"env": {"a": "1"}}, {"env": {"a": None}}) == {"env": {"a": None}}

    def test_null_that_takes_a_key_out_is_no_wrong_value(self):
        strict = template({}, env={"type": "object", "additionalProperties": {"type": "string"}})
        check_variables(strict, {"env": {"HTTP_PROXY": None}})

    def test_null_for_the_whole_of_env_clears_what_was_there(self):
        one = template({}, env={"default": {"a": "1"}})
        assert merge_variables(one, {"env": None}, {"env": {"b": "2"}}) == {"env": {"b": "2"}}

    def test_a_default_of_null_is_no_default_but_null_in_a_layer_is_a_value(self):
        one = template({"cpu": "{{ cpu }}"}, cpu={"type": ["integer", "null"], "default": None})
        assert render(one, context=None, environ={}) == {}
        assert render(one, {"cpu": None}, context=None, environ={}) == {"cpu": None}

    def test_what_is_merged_is_a_copy_of_the_schemas_defaults(self):
        one = template({}, env={"default": {"a": "1"}})
        merge_variables(one)["env"]["a"] = "changed"
        assert merge_variables(one) == {"env": {"a": "1"}}

    def test_tuples_and_members_of_enumerations_become_plain_json(self):
        class Size(str, Enum):
            SMALL = "small"

        merged = merge_variables(template({}), {"command": ("a", "b"), "size": Size.SMALL})
        assert merged == {"command": ["a", "b"], "size": "small"}
        assert type(merged["size"]) is str


class TestCheckingVariables:
    def test_everything_wrong_is_told_at_once_with_what_is_allowed(self):
        one = template(
            {},
            image={"type": "string"},
            cpu={"type": "integer", "minimum": 1},
            env={"type": "object", "additionalProperties": {"type": "string"}},
            required=["image"],
        )
        assert variable_problems(one, {"imgae": "x", "cpu": 0, "env": {"A": 1}}, pool="gpu") == (
            "work pool 'gpu': there is no job variable 'imgae' (did you mean 'image'?); "
            "allowed are: cpu, env, image",
            "work pool 'gpu': job variable 'image' is required, but not given; set it in the task's "
            "executor_config, or for all tasks in the work pool's job variables",
            "work pool 'gpu': job variable 'cpu' must be at least 1",
            "work pool 'gpu': job variable 'env.A' must be text, not a whole number",
        )

    def test_variables_that_fit_are_no_error(self):
        check_variables(template({}, cpu={"type": "integer"}, required=["cpu"]), {"cpu": 1})

    def test_a_required_variable_may_come_from_any_layer_or_a_default(self):
        one = template({}, image={"type": "string", "default": "x"}, cpu={}, required=["image", "cpu"])
        check_variables(one, {"cpu": 1}, {})

    @pytest.mark.parametrize(
        ("schema", "value", "complaint"),
        [
            ({"type": "integer"}, True, "must be a whole number, not true or false"),
            ({"type": "integer"}, "3", "must be a whole number, not text"),
            ({"type": ["string", "null"]}, [], "must be text or null, not a list"),
            (
                {"anyOf": [{"type": "integer", "maximum": 19}, {"type": "null"}]},
                20,
                "must be at most 19",
            ),
            (
                {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                "x",
                "must be a whole number or null, not text",
            ),
            ({"enum": ["Always", "Never"]}, "never", "must be one of 'Always', 'Never'"),
            ({"const": 1}, 2, "must be 1"),
            ({"pattern": "^a"}, "b", "must match the pattern '^a'"),
            ({"minItems": 2}, [1], "must have at least 2 items"),
            ({"required": ["cpu", "memory"]}, {"cpu": 1}, "lacks 'memory'"),
            (
                {"properties": {"a": {}}, "additionalProperties": False},
                {"b": 1},
                "has keys that are not allowed: b; allowed are: a",
            ),
            ({"uniqueItems": True}, [1, 1], "does not satisfy 'uniqueItems' of its schema"),
        ],
    )
    def test_what_is_wrong_is_said_in_words(self, schema, value, complaint):
        assert variable_problems(template({}, x=schema), {"x": value}) == (f"job variable 'x' {complaint}",)

    def test_a_variable_whose_schema_is_false_does_not_exist(self):
        (problem,) = variable_problems(template({}, x=False, y={}), {"x": 1, "y": 1})
        assert problem == "there is no job variable 'x'; allowed are: y"

    def test_the_place_inside_a_variable_is_named(self):
        containers = {"items": {"properties": {"ports": {"items": {"type": "integer"}}}}}
        found = variable_problems(
            template({}, containers=containers), {"containers": [{}, {"ports": [1, "x"]}]}
        )
        assert found == ("job variable 'containers[1].ports[1]' must be a whole number, not text",)

    @given(st.text(min_size=4), st.sampled_from([{"type": "integer"}, {"pattern": "^$"}, {"maxLength": 1}]))
    def test_no_complaint_quotes_a_value_because_it_may_be_a_secret(self, secret, schema):
        secret = f"s3cret{secret}"
        found = variable_problems(template({}, password=schema), {"password": secret})
        assert secret not in "".join(found)

    @pytest.mark.parametrize("layer", ["image=x", 3, ["image"], None])
    def test_what_is_no_object_is_refused(self, layer):
        (problem,) = variable_problems(template({}), layer)
        assert problem.startswith("job variables must be an object, not ")

    def test_what_is_no_json_is_refused_with_its_place(self):
        assert variable_problems(template({}), {"pod": {"override": object()}}) == (
            "job variables must be JSON, but $.pod.override is a Python object",
        )

    def test_undeclared_variables_are_allowed_if_the_schema_says_so(self):
        variables = {"additionalProperties": {"type": "integer"}, "patternProperties": {"^x-": {}}}
        open_ = BaseJobTemplate.parse({"variables": variables, "job_configuration": {}})
        check_variables(open_, {"anything": 1, "x-y": "z"})
        assert variable_problems(open_, {"anything": "x"}) == (
            "job variable 'anything' must be a whole number, not text",
        )

    def test_a_pattern_of_names_allows_those_and_no_others(self):
        variables = {"patternProperties": {"^x-": {"type": "integer"}}}
        patterned = BaseJobTemplate.parse({"variables": variables, "job_configuration": {}})
        check_variables(patterned, {"x-y": 1})
        assert "there is no job variable 'y'" in variable_problems(patterned, {"y": 1})[0]

    def test_a_variable_may_require_another(self):
        variables = {"properties": {"user": {}, "group": {}}, "dependentRequired": {"group": ["user"]}}
        dependent = BaseJobTemplate.parse({"variables": variables, "job_configuration": {}})
        check_variables(dependent, {"group": 1, "user": 1})
        assert "dependentRequired" in variable_problems(dependent, {"group": 1})[0]
        assert value_problems(dependent, {"group": 1}) == []

    def test_defaults_of_a_pool_need_not_be_complete_but_must_be_right(self):
        one = template({}, image={"type": "string"}, cpu={"type": "integer"}, required=["image"])
        assert value_problems(one, {"cpu": 1}) == []
        assert value_problems(one, {"cpu": "x", "gpu": 1}) == [
            "there is no job variable 'gpu' (did you mean 'cpu'?); allowed are: cpu, image",
            "job variable 'cpu' must be a whole number, not text",
        ]
        assert value_problems(one, {"cpu": {1}}) == ["job variables must be JSON, but $.cpu is a Python set"]

    def test_a_reference_into_the_same_schema_is_followed(self):
        variables = {
            "$defs": {"Size": {"enum": ["small"]}},
            "properties": {"size": {"$ref": "#/$defs/Size", "default": "small"}},
        }
        one = BaseJobTemplate.parse({"variables": variables, "job_configuration": "{{ size }}"})
        check_variables(one)
        assert variable_problems(one, {"size": "big"}) == ("job variable 'size' must be one of 'small'",)


class TestParsing:
    def test_a_template_is_read_from_an_object_and_from_json_text_and_written_back(self):
        given_ = {
            "variables": {"properties": {"image": {"type": "string"}}},
            "job_configuration": {"image": "{{ image }}", "env": ["{{ $HOME }}", "{{ ctx.dag_id }}"]},
        }
        one = BaseJobTemplate.parse(given_)
        assert one == BaseJobTemplate.parse(json.dumps(given_))
        assert one.to_json() == given_
        assert one.placeholders == {"image", "$HOME", "ctx.dag_id"}

    def test_every_placeholder_must_be_declared_and_its_place_is_told(self):
        tree = {"containers": [{"image": "{{ imgae }}", "app.io/x": "a {{ image }} {{ b.c[0] }}"}]}
        assert problems({"variables": {"properties": {"image": {}}}, "job_configuration": tree}) == (
            "$.job_configuration.containers[0].image: {{ imgae }} is not declared in $.variables.properties "
            "(did you mean 'image'?); declared are image",
            "$.job_configuration.containers[0]['app.io/x']: {{ b.c[0] }} is not declared in "
            "$.variables.properties; declared are image",
        )

    def test_a_placeholder_is_declared_as_a_property_even_if_more_variables_are_allowed(self):
        variables = {"additionalProperties": True}
        assert (
            "{{ x }} is not declared" in problems({"variables": variables, "job_configuration": "{{ x }}"})[0]
        )

    @pytest.mark.parametrize("wrong", ["a..b", "a.", ".a", "a[", "a[x]", "$", "$a.b", "a]b", "[0]", "a$b"])
    def test_a_malformed_placeholder_is_refused(self, wrong):
        (problem,) = problems({"variables": {}, "job_configuration": f"x {{{{ {wrong} }}}}"})
        assert problem.startswith(f"$.job_configuration: '{{{{ {wrong} }}}}' is no placeholder")

    @pytest.mark.parametrize(
        ("wrong", "complaint"),
        [
            ("ctx.dag", "there is no {{ ctx.dag }} (did you mean 'dag_id'?); ctx has dag_id, job_id,"),
            ("ctx", "must look like {{ ctx.dag_id }}"),
            ("ctx.dag_id.x", "must look like {{ ctx.dag_id }}"),
            ("conn.db", "must look like {{ conn.ID.field }}"),
            ("conn[0].password", "must look like {{ conn.ID.field }}"),
        ],
    )
    def test_a_wrong_fact_or_connection_is_refused(self, wrong, complaint):
        (problem,) = problems({"variables": {}, "job_configuration": f"{{{{ {wrong} }}}}"})
        assert complaint in problem

    def test_defaults_must_fit_their_schema(self):
        properties = {
            "cpu": {"type": "integer", "default": "two"},
            "env": {"additionalProperties": {"type": "string"}, "default": {"A": 1}},
            "user": {"type": "string", "default": None},
        }
        assert problems({"variables": {"properties": properties}, "job_configuration": {}}) == (
            "$.variables.properties.cpu.default must be a whole number, not text",
            "$.variables.properties.env.default.A must be text, not a whole number",
        )

    @pytest.mark.parametrize(
        ("variables", "complaint"),
        [
            ({"type": "array"}, "$.variables.type must be 'object'"),
            ({"properties": []}, "$.variables.properties must be an object"),
            (
                {"properties": {"a": {"type": "strng"}}},
                "$.variables.properties.a.type must be one of 'array', 'boolean'",
            ),
            ({"required": "image"}, "$.variables.required must be a list, not text"),
            ({"properties": {"a": 3}}, "$.variables.properties.a must be"),
            (
                {"properties": {"a": {"$ref": "#/$defs/Nope"}}},
                "$.variables has a $ref to '#/$defs/Nope', which does not exist in it",
            ),
            ({"properties": {"a": {"$ref": "http://127.0.0.1:9/x.json"}}}, "does not exist in it"),
            ({"properties": {"a": {"$ref": "#/properties/a"}}}, "refers to itself, which is not supported"),
            ({"properties": {"a": {"items": {"$ref": "#"}}}}, "refers to itself, which is not supported"),
            ({"properties": {"a": {"$dynamicRef": "#a"}}}, "uses $dynamicRef, which is not supported"),
            ({"properties": {"a": {"pattern": "("}}}, "has the pattern '(', which is no regular expression"),
            ({"patternProperties": {"[": {}}}, "has the pattern '[', which is no regular expression"),
            ({"properties": {"ctx": {}}}, "$.variables.properties.ctx is reserved"),
            ({"properties": {"conn": {}}}, "$.variables.properties.conn is reserved"),
        ],
    )
    def test_the_schema_must_be_one(self, variables, complaint):
        assert complaint in problems({"variables": variables, "job_configuration": {}})[0]

    def test_problems_of_variables_and_configuration_are_told_together(self):
        found = problems(
            {
                "variables": {"properties": {"a": {"type": "x"}}},
                "job_configuration": ["{{ b }}", "{{ ctx.c }}"],
            }
        )
        assert [problem.split(" ")[0].rstrip(":") for problem in found] == [
            "$.variables.properties.a.type",
            "$.job_configuration[0]",
            "$.job_configuration[1]",
        ]

    @pytest.mark.parametrize(
        ("wrong", "complaint"),
        [
            ("{", "base job template is not valid JSON: Expecting property name enclosed in double quotes"),
            ('{"a": NaN}', "base job template is not valid JSON: NaN is no JSON number"),
            ("[]", "base job template must be an object, not a list"),
            ({}, "$.variables is missing"),
            ({"variables": {}}, "$.job_configuration is missing"),
            ({"variables": [], "job_configuration": {}}, "$.variables must be an object, not a list"),
            (
                {"variables": {}, "job_configuration": {1}},
                "must be JSON, but $.job_configuration is a Python set",
            ),
            ({1: 2}, "must be JSON, but $ has the key 1, which is not text"),
        ],
    )
    def test_what_is_no_template_is_refused(self, wrong, complaint):
        assert complaint in problems(wrong)[0]

    def test_an_unknown_key_is_refused_with_the_nearest_known_one(self):
        found = problems({"variables": {}, "job_configuration": {}, "job_variables": {}})
        assert found == (
            "$.job_variables is unknown (did you mean 'variables'?); "
            "a base job template has job_configuration, variables",
        )

    @given(json_values)
    def test_any_json_is_a_template_or_is_refused_in_words(self, value):
        with suppress(InvalidTemplate):
            BaseJobTemplate.parse(value)

    @given(st.data())
    def test_any_schema_is_sound_or_is_refused_in_words_and_then_nothing_crashes(self, data):
        keywords = st.sampled_from(KEYWORDS)
        words = st.sampled_from(
            ["string", "integer", "object", "null", "#", "#/properties/a", "a", "(", "^a"]
        )
        leaf = words | st.integers(-1, 2) | st.booleans() | st.none()
        schemas = st.recursive(
            leaf,
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keywords, inner, max_size=3),
            max_leaves=10,
        )
        variables = data.draw(st.dictionaries(keywords, schemas, max_size=3))
        values = data.draw(st.dictionaries(keywords, json_values, max_size=2))
        with suppress(InvalidTemplate, InvalidJobVariables):
            one = BaseJobTemplate.parse({"variables": variables, "job_configuration": "{{ a }}"})
            render(one, values, context=None, environ={})

    def test_nesting_has_an_end(self):
        deep: list[Any] = []
        for _ in range(100):
            deep = [deep]
        endless: dict[str, Any] = {}
        endless["again"] = endless
        for value in (deep, endless):
            with pytest.raises(JsonError, match="is nested more than 64 deep"):
                plain_json(value)
        assert "deep" in problems("[" * 100_000)[0]
