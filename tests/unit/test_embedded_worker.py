# SPDX-License-Identifier: Apache-2.0
"""The executor's side of the embedded worker, with real forks and a child that does little."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from airflow_workpools.worker.channel import (
    MAX_SIZE,
    ended_in,
    keep_saying_alive,
    listen,
    make_channel,
    say_ended,
)
from airflow_workpools.worker.embedded import EmbeddedWorker
from airflow_workpools.worker.execution_api import (
    keep_waking_execution_api,
    use_execution_api_of,
    wake_execution_api,
)
from tests.unit.fake_execution_api import fake_execution_api


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class Clock:
    """Seconds that pass when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def worker(notes: Path) -> Iterator[EmbeddedWorker]:
    def main(channel: socket.socket) -> None:
        """Note what is heard until the other end is closed."""
        with notes.open("ab", buffering=0) as file:
            file.write(b"<")
            while heard := channel.recv(100):
                file.write(heard)
            file.write(b">")

    worker = EmbeddedWorker(main=main, restart_max_delay_seconds=60)
    yield worker
    worker.monotonic = time.monotonic
    worker.stop(timeout_seconds=5)


def text(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def test_the_worker_hears_that_there_is_work(worker, notes):
    worker.start()
    worker.look_now()
    until(lambda: text(notes) == b"<!")


def test_the_worker_hears_of_errands_by_another_word(worker, notes):
    worker.start()
    worker.look_for_errands()
    until(lambda: text(notes) == b"<+")


def test_each_word_wakes_only_whom_it_is_for():
    heard = []

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        on_heard = {b"!": lambda: heard.append("jobs"), b"+": lambda: heard.append("errands")}
        listening = asyncio.ensure_future(listen(theirs, on_heard, lambda: heard.append("end")))
        for words in (b"+", b"!!"):
            ours.send(words)
            said = len(heard)
            while len(heard) == said:
                await asyncio.sleep(0.001)
        ours.close()
        await listening
        theirs.close()

    asyncio.run(scenario())
    assert heard == ["errands", "jobs", "end"]


def test_the_executor_hears_that_jobs_have_ended_once():
    def main(channel: socket.socket) -> None:
        channel.send(b"..")
        channel.recv(100)

    worker = EmbeddedWorker(main=main)
    assert not worker.has_news()
    worker.start()
    until(worker.has_news)
    assert not worker.has_news()
    worker.stop(timeout_seconds=5)


def test_the_executor_hears_of_which_tasks_they_are_until_it_has_taken_the_news():
    many = {uuid4() for _ in range(600)}

    def main(channel: socket.socket) -> None:
        say_ended(channel, list(many))
        say_ended(channel, [])
        channel.recv(100)

    worker = EmbeddedWorker(main=main)
    assert worker.ended() == set()
    worker.start()
    until(lambda: worker.ended() == many)
    assert worker.has_news()
    assert worker.ended() == set()
    worker.stop(timeout_seconds=5)


def test_a_worker_that_nobody_listens_to_says_whole_messages_or_none():
    ours, theirs = make_channel()
    ours.setblocking(False)
    theirs.setblocking(False)
    ids = [uuid4() for _ in range(200)]
    for _ in range(1000):
        say_ended(theirs, ids)
    heard = 0
    with suppress(BlockingIOError):
        while True:
            assert ended_in(ours.recv(MAX_SIZE)) == set(ids)
            heard += 1
    assert 0 < heard < 1000
    ours.close()
    theirs.close()


def test_stop_ends_the_worker_by_closing_the_channel(worker, notes):
    worker.start()
    worker.stop(timeout_seconds=5)
    assert text(notes) == b"<>"
    assert worker.pid is None


def test_stop_ends_a_worker_that_does_not_listen():
    worker = EmbeddedWorker(main=lambda channel: time.sleep(3600))
    worker.start()
    pid = worker.pid
    assert pid is not None
    worker.stop(timeout_seconds=0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_that_died_is_started_again_at_once_then_after_growing_delays(notes):
    clock = Clock()
    worker = EmbeddedWorker(main=lambda channel: None, restart_max_delay_seconds=60, monotonic=clock)
    delays = []
    worker.start()
    for _ in range(6):
        pid = worker.pid
        assert pid is not None
        died_at = clock.now
        until(lambda pid=pid: worker.pid != pid or worker.supervise() or worker.pid != pid)
        while worker.pid is None:
            clock.now += 0.05
            worker.supervise()
        delays.append(clock.now - died_at)
    worker.monotonic = time.monotonic
    worker.stop(timeout_seconds=1)
    assert delays[0] == 0
    assert delays[1] > 0
    assert delays[-1] > 2 * delays[1]
    assert max(delays) <= 60.1


def test_a_worker_that_hangs_is_replaced():
    clock = Clock()

    def main(channel: socket.socket) -> None:
        asyncio.run(keep_saying_alive(channel, every_seconds=0.01))

    worker = EmbeddedWorker(main=main, silence_seconds=60, monotonic=clock)
    worker.start()
    first = worker.pid
    assert first is not None
    try:
        for _ in range(5):  # as long as it speaks, any time may pass
            clock.now += 50
            until(lambda: (worker.supervise(), worker._heard_at == clock.now)[1])
        assert worker.pid == first
        assert not worker.has_news()
        os.kill(first, signal.SIGSTOP)
        with suppress(BlockingIOError):  # what it has said before
            while True:
                worker._socket.recv(4096)
        clock.now += 61
        until(lambda: (worker.supervise(), worker.pid not in (None, first))[1])
    finally:
        worker.monotonic = time.monotonic
        worker.silence_seconds = None
        worker.stop(timeout_seconds=0)
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_a_living_worker_is_left_alone(worker):
    worker.start()
    pid = worker.pid
    worker.supervise()
    assert worker.pid == pid


def test_calling_a_worker_that_is_gone_harms_nobody(worker):
    worker.start()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    for _ in range(3):
        worker.look_now()


def test_a_worker_whose_executor_was_killed_reads_the_end_of_the_channel(notes):
    """The executor's process is killed: nobody says goodbye."""

    def main(channel: socket.socket) -> None:
        notes.write_bytes(b"listening")
        assert channel.recv(100) == b""
        notes.write_bytes(b"alone")

    executor = os.fork()
    if executor == 0:
        try:
            worker = EmbeddedWorker(main=main)
            worker.start()
            signal.pause()
        finally:
            os._exit(0)
    try:
        until(lambda: text(notes) == b"listening")
    finally:
        os.kill(executor, signal.SIGKILL)
        os.waitpid(executor, 0)
    until(lambda: text(notes) == b"alone")


def test_the_second_worker_does_not_keep_the_first_channel_open(notes):
    """A restarted worker must not inherit the executor's end of anything."""
    heard: list[Path] = [notes.with_suffix(".1"), notes.with_suffix(".2")]
    turn = iter(heard)

    def main(channel: socket.socket) -> None:
        mine = next(turn)
        channel.recv(100)
        mine.write_bytes(b"end")

    worker = EmbeddedWorker(main=main)
    worker.start()
    next(turn)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    first = worker.pid
    until(lambda: (worker.supervise(), worker.pid not in (None, first))[1])
    worker.stop(timeout_seconds=5)
    assert heard[1].read_bytes() == b"end"


def test_an_execution_api_that_does_not_answer_harms_nobody(monkeypatch):
    from airflow_workpools.cli.local_airflow import free_port

    monkeypatch.setenv(
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL", f"http://127.0.0.1:{free_port()}/execution/"
    )
    assert wake_execution_api(seconds=1) is False
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "nonsense")
    assert wake_execution_api(seconds=1) is False


def test_an_execution_api_that_comes_later_is_woken_when_it_comes(monkeypatch):
    from airflow_workpools.cli.local_airflow import free_port

    port = free_port()
    url = f"http://127.0.0.1:{port}/execution/"
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", url)

    async def scenario() -> None:
        waking = asyncio.create_task(keep_waking_execution_api(pause=0.01))
        await asyncio.sleep(0.1)
        with fake_execution_api(port) as api:
            assert await waking
            assert api.asked("/health") == [None]
        assert not await keep_waking_execution_api(attempts=2, pause=0.01)

    asyncio.run(scenario())


def fork_sibling() -> int:
    """Make another child, as LocalExecutor makes many: it holds all that the executor's process has open."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.pause()
        finally:
            os._exit(0)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def test_stop_ends_the_worker_though_a_sibling_holds_the_channel_open(worker, notes):
    worker.start()
    pid = fork_sibling()
    try:
        worker.stop(timeout_seconds=5)
    finally:
        kill(pid)
    assert text(notes) == b"<>"


def test_a_worker_ends_with_its_executor_though_a_sibling_holds_the_channel_open(notes, tmp_path):
    def main(channel: socket.socket) -> None:
        notes.write_bytes(b"begun")
        asyncio.run(listen(channel, {}, lambda: notes.write_bytes(b"alone") and None))

    sibling = tmp_path / "sibling"
    executor = os.fork()
    if executor == 0:
        try:
            worker = EmbeddedWorker(main=main)
            worker.start()
            sibling.write_text(f"{fork_sibling()}.")
            signal.pause()
        finally:
            os._exit(0)
    try:
        until(lambda: text(notes) == b"begun" and text(sibling).endswith(b"."))
    finally:
        kill(executor)
    try:
        until(lambda: text(notes) == b"alone")
    finally:
        kill(int(text(sibling).rstrip(b".")))


def test_the_worker_of_a_team_and_its_jobs_use_the_teams_execution_api(monkeypatch):
    everybodys = "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"
    monkeypatch.setenv(everybodys, "http://everybodys/execution/")
    monkeypatch.setenv("AIRFLOW__TEAM_RED___CORE__EXECUTION_API_SERVER_URL", "http://reds/execution/")
    for team in (None, "team_blue"):
        use_execution_api_of(team)
        assert os.environ[everybodys] == "http://everybodys/execution/"
    use_execution_api_of("team_red")
    assert os.environ[everybodys] == "http://reds/execution/"
