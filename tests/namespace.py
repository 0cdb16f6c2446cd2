# SPDX-License-Identifier: Apache-2.0
"""Lines to a port of this machine that can be cut, and a network namespace from which nothing but one can be reached.

That has no interface but its own loopback. A socket that was made in there listens; what comes in is passed on from out
here, as long as the line is not cut.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

_CLONE_NEWNET = 0x40000000


class Line:
    """What listens on a socket and passes on to a port of this machine, as long as it is not cut.

    :param listener: where it is asked.
    """

    def __init__(self, listener: socket.socket, port: int) -> None:
        self._listener = listener
        self._to = ("127.0.0.1", port)
        self._cut = threading.Event()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def cut(self) -> None:
        """Let nothing through any more, also of what is under way."""
        self._cut.set()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let everything through again."""
        self._cut.clear()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            if self._cut.is_set():
                inner.close()
                continue
            try:
                outer = socket.create_connection(self._to, timeout=10)
            except OSError:
                inner.close()
                continue
            outer.settimeout(None)
            self._open |= {inner, outer}
            for pair in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            self._open.discard(one)


@contextlib.contextmanager
def line_to(port: int) -> Iterator[Line]:
    """Make another port of this machine lead to a port of it."""
    line = Line(socket.create_server(("127.0.0.1", 0), backlog=128), port)
    try:
        yield line
    finally:
        line.close()


class Namespace:
    """A network of its own; its one door is ``127.0.0.1:port`` within."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self._line: Line | None = None

    @property
    def prefix(self) -> list[str]:
        """What runs a command in there."""
        return ["ip", "netns", "exec", self.name]

    @property
    def line(self) -> Line:
        """What passes on what comes to its door."""
        assert self._line is not None
        return self._line

    def listen(self) -> None:
        self._line = Line(_socket_within(self.name, self.port), self.port)

    def close(self) -> None:
        if self._line is not None:
            self._line.close()


def _socket_within(name: str, port: int) -> socket.socket:
    """Return a socket that listens in a namespace: it stays in the one in which it was made."""
    made: list[socket.socket | BaseException] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            # Of this thread alone, which ends with this.
            with Path(f"/run/netns/{name}").open("rb") as file:
                if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"namespace {name} can't be entered")
            made.append(socket.create_server(("127.0.0.1", port), backlog=128))
        except BaseException as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    (result,) = made
    if isinstance(result, BaseException):
        raise result
    return result


@contextlib.contextmanager
def namespace(port: int) -> Iterator[Namespace]:
    """Make a namespace whose door leads to this port of this machine."""
    made = Namespace(f"workpools-{os.getpid()}-{port}", port)
    subprocess.run(["ip", "netns", "add", made.name], check=True)
    try:
        subprocess.run(["ip", "-n", made.name, "link", "set", "lo", "up"], check=True)
        made.listen()
        yield made
    finally:
        made.close()
        subprocess.run(["ip", "netns", "delete", made.name], check=False)
