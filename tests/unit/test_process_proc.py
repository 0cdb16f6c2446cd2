# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_workpools.infrastructure.process.proc import (
    ProcessIdentity,
    family_of,
    kill_family,
    pid_realm,
    read_stat,
)
from airflow_workpools.infrastructure.process.watch import EndWatch
from tests.unit.process_platform import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def sleeper(command: str = "exec sleep 1000") -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own."""
    process = subprocess.Popen(["sh", "-c", command], start_new_session=True)
    try:
        yield process
    finally:
        kill_family(process.pid)
        process.wait()


def identity_of(pid: int) -> ProcessIdentity:
    identity = ProcessIdentity.of(pid)
    assert identity is not None
    return identity


def test_this_process_is_known_by_its_parent_and_session() -> None:
    stat = read_stat(os.getpid())
    assert stat is not None
    assert (stat.pid, stat.parent, stat.session) == (os.getpid(), os.getppid(), os.getsid(0))
    assert not stat.has_ended


def test_a_program_may_have_any_name(tmp_path: Path) -> None:
    program = tmp_path / "a) Z 1 2"
    program.symlink_to(shutil.which("sleep") or "")
    with sleeper(f"exec '{program}' 1000") as process:
        eventually(lambda: "a) Z 1 2" in Path(f"/proc/{process.pid}/stat").read_text())
        stat = read_stat(process.pid)
        assert stat is not None
        assert stat.parent == os.getpid()
        assert not stat.has_ended


def test_there_is_no_identity_of_what_does_not_exist() -> None:
    with sleeper() as process:
        identity = identity_of(process.pid)
    assert ProcessIdentity.of(process.pid) is None
    assert identity.stat() is None
    assert not identity.signal(signal.SIGTERM)
    assert identity.open_pidfd() is None


def test_a_later_process_with_the_same_pid_is_another() -> None:
    with sleeper() as process:
        earlier = replace(identity_of(process.pid), start_time=1)
        assert earlier.stat() is None
        assert earlier.open_pidfd() is None
        assert not earlier.signal(signal.SIGKILL)
        assert process.poll() is None


def test_a_process_of_another_boot_or_container_is_another() -> None:
    with sleeper() as process:
        elsewhere = replace(identity_of(process.pid), realm="elsewhere")
        assert elsewhere.stat() is None
        assert not elsewhere.signal(signal.SIGKILL)
        assert process.poll() is None


def test_a_realm_names_the_boot_and_the_pid_namespace() -> None:
    boot, _, namespace = pid_realm().partition("/")
    assert len(boot) == 36
    assert namespace.isdigit()


def test_a_zombie_has_ended_but_still_is() -> None:
    with sleeper("exit 0") as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        stat = identity_of(process.pid).stat()
        assert stat is not None
        assert stat.has_ended


def test_signalling_a_process_without_pidfd_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with sleeper() as process:
        assert identity_of(process.pid).signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM


def test_a_family_dies_with_all_that_it_started_in_sessions_of_its_own() -> None:
    tree = "setsid sleep 1000 & sleep 1000 & setsid sh -c 'setsid sleep 1000 & sleep 1000' & wait"
    with sleeper(tree) as process:
        eventually(lambda: len(family_of(process.pid)) == 6)
        family = family_of(process.pid)
        assert kill_family(process.pid) == 6
        process.wait()
        eventually(lambda: not [pid for pid in family if (s := read_stat(pid)) and not s.has_ended])


def test_a_family_that_goes_on_forking_dies() -> None:
    bomb = "i=0; while [ $i -lt 100000 ]; do setsid sh -c 'setsid sleep 100 & sleep 100' & sleep 0.001; done"
    with sleeper(bomb) as process:
        eventually(lambda: len(family_of(process.pid)) > 20)
        family = family_of(process.pid)
        kill_family(process.pid)
        process.wait()
        eventually(lambda: not [pid for pid in family if (s := read_stat(pid)) and not s.has_ended])
        assert family_of(process.pid) == set()


def test_killing_a_family_leaves_the_others() -> None:
    with sleeper() as one, sleeper() as other:
        kill_family(one.pid)
        one.wait()
        assert other.poll() is None


@pytest.mark.parametrize("pidfd", [True, False])
def test_the_end_of_a_process_is_noticed(pidfd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open")

    async def scenario() -> None:
        ends: list[str] = []
        with sleeper() as process:
            watch = EndWatch(identity_of(process.pid), lambda: ends.append("ended"))
            assert ends == []
            process.kill()
            await asyncio.wait_for(watch.wait(), 10)
            assert ends == ["ended"]
            watch.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("pidfd", [True, False])
def test_a_process_that_ended_before_it_was_watched_is_noticed(
    pidfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open")

    async def scenario() -> None:
        with sleeper() as process:
            identity = identity_of(process.pid)
        await asyncio.wait_for(EndWatch(identity, lambda: None).wait(), 10)

    asyncio.run(scenario())


def test_a_watch_that_is_closed_says_nothing_and_holds_nothing() -> None:
    async def scenario() -> None:
        before = set(Path("/proc/self/fd").iterdir())
        with sleeper() as process:
            watch = EndWatch(identity_of(process.pid), lambda: pytest.fail("it was closed"))
            watch.close()
            watch.close()
            process.kill()
            process.wait()
            await asyncio.sleep(0)
        assert set(Path("/proc/self/fd").iterdir()) == before

    asyncio.run(scenario())
