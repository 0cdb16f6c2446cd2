# SPDX-License-Identifier: Apache-2.0
"""The socket between the executor and its embedded worker, and what the two say on it.

Each message begins with a byte. One from the executor means "look for work now", another one "look for errands". One
from the worker means "jobs have ended" and is followed by the ids of their task instances; another one, said now and
then, only that it is there. When the executor is gone, however it ended, the worker reads the end of the socket.
Other children of the scheduler hold the executor's end open, too (LocalExecutor forks many): so the executor shuts
the connection down, which counts for all, and the worker also watches the executor's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

log = logging.getLogger(__name__)

LOOK_NOW = b"!"
LOOK_FOR_ERRANDS = b"+"
NEWS = b"."
ALIVE = b","
MAX_SIZE = 4096
"""Longest message, in bytes."""
_ID_SIZE = 16
_MOST_IDS = (MAX_SIZE - 1) // _ID_SIZE


def make_channel() -> tuple[socket.socket, socket.socket]:
    """Return both ends. A message comes whole or not at all, whoever doesn't listen."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def say(channel: socket.socket, word: bytes) -> None:
    """Say a word; who doesn't listen just now looks by itself soon."""
    with contextlib.suppress(OSError):
        channel.send(word)


def say_ended(channel: socket.socket, task_instance_ids: Collection[UUID]) -> None:
    """Say that jobs have ended, and of which tasks, as far as that is known."""
    ids = [id_.bytes for id_ in task_instance_ids]
    for first in range(0, len(ids) or 1, _MOST_IDS):
        say(channel, NEWS + b"".join(ids[first : first + _MOST_IDS]))


def ended_in(message: bytes) -> set[UUID]:
    """Return the ids in a message that says that jobs have ended."""
    ids = message[1:]
    return {UUID(bytes=ids[at : at + _ID_SIZE]) for at in range(0, len(ids) - _ID_SIZE + 1, _ID_SIZE)}


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
            while heard := await loop.sock_recv(channel, MAX_SIZE):
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
