# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools queue …``, in a real Airflow home."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.airflow_home import insert_job

if TYPE_CHECKING:
    from tests.airflow_home import AirflowHome


def queues(home: AirflowHome) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(home.ok("queue list etl -o json"))}


def priorities(home: AirflowHome) -> dict[str, int]:
    return {name: row["priority"] for name, row in queues(home).items()}


def test_a_queue_is_added_with_all_that_was_given(home: AirflowHome) -> None:
    home.ok("create etl")

    home.ok("queue create etl/gpu -p 7 -l 2 -d 'For the card' --set nice=5 --paused")

    row = queues(home)["gpu"]
    assert (row["priority"], row["limit"], row["description"]) == (7, 2, "For the card")
    assert row["status"] == "PAUSED"
    (queue,) = (queue for queue in home.inspected("etl")["queues"] if queue["name"] == "gpu")
    assert queue["job_variables"] == {"nice": 5}
    assert queue["airflow_pool"] == "etl.gpu"


def test_a_queue_without_a_priority_gets_the_lowest_unused_one(home: AirflowHome) -> None:
    home.ok("create etl --queue a:priority=1 --queue b:priority=4")

    home.ok("queue create etl/c")

    assert priorities(home) == {"a": 1, "default": 2, "c": 3, "b": 4}


def test_a_newcomer_takes_its_priority_and_the_others_make_room(home: AirflowHome) -> None:
    home.ok("create etl --queue default:priority=1 --queue hi:priority=5 --queue lo:priority=10")

    assert "new (5), hi (6)" in home.ok("queue create etl/new -p 5")

    assert priorities(home) == {"default": 1, "new": 5, "hi": 6, "lo": 10}


def test_a_queue_moves_past_others(home: AirflowHome) -> None:
    home.ok("create etl --queue a:priority=1 --queue b:priority=2 --queue default:priority=3")

    home.ok("queue update etl/default -p 1")

    assert list(priorities(home)) == ["default", "a", "b"]


def test_an_update_changes_what_it_names_and_nothing_else(home: AirflowHome) -> None:
    home.ok("create etl --queue gpu:priority=7,limit=2,description=card --queue b")
    before = queues(home)

    home.ok("queue update etl/gpu --set nice=5")
    home.ok("queue update etl/gpu -l none -d '' --unset nice")

    after = queues(home)
    assert (after["gpu"]["priority"], after["gpu"]["limit"], after["gpu"]["description"]) == (7, None, None)
    assert {**after, "gpu": None} == {**before, "gpu": None}


def test_a_limit_is_set_and_cleared(home: AirflowHome) -> None:
    home.ok("create etl --queue gpu")

    home.ok("queue set-concurrency-limit etl/gpu 3")
    assert queues(home)["gpu"]["limit"] == 3
    home.ok("queue clear-concurrency-limit etl/gpu")
    assert queues(home)["gpu"]["limit"] is None


def test_a_queue_is_paused_and_resumed(home: AirflowHome) -> None:
    home.ok("create etl --queue gpu")

    home.ok("queue pause etl/gpu")
    assert queues(home)["gpu"]["status"] == "PAUSED"
    assert queues(home)["default"]["status"] == "NOT_READY"
    home.ok("queue resume etl/gpu")
    assert queues(home)["gpu"]["status"] == "NOT_READY"


def test_a_name_without_a_queue_means_the_default_queue(home: AirflowHome) -> None:
    home.ok("create etl")

    assert "'etl/default'" in home.ok("queue pause etl")


def test_a_deleted_queue_is_gone_with_its_airflow_pool_and_its_pause(home: AirflowHome) -> None:
    home.ok("create etl --queue gpu")
    home.ok("queue pause etl/gpu")
    home.airflow("pools", "set", "etl.gpu", "3", "Work queue etl/gpu: its slots are set by airflow_workpools")

    home.ok("queue delete etl/gpu")

    assert list(queues(home)) == ["default"]
    assert home.sql("SELECT pool FROM slot_pool WHERE pool LIKE 'etl%'") == []
    home.ok("queue create etl/gpu")
    assert queues(home)["gpu"]["status"] == "NOT_READY"


def test_a_new_queue_has_nothing_of_one_that_was_removed_in_airflows_ui(home: AirflowHome) -> None:
    home.ok("create etl")
    home.ok("queue create etl/high --paused")
    home.sql(
        """UPDATE connection SET extra = '{"type": "process"}', is_extra_encrypted = 0 WHERE conn_id = 'etl'"""
    )

    home.ok("queue create etl/high")
    assert not any(queue["paused"] for queue in home.inspected("etl")["queues"])


def test_a_queue_with_jobs_is_not_deleted(home: AirflowHome) -> None:
    home.ok("create etl --queue gpu")
    insert_job(home, "etl", "gpu", state="pending")

    message = home.refused("queue delete etl/gpu")

    assert "etl/gpu" in message
    assert "1 job that has not ended" in message
    assert "`airflow workpools jobs cancel`" in message
    assert "gpu" in queues(home)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("queue delete etl/default", ["'etl/default' cannot be deleted", "queue pause etl/default"]),
        ("queue create etl/gpu", ["a work queue 'gpu' already", "queue update etl/gpu"]),
        ("queue create etl/a/b", ["a/b"]),
        ("queue create etl/a.b", ["'a.b'", "letters, digits"]),
        (f"queue create etl/{'x' * 64}", ["64 characters"]),
        ("queue create etl/new -p 0", ["priority", "0"]),
        ("queue create etl/new -l -1", ["concurrency_limit", "-1"]),
        ("queue create etl/new --set colour=red", ["colour"]),
        ("queue update etl/gpu", ["nothing to change"]),
        ("queue update etl/cpu -p 1", ["no work queue 'cpu'", "default, gpu"]),
        ("queue pause etl/cpu", ["no work queue 'cpu'", "default, gpu"]),
        ("queue resume etl/cpu", ["no work queue 'cpu'", "default, gpu"]),
        ("queue delete etl/cpu", ["no work queue 'cpu'", "default, gpu"]),
        ("queue create elt/gpu", ["no work pool 'elt'", "etl"]),
        ("queue list elt", ["no work pool 'elt'", "etl"]),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    home: AirflowHome, line: str, words: list[str]
) -> None:
    home.ok("create etl --queue gpu:priority=7")
    before = home.inspected("etl")

    message = home.refused(line)

    for word in words:
        assert word in message
    assert home.inspected("etl") == before


def test_queues_of_an_invalid_pool_wait_until_it_is_mended(home: AirflowHome) -> None:
    home.airflow(
        "connections", "add", "etl", "--conn-type", "workpool", "--conn-extra", '{"type": "quantum"}'
    )

    message = home.refused("queue create etl/gpu")

    assert "quantum" in message
    assert "airflow workpools update etl" in message
