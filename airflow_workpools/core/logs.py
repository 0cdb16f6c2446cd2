# SPDX-License-Identifier: Apache-2.0
"""What jobs write, as bytes at positions: how much of it is kept, where it is cut, and how it is shown.

A worker reads the output of a job's infrastructure and sends it to the store in chunks. Each says where it belongs: the
attempt to start the job, and the position of its first byte in what that attempt has written. So a chunk may be sent
twice, by two workers even, and by one that knows nothing of what was sent before: see :func:`accept`.

What is shown are lines of Airflow's structured form, one JSON object each: see :func:`structured`.
"""

from __future__ import annotations

import json
import re
import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from uuid import UUID

MAX_CHUNK_BYTES = 64 * 1024
"""Most bytes of one chunk, and so of one row; small enough for a reader to hold some of them at a time."""
REASONS = 1_000_000
"""The "attempt" under which stands why a job never started or was ended: it follows all that the job wrote."""
LOGGER = "airflow_workpools"
"""The logger that our own lines name."""

_TOKEN = re.compile(rb"eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_OF_TOKENS = (string.ascii_letters + string.digits + "_.-").encode()
_LONGEST_TOKEN = 8 * 1024


class LogEnd(NamedTuple):
    """How far the log of an attempt is stored."""

    position: int = 0
    """The position of the first byte that is not stored: a worker goes on from here."""
    full: bool = False
    """Whether nothing more of it is stored, because it is too long."""


class LogMark(NamedTuple):
    """A place in a job's log, in the order in which it is read."""

    attempt: int
    position: int


@dataclass(frozen=True, kw_only=True)
class LogChunk:
    """A part of what a job has written."""

    job_id: UUID
    attempt: int = 0
    """How often the job had failed to start before: each attempt writes a log of its own."""
    position: int
    data: bytes = field(repr=False)
    closing: bool = False
    """Whether it is no part of the log, but the line that stands in the place of the rest of it."""

    @property
    def size(self) -> int:
        """How many bytes of the log it covers; none, if it closes the log."""
        return 0 if self.closing else len(self.data)

    @property
    def end(self) -> int:
        return self.position + self.size

    @property
    def mark(self) -> LogMark:
        return LogMark(self.attempt, self.position)


def accept(
    chunks: Iterable[LogChunk], end: LogEnd, *, most: int, now: datetime
) -> tuple[list[LogChunk], LogEnd]:
    """Decide what of these chunks of one attempt is new.

    What is stored already is left out, also where it is only the beginning of a chunk. What comes after a gap is not
    taken, nor anything behind it: the end that is returned says where to go on. What is longer than ``most`` bytes ends
    with a line that says so.
    """
    new: list[LogChunk] = []
    for chunk in chunks:
        if end.full or chunk.position > end.position:
            break
        data = chunk.data[end.position - chunk.position :]
        if not data:
            continue
        room = most - end.position
        kept = data if len(data) <= room else data[: data.rfind(b"\n", 0, max(room, 0)) + 1]
        if kept:
            new.append(_part(chunk, end.position, kept))
            end = LogEnd(end.position + len(kept))
        if len(kept) < len(data):
            new.append(_part(chunk, end.position, _rest_is_missing(most, now), closing=True))
            end = LogEnd(end.position, full=True)
    return new, end


def _part(chunk: LogChunk, position: int, data: bytes, *, closing: bool = False) -> LogChunk:
    return LogChunk(job_id=chunk.job_id, attempt=chunk.attempt, position=position, data=data, closing=closing)


def _rest_is_missing(most: int, now: datetime) -> bytes:
    text = (
        f"The rest of this log is not kept: it is longer than [workpools] max_log_mb = {most / 2**20:g}. "
        "Configure Airflow's remote logging where the job runs to keep logs of any length."
    )
    return b"\n" + own_line(text, level="warning", now=now)


def own_line(event: str, *, level: str, now: datetime) -> bytes:
    """Return a line of our own for a task's log."""
    line = {"timestamp": now.isoformat(), "level": level, "event": event, "logger": LOGGER}
    return json.dumps(line).encode() + b"\n"


# -- before it is sent ---------------------------------------------------------------------------------------


def redact(data: bytes) -> bytes:
    """Hide what looks like a token of Airflow's, byte for byte, so that positions stay what they are."""
    return _TOKEN.sub(lambda token: b"*" * len(token[0]), data)


def cut(data: bytes | bytearray, *, partial: bool = False, last: bool = False) -> int:
    """Return how many bytes from the beginning make the next chunk.

    Chunks end with a line. A line that is too long for one, or that nobody has ended for so long that it is wanted as
    it is (``partial``), is not cut where a token might be: only a whole one is recognised.

    :param last: whether nothing more will come.
    """
    window = bytes(data[:MAX_CHUNK_BYTES])
    if lines := window.rfind(b"\n") + 1:
        return lines
    if last and len(data) == len(window):
        return len(window)
    if not partial and len(data) < MAX_CHUNK_BYTES:
        return 0
    # A token that reaches the end may be whole or not; what is longer than any token is none.
    rest = len(window) - len(window.rstrip(_OF_TOKENS))
    return len(window) - rest if 0 < rest <= _LONGEST_TOKEN and rest < len(window) else len(window)


# -- when it is read -----------------------------------------------------------------------------------------


def lines_of(chunks: Iterable[LogChunk]) -> Iterator[str]:
    """Put the lines of a log together again; what two workers have stored both comes once."""
    attempt, position, rest = -1, 0, b""
    for chunk in chunks:
        if chunk.attempt != attempt:
            if rest:
                yield _text(rest)
            attempt, position, rest = chunk.attempt, 0, b""
        new = chunk.data if chunk.closing else chunk.data[max(position - chunk.position, 0) :]
        position = max(position, chunk.end)
        *lines, rest = (rest + new).split(b"\n")
        yield from (_text(line) for line in lines if line)
    if rest:
        yield _text(rest)


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r")


def structured(lines: Iterable[str]) -> Iterator[str]:
    """Make every line one of Airflow's structured form.

    What is none (a crash's traceback, what a shell says) gets the time of the line before it: whoever reads it next
    would look for a time in its first word, and may find one that was not meant.
    """
    last = ""
    for line in lines:
        if line.startswith("{"):
            last = line
            yield line
        elif line.strip():
            plain = {"event": line}
            if timestamp := _timestamp(last):
                plain = {"timestamp": timestamp, **plain}
            last = json.dumps(plain)
            yield last


def _timestamp(line: str) -> str | None:
    try:
        found = json.loads(line).get("timestamp")
    except (ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None
