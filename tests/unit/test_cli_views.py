# SPDX-License-Identifier: Apache-2.0
"""What ``airflow workpools`` shows, in every format, and what Airflow remembers of who changed what."""

from __future__ import annotations

import getpass
import inspect
import json
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_workpools.cli.definition import (
    DB_COMMANDS,
    JOB_COMMANDS,
    POOL_COMMANDS,
    QUEUE_COMMANDS,
    WORKER_COMMANDS,
)
from tests.airflow_home import ETL, insert_job, insert_worker

if TYPE_CHECKING:
    from tests.airflow_home import AirflowHome

# -- looking


def test_a_pool_is_paused_and_resumed(home: AirflowHome) -> None:
    home.ok(ETL)

    assert "what runs goes on" in home.ok("pause etl")
    assert home.listed()["etl"]["status"] == "PAUSED"
    home.ok("resume etl")
    assert home.listed()["etl"]["status"] == "NOT_READY"


def test_the_list_says_what_holds_slots_and_what_waits(home: AirflowHome) -> None:
    home.ok(ETL)
    insert_job(home, "etl", "low", state="running", slots=2)
    insert_job(home, "etl", "low", state="claimed")
    insert_job(home, "etl", "high", state="pending")
    insert_job(home, "etl", "high", state="succeeded")

    row = home.listed()["etl"]

    assert (row["slots_used"], row["waiting"], row["limit"]) == (3, 1, 10)
    assert row["queues"] == ["critical", "default", "high", "low"]


def test_slots_are_shown_for_each_pool_and_queue(home: AirflowHome) -> None:
    home.ok(ETL)
    home.airflow(
        "pools", "set", "etl.high", "2", "Work queue etl/high: its slots are set by airflow_workpools"
    )
    insert_job(home, "etl", "high", state="running", slots=2)
    insert_job(home, "etl", "low", state="submitted", slots=6)

    rows = {(row["pool"], row["queue"]): row for row in json.loads(home.ok("slots -o json"))}

    numbers = {
        queue: [rows["etl", queue][key] for key in ("limit", "running", "free", "waiting")]
        for queue in (None, "critical", "high", "low")
    }
    assert numbers == {
        None: [10, 8, 2, 0],
        "critical": [1, 0, 1, 0],
        "high": [3, 2, 1, 0],
        "low": [None, 6, 2, 0],
    }
    assert rows["etl", "high"]["airflow_pool_slots"] == 2


def test_the_preview_says_what_starts_next_and_what_the_rest_waits_for(home: AirflowHome) -> None:
    home.ok(ETL)
    insert_worker(home, "w1")
    insert_job(home, "etl", "low", state="running", slots=9)
    urgent, second, low = (
        insert_job(home, "etl", q, state="pending") for q in ("critical", "critical", "low")
    )
    home.ok("queue create etl/held --paused")
    held = insert_job(home, "etl", "held", state="pending")

    rows = json.loads(home.ok("preview etl -o json"))

    assert [(row["job"], row["starts"]) for row in rows] == [
        (urgent, "now"),
        (second, "later"),
        (low, "later"),
        (held, "blocked"),
    ]
    assert rows[0]["waits_for"] is None
    assert rows[1]["waits_for"] == "slots of work queue 'etl/critical', which has 1"
    assert rows[3]["waits_for"] == "work queue 'etl/held' to be resumed"
    assert len(json.loads(home.ok("preview etl --limit 2 -o json"))) == 2
    assert "no work pool 'elt'" in home.refused("preview elt")


def test_a_worker_makes_its_pool_ready_and_is_shown(home: AirflowHome) -> None:
    home.ok("create etl")
    home.sql(
        "INSERT INTO workpool_worker (id, name, hostname, kind, state, started_at, last_heartbeat_at, "
        "heartbeat_seconds, version, steady_since) VALUES (?, 'w', 'h', 'embedded', 'online', datetime('now'), "
        "datetime('now'), 10, '0.1.0', datetime('now'))",
        "0" * 32,
    )

    assert home.listed()["etl"]["status"] == "READY"
    (worker,) = home.inspected("etl")["workers"]
    assert (worker["name"], worker["status"]) == ("w", "ONLINE")


@pytest.mark.parametrize("output", ["table", "plain", "yaml", "json"])
def test_every_list_has_every_format(home: AirflowHome, output: str) -> None:
    home.ok(ETL)
    insert_job(home, "etl", "critical", state="pending")

    for line in ("list", "ls", "slots", "preview etl", "queue list etl", "queue ls etl"):
        assert "critical" in home.ok(f"{line} --output {output}")


def test_brackets_in_a_reason_are_shown(home: AirflowHome) -> None:
    home.airflow("connections", "add", "etl", "--conn-type", "workpool", "--conn-extra", '{"type": "[bold]"}')

    assert "[bold]" in home.ok("list")


def test_a_definition_can_be_inspected_as_yaml(home: AirflowHome) -> None:
    home.ok(ETL)

    assert "concurrency_limit: 10" in home.ok("inspect etl -o yaml")


# -- the audit log, and a database that is not ready


def test_every_write_leaves_a_row_in_airflows_audit_log_without_the_values_of_variables(
    home: AirflowHome,
) -> None:
    template = {
        "variables": {
            "type": "object",
            "properties": {"env": {"type": "object", "default": {"K": "secret"}}},
        },
        "job_configuration": {"env": "{{ env }}"},
    }
    home.ok("create ml -b -", stdin=json.dumps(template))
    home.ok(
        'create etl --set \'env={"TOKEN": "secret"}\' --set=user=secret -s nice=3 -suser=secret -vsuser=secret '
        "-vs user=secret"
    )
    job = insert_job(home, "etl", "default", state="pending", job_variables='{"env": {"TOKEN": "secret"}}')
    for line in (
        "update etl -l 1",
        "pause etl",
        "resume etl",
        "set-concurrency-limit etl 2",
        "clear-concurrency-limit etl",
        "queue create etl/high",
        "queue update etl/high -p 3",
        "queue pause etl/high",
        "queue resume etl/high",
        "queue delete etl/high",
        f"jobs cancel {job} --reason 'wrong day'",
        "delete etl",
        "db purge --older-than 30",
    ):
        home.ok(line)
    home.ok("list")

    rows = home.sql("SELECT event, extra FROM log ORDER BY id")

    assert [event for event, _ in rows] == [
        "cli_workpools_create",
        "cli_workpools_create",
        "cli_workpools_update",
        "cli_workpools_pause",
        "cli_workpools_resume",
        "cli_workpools_set_concurrency_limit",
        "cli_workpools_clear_concurrency_limit",
        "cli_workpools_queue_create",
        "cli_workpools_queue_update",
        "cli_workpools_queue_pause",
        "cli_workpools_queue_resume",
        "cli_workpools_queue_delete",
        "cli_workpools_jobs_cancel",
        "cli_workpools_delete",
        "cli_workpools_db_purge",
    ]
    assert not any("secret" in extra for _, extra in rows)
    assert "env=***" in rows[1][1]
    extras = {event.removeprefix("cli_workpools_"): extra for event, extra in rows}
    assert all("etl" in extra for event, extra in extras.items() if event not in ("jobs_cancel", "db_purge"))
    assert all("etl/high" in extra for event, extra in extras.items() if event.startswith("queue_"))
    assert job in extras["jobs_cancel"]
    assert "wrong day" in extras["jobs_cancel"]


def test_the_audit_log_knows_who_did_it(home: AirflowHome) -> None:
    home.ok("pause default")

    assert home.sql("SELECT owner FROM log") == [(getpass.getuser(),)]


def test_every_command_that_changes_something_writes_an_audit_row_of_its_own_name() -> None:
    commands = {
        (group, command.name): inspect.getclosurevars(command.func).nonlocals["import_path"]
        for group, members in (
            ("", POOL_COMMANDS),
            ("queue_", QUEUE_COMMANDS),
            ("jobs_", JOB_COMMANDS),
            ("worker_", WORKER_COMMANDS),
            ("db_", DB_COMMANDS),
        )
        for command in members
    }
    looks = {"list", "ls", "inspect", "slots", "preview", "jobs", "logs"}
    events = {}
    # Where a worker starts there is no database, and so no audit log.
    del commands["worker_", "start"]
    for (group, name), path in commands.items():
        module, _, function = path.rpartition(".")
        source = Path(import_module(module).__file__ or "").read_text()
        found = re.search(rf"@(reads|writes\(\"(\w+)\"\))\ndef {function}\(", source)
        assert found, path
        events[group, name] = found[2]

    assert events == {
        (group, name): None if name in looks else f"workpools_{group}{name.replace('-', '_')}"
        for group, name in commands
    }
