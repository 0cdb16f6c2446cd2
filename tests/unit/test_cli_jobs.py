# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools jobs``, ``queue jobs``, ``worker list`` and ``db purge``, in a real Airflow home."""

from __future__ import annotations

import json
import uuid
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.airflow_home import ETL, insert_job, insert_worker

if TYPE_CHECKING:
    from tests.airflow_home import AirflowHome


def listed(home: AirflowHome, line: str) -> list[Any]:
    return list(json.loads(home.ok(f"{line} -o json")))


def ids(home: AirflowHome, line: str) -> list[str]:
    return [row["id"] for row in listed(home, line)]


def inspected(home: AirflowHome, job: str) -> dict[str, Any]:
    return dict(json.loads(home.ok(f"jobs inspect {job}")))


# -- jobs


def test_jobs_are_listed_the_newest_first_and_up_to_a_number(home: AirflowHome) -> None:
    jobs = [
        insert_job(
            home, "default", "default", state="pending", handed_over_at=f"2026-01-01 0{n}:00:00.000000"
        )
        for n in range(3)
    ]

    assert ids(home, "jobs list") == jobs[::-1]
    assert ids(home, "jobs list --limit 2") == jobs[:0:-1]


def test_jobs_are_found_by_all_that_is_known_of_them(home: AirflowHome) -> None:
    home.ok(ETL)
    home.ok("create ml")
    worker = insert_worker(home, "w1")
    a = insert_job(
        home,
        *("etl", "high"),
        state="running",
        dag_id="nightly",
        task_id="load",
        run_id="r1",
        worker_id=uuid.UUID(worker).hex,
    )
    b = insert_job(home, "ml", "default", state="pending")
    c = insert_job(home, "etl", "low", state="failed")

    found = {
        line: set(ids(home, f"jobs list {line}"))
        for line in (
            "--pool etl",
            "--queue etl/high",
            "--queue ml",
            "--state pending",
            "--state pending --state failed",
            "--dag nightly",
            "--task load",
            "--run r1",
            "--worker w1",
            f"--worker {worker}",
            "--pool etl --state pending",
        )
    }

    assert found == {
        "--pool etl": {a, c},
        "--queue etl/high": {a},
        "--queue ml": {b},
        "--state pending": {b},
        "--state pending --state failed": {b, c},
        "--dag nightly": {a},
        "--task load": {a},
        "--run r1": {a},
        "--worker w1": {a},
        f"--worker {worker}": {a},
        "--pool etl --state pending": set(),
    }
    (row,) = listed(home, "jobs list --dag nightly")
    assert (row["queue"], row["worker"], row["state"], row["slots"]) == ("etl/high", "w1", "running", 1)


def test_the_jobs_of_a_queue_are_listed(home: AirflowHome) -> None:
    home.ok(ETL)
    waits = insert_job(home, "etl", "low", state="pending")
    runs = insert_job(home, "etl", "low", state="running")
    insert_job(home, "etl", "high", state="running")

    assert set(ids(home, "queue jobs etl/low")) == {waits, runs}
    assert ids(home, "queue jobs etl/low --state running --limit 5") == [runs]


def test_a_job_is_shown_with_all_but_its_workload(home: AirflowHome) -> None:
    worker = insert_worker(home, "w1")
    job = insert_job(
        home,
        *("default", "default"),
        state="running",
        worker_id=uuid.UUID(worker).hex,
        workload='{"token": "secret"}',
        job_variables='{"nice": 5}',
        handle='{"kind": "process", "data": {"pid": 7}}',
        claimed_at="2026-01-01 00:00:00.000000",
    )

    found = inspected(home, job)

    assert {key: found[key] for key in ("id", "pool", "state", "worker", "worker_id", "job_variables")} == {
        "id": job,
        "pool": "default",
        "state": "running",
        "worker": "w1",
        "worker_id": worker,
        "job_variables": {"nice": 5},
    }
    assert found["infrastructure"] == {"kind": "process", "data": {"pid": 7}}
    assert found["claimed_at"] == "2026-01-01T00:00:00+00:00"
    assert "secret" not in home.ok(f"jobs inspect {job} -o yaml")


# -- cancelling


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_by_its_worker(home: AirflowHome) -> None:
    waits = insert_job(home, "default", "default", state="pending", map_index=3)
    runs = insert_job(home, "default", "default", state="running")

    first, second = home.ok(f"jobs cancel {waits} {runs} --reason 'wrong day'").splitlines()

    assert first == f"Job {waits} (d.t[3], run r) cancelled"
    assert second == f"Job {runs} (d.t, run r) is being stopped by its worker"
    found = inspected(home, waits), inspected(home, runs)
    assert [(job["state"], job["desired_state"]) for job in found] == [
        ("cancelled", None),
        ("running", "cancelled"),
    ]
    for job in found:
        assert job["reason"].startswith("cancelled by ")
        assert job["reason"].endswith(": wrong day")


def test_a_job_that_is_being_stopped_already_keeps_its_reason(home: AirflowHome) -> None:
    job = insert_job(
        home, "default", "default", state="running", desired_state="failed", reason="did not start in time"
    )

    assert "was being stopped already: did not start in time" in home.ok(f"jobs cancel {job}")
    assert inspected(home, job)["reason"] == "did not start in time"


def test_nothing_is_cancelled_if_one_of_the_jobs_has_ended_or_does_not_exist(home: AirflowHome) -> None:
    waits = insert_job(home, "default", "default", state="pending")
    done = insert_job(home, "default", "default", state="succeeded")
    stranger = uuid.uuid4()

    message = home.refused(f"jobs cancel {waits} {done}")
    assert f"job {done} (succeeded)" in message
    assert "leave out what has ended" in message
    assert f"no job {stranger}" in home.refused(f"jobs cancel {waits} {stranger}")
    assert [inspected(home, job)["state"] for job in (waits, done)] == ["pending", "succeeded"]


# -- workers


def test_workers_are_listed_with_what_they_hold(home: AirflowHome) -> None:
    home.ok("create etl")
    home.ok("create far --delivery pull")
    near = insert_worker(home, "near")
    insert_worker(home, "far", kind="standalone", pools='["far"]', slots=8)
    insert_worker(home, "lost", heard_days_ago=1)
    insert_worker(home, "drains", state="draining")
    insert_worker(home, "gone", state="stopped")
    heir = insert_worker(home, "dying", state="stopped")
    for worker, slots in ((near, 2), (near, 3), (heir, 1)):
        values: dict[str, Any] = {"worker_id": uuid.UUID(worker).hex, "slots": slots}
        insert_job(home, "etl", "default", state="running", **values)

    rows = {row["name"]: row for row in listed(home, "worker list")}

    assert {name: row["status"] for name, row in rows.items()} == {
        "near": "ONLINE",
        "far": "ONLINE",
        "lost": "OFFLINE",
        "drains": "DRAINING",
        "dying": "STOPPED",
    }
    assert (rows["near"]["jobs"], rows["near"]["slots_used"], rows["near"]["slots"]) == (2, 5, None)
    assert (rows["far"]["jobs"], rows["far"]["slots"], rows["far"]["pools"]) == (0, 8, ["far"])
    assert "gone" in {row["name"] for row in listed(home, "worker list --all")}
    assert [row["name"] for row in listed(home, "worker list --pool far")] == ["far"]


def test_a_worker_is_inspected_drained_and_resumed(home: AirflowHome) -> None:
    home.ok("create far --delivery pull")
    worker = insert_worker(home, "edge-1", kind="standalone", pools='["far"]', slots=8)
    job = insert_job(home, "far", "default", state="running", worker_id=uuid.UUID(worker).hex, slots=3)

    found = json.loads(home.ok("worker inspect edge-1"))
    assert (found["id"], found["status"], found["pools"], found["queues"]) == (
        worker,
        "ONLINE",
        ["far"],
        None,
    )
    assert (found["jobs"], found["slots_used"], found["slots_free"]) == (1, 3, 5)
    assert found["job_ids"] == [job]

    said = home.ok("worker drain edge-1")
    assert "takes no more jobs; it has 1 job" in said
    assert "airflow workpools worker resume edge-1" in said
    assert json.loads(home.ok(f"worker inspect {worker}"))["status"] == "DRAINING"
    pool = json.loads(home.ok("inspect far"))
    assert pool["status"] == "NOT_READY"
    assert "1 worker of it being drained" in pool["reason"]

    home.ok(f"worker resume {worker}")
    assert json.loads(home.ok("worker inspect edge-1"))["status"] == "ONLINE"
    assert json.loads(home.ok("inspect far"))["status"] == "READY"


def test_a_worker_that_cannot_be_drained_says_why(home: AirflowHome) -> None:
    twins = [insert_worker(home, "twin") for _ in range(2)]
    insert_worker(home, "gone", state="stopped")
    message = home.refused("worker drain twin")
    assert all(twin in message for twin in twins)
    assert "has ended" in home.refused("worker drain gone")
    assert "no worker 'w9'" in home.refused("worker inspect w9")
    home.ok(f"worker drain {twins[0]}")


# -- the tables


def test_what_is_old_is_purged_and_nothing_else(home: AirflowHome) -> None:
    old = [insert_job(home, "default", "default", state="failed", ended_days_ago=31) for _ in range(3)]
    recent = insert_job(home, "default", "default", state="failed", ended_days_ago=29)
    runs = insert_job(home, "default", "default", state="running")
    insert_worker(home, "gone", heard_days_ago=31)
    insert_worker(home, "here")

    message = home.ok("db purge --older-than 30 --dry-run")
    assert message == "Would be purged: 3 finished jobs and 1 worker older than 30 days\n"
    assert set(ids(home, "jobs list")) == {*old, recent, runs}

    message = home.ok("db purge --older-than 30")
    assert message == "Purged: 3 finished jobs and 1 worker older than 30 days\n"
    assert set(ids(home, "jobs list")) == {recent, runs}
    assert [row["name"] for row in listed(home, "worker list")] == ["here"]
    assert home.ok("db purge --older-than 30").startswith("Purged: 0 finished jobs and 0 workers")


def test_a_purge_by_hand_goes_on_until_nothing_old_is_left(home: AirflowHome) -> None:
    home.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) "
        "INSERT INTO workpool_job (id, task_instance_id, round, dag_id, task_id, run_id, map_index, try_number, "
        "pool, queue, pool_slots, priority_weight, state, workload, job_variables, start_timeout_seconds, "
        "start_attempts, handed_over_at, ended_at) SELECT printf('%032x', i), printf('%032x', i), 0, 'd', 't', "
        "'r', -1, 1, 'etl', 'default', 1, 1, 'failed', '{}', '{}', 600, 0, '2020-01-01 00:00:00.000000', "
        "'2020-01-01 00:00:00.000000' FROM n"
    )

    assert home.ok("db purge --older-than 1").startswith("Purged: 2500 finished jobs")


# -- what is refused


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"jobs inspect {uuid.UUID(int=7)}", [f"no job {uuid.UUID(int=7)}", "mistyped", "purged"]),
        ("jobs list --pool elt", ["no work pool 'elt'", "default, etl"]),
        ("jobs list --queue etl/lo", ["no work queue 'lo'", "low"]),
        ("jobs list --queue a/b/c", ["a/b/c"]),
        ("jobs list --worker w9", ["no worker 'w9'", "`airflow workpools worker list --all`"]),
        ("queue jobs etl/lo", ["no work queue 'lo'", "low"]),
        ("worker list --pool elt", ["no work pool 'elt'", "default, etl"]),
    ],
)
def test_what_does_not_exist_is_named_with_the_way_out(
    home: AirflowHome, line: str, words: list[str]
) -> None:
    home.ok(ETL)

    message = home.refused(line)

    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "line",
    [
        "jobs cancel",
        "jobs cancel 7",
        "jobs inspect etl",
        "jobs list --state done",
        "jobs list --limit 0",
        "db purge",
        "db purge --older-than 0",
        "db purge --older-than soon",
        "db purge --older-than 99999",
    ],
)
def test_a_command_line_that_cannot_be_read_is_a_usage_error(home: AirflowHome, line: str) -> None:
    done = home.workpools(line)

    assert done.exit_code == 2
    assert "error:" in done.stderr


def test_jobs_of_a_queue_that_is_gone_can_still_be_found(home: AirflowHome) -> None:
    job = insert_job(home, "etl", "gone", state="failed")

    assert ids(home, "jobs list --queue etl/gone") == ids(home, "jobs list --pool etl") == [job]


@pytest.mark.parametrize("output", ["table", "plain", "yaml", "json"])
def test_every_list_has_every_format(home: AirflowHome, output: str) -> None:
    insert_worker(home, "w1")
    insert_job(home, "default", "default", state="running", reason="[bold]")

    for line in ("jobs list", "queue jobs default"):
        assert "[bold]" in home.ok(f"{line} --output {output}")
    assert "w1" in home.ok(f"worker list --output {output}")
    assert "[bold]" not in home.ok(f"jobs list --state failed --output {output}")


def _insert_log(home: AirflowHome, job: str, text: str) -> None:
    data = zlib.compress(text.encode())
    home.sql("insert into workpool_log values (?, 0, 0, ?, ?)", uuid.UUID(job).hex, len(text), data)


def test_what_a_job_wrote_is_printed(home: AirflowHome) -> None:
    job = insert_job(home, "etl", "high", state="succeeded")
    line = {"timestamp": "2026-01-01T00:00:00Z", "level": "info", "event": "loaded", "rows": 3}
    _insert_log(home, job, f"hello\n{json.dumps(line)}\n")

    assert home.ok(f"jobs logs {job}").splitlines() == ["hello", "2026-01-01T00:00:00Z info loaded rows=3"]
    assert [json.loads(text) for text in home.ok(f"jobs logs {job} -o json -f").splitlines()] == [
        {"event": "hello"},
        line,
    ]


def test_a_job_that_has_written_nothing_yet_prints_nothing(home: AirflowHome) -> None:
    assert home.ok(f"jobs logs {insert_job(home, 'etl', 'high', state='pending')}") == ""


def test_where_the_log_of_a_process_is_is_said(home: AirflowHome) -> None:
    job = insert_job(home, "etl", "high", state="running", handle='{"kind": "process", "data": {}}')

    message = home.refused(f"jobs logs {job}")

    assert "Airflow's log folder" in message
    assert "'t'" in message
