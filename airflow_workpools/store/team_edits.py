# SPDX-License-Identifier: Apache-2.0
"""Whether a work pool may be given to a team."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_workpools.core.wording import did_you_mean
from airflow_workpools.errors import InvalidInput, NotFound
from airflow_workpools.store.pool_sources import team_names

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def check_team(session: Session, team_name: str, *, multi_team: bool) -> None:
    """Check that a work pool can belong to a team.

    :raises InvalidInput: if nothing belongs to teams in this Airflow.
    :raises NotFound: if there is no such team; the message names those there are.
    """
    if not multi_team:
        raise InvalidInput(
            f"no work pool can belong to team {team_name!r}: [core] multi_team is not enabled; enable it first"
        )
    teams = team_names(session)
    if team_name not in teams:
        raise NotFound(
            f"there is no team {team_name!r}{did_you_mean(team_name, teams)}; there are: "
            f"{', '.join(teams) or 'none'}; create it with `airflow teams create {team_name}`"
        )
