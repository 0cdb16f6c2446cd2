# SPDX-License-Identifier: Apache-2.0
"""Pools that would share an Airflow pool, and pools whose type changes while jobs run: said before harm is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from airflow.models.pool import Pool

from airflow_workpools.core.changes import Changes
from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.pools import InvalidPool, PoolSource, WorkPool, parse_work_pool
from airflow_workpools.core.templates import BaseJobTemplate
from airflow_workpools.errors import Conflict, InvalidWorkPool
from airflow_workpools.settings import PoolSettings
from airflow_workpools.store.overview import overview
from airflow_workpools.store.pool_edits import PoolEditor
from airflow_workpools.store.pools import PoolReader, set_apart
from airflow_workpools.store.records import Report
from tests.store.rigs import NOW, work_pool
from tests.store.schedulers import Scheduler, scheduler

TEMPLATE = BaseJobTemplate.parse({"variables": {"type": "object"}, "job_configuration": {}})
TEMPLATES = {"process": TEMPLATE, "other": TEMPLATE}


@pytest.fixture
def stage(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    with scheduler(engine, tmp_path / "logs", monkeypatch) as made:
        made.pool("etl", concurrency_limit=10)
        yield made


@contextmanager
def editor(stage: Scheduler) -> Iterator[PoolEditor]:
    with stage.transaction() as session:
        pools = PoolReader(settings=PoolSettings(), templates=TEMPLATES).read(session, {})
        yield PoolEditor(
            session=session, pools=pools, store=stage.rig.store, settings=PoolSettings(), templates=TEMPLATES
        )


def test_a_name_that_differs_only_in_capitals_is_refused_when_the_pool_is_made(stage: Scheduler) -> None:
    with (
        editor(stage) as edit,
        pytest.raises(Conflict, match="'etl', whose name differs from 'Etl' only in capitals"),
    ):
        edit.create_pool("Etl", {"type": "process"})


def test_queues_that_differ_only_in_capitals_are_refused(stage: Scheduler) -> None:
    with (
        editor(stage) as edit,
        pytest.raises(InvalidWorkPool, match="'Low' and 'low' differ only in capitals"),
    ):
        edit.create_pool("ml", {"type": "process", "queues": {"Low": {}, "low": {}}})


def test_of_pools_that_share_an_airflow_pool_only_the_first_is_used() -> None:
    pools = {name: work_pool(name) for name in ("etl", "Etl", "ETL", "ml")}
    apart = set_apart(pools)
    assert [name for name, pool in apart.items() if isinstance(pool, WorkPool)] == ["ETL", "ml"]
    second = apart["etl"]
    assert isinstance(second, InvalidPool)
    assert "only in capitals from that of work pool 'ETL'" in second.reason


def test_where_capitals_do_not_count_such_pools_are_invalid_and_elsewhere_both_work(stage: Scheduler) -> None:
    try:
        stage.pool("ETL")
    except sa.exc.IntegrityError:
        return  # this database takes no second connection of that name: nothing can collide
    with stage.transaction() as session:
        pools = PoolReader(settings=PoolSettings(), templates=TEMPLATES).read(session, {})
    both = [isinstance(pools[name], WorkPool) for name in ("ETL", "etl")]
    assert both == [True, stage.engine.dialect.name != "mysql"]


def test_the_type_of_a_pool_with_jobs_cannot_change(stage: Scheduler) -> None:
    executor = stage.executor()
    workload = stage.workload()
    stage.hand_over(executor, workload)
    with editor(stage) as edit:
        with pytest.raises(
            Conflict, match=r"'etl' has 1 jobs of type 'process'.*before its type can be 'other'"
        ):
            edit.create_pool("etl", {"type": "other"}, overwrite=True)
        with pytest.raises(Conflict, match="jobs list --pool etl"):
            edit.update_pool("etl", Changes(keys={"type": "other"}))
        edit.update_pool("etl", Changes(keys={"concurrency_limit": 3}))
    worker = stage.rig.worker()
    stage.rig.claim(worker, work_pool())
    stage.rig.store.report(worker, [Report(job_id=workload.ti.id, state=JobState.SUCCEEDED)], now=NOW)
    with editor(stage) as edit:
        assert edit.update_pool("etl", Changes(keys={"type": "other"})).type == "other"


def test_an_airflow_pool_of_somebody_elses_is_shown_with_the_pool(stage: Scheduler) -> None:
    stage.pool("etl", concurrency_limit=10, queues={"high": {"priority": 1}})
    with stage.engine.begin() as connection:
        row = {"pool": "etl.high", "slots": 5, "description": "the night shift's", "include_deferred": False}
        connection.execute(sa.insert(Pool.__table__), [row])
    pool = parse_work_pool(
        "etl",
        {"type": "process", "queues": {"high": {"priority": 1}}},
        templates=TEMPLATES,
        source=PoolSource.DATABASE,
    )
    with stage.transaction() as session:
        (found,) = overview(session, {"etl": pool}, stage.rig.store, now=datetime.now(timezone.utc))
    assert "Airflow pool 'etl.high' was made for something else: its slots decide" in (found.reason or "")
    shown = {queue.ref.queue: (queue.airflow_slots, queue.airflow_pool_is_ours) for queue in found.queues}
    assert shown == {"high": (5, False), "default": (None, True)}
