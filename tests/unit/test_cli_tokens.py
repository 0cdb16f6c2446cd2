# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools token``, in a real Airflow home."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from airflow_workpools.cli.output import mask_assignments
from airflow_workpools.core.worker_tokens import read_token

if TYPE_CHECKING:
    from tests.airflow_home import AirflowHome


def test_a_token_is_made_shown_once_listed_and_revoked(home: AirflowHome) -> None:
    home.ok("create etl --delivery pull")
    done = home.workpools("token create --pool etl --expires-in 90d -d Frankfurt -o json")
    assert "opens work pool 'etl' until" in done.stderr
    assert "not shown again" in done.stderr
    made = json.loads(done.stdout)
    parts = read_token(made.pop("token"))
    assert parts is not None
    (listed,) = json.loads(home.ok("token list -o json"))
    assert listed == made
    assert (listed["id"], listed["pools"], listed["status"]) == (parts.id, ["etl"], "ACTIVE")
    assert listed["description"] == "Frankfurt"
    stored = home.sql("SELECT * FROM workpool_token")
    assert parts.hash in str(stored)
    assert parts.secret not in str(stored)

    assert "revoked" in home.ok(f"token revoke {parts.id}")
    assert json.loads(home.ok("token list -o json"))[0]["status"] == "REVOKED"
    assert "was revoked before" in home.refused(f"token revoke {parts.id}")
    assert "there is no token 'x'" in home.refused("token revoke x")
    audit = str(home.sql("SELECT event, extra FROM log WHERE event LIKE 'cli_workpools_token%'"))
    assert "cli_workpools_token_create" in audit
    assert "cli_workpools_token_revoke" in audit
    assert parts.secret not in audit


def test_a_token_for_a_pool_that_is_not_there_is_not_made(home: AirflowHome) -> None:
    assert "'nowhere'" in home.refused("token create --pool nowhere")
    assert json.loads(home.ok("token list -o json")) == []


def test_a_token_in_a_command_line_is_masked() -> None:
    secret = "0123456789abcdef" * 4
    masked = mask_assignments(["airflow", "workpools", "token", "revoke", f"wpt_3f9a2b1c0d4e_{secret}"])
    assert masked[-1] == "wpt_3f9a2b1c0d4e_***"
