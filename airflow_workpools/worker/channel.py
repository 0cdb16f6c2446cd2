# SPDX-License-Identifier: Apache-2.0
"""The socket between the executor and its embedded worker, and what the two say on it.

A byte from the executor means "look for work now", another one "look for errands". A byte from the worker means "jobs
have ended", another one, said now and then, only that it is there. When the executor is gone, however it ended, the
worker reads the end of the socket. Other children of the scheduler hold the executor's end open, too (LocalExecutor
forks many): so the executor shuts the connection down, which counts for all, and the worker also watches the executor's
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

log = logging.getLogger(__name__)

LOOK_NOW = b"!"
LOOK_FOR_ERRANDS = b"+"
NEWS = b"."
ALIVE = b","


def say(channel: socket.socket, word: bytes) -> None:
    """Say a word; who doesn't listen just now looks by itself soon."""
    with contextlib.suppress(OSError):
        channel.send(word)


async def keep_saying_alive(channel: socket.socket, *, every_seconds: float) -> None:
    """Say for ever that the worker's event loop turns."""
    while True:
        say(channel, ALIVE)
        await asyncio.sleep(every_seconds)


async def listen(
    channel: socket.socket, on_heard: Mapping[bytes, Callable[[], None]], on_end: Callable[[], None]
) -> None:
    """Pass on what the executor says; its end is our end."""
    loop = asyncio.get_running_loop()
    channel.setblocking(False)
    with _end_of_executor(channel) as ended:
        if ended is not None:
            loop.add_reader(ended, channel.shutdown, socket.SHUT_RD)
        try:
            while heard := await loop.sock_recv(channel, 4096):
                for word, call in on_heard.items():
                    if word in heard:
                        call()
        except OSError:
            log.warning("Embedded worker lost its executor")
        finally:
            if ended is not None:
                loop.remove_reader(ended)
    on_end()


@contextlib.contextmanager
def _end_of_executor(channel: socket.socket) -> Iterator[int | None]:
    """Give a descriptor that can be read once the process that made the channel has ended; None without pidfd."""
    pid, _, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    ended = None
    try:
        if pid == 0:  # that is what the kernel says once nobody has this pid any more
            raise ProcessLookupError
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        channel.shutdown(socket.SHUT_RD)
    except OSError as error:
        log.warning("The end of process %d can't be watched: %s", pid, error)
    try:
        yield ended
    finally:
        if ended is not None:
            os.close(ended)
