# SPDX-License-Identifier: Apache-2.0
"""Teams: whose work pools a task may use. The rule is Airflow's own for its pools and connections.

A work pool belongs to one team, or to none, and then to everybody. A task belongs to the team that owns its DAG's
bundle, or to none. Without ``[core] multi_team`` nothing belongs to anybody, and everybody may use everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def may_use(team: str | None, *, owner: str | None) -> bool:
    """Say whether a task of a team may use a work pool of ``owner``'s; None is no team, on either side."""
    return owner is None or owner == team


def foreign_pool(
    pool: str, *, owner: str | None, dag_id: str, team: str | None, what: str = "work pool"
) -> str:
    """Say that a task's DAG may not use a work pool, or an Airflow pool, and why."""
    return f"{what} '{pool}' belongs to team '{owner}', and DAG '{dag_id}' {to_team(team)}"


def to_team(team: str | None) -> str:
    """Say to which team something belongs."""
    return f"to team '{team}'" if team else "to no team"


def minder(owner: str | None, teams: Sequence[str | None]) -> str | None:
    """Return the team whose executor looks after a work pool: its own if that has one, else the first.

    One pool is one executor's to look after, so that two of them in one scheduler never undo each other's work.

    :param teams: for each WorkPoolExecutor in ``[core] executor``, in order, its team; never empty.
    """
    return owner if owner in teams else teams[0]
