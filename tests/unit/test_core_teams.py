# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from airflow_workpools.core.teams import may_use, minder


@pytest.mark.parametrize(
    ("team", "owner", "may"),
    [
        (None, None, True),
        ("red", None, True),
        ("red", "red", True),
        ("red", "blue", False),
        (None, "red", False),
    ],
)
def test_a_task_may_use_pools_of_its_team_and_of_none(team: str | None, owner: str | None, may: bool) -> None:
    assert may_use(team, owner=owner) is may


@pytest.mark.parametrize(
    ("owner", "teams", "expected"),
    [
        ("red", (None, "red"), "red"),
        ("red", (None, "blue"), None),
        (None, (None, "red"), None),
        (None, ("red", "blue"), "red"),
        ("green", ("red", "blue"), "red"),
    ],
)
def test_every_pool_is_looked_after_by_one_executor(
    owner: str | None, teams: tuple[str | None, ...], expected: str | None
) -> None:
    assert minder(owner, teams) == expected
