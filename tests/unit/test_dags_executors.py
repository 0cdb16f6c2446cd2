# SPDX-License-Identifier: Apache-2.0
"""What tasks call the WorkPoolExecutor, for every way of configuring it."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from airflow_workpools.dags.executors import find

PATH = "airflow_workpools.WorkPoolExecutor"
LONG_PATH = "airflow_workpools.executor.WorkPoolExecutor"
LOCAL = "airflow.executors.local_executor.LocalExecutor"


class Configured(NamedTuple):
    """As Airflow's ``ExecutorName``."""

    module_path: str
    alias: str | None = None
    team_name: str | None = None


def test_where_it_is_not_configured_it_is_not_found():
    assert find([Configured(LOCAL)]) is None


def test_the_only_executor_runs_tasks_that_name_none():
    found = find([Configured(PATH)])
    assert found.is_default
    assert found.covers(None)
    assert not found.covers("LocalExecutor")


def test_the_second_executor_runs_only_tasks_that_name_it():
    found = find([Configured(LOCAL), Configured(PATH)])
    assert not found.covers(None)
    assert found.name == PATH


@pytest.mark.parametrize("path", [PATH, LONG_PATH])
def test_a_task_may_use_every_name_that_airflow_knows(path):
    found = find([Configured(LOCAL), Configured(path, alias="wp")])
    assert found.names == {"wp", path, "WorkPoolExecutor"}


def test_an_alias_is_what_tasks_get():
    assert find([Configured(LOCAL), Configured(PATH, alias="wp")]).name == "wp"


def test_teams_that_agree_on_an_alias_get_it():
    found = find([Configured(LOCAL), Configured(PATH, "wp", "red"), Configured(PATH, "wp", "blue")])
    assert found.name == "wp"


def test_teams_that_do_not_agree_get_the_name_they_share():
    assert find([Configured(LOCAL), Configured(PATH, "a", "red"), Configured(PATH, "b", "blue")]).name == PATH
    mixed = find([Configured(LOCAL), Configured(PATH, "a", "red"), Configured(LONG_PATH, "b", "blue")])
    assert mixed.name == "WorkPoolExecutor"


def test_it_is_the_default_only_if_it_is_so_for_every_team():
    """A DAG file does not know its team."""
    assert find([Configured(PATH), Configured(PATH, None, "red")]).is_default
    assert not find([Configured(PATH), Configured(LOCAL, None, "red")]).is_default
    assert not find([Configured(LOCAL), Configured(PATH, None, "red")]).is_default


def test_it_says_for_which_teams_it_is_configured_in_order():
    assert find([Configured(PATH)]).teams == (None,)
    both = [Configured(LOCAL), Configured(PATH, None, "red"), Configured(LOCAL, None, "red")]
    assert find([*both, Configured(LONG_PATH, None, "blue")]).teams == ("red", "blue")
