# SPDX-License-Identifier: Apache-2.0
"""The pool API: what it tells of pools, queues, workers and tokens, and what it changes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.worker_tokens import read_token
from airflow_workpools.store.records import WorkerKind
from tests.store.pool_api import PoolApi, pool_api
from tests.store.rigs import NOW, later, new_job, new_worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import sqlalchemy as sa

ETL: dict[str, Any] = {
    "name": "etl",
    "type": "process",
    "description": "Nightly loads",
    "concurrency_limit": 10,
    "queues": [
        {"name": "critical", "priority": 1, "concurrency_limit": 1},
        {"name": "high", "priority": 5, "concurrency_limit": 3},
        {"name": "low", "priority": 10},
    ],
}


@pytest.fixture
def api(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PoolApi]:
    with pool_api(engine, tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def etl(api: PoolApi) -> PoolApi:
    """The API, with the pool of the example."""
    api.ok("POST", "/pools", ETL)
    return api


def queues_of(pool: Any) -> dict[str, int]:
    return {queue["name"]: queue["priority"] for queue in pool["queues"]}


# -- pools ---------------------------------------------------------------------------------------------------


def test_a_pool_is_created_listed_changed_and_deleted(api: PoolApi) -> None:
    made = api.ok("POST", "/pools", ETL)
    assert (made["name"], made["type"], made["status"]) == ("etl", "process", "NOT_READY")
    assert made["declared_in"] == "connection 'etl' in Airflow's database"
    assert queues_of(made) == {"critical": 1, "default": 2, "high": 5, "low": 10}
    assert api.ok("GET", "/pools/etl", role="viewer")["queues"] == made["queues"]

    listed = api.ok("GET", "/pools", role="viewer")
    assert [pool["name"] for pool in listed["pools"]] == ["default", "etl"]
    assert (listed["total"], listed["next_cursor"], listed["may_create"]) == (2, None, False)
    assert {pool["name"]: pool["source"] for pool in listed["pools"]} == {
        "default": "builtin",
        "etl": "database",
    }

    changed = api.ok("PATCH", "/pools/etl", {"concurrency_limit": None, "start_timeout_seconds": 60})
    assert (changed["concurrency_limit"], changed["start_timeout_seconds"]) == (None, 60)
    assert changed["description"] == "Nightly loads"
    changed = api.ok("PATCH", "/pools/etl", {"description": None, "set_job_variables": {"env": {"A": "1"}}})
    assert (changed["description"], changed["job_variables"]) == (None, {"env": {"A": "1"}})
    assert api.ok("PATCH", "/pools/etl", {"unset_job_variables": ["env"]})["job_variables"] == {}

    api.ok("DELETE", "/pools/etl")
    assert "there is no work pool 'etl'" in api.refused(404, "GET", "/pools/etl").detail


def test_what_is_wrong_with_a_pool_is_said_with_all_its_faults(api: PoolApi) -> None:
    bad = {"name": "etl", "type": "nosuch", "job_variables": {"a": 1}, "queues": [{"name": "a.b"}]}
    problem = api.refused(422, "POST", "/pools", bad)
    assert "type 'nosuch' is unknown" in problem.detail
    assert len(problem.faults) == 2
    assert api.refused(422, "POST", "/pools", {"name": "etl", "kind": "process"}).faults[0].pointer == "/type"
    twice = {**ETL, "queues": [{"name": "a"}, {"name": "a"}]}
    assert "'a' is given twice" in api.refused(422, "POST", "/pools", twice).detail
    assert "not be null" in api.refused(422, "PATCH", "/pools/default", {"type": None}).detail
    assert "nothing to change" in api.refused(422, "PATCH", "/pools/default", {}).detail
    assert "built in" in api.refused(409, "PATCH", "/pools/default", {"description": "x"}).detail


def test_a_name_that_is_taken_is_refused(etl: PoolApi) -> None:
    assert "exists already" in etl.refused(409, "POST", "/pools", ETL).detail
    assert "only in capitals" in etl.refused(409, "POST", "/pools", {**ETL, "name": "ETL"}).detail


def test_a_pool_with_jobs_is_not_deleted(etl: PoolApi) -> None:
    etl.stage.rig.hand_over(new_job("etl/high"))
    assert "1 job" in etl.refused(409, "DELETE", "/pools/etl").detail
    assert "1 job" in etl.refused(409, "DELETE", "/pools/etl/queues/high").detail


def test_a_pool_is_paused_and_resumed_wherever_it_is_declared(
    api: PoolApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CLOUD", '{"conn_type": "workpool", "extra": {"type": "process"}}')
    pool = api.ok("POST", "/pools/cloud/pause")
    assert (pool["paused"], pool["status"], pool["read_only"]) == (True, "PAUSED", True)
    assert "AIRFLOW_CONN_CLOUD" in pool["declared_in"]
    assert api.store.run_state(now=NOW).pool_paused("cloud")
    assert not api.ok("POST", "/pools/cloud/resume")["paused"]
    assert "read-only" in api.refused(409, "PATCH", "/pools/cloud", {"description": "x"}).detail
    api.refused(404, "POST", "/pools/nosuch/pause")


def test_an_invalid_pool_says_why_and_is_mended(api: PoolApi) -> None:
    api.stage.pool("etl", type="nosuch")
    pool = api.ok("GET", "/pools/etl")
    assert (pool["status"], pool["type"], pool["queues"]) == ("INVALID", None, [])
    assert "'nosuch' is unknown" in pool["reason"]
    assert "is invalid" in api.refused(422, "GET", "/pools/etl/queues").detail
    assert api.ok("PATCH", "/pools/etl", {"type": "process"})["status"] == "NOT_READY"


def test_pools_come_in_pages(api: PoolApi) -> None:
    for name in "abc":
        api.stage.pool(name)
    first = api.ok("GET", "/pools?limit=3")
    assert [pool["name"] for pool in first["pools"]] == ["a", "b", "c"]
    second = api.ok("GET", f"/pools?limit=3&cursor={first['next_cursor']}")
    assert [pool["name"] for pool in second["pools"]] == ["default"]
    assert (second["next_cursor"], second["total"]) == (None, 4)
    for cursor in ("x", "WzFd", "bnVsbA", "W1td", "\u00e9"):
        assert "cursor" in api.refused(422, "GET", f"/pools?cursor={cursor}").detail
    api.refused(422, "GET", "/pools?limit=0")


def test_what_a_pool_does_is_counted(etl: PoolApi) -> None:
    worker = etl.stage.rig.worker()
    for job in (new_job("etl/high", pool_slots=2), new_job("etl/low")):
        etl.stage.rig.claimed(job, worker=worker)
    etl.stage.rig.hand_over(new_job("etl/low"))
    (pool,) = [pool for pool in etl.ok("GET", "/pools")["pools"] if pool["name"] == "etl"]
    assert (pool["slots_used"], pool["running"], pool["waiting"]) == (3, 2, 1)
    assert (pool["status"], pool["workers_online"], pool["workers"]) == ("READY", 1, 1)
    queues = {queue["name"]: queue for queue in etl.ok("GET", "/pools/etl/queues")["queues"]}
    assert list(queues) == ["critical", "default", "high", "low"]
    assert (queues["high"]["slots_used"], queues["low"]["waiting"]) == (2, 1)
    assert etl.ok("GET", "/pools/etl")["slots_free"] == 7


def test_a_sparkline_has_the_slots_of_the_last_hour(etl: PoolApi) -> None:
    rig = etl.stage.rig
    worker = rig.worker()
    rig.claimed(new_job("etl/high", pool_slots=2), worker=worker, now=NOW)
    rig.claimed(new_job("etl/low"), worker=worker, now=later(1800))
    etl.now = later(3600)
    points = {pool["name"]: pool["sparkline"] for pool in etl.ok("GET", "/pools")["pools"]}
    assert points == {"default": [0] * 60, "etl": [2] * 30 + [3] * 30}


# -- queues --------------------------------------------------------------------------------------------------


def test_a_queue_takes_a_priority_and_the_others_make_room(etl: PoolApi) -> None:
    made = etl.ok("POST", "/pools/etl/queues", {"name": "urgent", "priority": 1, "paused": True})
    assert (made["queue"]["priority"], made["queue"]["status"]) == (1, "PAUSED")
    assert made["moved"] == [
        {"name": "critical", "old_priority": 1, "new_priority": 2},
        {"name": "default", "old_priority": 2, "new_priority": 3},
    ]
    changed = etl.ok("PATCH", "/pools/etl/queues/low", {"priority": 6, "concurrency_limit": 4})
    assert (changed["queue"]["priority"], changed["queue"]["concurrency_limit"]) == (6, 4)
    assert changed["moved"] == []
    changed = etl.ok("PATCH", "/pools/etl/queues/low", {"concurrency_limit": None, "description": "slow"})
    assert (changed["queue"]["concurrency_limit"], changed["queue"]["description"]) == (None, "slow")
    etl.ok("DELETE", "/pools/etl/queues/urgent")
    assert "urgent" not in queues_of(etl.ok("GET", "/pools/etl"))


def test_a_queue_is_paused_and_resumed(etl: PoolApi) -> None:
    assert etl.ok("POST", "/pools/etl/queues/high/pause")["queue"]["status"] == "PAUSED"
    assert etl.store.run_state(now=NOW).queue(WorkQueueRef("etl", "high")).paused
    assert not etl.ok("POST", "/pools/etl/queues/high/resume")["queue"]["paused"]


def test_what_queues_refuse(etl: PoolApi) -> None:
    assert "has no work queue 'x'" in etl.refused(404, "PATCH", "/pools/etl/queues/x", {"priority": 1}).detail
    assert "has no work queue 'x'" in etl.refused(404, "DELETE", "/pools/etl/queues/x").detail
    assert "has no work queue 'x'" in etl.refused(404, "POST", "/pools/etl/queues/x/pause").detail
    assert "cannot be deleted" in etl.refused(409, "DELETE", "/pools/etl/queues/default").detail
    assert "already" in etl.refused(409, "POST", "/pools/etl/queues", {"name": "high"}).detail
    assert "not be null" in etl.refused(422, "PATCH", "/pools/etl/queues/high", {"priority": None}).detail
    etl.refused(422, "PATCH", "/pools/etl/queues/high", {"priority": 0})


def test_two_changes_at_once_both_hold(etl: PoolApi) -> None:
    """Each writes all queues: one that read before the other wrote would undo it."""
    from concurrent.futures import ThreadPoolExecutor

    etl.token("op")
    with ThreadPoolExecutor(4) as threads:
        limits = {"critical": 7, "high": 8, "low": 9, "default": 6}
        done = [
            threads.submit(etl.ok, "PATCH", f"/pools/etl/queues/{name}", {"concurrency_limit": limit})
            for name, limit in limits.items()
        ]
        for one in done:
            one.result()
    queues = etl.ok("GET", "/pools/etl")["queues"]
    assert {queue["name"]: queue["concurrency_limit"] for queue in queues} == limits


# -- workers and tokens --------------------------------------------------------------------------------------


def test_workers_are_listed_drained_and_resumed(etl: PoolApi) -> None:
    etl.ok("PATCH", "/pools/etl", {"delivery": "pull"})
    worker = new_worker(name="w1", kind=WorkerKind.STANDALONE, pools=("etl",), slots=4)
    etl.store.register_worker(worker, now=NOW)
    etl.store.register_worker(new_worker(name="w2", kind=WorkerKind.STANDALONE, pools=("other",)), now=NOW)
    etl.stage.rig.claimed(new_job("etl/high", pool_slots=3), worker=worker.id)

    (found,) = etl.ok("GET", "/pools/etl/workers")["workers"]
    assert (found["name"], found["status"], found["version"]) == ("w1", "ONLINE", "1")
    assert (found["capacity"], found["slots_used"], found["jobs"], found["draining"]) == (4, 3, 1, False)
    assert etl.ok("POST", "/pools/etl/workers/w1/drain")["status"] == "DRAINING"
    assert etl.ok("POST", f"/pools/etl/workers/{worker.id}/resume")["status"] == "ONLINE"
    assert "no worker 'w2'" in etl.refused(404, "POST", "/pools/etl/workers/w2/drain").detail

    etl.now = NOW + timedelta(minutes=5)
    (found,) = etl.ok("GET", "/pools/etl/workers")["workers"]
    assert found["status"] == "OFFLINE"
    etl.store.stop_worker(worker.id, now=etl.now)
    assert "has ended" in etl.refused(409, "POST", "/pools/etl/workers/w1/drain").detail


def test_a_token_is_made_shown_once_and_revoked(etl: PoolApi) -> None:
    made = etl.ok("POST", "/pools/etl/tokens", {"description": "Frankfurt", "expires_in_seconds": 3600})
    parts = read_token(made.pop("token"))
    assert parts is not None
    assert etl.ok("GET", "/pools/etl/tokens", role="viewer")["tokens"] == [made]
    assert (made["status"], made["created_by"]) == ("ACTIVE", "the op")
    assert etl.ok("GET", "/pools/default/tokens")["tokens"] == []
    etl.refused(404, "DELETE", f"/pools/default/tokens/{parts.id}")
    etl.ok("DELETE", f"/pools/etl/tokens/{parts.id}")
    assert etl.ok("GET", "/pools/etl/tokens")["tokens"][0]["status"] == "REVOKED"
    assert "revoked before" in etl.refused(409, "DELETE", f"/pools/etl/tokens/{parts.id}").detail
    assert parts.secret not in str(etl.audited())
    assert etl.ok("POST", "/pools/etl/tokens", {"expires_in_seconds": None})["expires_at"] is None
    etl.refused(404, "POST", "/pools/nosuch/tokens", {})
