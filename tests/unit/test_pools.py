# SPDX-License-Identifier: Apache-2.0
"""Work pools from their definitions, the order of their queues, what their status is."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.core.definitions import PoolDefinition
from airflow_workpools.core.pools import (
    Delivery,
    PoolSource,
    PoolStatus,
    QueueStatus,
    WorkPool,
    parse_work_pool,
    place_queue,
    place_queues,
    pool_status,
    queue_status,
)
from airflow_workpools.core.templates import BaseJobTemplate
from airflow_workpools.errors import InvalidInput, InvalidWorkPool, NotFound

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)

PROCESS = BaseJobTemplate.parse(
    {
        "variables": {
            "properties": {
                "image": {"type": "string"},
                "cpu": {"type": "integer"},
                "env": {"type": "object"},
            },
            "required": ["image"],
        },
        "job_configuration": {"image": "{{ image }}", "env": "{{ env }}"},
    }
)
DOCKER = BaseJobTemplate.parse({"variables": {}, "job_configuration": {}})
TEMPLATES = {"process": PROCESS, "docker": DOCKER}

REFERENCE = {
    "type": "process",
    "concurrency_limit": 10,
    "queues": {
        "low": {"priority": 10},
        "high": {"priority": 5, "concurrency_limit": 3},
        "critical": {"priority": 1, "concurrency_limit": 1},
    },
}


def parse(definition: Any, name: str = "etl", **keywords: Any) -> WorkPool:
    keywords = {"templates": TEMPLATES, "source": PoolSource.DATABASE} | keywords
    return parse_work_pool(name, definition, **keywords)


def problems(definition: Any, name: str = "etl") -> list[str]:
    """What is wrong, without the pool's name, which each problem must begin with."""
    with pytest.raises(InvalidWorkPool) as caught:
        parse(definition, name)
    prefix = f"work pool {name!r}: "
    assert all(problem.startswith(prefix) for problem in caught.value.problems)
    return [problem.removeprefix(prefix) for problem in caught.value.problems]


def priorities(pool: WorkPool) -> dict[str, int]:
    return {queue.name: queue.priority for queue in pool.queues}


class TestParsing:
    def test_the_example_of_the_reference(self):
        pool = parse(REFERENCE)
        assert (pool.name, pool.type, pool.concurrency_limit) == ("etl", "process", 10)
        assert priorities(pool) == {"critical": 1, "default": 2, "high": 5, "low": 10}
        assert pool.queue("high").concurrency_limit == 3
        assert pool.queue("low").concurrency_limit is None

    def test_a_type_is_all_that_a_definition_needs(self):
        pool = parse({"type": "process"})
        assert priorities(pool) == {"default": 1}
        assert pool.delivery is Delivery.PUSH
        assert pool.start_timeout_seconds == 600
        assert pool.base_job_template is PROCESS
        assert pool.concurrency_limit is None
        assert pool.source is PoolSource.DATABASE

    def test_everything_that_can_be_said_is_kept(self):
        template = {"variables": {"properties": {"x": {}}}, "job_configuration": "{{ x }}"}
        pool = parse(
            {
                "type": "docker",
                "description": "from the extra",
                "concurrency_limit": 0,
                "delivery": "pull",
                "start_timeout": 1.5,
                "infrastructure_conn_id": "docker_default",
                "queues": {"default": {"priority": 7, "description": "d", "job_variables": {"x": 2}}},
                "job_variables": {"x": 1},
                "base_job_template": template,
            },
            description="from the connection",
            source=PoolSource.ENVIRONMENT,
        )
        assert (pool.description, pool.concurrency_limit, pool.delivery) == (
            "from the extra",
            0,
            Delivery.PULL,
        )
        assert (pool.start_timeout_seconds, pool.infrastructure_conn_id) == (1.5, "docker_default")
        assert pool.job_variables == {"x": 1}
        assert pool.queue("default").job_variables == {"x": 2}
        assert pool.queue("default").description == "d"
        assert pool.base_job_template.to_json() == template
        assert pool.source is PoolSource.ENVIRONMENT

    def test_json_text_says_the_same_as_an_object(self):
        assert parse(json.dumps(REFERENCE)) == parse(REFERENCE)

    def test_a_definition_is_not_changed_by_reading_it(self):
        before = json.dumps(REFERENCE)
        parse(REFERENCE)
        problems(REFERENCE | {"concurrency_limit": -1, "queues": {"a": {"priority": 0, "x": 1}}})
        assert json.dumps(REFERENCE) == before

    @pytest.mark.parametrize("blank", [None, "", "  "])
    def test_what_a_form_leaves_in_empty_fields_means_not_given(self, blank):
        keys = set(PoolDefinition.model_fields) - {"type"}
        assert parse({"type": "process"} | dict.fromkeys(keys, blank)) == parse({"type": "process"})

    def test_an_empty_object_is_not_given_either(self):
        empty = {"type": "process", "queues": {}, "job_variables": {}, "base_job_template": {}}
        assert parse(empty) == parse({"type": "process"})

    def test_values_from_a_uri_are_text_and_mean_what_they_say(self):
        uri = {
            key: value if isinstance(value, str) else json.dumps(value) for key, value in REFERENCE.items()
        }
        uri |= {"start_timeout": "1.5", "job_variables": '{"cpu": 2}'}
        pool = parse(uri)
        assert (pool.concurrency_limit, pool.start_timeout_seconds) == (10, 1.5)
        assert pool.job_variables == {"cpu": 2}
        assert pool.queues == parse(REFERENCE).queues

    def test_queues_may_be_a_list_and_need_nothing_but_a_name(self):
        pool = parse({"type": "process", "queues": [{"name": "b", "priority": 3}, "c"]})
        assert priorities(pool) == {"default": 1, "c": 2, "b": 3}
        assert parse({"type": "process", "queues": {"b": {"priority": 3}, "c": None}}).queues == pool.queues

    def test_queues_without_a_priority_get_the_lowest_unused_in_their_order(self):
        queues = {"z": {}, "two": {"priority": 2}, "a": {}, "default": {}}
        assert priorities(parse({"type": "process", "queues": queues})) == {
            "z": 1,
            "two": 2,
            "a": 3,
            "default": 4,
        }

    def test_the_connections_description_holds_where_the_definition_has_none(self):
        assert parse({"type": "process"}, description="nightly").description == "nightly"

    def test_a_job_is_launched_twice_at_most_where_nothing_else_is_said(self):
        assert parse({"type": "process"}).start_attempts == 2
        assert parse({"type": "process", "start_attempts": "5"}).start_attempts == 5

    def test_a_type_that_cannot_be_used_here_says_why(self):
        with pytest.raises(InvalidWorkPool, match="work pool 'etl': install it"):
            parse({"type": "moon"}, unusable_types={"moon": "install it"})

    def test_the_default_start_timeout_holds_where_the_definition_has_none(self):
        pool = parse({"type": "process"}, default_start_timeout_seconds=30)
        assert pool.start_timeout_seconds == 30

    def test_required_variables_may_be_left_to_the_tasks(self):
        assert parse({"type": "process", "job_variables": {"cpu": 1}}).job_variables == {"cpu": 1}


class TestWhatIsWrong:
    @pytest.mark.parametrize("text", ["{", '{"type": "process",}', "type=process"])
    def test_malformed_json(self, text):
        (problem,) = problems(text)
        assert problem.startswith("its definition (the connection's extra) is not valid JSON: ")
        assert "at line 1, column" in problem

    def test_no_object(self):
        assert problems("[]") == ["its definition (the connection's extra) must be an object, not a list"]

    @pytest.mark.parametrize("nothing", [None, "", {}, {"type": ""}])
    def test_no_type(self, nothing):
        assert problems(nothing) == ["type is missing; known types are: docker, process"]

    def test_an_unknown_type(self):
        assert problems({"type": "proces"}) == [
            "type 'proces' is unknown (did you mean 'process'?); known types are: docker, process"
        ]

    @pytest.mark.parametrize("value", [-1, 1.5, True, "ten", [1], 2**31, "1e99", "nan", {}])
    @pytest.mark.parametrize("key", ["concurrency_limit", "queues.high.concurrency_limit"])
    def test_a_limit_that_is_no_whole_number_from_0(self, key, value):
        (problem,) = problems(with_key(key, value))
        assert problem.startswith(
            f"{key} must be a whole number from 0 to 2147483647, or left out for no limit"
        )
        assert problem.endswith(f"not {value!r}")

    @pytest.mark.parametrize("value", [0, -3, 1.5, True, "first"])
    def test_a_priority_that_is_no_whole_number_from_1(self, value):
        (problem,) = problems(with_key("queues.high.priority", value))
        assert problem.startswith(
            "queues.high.priority must be a whole number from 1 to 2147483647 (1 goes first)"
        )

    @pytest.mark.parametrize("value", [0, -1, True, "soon", "inf", 10**12])
    def test_start_attempts_that_are_no_number_of_attempts(self, value):
        (problem,) = problems(with_key("start_attempts", value))
        assert problem.startswith("start_attempts must be a whole number from 1 to")

    @pytest.mark.parametrize("value", [0, -1, True, "soon", "inf", 10**12])
    def test_a_start_timeout_that_is_no_time(self, value):
        assert problems(with_key("start_timeout", value)) == [
            f"start_timeout must be a number of seconds above 0, not {value!r}"
        ]

    @pytest.mark.parametrize("value", ["psuh", "PULL", True, 1, []])
    def test_an_unknown_delivery(self, value):
        assert problems(with_key("delivery", value)) == [f"delivery must be 'push' or 'pull', not {value!r}"]

    @pytest.mark.parametrize("key", ["description", "infrastructure_conn_id", "queues.high.description"])
    def test_text_that_is_none(self, key):
        assert problems(with_key(key, 5)) == [f"{key} must be text, not a whole number"]

    @pytest.mark.parametrize("key", ["job_variables", "queues.high.job_variables", "base_job_template"])
    def test_an_object_that_is_none(self, key):
        assert problems(with_key(key, [1])) == [f"{key} must be an object, not a list"]
        assert problems(with_key(key, "{"))[0].startswith(f"{key} is not valid JSON: ")

    def test_an_unknown_key_with_the_nearest_known_one(self):
        (problem,) = problems(with_key("concurency_limit", 5))
        assert problem.startswith(
            "concurency_limit is unknown (did you mean 'concurrency_limit'?); known keys are: "
        )
        (problem,) = problems(with_key("queues.high.limit", 5))
        assert problem == (
            "queues.high.limit is unknown; "
            "known keys are: concurrency_limit, description, job_variables, priority"
        )

    @pytest.mark.parametrize("name", ["a/b", "a.b", "ä", "-a"])
    def test_a_name_that_is_not_allowed(self, name):
        (problem,) = problems({"type": "process"}, name)
        assert problem.startswith(f"its name {name!r} is not allowed: use letters, digits")

    def test_a_name_that_is_too_long(self):
        with pytest.raises(InvalidWorkPool) as caught:
            parse({"type": "process"}, "x" * 64)
        (problem,) = caught.value.problems
        assert problem.endswith("has 64 characters; at most 63 are allowed")
        assert "x" * 30 not in problem

    def test_no_name(self):
        assert problems({"type": "process"}, "") == ["it has no name"]

    def test_the_name_of_airflows_own_pool(self):
        assert problems({"type": "process"}, "default_pool") == [
            "its name 'default_pool' is taken by Airflow's own default pool; choose another"
        ]

    def test_queue_names_that_are_not_allowed(self):
        found = problems({"type": "process", "queues": {"a/b": {}, "x" * 64: {}, "": {}}})
        assert found[0] == "queues[''] has no name"
        assert found[1].startswith("work queue name 'a/b' is not allowed")
        assert found[2].endswith("has 64 characters; at most 63 are allowed")

    def test_two_queues_with_the_same_priority(self):
        queues = {"a": {"priority": 2}, "b": {"priority": 2}, "c": {"priority": 2}}
        assert problems({"type": "process", "queues": queues}) == [
            f"work queues 'a' and {name!r} both have priority 2; give each its own, or none for the lowest unused"
            for name in "bc"
        ]

    def test_a_list_of_queues_with_the_same_name_twice_or_none(self):
        assert problems({"type": "process", "queues": [{"name": "a"}, {"name": "a"}, {}, 5]}) == [
            "queues[1] has the name 'a', which another work queue has already",
            "queues[2] has no name",
            "queues[3] has no name",
        ]

    def test_queues_that_are_none(self):
        assert problems({"type": "process", "queues": 3}) == [
            "queues must be an object of work queues by name, not a whole number"
        ]
        assert problems({"type": "process", "queues": {"a": 3}}) == [
            "queues.a must be an object, not a whole number"
        ]
        assert problems({"type": "process", "queues": "{"})[0].startswith("queues is not valid JSON: ")

    def test_a_placeholder_that_is_not_declared_and_a_wrong_default(self):
        template = {
            "variables": {"properties": {"image": {"type": "string", "default": 5}}},
            "job_configuration": {"image": "{{ imgae }}"},
        }
        assert problems(with_key("base_job_template", template)) == [
            "base_job_template: $.variables.properties.image.default must be text, not a whole number",
            "base_job_template: $.job_configuration.image: {{ imgae }} is not declared in $.variables.properties "
            "(did you mean 'image'?); declared are image",
        ]

    def test_job_variables_of_pool_and_queue_that_do_not_fit_the_template(self):
        definition = with_key("job_variables", {"cpu": "two"})
        definition["queues"]["high"]["job_variables"] = {"gpu": 1}
        assert problems(definition) == [
            "job variable 'cpu' must be a whole number, not text",
            "work queue 'high': there is no job variable 'gpu' (did you mean 'cpu'?); allowed are: cpu, env, image",
        ]

    def test_everything_at_once(self):
        found = problems(
            {
                "type": "proces",
                "concurrency_limit": -1,
                "delivery": "psuh",
                "start_timeout": True,
                "limit": 3,
                "queues": {
                    "a": {"priority": 3, "size": 1},
                    "b/c": {"priority": 3},
                    "d": {"priority": 0},
                    "e": 1,
                },
                "base_job_template": {"variables": {}, "job_configuration": "{{ x }}"},
            },
            "e t l",
        )
        for key in (
            "type 'proces'",
            "concurrency_limit must",
            "delivery must",
            "start_timeout must",
            "limit is unknown",
            "queues.a.size is unknown",
            "queues.d.priority must",
            "queues.e must",
            "work queue name 'b/c'",
            "work queues 'a' and 'b/c' both",
            "base_job_template: $.job_configuration",
            "its name 'e t l'",
        ):
            assert len([problem for problem in found if problem.startswith(key)]) == 1, key
        assert len(found) == 12

    @given(
        st.dictionaries(
            st.sampled_from(sorted(PoolDefinition.model_fields)) | st.text(max_size=3),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers()
                | st.floats()
                | st.text(max_size=3)
                | st.just("process"),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["name", "priority", "a", "job_variables"]), inner, max_size=3
                    )
                ),
                max_leaves=8,
            ),
        ),
        st.text(max_size=3),
    )
    def test_whatever_is_given_is_a_pool_or_refused_in_words(self, definition, name):
        with suppress(InvalidWorkPool):
            parse(definition, name)


def with_key(path: str, value: Any) -> dict[str, Any]:
    """The reference's definition with one key, such as ``queues.high.priority``, set to a value."""
    definition: dict[str, Any] = json.loads(json.dumps(REFERENCE))
    *parents, key = path.split(".")
    inner = definition
    for parent in parents:
        inner = inner[parent]
    inner[key] = value
    return definition


class TestQueues:
    def test_a_queue_is_found_by_its_name(self):
        pool = parse(REFERENCE)
        assert pool.queue("critical") is pool.find_queue("critical")
        assert pool.find_queue("gone") is None

    def test_a_queue_that_does_not_exist_is_named_with_those_that_do(self):
        with pytest.raises(NotFound) as caught:
            parse(REFERENCE).queue("urgent")
        assert str(caught.value) == (
            "work pool 'etl' has no work queue 'urgent'; it has: critical, default, high, low"
        )


queue_priorities = st.lists(st.integers(1, 12), unique=True, max_size=8).map(
    lambda numbers: {f"q{index}": number for index, number in enumerate(numbers)}
)
targets = st.lists(st.integers(1, 12), unique=True, max_size=4).flatmap(
    lambda numbers: st.lists(
        st.sampled_from([f"q{index}" for index in range(12)]),
        unique=True,
        min_size=len(numbers),
        max_size=len(numbers),
    ).map(lambda names: dict(zip(names, numbers, strict=True)))
)


class TestPlacing:
    def test_the_newcomer_takes_the_number_and_others_shift_as_little_as_needed(self):
        before = {"default": 1, "hi": 5, "lo": 10}
        assert place_queue(before, "new", 5) == {"default": 1, "new": 5, "hi": 6, "lo": 10}

    def test_who_is_pushed_pushes_the_next_only_if_it_must(self):
        before = {"a": 1, "b": 2, "c": 4}
        assert place_queue(before, "new", 1) == {"new": 1, "a": 2, "b": 3, "c": 4}

    def test_a_newcomer_without_a_number_gets_the_lowest_unused(self):
        assert place_queue({"a": 1, "b": 3}, "new", None) == {"a": 1, "new": 2, "b": 3}

    def test_a_queue_that_is_there_stays_where_it_is_without_a_number(self):
        assert place_queue({"a": 1, "b": 3}, "b", None) == {"a": 1, "b": 3}

    def test_a_queue_that_moves_leaves_a_gap(self):
        assert place_queue({"a": 1, "b": 2, "c": 3}, "a", 3) == {"b": 2, "a": 3, "c": 4}

    def test_two_queues_can_change_places(self):
        assert place_queues({"a": 1, "b": 2}, {"a": 2, "b": 1}) == {"b": 1, "a": 2}

    def test_two_equal_targets_and_one_below_1_are_refused_together(self):
        with pytest.raises(InvalidInput) as caught:
            place_queues({}, {"a": 2, "b": 2, "c": 0})
        assert caught.value.problems == (
            "work queues 'a' and 'b' cannot share priority 2",
            "priority of work queue 'c' must be a whole number from 1, not 0",
        )

    @given(queue_priorities, targets)
    def test_targets_are_met_and_no_two_queues_share_a_number(self, before, moves):
        after = place_queues(before, moves)
        assert set(after) == set(before) | set(moves)
        assert len(set(after.values())) == len(after)
        assert list(after.values()) == sorted(after.values())
        assert moves.items() <= after.items()

    @given(queue_priorities, targets)
    def test_the_others_keep_their_order_and_only_move_back(self, before, moves):
        after = place_queues(before, moves)
        others = sorted(before.keys() - moves.keys(), key=before.__getitem__)
        assert others == sorted(others, key=after.__getitem__)
        assert all(after[name] >= before[name] for name in others)

    @given(queue_priorities, targets)
    def test_who_moves_passes_no_free_number(self, before, moves):
        after = place_queues(before, moves)
        for name in before.keys() - moves.keys():
            assert set(range(before[name], after[name])) <= set(after.values())


class TestStatus:
    @pytest.mark.parametrize(
        ("paused", "workers", "status"),
        [
            (False, 2, PoolStatus.READY),
            (False, 0, PoolStatus.NOT_READY),
            (True, 2, PoolStatus.PAUSED),
            (True, 0, PoolStatus.PAUSED),
        ],
    )
    def test_a_worker_makes_a_pool_ready_but_ends_no_pause(self, paused, workers, status):
        assert pool_status(paused=paused, workers_online=workers) is status

    @pytest.mark.parametrize(
        ("paused", "seconds_ago", "status"),
        [
            (False, 0, QueueStatus.READY),
            (False, 60, QueueStatus.READY),
            (False, 61, QueueStatus.NOT_READY),
            (False, None, QueueStatus.NOT_READY),
            (True, 0, QueueStatus.PAUSED),
            (True, None, QueueStatus.PAUSED),
        ],
    )
    def test_a_queue_is_ready_for_a_minute_after_a_poll_unless_paused(self, paused, seconds_ago, status):
        polled = None if seconds_ago is None else NOON - timedelta(seconds=seconds_ago)
        assert queue_status(paused=paused, last_polled_at=polled, now=NOON) is status
