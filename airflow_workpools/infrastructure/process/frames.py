# SPDX-License-Identifier: Apache-2.0
"""What worker and runner say to each other: JSON objects, each after its length in four bytes.

==========  ================  ==============================================================================
who says    ``type``          and
==========  ================  ==============================================================================
worker      ``launch``        ``job_id``, ``directory``, ``variables``, ``labels``, ``workload`` (with the
                              token: it travels through this socket and nowhere else), ``server``
worker      ``stop``          ``job_id``, ``grace_seconds``
runner      ``launched``      ``job_id``
runner      ``exists``        ``job_id``: another process runs it, or ran it
runner      ``rejected``      ``job_id``, ``reason``: the job can never start
runner      ``failed``        ``job_id``, ``reason``: it did not start now
runner      ``exited``        ``job_id``, ``exit``: a :class:`JobExit` as values
==========  ================  ==============================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

HEADER = 4
Frame = Mapping[str, Any]


def encode(frame: Frame) -> bytes:
    """Return a frame as it goes over the socket."""
    body = json.dumps(frame).encode()
    return len(body).to_bytes(HEADER, "big") + body


def body_length(header: bytes | bytearray) -> int:
    """Return the length that a header announces."""
    return int.from_bytes(header[:HEADER], "big")


def decode(body: bytes | bytearray) -> Frame:
    """Return the frame that a body holds."""
    frame: Frame = json.loads(body)
    return frame


class FrameBuffer:
    """Puts frames together from pieces of any size."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take what was read; yield the frames that are complete with it."""
        self._data += data
        while len(self._data) >= HEADER:
            end = HEADER + body_length(self._data)
            if len(self._data) < end:
                return
            body = bytes(self._data[HEADER:end])
            del self._data[:end]
            yield decode(body)
