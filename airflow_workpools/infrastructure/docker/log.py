# SPDX-License-Identifier: Apache-2.0
"""What a container writes, as one stream of bytes with offsets.

Standard output and error come in the order in which the engine received them, which is also how it keeps them: so
an offset means the same whenever the log is read. The engine itself knows no offsets: what comes before is read and
thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from airflow_workpools.errors import InfrastructureError
from airflow_workpools.infrastructure.docker.engine import EngineRefusal
from airflow_workpools.infrastructure.docker.reasons import NOT_STARTED, RUNS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from airflow_workpools.infrastructure.docker.engine import Engine

_CHUNKS_AHEAD = 256
"""Most chunks, of a line or 16 kB each, that are read before they are asked for."""
_LOOK_AGAIN_SECONDS = 0.5
_UNREADABLE = "does not support reading"


async def follow(engine: Engine, container: str | None, offset: int) -> AsyncIterator[bytes]:
    """Yield what a container writes, from this byte on, until it has ended or is gone.

    :param container: its id; None: there is no container.
    :raises InfrastructureUnavailable: if the engine does not answer.
    :raises InfrastructureError: if it keeps no log that can be read.
    """
    over = container is None
    while not over:
        assert container is not None
        # Asked before: what it has written by its end is there to be read when it is seen to have ended.
        found = await engine.inspect(container)
        if found is None:
            return
        status = found["State"]["Status"]
        over = status not in RUNS and status not in NOT_STARTED
        if status in NOT_STARTED:
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            continue
        began = offset
        reader = _Reader(engine, container, offset=offset, follow=not over)
        try:
            async for chunk in reader:
                offset += len(chunk)
                yield chunk
        except EngineRefusal as refusal:
            if refusal.is_not_found:
                return
            raise _explained(container, refusal) from refusal
        finally:
            reader.close()
        if offset == began and not over:  # the stream broke; do not ask the engine all the time
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)


def _explained(container: str, refusal: EngineRefusal) -> InfrastructureError:
    hint = ""
    if _UNREADABLE in str(refusal):
        hint = (
            ". Its logging driver keeps no log on the engine: use json-file, local or journald (log_config)"
        )
    return InfrastructureError(f"the log of container {container[:12]} can't be read: {refusal}{hint}")


class _Reader:
    """Reads a log in a thread of its own, since it blocks until there is something to read."""

    def __init__(self, engine: Engine, container: str, *, offset: int, follow: bool) -> None:
        self._engine = engine
        self._container = container
        self._skip = offset
        self._follow = follow
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._ahead = threading.Semaphore(_CHUNKS_AHEAD)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._stream: Any = None
        threading.Thread(target=self._run, name=f"docker log {container[:12]}", daemon=True).start()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._read()

    async def _read(self) -> AsyncIterator[bytes]:
        """Yield all that is there at a time: the engine tells of each line alone."""
        while True:
            item = await self._chunks.get()
            ready = bytearray()
            while isinstance(item, bytes):
                self._ahead.release()
                ready += item
                item = self._chunks.get_nowait() if self._chunks.qsize() else b""
                if not item:
                    break
            if ready:
                yield bytes(ready)
            if isinstance(item, BaseException):
                raise item
            if item is None:
                return

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        self._ahead.release()
        with self._lock:
            stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(Exception):  # whatever the SDK's way to a socket comes to
                stream.close()

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            self._engine.guarded(self._copy)
        except BaseException as error:
            end = error
        self._put(end)

    def _copy(self) -> None:
        for chunk in self._open():
            kept = chunk[self._skip :]
            self._skip = max(0, self._skip - len(chunk))
            if kept:
                self._ahead.acquire()
                self._put(kept)
            if self._closed.is_set():
                return

    def _open(self) -> Iterator[bytes]:
        stream = self._engine.api.logs(
            self._container, stdout=True, stderr=True, stream=True, follow=self._follow
        )
        with self._lock:
            self._stream = stream
        return stream  # type: ignore[no-any-return]

    def _put(self, item: bytes | BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._chunks.put_nowait, item)
