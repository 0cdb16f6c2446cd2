# SPDX-License-Identifier: Apache-2.0
"""How a forked process becomes a runner."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_workpools.infrastructure.process import independence
from airflow_workpools.infrastructure.process.independence import become_independent, settle_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest


@contextlib.contextmanager
def forked(do: Callable[[socket.socket], Any]) -> Iterator[socket.socket]:
    """Become independent in a forked process, do something there, and say what came of it as JSON.

    :param do: gets its end of a socket pair; the test gets the other.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            become_independent(keep=theirs.fileno())
            theirs.sendall(json.dumps(do(theirs)).encode() + b"\n")
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        yield ours
    os.waitpid(pid, 0)


def answer_of(do: Callable[[socket.socket], Any]) -> Any:
    with forked(do) as connection, connection.makefile() as lines:
        return json.loads(lines.readline())


def descriptors(connection: socket.socket) -> dict[str, str]:
    """Return what the open descriptors of this process lead to, except for the one that is kept."""
    links = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links[entry.name] = str(entry.readlink())
    del links[str(connection.fileno())]
    return links


def test_a_runner_keeps_no_descriptor_but_its_own_and_its_output() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, tempfile.TemporaryFile() as file:
        held = answer_of(descriptors)
        assert held[str(listening.fileno())] == held[str(file.fileno())] == held["0"] == os.devnull
    kept = {number for number, link in held.items() if link != os.devnull and not link.startswith("/proc")}
    assert kept <= {"1", "2"}


def test_a_port_is_free_again_when_its_server_closes_it_though_a_runner_lives() -> None:
    listening = socket.create_server(("127.0.0.1", 0))

    def say_when_ready_and_wait(connection: socket.socket) -> None:
        connection.sendall(b"ready\n")
        connection.recv(1)

    with forked(say_when_ready_and_wait) as connection:
        connection.recv(10)
        address = listening.getsockname()
        listening.close()
        with socket.socket() as client:
            assert client.connect_ex(address) != 0
        connection.shutdown(socket.SHUT_WR)


def test_an_inherited_object_that_is_finalised_closes_no_descriptor_opened_since() -> None:
    inherited = tempfile.TemporaryFile()  # noqa: SIM115
    number = inherited.fileno()

    def finalise(_: socket.socket) -> bool:
        opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(50)]
        inherited.close()
        for descriptor in opened:
            os.fstat(descriptor)
        return number not in opened

    assert answer_of(finalise)
    inherited.close()


def test_a_runner_leads_a_session() -> None:
    assert answer_of(lambda _: os.getsid(0) == os.getpid())


def test_a_runner_is_no_server_of_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    assert answer_of(lambda _: os.environ.get("_AIRFLOW_PROCESS_CONTEXT")) is None


def test_settled_memory_holds_what_it_held() -> None:
    held = [bytes([i % 256]) * 5000 for i in range(10_000)]

    def settle(_: socket.socket) -> bool:
        settle_memory()
        return all(block == bytes([i % 256]) * 5000 for i, block in enumerate(held))

    assert answer_of(settle)


def test_a_runner_with_more_than_one_thread_says_so() -> None:
    def settle(_: socket.socket) -> list[str]:
        said = BufferingHandler(10)
        independence.log.addHandler(said)
        settle_memory()
        blocked = threading.Event()
        threading.Thread(target=blocked.wait, daemon=True).start()
        settle_memory()
        return [record.getMessage() for record in said.buffer]

    (warning,) = answer_of(settle)
    assert warning.startswith("The process runner has 2 threads")
