# SPDX-License-Identifier: Apache-2.0
"""Workers that are killed while they remove what dead ones have left: at each step, twice, with ``SIGKILL``.

The worker is a process of its own, on a database and a real engine or cluster.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import time
import traceback
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from airflow_workpools.core.jobs import JobState
from airflow_workpools.infrastructure.base import Handle, LaunchSpec
from airflow_workpools.store.jobs import SqlStore
from airflow_workpools.store.records import Report
from airflow_workpools.worker.client import SqlClient
from airflow_workpools.worker.loop import Worker
from airflow_workpools.worker.times import WorkerTimes
from tests.store.databases import engine_for, session_factory
from tests.store.rigs import Rig, new_job, new_worker, sql_rig, work_pool
from tests.unit.infrastructure_contract import launch, wait_for_end, wait_for_running

AHEAD = timedelta(hours=1)
"""So much later than now it is for workers here: what was made and has ended just now, was so an hour ago."""
TIMES = WorkerTimes(heartbeat=0.5, observe=0.5, sweep=0.1, sweep_grace=600.0)
PATIENCE_SECONDS = 120.0

ENDS = "true"
GOES_ON = "trap '' TERM; while :; do sleep 0.1; done"


def now() -> datetime:
    return datetime.now(timezone.utc) + AHEAD


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where jobs run, seen from outside."""

    kind: str
    infrastructure: Callable[[], Any]
    spec: Callable[[str], LaunchSpec]
    """Makes a job of a script, which has a second to end when it is asked to."""
    untouched: Callable[[], Mapping[str, object]]
    """Returns what there is, by name: what runs as its start, so that a second one is another."""


def docker_ground(path: Path, stack: ExitStack) -> Ground:
    from tests.containers import DockerPlatform

    platform = stack.enter_context(DockerPlatform(path))
    ours: list[str] = []

    def spec(script: str) -> LaunchSpec:
        made = platform.job(script, volumes=[], stop_grace_seconds=1)
        ours.append(made.name)
        return made

    def untouched() -> Mapping[str, object]:
        found = platform.engine.containers.list(all=True, ignore_removed=True)
        return {
            one.name: one.attrs["State"]["StartedAt"] if one.status == "running" else None
            for one in found
            if one.name in ours
        }

    return Ground(kind="docker", infrastructure=platform.worker, spec=spec, untouched=untouched)


def kubernetes_ground(path: Path, stack: ExitStack) -> Ground:
    from tests.kubernetes.cluster import KubernetesPlatform

    platform = stack.enter_context(KubernetesPlatform(path))

    def untouched() -> Mapping[str, object]:
        running = {
            pod.metadata.labels["job-name"]: pod.metadata.uid
            for pod in platform.pods()
            if pod.status.phase == "Running" and pod.metadata.deletion_timestamp is None
        }
        return {job.metadata.name: running.get(job.metadata.name) for job in platform.jobs()}

    return Ground(
        kind="kubernetes",
        infrastructure=platform.worker,
        spec=functools.partial(platform.spec, stop_grace_seconds=1),
        untouched=untouched,
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(docker_ground, id="docker", marks=pytest.mark.docker),
        pytest.param(kubernetes_ground, id="kubernetes", marks=pytest.mark.kubernetes),
    ],
)
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ExitStack() as stack:
        yield request.param(tmp_path_factory.mktemp("ground"), stack)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Jobs that nobody looks after any more, and jobs that are nobody else's business."""

    ground: Ground
    url: str
    over: Collection[uuid.UUID]
    """What is left of jobs that are over, or that nobody knows; two of them still run."""
    names: Collection[str]
    """What these are called."""
    living: Mapping[str, object]
    """What must stay as it is."""

    def left(self) -> set[str]:
        return set(self.names) & self.ground.untouched().keys()

    def living_now(self) -> Mapping[str, object]:
        return {name: seen for name, seen in self.ground.untouched().items() if name in self.living}


def scene(ground: Ground, engine: sa.Engine) -> Scene:
    rig = sql_rig(engine)
    installation = str(rig.store.installation())
    specs = {
        name: with_label(ground.spec(GOES_ON if "runs" in name else ENDS), installation)
        for name in ("ended", "ended_too", "over_runs", "unknown_runs", "ended_lately", "runs")
    }
    specs["other_airflows_runs"] = with_label(ground.spec(GOES_ON), str(uuid.uuid4()))
    handles = asyncio.run(launched(ground, specs))
    dead = rig.worker(last_heartbeat_at=now() - AHEAD)
    in_store = [name for name in specs if not name.startswith(("unknown", "other"))]
    jobs = [new_job(task_instance_id=specs[name].job_id) for name in in_store]
    rig.claimed(*jobs, worker=dead, now=now() - AHEAD)
    for name in in_store:
        report(rig, dead, handles[name], name)
    over = ("ended", "ended_too", "over_runs", "unknown_runs")
    return Scene(
        ground=ground,
        url=engine.url.render_as_string(hide_password=False),
        over={specs[name].job_id for name in over},
        names={specs[name].name for name in over},
        living={
            name: seen
            for name, seen in ground.untouched().items()
            if name in {specs[one].name for one in specs if one not in over}
        },
    )


def with_label(spec: LaunchSpec, installation: str) -> LaunchSpec:
    return replace(spec, labels={**spec.labels, "installation": installation})


async def launched(ground: Ground, specs: Mapping[str, LaunchSpec]) -> Mapping[str, Handle]:
    """Launch jobs, and wait until each runs or has ended."""
    infrastructure = ground.infrastructure()
    await infrastructure.open()
    try:
        handles = {name: await launch(infrastructure, spec) for name, spec in specs.items()}
        for name, handle in handles.items():
            await (wait_for_running if "runs" in name else wait_for_end)(infrastructure, handle)
        return handles
    finally:
        await infrastructure.close()


def report(rig: Rig, worker: uuid.UUID, handle: Handle, name: str) -> None:
    at = now() if name == "ended_lately" else now() - AHEAD
    rig.store.report(worker, [Report(job_id=handle.job_id, state=JobState.RUNNING, handle=handle)], now=at)
    if name != "runs":
        end = Report(job_id=handle.job_id, state=JobState.SUCCEEDED, exit_code=0)
        rig.store.report(worker, [end], now=at)


# -- workers --------------------------------------------------------------------------------------------------


def started(scene: Scene, errors: Path, *, dies: str | None = None) -> int:
    """Start a worker as a process of its own, and return its pid.

    :param dies: at which step of a sweep it is killed: the name of a call, and before or after it.
    """
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(worker(scene, dies).run())
        except BaseException:
            errors.write_text(traceback.format_exc())
        finally:
            os._exit(1)
    return pid


def worker(scene: Scene, dies: str | None) -> Worker:
    kind, pool = scene.ground.kind, replace(work_pool(), type=scene.ground.kind)
    client = SqlClient(
        store=SqlStore(session_factory(engine_for(scene.url))),
        all_pools=lambda: {"etl": pool},
        mint_token=lambda *_: "",
        kinds=frozenset({kind}),
    )
    infrastructure = scene.ground.infrastructure()
    if dies is not None:
        name, when = dies.split()
        if name == "over":
            object.__setattr__(client, name, killed_around(client.over, when))
        else:
            setattr(infrastructure, name, killed_in_sweep(getattr(infrastructure, name), when, scene.over))
    return Worker(
        record=new_worker(started_at=now(), last_heartbeat_at=now()),
        client=client,
        infrastructures={kind: infrastructure},
        clock=now,
        environ={},
        times=TIMES,
    )


def killed_around(call: Callable[..., Any], when: str) -> Callable[..., Any]:
    def around(*args: Any, **options: Any) -> Any:
        if when == "after":
            call(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    return around


def killed_in_sweep(call: Callable[..., Any], when: str, over: Collection[uuid.UUID]) -> Callable[..., Any]:
    """Be killed before or after a call that is about what is left; the worker makes others for jobs of its own."""

    async def around(*args: Any, **options: Any) -> Any:
        about = args[0] if args else None
        handles = [about] if isinstance(about, Handle) else about
        is_sweep = not isinstance(handles, list) or any(handle.job_id in over for handle in handles)
        if is_sweep and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = await call(*args, **options)
        if is_sweep:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return around


def ended_by(pid: int) -> int:
    """Return the signal that has ended a process; it must be ended by one, and soon."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert os.WIFSIGNALED(status), "it ended by itself"
            return os.WTERMSIG(status)
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the worker did not come to this step")


@pytest.mark.parametrize(
    "step",
    [
        "left_behind after",
        "over after",
        "observe before",
        "observe after",
        "stop before",
        "stop after",
        "cleanup before",
        "cleanup after",
    ],
)
def test_a_worker_that_is_killed_twice_in_a_sweep_leaks_nothing_and_takes_nothing_that_lives(
    ground: Ground, sqlite_engine: sa.Engine, tmp_path: Path, step: str
) -> None:
    the = scene(ground, sqlite_engine)
    assert len(the.left()) == 4
    assert len(the.living) == 3
    errors = tmp_path / "errors"
    for _ in range(2):
        pid = started(the, errors, dies=step)
        killed = ended_by(pid)
        assert killed == signal.SIGKILL, errors.read_text()
        assert the.left()
        assert the.living_now() == the.living
    pid = started(the, errors)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while the.left():
            assert time.monotonic() < deadline, f"these are left: {the.left()}"
            time.sleep(0.1)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert the.living_now() == the.living
