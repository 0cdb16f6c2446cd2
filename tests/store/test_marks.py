# SPDX-License-Identifier: Apache-2.0
"""What a person marks as ended is stopped when the mark is stored. Airflow's own code calls the listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from airflow.api_fastapi.core_api.services.public.task_instances import _emit_state_listener_hooks
from airflow.listeners.listener import get_listener_manager
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import TaskInstanceState

from airflow_workpools import marks
from airflow_workpools.core.jobs import JobState
from airflow_workpools.plugin import WorkpoolsPlugin
from tests.store.schedulers import Scheduler, scheduler

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator
    from pathlib import Path

    import sqlalchemy as sa

STATES = ("success", "failed", "skipped")


@pytest.fixture
def stage(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    with scheduler(engine, tmp_path / "logs", monkeypatch) as made:
        made.pool("etl", concurrency_limit=10)
        manager = get_listener_manager()
        manager.add_listener(marks)  # as the API server does
        yield made
        manager.pm.unregister(marks)


def running(stage: Scheduler) -> uuid.UUID:
    """Have a task run in a work pool; return the id of its task instance and job."""
    executor = stage.executor()
    workload = stage.workload()
    stage.hand_over(executor, workload)
    worker = stage.rig.worker()
    (job,) = stage.rig.claim(worker)
    assert job.id == workload.ti.id
    return job.id


def wish(stage: Scheduler, job_id: uuid.UUID) -> tuple[JobState | None, str | None]:
    record = stage.rig.record(job_id)
    return record.desired_state, record.reason


@pytest.mark.parametrize("state", STATES)
def test_a_task_that_is_marked_is_stopped_when_that_is_stored(stage: Scheduler, state: str) -> None:
    id_ = running(stage)
    with stage.transaction() as session:
        ti = session.get(TaskInstance, id_)
        ti.state = state
        _emit_state_listener_hooks([ti], TaskInstanceState(state))
        assert wish(stage, id_) == (None, None)
    assert wish(stage, id_) == (JobState.CANCELLED, f"the task instance is now {state}")


def test_a_mark_that_is_not_stored_stops_nothing(stage: Scheduler) -> None:
    id_ = running(stage)
    with stage.crash() as session:
        _emit_state_listener_hooks([session.get(TaskInstance, id_)], TaskInstanceState.FAILED)
        session.rollback()
        session.commit()
    assert wish(stage, id_) == (None, None)


def test_a_task_that_ends_by_itself_may_finish(stage: Scheduler) -> None:
    id_ = running(stage)
    hook = get_listener_manager().hook
    with stage.transaction() as session:
        ti = session.get(TaskInstance, id_)
        running_before = {"previous_state": TaskInstanceState.RUNNING, "task_instance": ti}
        hook.on_task_instance_success(**running_before)
        hook.on_task_instance_skipped(**running_before)
        hook.on_task_instance_failed(**running_before, error="its own")
    assert wish(stage, id_) == (None, None)


def test_a_mark_is_stored_whatever_becomes_of_the_stop(
    stage: Scheduler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    id_ = running(stage)
    monkeypatch.setattr(
        "airflow_workpools.store.jobs.SqlStore.request_cancel", lambda *_, **__: 1 / 0, raising=True
    )
    with stage.transaction() as session:
        ti = session.get(TaskInstance, id_)
        ti.state = "failed"
        _emit_state_listener_hooks([ti], TaskInstanceState.FAILED)
    with stage.transaction() as session:
        assert session.get(TaskInstance, id_).state == "failed"
    assert "are stopped some seconds later" in caplog.text


def test_a_savepoint_stops_nothing_yet(stage: Scheduler) -> None:
    id_ = running(stage)
    with stage.crash() as session:
        with session.begin_nested():
            _emit_state_listener_hooks([session.get(TaskInstance, id_)], TaskInstanceState.FAILED)
        assert wish(stage, id_) == (None, None)


def test_only_the_api_server_listens() -> None:
    # Wherever there is a listener, Airflow refuses DAGs in which a task has `end_from_trigger=True`.
    manager = get_listener_manager()
    assert not manager.has_listeners
    assert WorkpoolsPlugin.listeners == []
    assert WorkpoolsPlugin().fastapi_apps  # only it asks for them
    assert manager.pm.is_registered(marks)
    manager.pm.unregister(marks)
