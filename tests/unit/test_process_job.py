# SPDX-License-Identifier: Apache-2.0
"""What a job is: its variables, its rights, its session, its descriptors, its end."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.errors import InfrastructureUnavailable, LaunchRejected
from airflow_workpools.infrastructure.base import Observation, Phase
from airflow_workpools.infrastructure.process import job as job_module
from airflow_workpools.infrastructure.process.files import JobDirectories
from airflow_workpools.infrastructure.process.proc import read_stat
from tests.unit.infrastructure_contract import launch, wait_for_end, wait_until_begun, working
from tests.unit.process_platform import ProcessPlatform, eventually
from tests.unit.process_tasks import links_of_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_workpools.infrastructure.base import LaunchSpec

NOBODY = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


@pytest.fixture
def platform() -> Iterator[ProcessPlatform]:
    """A platform in a directory that every user may enter."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    path.joinpath("diaries").mkdir()
    path.joinpath("diaries").chmod(0o777)
    with ProcessPlatform(path) as platform:
        yield platform
    shutil.rmtree(path)


def end_of(platform: ProcessPlatform, spec: LaunchSpec) -> Observation:
    """Run a job to its end."""

    async def scenario() -> Observation:
        async with working(platform) as worker:
            return await wait_for_end(worker, await launch(worker, spec))

    return asyncio.run(scenario())


def description(platform: ProcessPlatform, **configuration: Any) -> dict[str, Any]:
    """Run a job that describes itself."""
    spec = platform.spec("describe", configuration=configuration)
    assert end_of(platform, spec).exit_code == 0, (
        platform.directory(spec).path.joinpath("output.log").read_text()
    )
    described: dict[str, Any] = json.loads(platform.diary(spec)[-1])
    return described


def rejection(platform: ProcessPlatform, **configuration: Any) -> str:
    spec = platform.spec("exit", code=0, configuration=configuration)
    with pytest.raises(LaunchRejected) as rejected:
        end_of(platform, spec)
    assert platform.times_run(spec) == 0
    return str(rejected.value)


# -- variables ----------------------------------------------------------------------------------------------


def test_a_job_has_the_workers_environment_and_its_own(
    platform: ProcessPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEPT", "kept")
    monkeypatch.setenv("CHANGED", "before")
    monkeypatch.setenv("REMOVED", "before")
    environ = description(platform, env={"CHANGED": "after", "ADDED": "a=b", "REMOVED": None, "NEVER": None})[
        "environ"
    ]
    assert environ["KEPT"] == "kept"
    assert environ["CHANGED"] == "after"
    assert environ["ADDED"] == "a=b"
    assert {"REMOVED", "NEVER"}.isdisjoint(environ)


def test_a_job_does_not_take_itself_for_a_server_of_airflow(
    platform: ProcessPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    assert "_AIRFLOW_PROCESS_CONTEXT" not in description(platform)["environ"]


def test_an_impossible_environment_variable_is_rejected(platform: ProcessPlatform) -> None:
    assert "'A=B' cannot be set" in rejection(platform, env={"A=B": "c"})


def test_a_job_runs_in_its_working_directory(platform: ProcessPlatform, tmp_path: Path) -> None:
    assert description(platform, working_dir=str(tmp_path))["cwd"] == str(tmp_path)


def test_a_job_without_a_working_directory_runs_in_the_workers(platform: ProcessPlatform) -> None:
    assert description(platform)["cwd"] == str(Path.cwd())


def test_a_working_directory_that_is_not_there_is_rejected(platform: ProcessPlatform) -> None:
    assert rejection(platform, working_dir="/nowhere") == (
        "working directory '/nowhere' cannot be used: No such file or directory"
    )


def test_a_job_is_nice(platform: ProcessPlatform) -> None:
    assert description(platform, nice=7)["nice"] == 7


@as_root
def test_a_worker_that_is_root_may_favour_a_job(platform: ProcessPlatform) -> None:
    assert description(platform, nice=-3)["nice"] == -3


def test_a_nice_value_that_may_not_be_set_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "setpriority", refuse)
    with pytest.raises(
        LaunchRejected, match="nice value -5 cannot be set: Permission denied; below 0 needs root"
    ):
        job_module._apply_nice(-5)


def test_what_wants_more_memory_than_its_limit_gets_a_memory_error(platform: ProcessPlatform) -> None:
    # Far above what the process of the tests has itself, from which the runner is forked.
    seen = end_of(platform, platform.spec("take_memory", mb=4000, configuration={"memory_limit_mb": 3000}))
    assert (seen.phase, seen.exit_code) == (Phase.EXITED, 1)
    assert "MemoryError" in str(seen.reason)


def test_what_wants_less_memory_than_its_limit_runs(platform: ProcessPlatform) -> None:
    assert (
        end_of(
            # The process that runs the tests, from which the runner is forked, may be large itself.
            platform,
            platform.spec("take_memory", mb=200, configuration={"memory_limit_mb": 3000}),
        ).exit_code
        == 0
    )


def test_a_memory_limit_in_which_nothing_could_run_is_rejected(platform: ProcessPlatform) -> None:
    assert "memory_limit_mb is 8, but a task needs" in rejection(platform, memory_limit_mb=8)


@as_root
def test_a_job_runs_as_its_user_and_cannot_go_back(platform: ProcessPlatform) -> None:
    described = description(platform, user="nobody", working_dir="/")
    assert described["uid"] == NOBODY.pw_uid
    assert described["gid"] == NOBODY.pw_gid
    assert described["groups"] == os.getgrouplist("nobody", NOBODY.pw_gid)
    assert not described["can_become_root"]
    assert described["environ"]["USER"] == described["environ"]["LOGNAME"] == "nobody"
    assert described["environ"]["HOME"] == NOBODY.pw_dir


@as_root
def test_a_jobs_environment_wins_over_what_its_user_brings(platform: ProcessPlatform) -> None:
    described = description(platform, user="nobody", env={"HOME": "/elsewhere"})
    assert described["environ"]["HOME"] == "/elsewhere"


@as_root
def test_a_user_cannot_change_who_its_job_is(platform: ProcessPlatform) -> None:
    spec = platform.spec("exit", code=4, configuration={"user": "nobody"})
    seen = end_of(platform, spec)
    assert seen.exit_code == 4
    directory = platform.directory(spec).path
    assert {file.stat().st_uid for file in (directory, *directory.iterdir())} == {0}
    assert directory.stat().st_mode & 0o077 == 0


@as_root
def test_a_working_directory_is_entered_with_the_rights_of_the_jobs_user(
    platform: ProcessPlatform, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    assert "Permission denied" in rejection(platform, user="nobody", working_dir=str(tmp_path))


def test_a_user_that_does_not_exist_is_rejected(platform: ProcessPlatform) -> None:
    assert "user 'nobody-at-all' does not exist on" in rejection(platform, user="nobody-at-all")


def test_only_root_may_run_a_job_as_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    with pytest.raises(LaunchRejected, match=r"as user 'root', but the worker runs as '\w+', not as root"):
        job_module._user("root")


def test_running_as_the_workers_own_user_changes_nothing() -> None:
    assert job_module._user(pwd.getpwuid(os.geteuid()).pw_name) is None


def test_a_configuration_that_does_not_fit_is_rejected_with_all_that_is_wrong(
    platform: ProcessPlatform,
) -> None:
    words = rejection(platform, nice=77, memory_limit_mb="much", colour="green")
    assert "nice: " in words
    assert "memory_limit_mb: " in words
    assert "colour: " in words


def test_a_variable_that_is_null_is_as_if_not_given(platform: ProcessPlatform) -> None:
    names = ("working_dir", "env", "labels", "user", "nice", "memory_limit_mb", "stop_grace_seconds")
    assert description(platform, **dict.fromkeys(names))


def test_the_grace_for_stopping_is_in_the_handle(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            handle = await launch(
                worker, platform.spec("exit", code=0, configuration={"stop_grace_seconds": 77})
            )
            assert handle.data["stop_grace_seconds"] == 77
            handle = await launch(worker, platform.exits_with(0))
            assert handle.data["stop_grace_seconds"] == 30

    asyncio.run(scenario())


def test_labels_are_in_the_jobs_directory(platform: ProcessPlatform) -> None:
    spec = platform.spec("exit", code=0, configuration={"labels": {"team": "red", "task_id": "forged"}})
    end_of(platform, spec)
    process = platform.directory(spec).process()
    assert process is not None
    assert process.labels == {"team": "red", "task_id": "t", "job_id": str(spec.job_id)}


# -- what a job is ------------------------------------------------------------------------------------------


def test_a_job_leads_a_session_of_its_own(platform: ProcessPlatform) -> None:
    described = description(platform)
    assert described["session"] == described["pid"]


def test_a_job_reacts_to_signals_as_any_program(platform: ProcessPlatform) -> None:
    assert description(platform)["ignored"] == []


def test_a_job_holds_nothing_open_of_worker_and_runner(platform: ProcessPlatform) -> None:
    import socket

    listening = socket.create_server(("127.0.0.1", 0))
    connected = socket.create_connection(listening.getsockname())
    with listening, connected:
        described = description(platform)
    home = str(platform.home)
    held = {number: link for number, link in described["descriptors"].items() if not link.startswith("/proc")}
    assert held["0"] == os.devnull
    assert held["1"] == held["2"]
    assert held["1"].endswith("/output.log")
    others = [link for number, link in held.items() if number not in "012" and link != os.devnull]
    files = {link for link in others if link.startswith(home)}
    assert {Path(link).name for link in files} == {"exit"}, held
    # uvloop, if this process has used it, makes itself a new pipe after every fork: it has both its ends, alone.
    theirs = {*described["descriptors_of_parent"].values(), *links_of_descriptors().values()}
    assert not set(others) & theirs, json.dumps(described)
    assert all(link.startswith("pipe:") and others.count(link) == 2 for link in set(others) - files), held


def test_the_token_is_on_no_disk_in_no_argument_and_in_no_variable(platform: ProcessPlatform) -> None:
    spec = platform.spec("describe")
    assert "s3cr3t" in spec.workload
    assert "s3cr3t" not in repr(spec)
    assert end_of(platform, spec).exit_code == 0
    described = json.loads(platform.diary(spec)[-1])
    assert "s3cr3t" not in json.dumps(described)
    for file in platform.home.rglob("*"):
        if file.is_file():
            assert "s3cr3t" not in file.read_text(), file


def test_what_a_job_writes_is_in_its_output(platform: ProcessPlatform) -> None:
    spec = platform.spec("print")
    assert end_of(platform, spec).exit_code == 0
    output = platform.directory(spec).path.joinpath("output.log").read_text()
    assert "to standard output\n" in output
    assert "to standard error\n" in output


# -- how it ends --------------------------------------------------------------------------------------------


def test_a_job_that_raises_says_why(platform: ProcessPlatform) -> None:
    spec = platform.spec("raise")
    seen = end_of(platform, spec)
    assert seen.exit_code == 1
    assert seen.reason == "ended with an error (exit code 1): RuntimeError: the API server did not answer"
    assert "Traceback" in platform.directory(spec).path.joinpath("output.log").read_text()


def test_what_a_failed_job_wrote_last_is_in_the_workers_log_when_it_is_removed(
    platform: ProcessPlatform, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with working(platform) as worker:
            for spec in (platform.spec("raise"), platform.spec("print")):
                handle = await launch(worker, spec)
                await wait_for_end(worker, handle)
                await worker.cleanup(handle)

    asyncio.run(scenario())
    assert "RuntimeError: the API server did not answer" in caplog.text
    assert "to standard output" not in caplog.text


def test_jobs_do_not_all_draw_the_same_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[tuple[object, ...]] = []
    numpy = SimpleNamespace(random=SimpleNamespace(seed=lambda *how: seeds.append(how)))
    monkeypatch.setitem(sys.modules, "numpy", numpy)
    job_module._reseed()
    assert seeds == [()]


def test_a_job_may_end_by_system_exit(platform: ProcessPlatform) -> None:
    assert end_of(platform, platform.spec("exit_by_system_exit")).exit_code == 1


@pytest.mark.parametrize("code", [255, 256, 300, -9])
def test_any_exit_code_arrives(platform: ProcessPlatform, code: int) -> None:
    assert end_of(platform, platform.exits_with(code)).exit_code == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_job_that_a_signal_ended_is_seen_with_the_signal(
    platform: ProcessPlatform, number: signal.Signals
) -> None:
    async def scenario() -> None:
        spec = platform.waits()
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            await wait_until_begun(platform, spec)
            os.kill(handle.data["process"]["pid"], number)
            seen = await wait_for_end(worker, handle)
            assert (seen.phase, seen.exit_code) == (Phase.EXITED, -number)
            assert number.name in str(seen.reason)
        assert platform.directory(spec).exit() is not None

    asyncio.run(scenario())


def test_how_much_memory_a_job_took_is_in_its_exit(platform: ProcessPlatform) -> None:
    spec = platform.spec("take_memory", mb=100)
    end_of(platform, spec)
    exit_ = platform.directory(spec).exit()
    assert exit_ is not None
    assert exit_.max_rss_kb is not None
    assert exit_.max_rss_kb > 100 * 1024


# -- stopping -----------------------------------------------------------------------------------------------


def test_a_job_that_ends_when_asked_ends_its_own_way(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        spec = platform.spec("end_when_asked")
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            await asyncio.to_thread(eventually, lambda: "ready" in platform.diary(spec))
            await worker.stop(handle, grace_seconds=60)
            assert (await wait_for_end(worker, handle)).exit_code == 7
        assert platform.diary(spec).count("asked to end") == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("adopted", [False, True])
def test_a_stubborn_job_is_asked_and_then_killed(platform: ProcessPlatform, adopted: bool) -> None:
    async def scenario() -> None:
        spec = platform.spec("wait_stubbornly")
        async with working(platform) as first, working(platform) as second:
            handle = await launch(first, spec)
            await wait_until_begun(platform, spec)
            await (second if adopted else first).stop(handle, grace_seconds=0.2)
            seen = await wait_for_end(second if adopted else first, handle)
            assert seen.exit_code == -signal.SIGKILL
        assert "asked to end" in platform.diary(spec)

    asyncio.run(scenario())


@pytest.mark.parametrize("adopted", [False, True])
def test_stopping_a_job_kills_all_that_it_started(platform: ProcessPlatform, adopted: bool) -> None:
    async def scenario() -> None:
        spec = platform.spec("start_others")
        async with working(platform) as first, working(platform) as second:
            handle = await launch(first, spec)
            await asyncio.to_thread(eventually, lambda: len(platform.diary(spec)) == 2)
            await (second if adopted else first).stop(handle, grace_seconds=0)
            await wait_for_end(first, handle)
        pids = json.loads(platform.diary(spec)[1])
        # The third was in a session of its own: killed too where its parent lived until the grace was over.
        await asyncio.to_thread(eventually, lambda: not [pid for pid in pids[:2] + pids[3:] if lives(pid)])
        with suppress(ProcessLookupError):
            os.kill(pids[2], signal.SIGKILL)

    asyncio.run(scenario())


def test_a_job_whose_first_process_was_killed_leaves_nobody_behind(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        spec = platform.spec("start_others")
        async with working(platform) as worker:
            handle = await launch(worker, spec)
            await asyncio.to_thread(eventually, lambda: len(platform.diary(spec)) == 2)
            os.kill(handle.data["process"]["pid"], signal.SIGKILL)
            assert (await wait_for_end(worker, handle)).exit_code == -signal.SIGKILL
        pids = json.loads(platform.diary(spec)[1])
        await asyncio.to_thread(eventually, lambda: not [pid for pid in pids[:2] + pids[3:] if lives(pid)])
        os.kill(pids[2], signal.SIGKILL)  # in a session of its own, and an orphan: nobody knows whose it was

    asyncio.run(scenario())


def test_a_job_that_ended_by_itself_leaves_running_what_it_wanted_to(platform: ProcessPlatform) -> None:
    spec = platform.spec("start_others", then="exit")
    assert end_of(platform, spec).exit_code == 0
    pids = json.loads(platform.diary(spec)[1])
    try:
        assert lives(pids[2])
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and not stat.has_ended


# -- dying at the worst moment ------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
def test_a_job_that_dies_before_it_is_claimed_is_launched_afresh(
    platform: ProcessPlatform, times: int
) -> None:
    async def scenario() -> None:
        spec = platform.exits_with(0)
        doomed = platform.altered(spec, die_in="prepare")
        async with working(platform) as worker:
            for _ in range(times):
                with pytest.raises(InfrastructureUnavailable, match="died while it started"):
                    await launch(worker, doomed)
                assert await worker.find([spec.job_id]) == {}
            assert (await wait_for_end(worker, await launch(worker, spec))).exit_code == 0
        assert platform.times_run(spec) == 1

    asyncio.run(scenario())


def test_a_job_that_cannot_be_prepared_now_says_why_and_may_be_launched_later(
    platform: ProcessPlatform,
) -> None:
    async def scenario() -> None:
        spec = platform.exits_with(0)
        async with working(platform) as worker:
            with pytest.raises(InfrastructureUnavailable, match="OSError: no space left on device"):
                await launch(worker, platform.altered(spec, fail_in="prepare"))
            assert (await wait_for_end(worker, await launch(worker, spec))).exit_code == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("times", [1, 2])
def test_a_job_that_dies_right_after_its_claim_is_not_run_again(
    platform: ProcessPlatform, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(job_module.Progress, "tell", die)  # the runner inherits it

    async def scenario() -> None:
        spec = platform.exits_with(0)
        async with working(platform) as worker:
            with pytest.raises(InfrastructureUnavailable, match="died while it started"):
                await launch(worker, spec)
            for _ in range(times):
                seen = await wait_for_end(worker, await launch(worker, spec))
                assert seen.exit_code == -signal.SIGKILL
        assert platform.times_run(spec) == 0

    asyncio.run(scenario())


def test_a_job_that_dies_with_half_a_claim_is_launched_afresh(
    platform: ProcessPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        spec = platform.exits_with(0)
        with monkeypatch.context() as during:
            during.setattr(os, "link", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            async with working(platform) as worker:
                with pytest.raises(InfrastructureUnavailable):
                    await launch(worker, spec)
        assert [file.name for file in platform.directory(spec).path.glob("pid*")] != []
        async with working(platform) as later:
            assert await later.find([spec.job_id]) == {}
            assert (await wait_for_end(later, await launch(later, spec))).exit_code == 0
        assert platform.times_run(spec) == 1

    asyncio.run(scenario())


def test_a_job_whose_directory_cannot_be_made_says_so(platform: ProcessPlatform) -> None:
    async def scenario() -> None:
        spec = platform.exits_with(0)
        async with working(platform) as worker:
            JobDirectories(platform.home).path.joinpath(str(spec.job_id)).write_text("a file in its place")
            with pytest.raises(InfrastructureUnavailable, match="FileExistsError"):
                await launch(worker, spec)

    asyncio.run(scenario())
