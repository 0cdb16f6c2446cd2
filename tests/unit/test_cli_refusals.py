# SPDX-License-Identifier: Apache-2.0
"""What ``airflow workpools`` refuses: one line names the thing and the way out, and nothing is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.airflow_home import AirflowHome

BAD_DEFINITIONS = {
    "create team/etl": ["work pool name 'team/etl'", "letters, digits"],
    f"create {'x' * 64}": ["64 characters", "at most 63"],
    "create etl -t quantum": ["quantum", "process"],
    "create etl --concurrency-limit -1": ["concurrency_limit", "-1"],
    "create etl --queue a:priority=2 --queue b:priority=2": ["'a'", "'b'", "priority 2"],
    "create etl --queue a:priority=0": ["priority", "0"],
    "create etl --queue a --queue a": ["'a' is given twice"],
    "create etl --queue team/a": ["team/a"],
    "create etl --start-timeout -5": ["start_timeout", "seconds"],
    "create etl --set colour=red": ["colour", "nice"],
    "create etl --set nice=very": ["nice", "whole number"],
    "create etl -b /nowhere/template.json": ["/nowhere/template.json", "No such file"],
}


@pytest.mark.parametrize("line", BAD_DEFINITIONS)
def test_a_bad_definition_is_refused_and_leaves_nothing(home: AirflowHome, line: str) -> None:
    message = home.refused(line)

    for words in BAD_DEFINITIONS[line]:
        assert words in message
    assert home.sql("SELECT conn_id FROM connection") == []
    assert home.sql("SELECT name FROM workpool_pool") == []


BAD_TEMPLATES = {
    "malformed JSON": ('{"variables": ', ["JSON"]),
    "no object": ("[1]", ["object"]),
    "no job configuration": ('{"variables": {}}', ["job_configuration"]),
    "undeclared placeholder": (
        '{"variables": {"properties": {}}, "job_configuration": {"image": "{{ image }}"}}',
        ["image"],
    ),
    "wrong default": (
        '{"variables": {"properties": {"cpus": {"type": "integer", "default": "two"}}},'
        ' "job_configuration": {"cpus": "{{ cpus }}"}}',
        ["cpus", "default"],
    ),
    "no JSON Schema": (
        '{"variables": {"properties": {"cpus": {"type": "intger"}}}, "job_configuration": {}}',
        ["cpus", "type"],
    ),
}


@pytest.mark.parametrize("case", BAD_TEMPLATES)
def test_a_bad_base_job_template_is_refused_with_the_place_of_the_fault(home: AirflowHome, case: str) -> None:
    template, words = BAD_TEMPLATES[case]

    message = home.refused("create etl -b -", stdin=template)

    for word in words:
        assert word in message
    assert home.sql("SELECT conn_id FROM connection") == []


def test_all_that_is_wrong_is_said_at_once(home: AirflowHome) -> None:
    message = home.refused("create etl --concurrency-limit -1 --start-timeout 0 --set colour=red")

    for words in ("concurrency_limit", "start_timeout", "colour"):
        assert words in message


@pytest.mark.parametrize(
    "line",
    [
        "create",
        "create etl --concurrency-limit many",
        "create etl --queue high:prio=1",
        "create etl --queue high:priority",
        "create etl --set nice",
        "create etl --delivery post",
        "list --output xml",
        "queue create etl/high --priority first",
    ],
)
def test_a_command_line_that_cannot_be_read_is_a_usage_error(home: AirflowHome, line: str) -> None:
    done = home.workpools(line)

    assert done.exit_code == 2
    assert "error:" in done.stderr


# -- names that others have


def test_an_airflow_pool_of_the_same_name_that_is_not_ours_is_named_with_the_way_out(
    home: AirflowHome,
) -> None:
    home.airflow("pools", "set", "etl.high", "5", "Work queue of the night shift")

    message = home.refused("create etl --queue high")

    assert "Airflow has a pool 'etl.high'" in message
    assert "airflow pools delete etl.high" in message
    home.ok("create etl --queue low")


def test_a_connection_of_another_type_keeps_its_name(home: AirflowHome) -> None:
    home.airflow("connections", "add", "etl", "--conn-type", "fs")

    for line in ("create etl", "create etl --overwrite"):
        message = home.refused(line)
        assert "connection 'etl' exists" in message
        assert "'fs'" in message


# -- read-only pools

ENVIRONMENT = {"AIRFLOW_CONN_ETL": "workpool://?type=process&concurrency_limit=4"}


@pytest.mark.parametrize(
    "line",
    [
        "create etl",
        "create etl --overwrite",
        "update etl --concurrency-limit 2",
        "delete etl",
        "set-concurrency-limit etl 2",
        "queue create etl/high",
        "queue update etl/default -p 4",
    ],
)
def test_a_pool_from_the_environment_is_read_only(home: AirflowHome, line: str) -> None:
    message = home.refused(line, environ=ENVIRONMENT)

    assert "'etl' is read-only: defined by AIRFLOW_CONN_ETL; it can be paused" in message


def test_a_pool_from_the_environment_can_be_paused(home: AirflowHome) -> None:
    home.ok("pause etl", environ=ENVIRONMENT)

    assert home.listed(environ=ENVIRONMENT)["etl"]["status"] == "PAUSED"


@pytest.mark.parametrize("line", ["update default --concurrency-limit 2", "delete default"])
def test_the_builtin_pool_says_how_to_have_it_otherwise(home: AirflowHome, line: str) -> None:
    assert "`airflow workpools create default`" in home.refused(line)


@pytest.mark.parametrize(
    "line", ["list", "slots", "inspect default", "create etl", "pause default", "explain dag run task"]
)
def test_missing_tables_are_named_with_the_way_out(home: AirflowHome, line: str) -> None:
    for (table,) in home.sql(
        "SELECT name FROM sqlite_master WHERE name LIKE 'workpool\\_%' ESCAPE '\\' AND type = 'table'"
    ):
        home.sql(f"DROP TABLE {table}")

    message = home.refused(f"{line} {'--paused' if line.startswith('create') else ''}")

    assert "workpool_pool" in message
    assert "`airflow db migrate`" in message
