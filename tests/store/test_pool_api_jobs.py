# SPDX-License-Identifier: Apache-2.0
"""The pool API: jobs, why tasks wait, templates, and how pools were used."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from airflow_workpools.core.jobs import JobState
from airflow_workpools.infrastructure.base import Handle
from airflow_workpools.store.records import Report
from airflow_workpools.store.tables import jobs
from tests.store.pool_api import PoolApi, pool_api
from tests.store.rigs import NOW, later, new_job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEMPLATE: dict[str, Any] = {
    "variables": {
        "type": "object",
        "properties": {
            "image": {"type": "string", "title": "Image", "default": "python"},
            "cpus": {"type": "integer"},
            "env": {"type": "object"},
        },
        "required": ["cpus"],
    },
    "job_configuration": {
        "image": "{{ image }}:3",
        "fixed": ["a", {"b": 1}],
        "cpus": "{{ cpus }}",
        "host": "{{ $HOSTNAME }}",
        "pool": "{{ ctx.work_pool }}",
        "dag": "{{ ctx.dag_id }}",
    },
}


@pytest.fixture
def api(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PoolApi]:
    with pool_api(engine, tmp_path, monkeypatch) as made:
        made.stage.pool("etl", queues={"high": {"priority": 1, "concurrency_limit": 3}})
        yield made


def ended(
    api: PoolApi, queue: str = "etl", state: JobState = JobState.SUCCEEDED, at: float = 0, **values: Any
) -> str:
    """Make a job that was handed over at a time, claimed after 10 s, started after 15 and ended after 75."""
    (id_,) = api.stage.rig.hand_over(new_job(queue, **values), now=later(at))
    times = {"handed_over_at": 0, "claimed_at": 10, "started_at": 15, "ended_at": 75}
    row: dict[str, Any] = {name: later(at + seconds) for name, seconds in times.items()}
    with api.stage.engine.begin() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.id == id_).values(state=state.value, **row))
    return str(id_)


def ids(answer: Any) -> list[str]:
    return [job["id"] for job in answer["jobs"]]


# -- jobs ----------------------------------------------------------------------------------------------------


def test_jobs_are_listed_newest_first_in_pages_and_by_what_they_are(api: PoolApi) -> None:
    made = [
        ended(api, "etl", at=0),
        ended(api, "etl/high", JobState.FAILED, at=1),
        ended(api, "etl", JobState.CANCELLED, at=2, dag_id="other"),
        ended(api, "etl/high", at=3),
        *map(str, api.stage.rig.hand_over(new_job("etl/high"), new_job("etl"), now=later(3))),
    ]
    ended(api, "other", at=4)
    listed = api.ok("GET", "/pools/etl/jobs", role="viewer")
    # Those of one moment are in the order of their ids, which is each database's own.
    assert set(ids(listed)[:3]) == set(made[3:])
    assert (ids(listed)[3:], listed["next_cursor"]) == (made[2::-1], None)

    found: list[str] = []
    cursor = ""
    for _ in range(3):
        page = api.ok("GET", f"/pools/etl/jobs?limit=2{cursor}")
        found += ids(page)
        cursor = f"&cursor={page['next_cursor']}"
    assert found == ids(listed)
    assert page["next_cursor"] is None

    assert ids(api.ok("GET", "/pools/etl/jobs?state=failed&state=cancelled")) == [made[2], made[1]]
    assert set(ids(api.ok("GET", "/pools/etl/jobs?queue=high"))) == {made[1], made[3], made[4]}
    assert ids(api.ok("GET", "/pools/etl/jobs?dag_id=other")) == [made[2]]
    assert ids(api.ok("GET", "/pools/etl/jobs?dag_id=other&queue=high")) == []
    assert set(ids(api.ok("GET", "/pools/etl/jobs?state=pending"))) == set(made[4:])
    assert api.ok("GET", "/pools/default/jobs")["jobs"] == []


def test_bad_questions_for_jobs_are_refused(api: PoolApi) -> None:
    api.refused(404, "GET", "/pools/nosuch/jobs")
    api.refused(422, "GET", "/pools/etl/jobs?state=sleeping")
    for cursor in ("x", "WyIyMDI2IiwgMV0", "WyIyMDI2LTAxLTAxVDAwOjAwOjAwIiwgImEiXQ"):
        assert "cursor" in api.refused(422, "GET", f"/pools/etl/jobs?cursor={cursor}").detail
    api.refused(422, "GET", "/jobs/x")
    api.refused(404, "GET", f"/jobs/{uuid.uuid4()}")
    api.refused(404, "POST", f"/jobs/{uuid.uuid4()}/cancel", {})


def test_a_job_of_a_pool_that_is_gone_is_still_there(api: PoolApi) -> None:
    job = ended(api, "gone")
    assert ids(api.ok("GET", "/pools/gone/jobs")) == [job]
    assert "no more" in api.ok("GET", f"/jobs/{job}")["job_configuration_faults"][0]["detail"]


def test_how_long_each_part_of_a_job_took_is_said(api: PoolApi) -> None:
    over = ended(api)
    (waiting,) = api.stage.rig.hand_over(new_job("etl"))
    api.now = later(100)
    listed = {job["id"]: job for job in api.ok("GET", "/pools/etl/jobs")["jobs"]}
    job = listed[over]
    assert (job["waiting_seconds"], job["starting_seconds"], job["running_seconds"]) == (10, 5, 60)
    assert (job["cause"], job["handed_over_at"]) == ("succeeded", "2026-03-04T05:06:07Z")
    job = listed[str(waiting)]
    assert (job["waiting_seconds"], job["starting_seconds"], job["cause"]) == (100, None, None)


def test_all_about_a_job_is_told_without_its_secrets(api: PoolApi) -> None:
    api.stage.pool("etl", base_job_template=TEMPLATE, job_variables={"image": "slim"})
    variables = {"cpus": 2, "env": {"DB_PASSWORD": "geheim", "A": "plain"}}
    rig = api.stage.rig
    worker = rig.worker(name="w1")
    (job,) = rig.claimed(new_job("etl", job_variables=variables), worker=worker)
    process = {"process": {"pid": 17}, "directory": "/x"}
    report = Report(
        job_id=job,
        state=JobState.RUNNING,
        handle=Handle(job_id=job, kind="process", data=process),
        started_at=later(3),
    )
    api.store.report(worker, [report], now=later(3))
    api.now = later(5)

    found = api.ok("GET", f"/jobs/{job}", role="viewer")
    assert (found["worker"], found["infrastructure_kind"], found["infrastructure_id"]) == (
        "w1",
        "process",
        "17",
    )
    assert found["job_variables"] == {"cpus": 2, "env": {"DB_PASSWORD": "***", "A": "plain"}}
    assert found["job_configuration"] == {
        "image": "slim:3",
        "fixed": ["a", {"b": 1}],
        "cpus": 2,
        "host": "{{ $HOSTNAME }}",
        "pool": "etl",
        "dag": "dag",
    }
    assert [entry["event"] for entry in found["timeline"]] == ["handed_over", "claimed", "started"]
    assert [(phase["name"], phase["seconds"]) for phase in found["phases"]] == [
        ("waiting", 0),
        ("starting", 3),
        ("running", 2),
    ]
    assert found["phases"][-1]["ended_at"] is None
    assert not found["may_cancel"]
    assert api.ok("GET", f"/jobs/{job}", role="op")["may_cancel"]


def test_a_job_is_cancelled_with_a_reason_once(api: PoolApi) -> None:
    (job,) = api.stage.rig.hand_over(new_job("etl"))
    found = api.ok("POST", f"/jobs/{job}/cancel", {"reason": "wrong file"})
    assert (found["state"], found["reason"]) == ("cancelled", "cancelled by the op: wrong file")
    assert "have ended" in api.refused(409, "POST", f"/jobs/{job}/cancel", {}).detail


# -- why a task waits ----------------------------------------------------------------------------------------


def test_explain_says_which_gate_holds_a_task_and_tells_of_its_job(api: PoolApi) -> None:
    task = api.stage.task("etl/high", "queued")
    job = new_job("etl/high", task_instance_id=task["id"], task_id=task["task_id"])
    with api.stage.rig.airflow.session() as session:
        api.store.hand_over(job, now=NOW, session=session)
    where = f"dag_id=dag&run_id=run&task_id={task['task_id']}"
    found = api.ok("GET", f"/explain?{where}", role="viewer")
    assert (found["stage"], found["holding"]) == ("handed_over", "worker")
    assert "worker" in found["explanation"]
    holding = [gate for gate in found["gates"] if gate["status"] == "holding"]
    assert [gate["gate"] for gate in holding] == ["worker"]
    assert found["job"]["id"] == str(task["id"])
    api.store.set_queue_paused(job.ref, True)
    assert api.ok("GET", f"/explain?{where}")["holding"] == "paused"

    waiting = api.stage.task("etl/high", "scheduled")
    found = api.ok("GET", f"/explain?dag_id=dag&run_id=run&task_id={waiting['task_id']}")
    assert (found["stage"], found["job"]) == ("scheduled", None)
    assert "no map index 3" in api.refused(404, "GET", f"/explain?{where}&map_index=3").detail
    assert "no run 'x'" in api.refused(404, "GET", "/explain?dag_id=dag&run_id=x&task_id=t").detail
    assert "no DAG 'x'" in api.refused(404, "GET", "/explain?dag_id=x&run_id=x&task_id=t").detail
    api.refused(422, "GET", "/explain?dag_id=dag")


# -- templates -----------------------------------------------------------------------------------------------


def test_the_template_of_a_pool_is_read_changed_and_given_back(api: PoolApi) -> None:
    found = api.ok("GET", "/pools/etl/template")
    assert (found["type"], found["is_default"], found["masked"]) == ("process", True, False)
    assert found["base_job_template"] == found["default_template"]
    found = api.ok("PUT", "/pools/etl/template", {"base_job_template": TEMPLATE})
    assert (found["base_job_template"], found["is_default"]) == (TEMPLATE, False)
    assert api.ok("PUT", "/pools/etl/template", {"base_job_template": None})["is_default"]
    bad = {**TEMPLATE, "job_configuration": {"a": ["{{ nosuch }}"]}}
    problem = api.refused(422, "PUT", "/pools/etl/template", {"base_job_template": bad})
    assert "{{ nosuch }} is not declared" in problem.detail
    api.refused(422, "PUT", "/pools/etl/template", {})


def test_a_template_is_checked_and_each_fault_has_its_place(api: PoolApi) -> None:
    def faults(template: Any, kind: str = "process") -> dict[str | None, str]:
        body = {"type": kind, "base_job_template": template}
        found = api.ok("POST", "/templates/validate", body, role="viewer")
        assert found["valid"] == (not found["faults"])
        return {fault["pointer"]: fault["detail"] for fault in found["faults"]}

    assert faults(TEMPLATE) == {}
    assert list(faults({**TEMPLATE, "job_configuration": {"a/b": ["{{ nosuch }}"]}})) == [
        "/job_configuration/a~1b/0"
    ]
    schema = {"type": "object", "properties": {"cpus": {"type": "nosuch"}}}
    assert list(faults({"variables": schema, "job_configuration": {}})) == ["/variables/properties/cpus/type"]
    wrong = {"type": "object", "properties": {"cpus": {"type": "integer", "default": "x"}}}
    assert list(faults({"variables": wrong, "job_configuration": {}})) == [
        "/variables/properties/cpus/default"
    ]
    assert list(faults({})) == ["/variables", "/job_configuration"]
    assert faults({"variables": {}, "job_configuration": {}}, "docker") != {}
    api.refused(404, "POST", "/templates/validate", {"type": "nosuch", "base_job_template": TEMPLATE})


def test_a_preview_shows_the_job_and_what_of_it_is_open(api: PoolApi) -> None:
    api.stage.pool(
        "etl",
        base_job_template=TEMPLATE,
        job_variables={"cpus": 1},
        queues={"high": {"job_variables": {"cpus": 8}}},
    )
    found = api.ok("POST", "/pools/etl/preview", {"job_variables": {"image": "go"}}, role="viewer")
    assert found["job_configuration"]["image"] == "go:3"
    assert found["job_configuration"]["dag"] == "{{ ctx.dag_id }}"
    fields = {field["pointer"]: field for field in found["fields"]}
    assert list(fields) == ["/image", "/fixed/0", "/fixed/1/b", "/cpus", "/host", "/pool", "/dag"]
    assert fields["/image"]["variables"] == ["image"]
    assert {pointer for pointer, field in fields.items() if not field["locked"]} == {"/image", "/cpus"}
    variables = {one["name"]: one for one in found["variables"]}
    assert (variables["image"]["value"], variables["image"]["source"], variables["image"]["title"]) == (
        "go",
        "task",
        "Image",
    )
    assert (variables["cpus"]["value"], variables["cpus"]["source"], variables["cpus"]["required"]) == (
        1,
        "pool",
        True,
    )
    assert (variables["env"]["source"], variables["env"]["used"]) == (None, False)
    high = api.ok("POST", "/pools/etl/preview", {"queue": "high"})
    assert high["job_configuration"]["cpus"] == 8

    wrong = api.ok("POST", "/pools/etl/preview", {"job_variables": {"cpus": "x", "imgae": 1}})
    assert wrong["job_configuration"] is None
    assert len(wrong["faults"]) == 2
    assert "did you mean" in str(wrong["faults"])
    unsaved = {**TEMPLATE, "job_configuration": {"only": "{{ cpus }}"}}
    tried = api.ok("POST", "/pools/etl/preview", {"base_job_template": unsaved})
    assert tried["job_configuration"] == {"only": 1}
    broken = api.ok("POST", "/pools/etl/preview", {"base_job_template": {"variables": 1}})
    assert broken["faults"]
    api.refused(404, "POST", "/pools/etl/preview", {"queue": "nosuch"})


def test_the_types_of_infrastructure_have_their_templates(api: PoolApi) -> None:
    types = {one["type"]: one for one in api.ok("GET", "/infrastructure-types", role="viewer")["types"]}
    assert {"process", "docker", "kubernetes"} <= types.keys()
    assert types["process"]["usable"]
    assert types["process"]["base_job_template"]["job_configuration"]
    assert types["docker"]["check_of_templates"]


# -- how pools were used -------------------------------------------------------------------------------------


def test_statistics_have_slots_over_time_by_queue_and_how_long_jobs_waited(api: PoolApi) -> None:
    # One hour in 60 buckets. Of 60 s, from 10 to 75 s after the hand-over: a bucket and 5 s of the next.
    for n in range(2):
        ended(api, "etl/high", at=50, pool_slots=1 + n)
    worker = api.stage.rig.worker()
    api.stage.rig.claimed(new_job("etl", pool_slots=2), worker=worker, now=later(3030))
    ended(api, "etl/old", at=-7300)
    api.now = later(3600)

    found = api.ok("GET", "/pools/etl/statistics", role="viewer")
    assert (found["bucket_seconds"], found["since"], found["wait_sample"]) == (60, "2026-03-04T05:06:07Z", 3)
    queues = {queue["name"]: queue for queue in found["queues"]}
    assert list(queues) == ["high", "default"]
    high = queues["high"]
    assert high["slots"][:4] == pytest.approx([0, 3, 3 * 5 / 60, 0], abs=0.01)
    assert (high["claimed"][1], sum(high["claimed"])) == (2, 2)
    assert (high["wait_p50_seconds"][1], high["window_wait_p95_seconds"]) == (10, 10)
    assert high["wait_p50_seconds"][0] is None
    assert queues["default"]["slots"][49:53] == pytest.approx([0, 1, 2, 2], abs=0.01)
    assert queues["default"]["window_wait_p50_seconds"] == 0
    for window in ("6h", "24h", "7d"):
        found = api.ok("GET", f"/pools/etl/statistics?window={window}")
        assert [len(queue["slots"]) for queue in found["queues"]] == [60, 60, 60]
        slots = sum(sum(queue["slots"]) for queue in found["queues"]) * found["bucket_seconds"]
        assert slots == pytest.approx(3 * 65 + 2 * 570 + 65, abs=found["bucket_seconds"] * 0.2)
    api.refused(422, "GET", "/pools/etl/statistics?window=2h")
    api.refused(404, "GET", "/pools/nosuch/statistics")


def test_the_dashboard_has_first_what_needs_attention(api: PoolApi) -> None:
    api.stage.pool("bad", type="nosuch")
    worker = api.stage.rig.worker()
    api.stage.rig.claimed(new_job("etl"), worker=worker)
    api.stage.rig.hand_over(new_job("default"))
    found = api.ok("GET", "/dashboard", role="viewer")
    assert (found["pools"], found["ready"], found["invalid"]) == (3, 2, 1)
    assert (found["running"], found["waiting"], found["workers_online"]) == (1, 1, 1)
    assert [row["name"] for row in found["rows"]] == ["bad", "etl", "default"]
    assert "nosuch" in found["rows"][0]["reason"]
