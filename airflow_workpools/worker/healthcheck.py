# SPDX-License-Identifier: Apache-2.0
"""A small HTTP endpoint for whoever watches over a standalone worker: well while its heartbeats are taken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_workpools.errors import InvalidInput
from airflow_workpools.store.records import MISSED_HEARTBEATS

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_SECONDS = 5.0


@dataclass
class Healthcheck:
    """Answers every request with 200, or with 503 if too many heartbeats are missing.

    :param heartbeat_seconds: time between two heartbeats.
    :param monotonic: seconds that never go back.
    """

    host: str
    port: int
    heartbeat_seconds: float
    monotonic: Callable[[], float] = time.monotonic
    _beat_at: float | None = None
    _server: asyncio.Server | None = field(default=None, repr=False)

    def beat(self) -> None:
        """Note that a heartbeat was taken."""
        self._beat_at = self.monotonic()

    @property
    def silence_seconds(self) -> float | None:
        """For how long no heartbeat was taken; None if none ever was."""
        return None if self._beat_at is None else self.monotonic() - self._beat_at

    @property
    def is_well(self) -> bool:
        silence = self.silence_seconds
        return silence is not None and silence <= MISSED_HEARTBEATS * self.heartbeat_seconds

    async def open(self) -> str:
        """Begin to answer; return the address.

        :raises InvalidInput: if the address can't be listened on.
        """
        try:
            self._server = await asyncio.start_server(self._answer, self.host, self.port)
        except OSError as error:
            raise InvalidInput(
                f"the health check can't listen on {self.host}:{self.port}: {error.strerror or error}"
            ) from error
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}/health"

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _READ_SECONDS)
            status, word = (200, "OK") if self.is_well else (503, "Service Unavailable")
            silence = self.silence_seconds
            seconds = None if silence is None else round(silence, 1)
            body = json.dumps(
                {"status": "ok" if self.is_well else "silent", "seconds_since_heartbeat": seconds}
            ).encode()
            writer.write(
                f"HTTP/1.1 {status} {word}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                + body
            )
            await writer.drain()
        writer.close()
