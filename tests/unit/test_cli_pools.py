# SPDX-License-Identifier: Apache-2.0
"""Creating, changing and deleting work pools with ``airflow workpools``, in a real Airflow home."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.airflow_home import ETL, insert_job

if TYPE_CHECKING:
    from pathlib import Path

    from tests.airflow_home import AirflowHome

# -- create


def test_a_created_pool_is_an_airflow_connection_with_all_that_was_given(home: AirflowHome) -> None:
    message = home.ok(f"{ETL} --start-timeout 90 --delivery pull --infrastructure-conn-id infra --set nice=5")

    assert message.startswith("Work pool 'etl' of type process created")
    assert home.sql("SELECT conn_type, description FROM connection WHERE conn_id = 'etl'") == [
        ("workpool", "Nightly loads")
    ]
    found = home.inspected("etl")
    assert {key: found[key] for key in ("type", "concurrency_limit", "delivery", "source")} == {
        "type": "process",
        "concurrency_limit": 10,
        "delivery": "pull",
        "source": "database",
    }
    assert found["start_timeout_seconds"] == 90
    assert found["infrastructure_conn_id"] == "infra"
    assert found["job_variables"] == {"nice": 5}
    assert [(queue["name"], queue["priority"], queue["concurrency_limit"]) for queue in found["queues"]] == [
        ("critical", 1, 1),
        ("default", 2, None),
        ("high", 5, 3),
        ("low", 10, None),
    ]


def test_definitions_are_encrypted_in_the_database(home: AirflowHome) -> None:
    home.ok('create etl --set \'env={"TOKEN": "secret"}\'')

    ((extra, encrypted),) = home.sql("SELECT extra, is_extra_encrypted FROM connection WHERE conn_id = 'etl'")

    assert encrypted
    assert "secret" not in extra


def test_a_base_job_template_comes_from_a_file_or_from_standard_input(
    home: AirflowHome, tmp_path: Path
) -> None:
    template = {
        "variables": {"type": "object", "properties": {"cpus": {"type": "integer", "default": 1}}},
        "job_configuration": {"cpus": "{{ cpus }}"},
    }
    (tmp_path / "template.json").write_text(json.dumps(template))

    home.ok(f"create from-file -b {tmp_path / 'template.json'}")
    home.ok("create from-stdin --base-job-template -", stdin=json.dumps(template))

    for name in ("from-file", "from-stdin"):
        assert home.inspected(name)["base_job_template"] == template


def test_a_pool_can_be_created_paused(home: AirflowHome) -> None:
    home.ok("create etl --paused")

    assert home.listed()["etl"]["status"] == "PAUSED"


def test_a_pool_that_exists_is_replaced_only_when_that_is_said(home: AirflowHome) -> None:
    home.ok("create etl --concurrency-limit 1")

    message = home.refused("create etl --concurrency-limit 2")
    assert "'etl' exists already" in message
    assert "--overwrite" in message
    assert home.inspected("etl")["concurrency_limit"] == 1

    home.ok("create etl --overwrite --description new")
    found = home.inspected("etl")
    assert (found["concurrency_limit"], found["description"]) == (None, "new")


def test_a_replacement_deletes_the_queues_that_it_lacks(home: AirflowHome) -> None:
    home.ok(ETL)
    home.ok("queue pause etl/high")
    insert_job(home, "etl", "high", state="succeeded")
    insert_job(home, "etl", "low", state="running")
    home.airflow(
        "pools", "set", "etl.high", "2", "Work queue etl/high: its slots are set by airflow_workpools"
    )

    home.ok("create etl --overwrite --queue low")

    assert home.listed()["etl"]["queues"] == ["default", "low"]
    assert home.sql("SELECT pool FROM slot_pool WHERE pool LIKE 'etl%'") == []
    home.ok("queue create etl/high")
    assert '"paused": false' in home.ok("inspect etl")
    assert '"paused": true' not in home.ok("inspect etl")


@pytest.mark.parametrize("definition", ["valid", "invalid"])
def test_a_replacement_does_not_drop_a_queue_that_has_active_jobs(home: AirflowHome, definition: str) -> None:
    home.ok(ETL)
    home.ok("queue pause etl/critical")
    insert_job(home, "etl", "low", state="pending")
    if definition == "invalid":
        home.sql("UPDATE connection SET extra = 'gAAAAA' || extra")
    before = home.inspected("etl")

    message = home.refused("create etl --overwrite --queue high --paused")

    assert "work queue 'etl/low' has 1 job" in message
    assert "cancel it (`airflow workpools jobs cancel`), or wait" in message
    assert home.inspected("etl") == before
    home.ok("create etl --overwrite --queue low")


def test_the_builtin_pool_can_be_declared(home: AirflowHome) -> None:
    home.ok("create default --concurrency-limit 3")

    assert home.inspected("default")["concurrency_limit"] == 3


# -- update


def test_an_update_changes_what_it_names_and_nothing_else(home: AirflowHome) -> None:
    home.ok(f"{ETL} --set nice=5 --set user=airflow")
    before = home.inspected("etl")

    home.ok("update etl --start-timeout 30 --set nice=6 --unset user --description ''")

    after = home.inspected("etl")
    assert after["start_timeout_seconds"] == 30
    assert after["job_variables"] == {"nice": 6}
    assert after["description"] is None
    for key in ("type", "concurrency_limit", "delivery", "base_job_template", "queues"):
        assert after[key] == before[key]


def test_the_concurrency_limit_is_set_and_cleared(home: AirflowHome) -> None:
    home.ok("create etl")

    home.ok("set-concurrency-limit etl 7")
    assert home.inspected("etl")["concurrency_limit"] == 7
    home.ok("clear-concurrency-limit etl")
    assert home.inspected("etl")["concurrency_limit"] is None
    home.ok("update etl --concurrency-limit 0")
    assert home.inspected("etl")["concurrency_limit"] == 0
    home.ok("update etl --concurrency-limit none")
    assert home.inspected("etl")["concurrency_limit"] is None


def test_a_bad_update_is_refused_and_changes_nothing(home: AirflowHome) -> None:
    home.ok(ETL)
    before = home.inspected("etl")

    assert "concurrency_limit" in home.refused("update etl --concurrency-limit -1 --start-timeout 5")
    assert "'colour'" in home.refused("update etl --set colour=red")
    assert "job variable 'nice' is not set here" in home.refused("update etl --unset nice")
    assert "nothing to change" in home.refused("update etl")
    assert home.inspected("etl") == before


def test_an_update_mends_a_pool_whose_definition_is_invalid(home: AirflowHome) -> None:
    extra = json.dumps({"type": "process", "concurrency_limit": -1})
    home.airflow("connections", "add", "etl", "--conn-type", "workpool", "--conn-extra", extra)
    row = home.listed()["etl"]
    assert (row["status"], row["type"]) == ("INVALID", None)
    assert "concurrency_limit" in row["reason"]

    home.ok("update etl --concurrency-limit 4")

    assert home.listed()["etl"]["status"] == "NOT_READY"


@pytest.mark.parametrize("extra", ["[1]", "null", '"text"', "{"])
def test_a_pool_whose_definition_is_no_object_is_replaced_and_not_updated(
    home: AirflowHome, extra: str
) -> None:
    home.ok("create etl")
    home.sql(f"UPDATE connection SET extra = '{extra}', is_extra_encrypted = 0")

    message = home.refused("update etl -l 1")

    assert "'etl' cannot be read" in message
    assert "`airflow workpools create etl --overwrite`" in message
    home.ok("create etl --overwrite")


# -- delete


def test_a_deleted_pool_is_gone_with_its_airflow_pools_and_its_pause(home: AirflowHome) -> None:
    home.ok(f"{ETL} --paused")
    description = "Work queue etl/high: its slots are set by airflow_workpools"
    home.airflow("pools", "set", "etl.high", "3", description)
    home.airflow("pools", "set", "etl.mine", "3", "mine")

    home.ok("delete etl")

    assert "etl" not in home.listed()
    assert home.sql("SELECT pool FROM slot_pool WHERE pool LIKE 'etl%'") == [("etl.mine",)]
    assert home.sql("SELECT name FROM workpool_pool") == []
    home.ok("create etl")
    assert home.listed()["etl"]["status"] == "NOT_READY"


def test_a_new_pool_has_nothing_of_one_that_was_deleted_in_airflows_ui(home: AirflowHome) -> None:
    home.ok("create etl --paused --queue high")
    home.ok("queue pause etl/high")
    home.sql("DELETE FROM connection WHERE conn_id = 'etl'")

    home.ok("create etl --queue high")
    assert home.listed()["etl"]["status"] == "NOT_READY"
    assert not any(queue["paused"] for queue in home.inspected("etl")["queues"])

    home.ok("queue pause etl/high")
    home.ok("create etl --queue high --queue low --overwrite")
    assert {queue["name"] for queue in home.inspected("etl")["queues"] if queue["paused"]} == {"high"}


def test_a_pool_with_running_jobs_is_not_deleted(home: AirflowHome) -> None:
    home.ok(ETL)
    insert_job(home, "etl", "low", state="running")

    message = home.refused("delete etl")

    assert "'etl'" in message
    assert "1 job that has not ended" in message
    assert "`airflow workpools jobs cancel`" in message
    assert "etl" in home.listed()


@pytest.mark.parametrize(
    "line", ["inspect elt", "update elt -l 1", "delete elt", "pause elt", "resume elt", "queue list elt"]
)
def test_an_unknown_pool_is_named_with_those_there_are(home: AirflowHome, line: str) -> None:
    home.ok("create etl")

    assert "there is no work pool 'elt'; there are: default, etl" in home.refused(line)


def test_a_pool_stored_with_another_key_is_shown_as_invalid_and_can_be_replaced(home: AirflowHome) -> None:
    home.ok("create etl")
    home.sql("UPDATE connection SET extra = 'gAAAAA' || extra")

    assert "fernet_key" in home.listed()["etl"]["reason"]
    assert "create etl --overwrite" in home.refused("update etl -l 1")
    home.ok("create etl --overwrite")
    assert home.listed()["etl"]["status"] == "NOT_READY"


# -- teams

MULTI_TEAM = {"AIRFLOW__CORE__MULTI_TEAM": "True"}


def test_a_pool_is_made_for_a_team_keeps_it_and_is_given_to_another(home: AirflowHome) -> None:
    home.airflow("teams", "create", "team_red", environ=MULTI_TEAM)
    home.airflow("teams", "create", "team_blue", environ=MULTI_TEAM)

    def team() -> tuple[str | None, str | None, str | None]:
        ((stored,),) = home.sql("SELECT team_name FROM connection WHERE conn_id = 'etl'")
        listed = home.listed(environ=MULTI_TEAM)["etl"]["team_name"]
        return stored, listed, json.loads(home.ok("inspect etl", environ=MULTI_TEAM))["team_name"]

    message = home.ok("create etl --team-name team_red", environ=MULTI_TEAM)
    assert "created for team 'team_red'" in message
    assert team() == ("team_red",) * 3
    home.ok("queue create etl/high", environ=MULTI_TEAM)
    home.ok("queue update etl/high --priority 1", environ=MULTI_TEAM)
    home.ok("update etl -l 4", environ=MULTI_TEAM)
    home.ok("create etl --overwrite", environ=MULTI_TEAM)
    assert team() == ("team_red",) * 3
    home.ok("update etl --team-name team_blue", environ=MULTI_TEAM)
    assert team() == ("team_blue",) * 3
    home.ok("update etl --team-name ''", environ=MULTI_TEAM)
    assert team() == (None,) * 3


def test_a_team_that_cannot_be_is_refused(home: AirflowHome) -> None:
    home.airflow("teams", "create", "team_red", environ=MULTI_TEAM)

    assert "[core] multi_team is not enabled" in home.refused("create etl --team-name team_red")
    message = home.refused("create etl --team-name team_rde", environ=MULTI_TEAM)
    assert "there is no team 'team_rde'" in message
    assert "airflow teams create team_rde" in message
    assert "etl" not in home.listed()
