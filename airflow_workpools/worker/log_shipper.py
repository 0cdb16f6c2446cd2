# SPDX-License-Identifier: Apache-2.0
"""Logs: what jobs write on infrastructure that keeps it to itself is read there and sent to the store.

One reader for each job that runs; all that was read within about a second is sent in one call. What was read is kept
until the store has taken it, and no more is read than a little: the infrastructure keeps the rest. So an outage of the
store loses nothing, and a worker that takes a job over goes on where the store's copy ends.

The end of a job is told when its log is stored, so that nobody looks at the log of an ended task and misses its last
lines; but not for ever later. What is left of it on its infrastructure is removed only when its log is stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.core.logs import LogChunk, LogEnd, cut, redact
from airflow_workpools.errors import InfrastructureError, InfrastructureUnavailable, InvalidInput
from airflow_workpools.infrastructure.base import HasLog
from airflow_workpools.worker.waiting import wait_for

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from airflow_workpools.infrastructure.base import Handle
    from airflow_workpools.worker.client import WorkerClient
    from airflow_workpools.worker.tracking import Tracked

log = logging.getLogger(__name__)

MAX_READ_BYTES = 256 * 1024
"""Most that is read of one job's log before the store has taken it."""
MAX_READ_BYTES_OF_ALL = 32 * 1024 * 1024
MAX_CALL_BYTES = 4 * 1024 * 1024
"""Most that is sent in one call."""


@dataclass(frozen=True, kw_only=True)
class LogTimes:
    """How often logs are sent, and how long an end waits for its log, in seconds."""

    collect: float = 1.0
    """What is written within this time is sent together."""
    collect_last: float = 0.05
    """The same, when jobs have ended: their slots wait."""
    partial: float = 3.0
    """After this time a line is sent that has no end yet: a progress bar, a question."""
    wait_at_end: float = 30.0
    """After this time the end of a job is told even though its log is not stored yet."""
    give_up: float = 600.0
    """After this time the log of a job that has ended is given up, if its infrastructure still does not give it."""
    max_retry: float = 30.0


@dataclass
class _Log:
    """The log of a job, as far as it has been read and not sent."""

    tracked: Tracked
    handle: Handle
    source: HasLog
    stored: int = 0
    """Position up to which the store has it."""
    read: bytearray = field(default_factory=bytearray)
    read_since: float = 0.0
    """When the first byte of what was read came."""
    over: bool = False
    """Whether all has been read."""
    complete: bool = False
    """Whether all has been stored, or nothing more of it will be."""
    room: asyncio.Event = field(default_factory=asyncio.Event)
    reader: asyncio.Task[None] | None = None
    ended_at: float | None = None
    """When the job was seen to have ended."""
    tell_end: Callable[[], None] | None = None
    clean_up: Callable[[], None] | None = None

    @property
    def job_id(self) -> UUID:
        return self.tracked.job.id

    @property
    def attempt(self) -> int:
        return self.tracked.job.start_attempts


@dataclass(kw_only=True)
class LogShipper:
    """Sends the logs of a worker's jobs to the store.

    :param tracked: the jobs that the worker looks after.
    """

    worker_id: UUID
    client: WorkerClient
    tracked: Mapping[UUID, Tracked]
    clock: Callable[[], datetime]
    times: LogTimes = field(default_factory=LogTimes)
    _logs: dict[UUID, _Log] = field(default_factory=dict)
    _hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """Something should be sent at once: a job has ended, or nothing more can be read until then."""

    @property
    def job_ids(self) -> set[UUID]:
        """Jobs that have ended and whose log has not been stored."""
        return {tracked.job.id for tracked in self.ending()}

    def ending(self) -> list[Tracked]:
        """Return jobs that have ended and whose log has not been stored."""
        return [one.tracked for one in self._logs.values() if one.ended_at is not None]

    def at_end(self, tracked: Tracked, tell: Callable[[], None]) -> None:
        """Have the end of a job told as soon as its log is stored; at once if it has none here."""
        one = self._log_of(tracked)
        if one is None or one.complete:
            tell()
            return
        one.ended_at, one.tell_end = _now(), tell
        self._hurry.set()

    def when_stored(self, job_id: UUID, clean_up: Callable[[], None]) -> None:
        """Have what is left of an ended job removed as soon as its log is stored."""
        one = self._logs.get(job_id)
        if one is None or one.complete:
            clean_up()
        else:
            one.clean_up = clean_up

    async def close(self) -> None:
        """Stop reading. What has not been sent is read again by whoever looks after the job next."""
        readers = [one.reader for one in self._logs.values() if one.reader is not None]
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    async def step(self) -> None:
        """Send what has been read, now or within a second."""
        await wait_for(self._hurry, self.times.collect)
        if self._hurry.is_set():
            await asyncio.sleep(self.times.collect_last)
            self._hurry.clear()
        for tracked in list(self.tracked.values()):
            if tracked.running:
                self._log_of(tracked)
        try:
            await self._begin_to_read()
            await self._send()
        finally:
            await self._settle()

    # -- read -----------------------------------------------------------------------------------------------

    def _log_of(self, tracked: Tracked) -> _Log | None:
        """Return the log of a job, from now on to be read if it was not; None if the job keeps none."""
        id_, attempt = tracked.job.id, tracked.job.start_attempts
        known = self._logs.get(id_)
        if (known is not None and known.attempt == attempt) or tracked.handle is None:
            return known
        source = tracked.site.infrastructure
        if not isinstance(source, HasLog):
            return None
        if known is not None and known.reader is not None:
            known.reader.cancel()
        self._logs[id_] = _Log(tracked, tracked.handle, source)
        return self._logs[id_]

    async def _begin_to_read(self) -> None:
        new = [one for one in self._logs.values() if one.reader is None and not one.complete]
        if not new:
            return
        attempts = {one.job_id: one.attempt for one in new}
        ends = await asyncio.to_thread(self.client.log_ends, self.worker_id, attempts)
        for one in new:
            self._go_on(one, ends.get(one.job_id, LogEnd()))

    def _go_on(self, one: _Log, end: LogEnd) -> None:
        """Read on from where the store's copy ends."""
        if one.reader is not None:
            one.reader.cancel()
        one.read.clear()
        one.stored, one.over, one.complete = end.position, False, end.full
        one.reader = asyncio.create_task(self._read(one), name=f"read the log of job {one.job_id}")

    async def _read(self, one: _Log) -> None:
        backoff = Backoff(maximum=self.times.max_retry)
        while not one.complete:
            begin = one.stored + len(one.read)
            try:
                await self._read_on(one, begin)
                one.over = True
                self._hurry.set()
                return
            except InfrastructureUnavailable as error:
                log.info("Worker: the log of job %s can't be read now: %s", one.job_id, error)
            except InfrastructureError as error:
                log.warning("Worker: the log of job %s can't be read: %s", one.job_id, error)
                one.read += f"The log of this task can't be read: {error}\n".encode()
                one.over = True
                self._hurry.set()
                return
            except Exception as error:
                # Not what it says: that may be of the log, which is not for everybody.
                log.warning("Worker: reading the log of job %s failed: %s", one.job_id, type(error).__name__)
            if one.stored + len(one.read) > begin:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _read_on(self, one: _Log, offset: int) -> None:
        parts = one.source.follow_log(one.handle, offset=offset)
        try:
            async for part in parts:
                if not one.read:
                    one.read_since = _now()
                one.read += part
                while len(one.read) >= MAX_READ_BYTES or self._read_of_all() >= MAX_READ_BYTES_OF_ALL:
                    one.room.clear()
                    self._hurry.set()
                    await one.room.wait()
        finally:
            if isinstance(parts, AsyncGenerator):
                await parts.aclose()

    def _read_of_all(self) -> int:
        return sum(len(one.read) for one in self._logs.values())

    # -- send -----------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        """Send what there is to send, in as many calls as that takes."""
        full = True
        while full:
            chunks = self._next_chunks()
            if chunks:
                ends = await self._append(chunks)
                for last in {chunk.job_id: chunk for chunk in chunks}.values():
                    self._note(last, ends.get(last.job_id))
            for one in self._logs.values():
                one.room.set()
            full = sum(chunk.size for chunk in chunks) >= MAX_CALL_BYTES

    async def _append(self, chunks: list[LogChunk]) -> dict[UUID, LogEnd]:
        """Have chunks stored. A log of which some is not taken, for good, is given up, and keeps no other waiting."""
        try:
            return dict(
                await asyncio.to_thread(self.client.append_log, self.worker_id, chunks, now=self.clock())
            )
        except InvalidInput as error:
            jobs = list(dict.fromkeys(chunk.job_id for chunk in chunks))
            if len(jobs) == 1:
                log.error("Worker: the log of job %s is not taken, and given up: %s", jobs[0], error)
                return {}
        half = set(jobs[: len(jobs) // 2])
        parts = (
            [chunk for chunk in chunks if chunk.job_id in half],
            [chunk for chunk in chunks if chunk.job_id not in half],
        )
        return {**await self._append(parts[0]), **await self._append(parts[1])}

    def _next_chunks(self) -> list[LogChunk]:
        chunks: list[LogChunk] = []
        room = MAX_CALL_BYTES
        for one in self._logs.values():
            rest, position = bytes(one.read), one.stored
            partial = _now() - one.read_since > self.times.partial
            while not one.complete and room > 0 and (size := cut(rest, partial=partial, last=one.over)):
                data = redact(rest[:size])
                chunks.append(LogChunk(job_id=one.job_id, attempt=one.attempt, position=position, data=data))
                rest, position, room = rest[size:], position + size, room - size
        return chunks

    def _note(self, last: LogChunk, end: LogEnd | None) -> None:
        """Note what the store says of a log, the last chunk of which was this one."""
        one, sent = self._logs.get(last.job_id), last.end
        if one is None or one.attempt != last.attempt:
            return
        if end is None or end.full:  # another worker has the job now, or the log is too long
            one.complete = True
        elif end.position == sent:
            del one.read[: sent - one.stored]
            one.stored, one.read_since = sent, _now()
        else:
            log.info("Worker: reading the log of job %s again from byte %d", last.job_id, end.position)
            self._go_on(one, end)

    # -- ends -----------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Tell the ends that waited for their logs, and forget logs that nobody needs any more."""
        for one in list(self._logs.values()):
            waited = 0.0 if one.ended_at is None else _now() - one.ended_at
            one.complete = one.complete or (one.over and not one.read)
            if not one.complete and not one.read and one.reader is not None and waited > self.times.give_up:
                log.warning("Worker: the log of job %s can't be read to its end: given up", one.job_id)
                one.complete = True
            if one.tell_end is not None and (one.complete or waited >= self.times.wait_at_end):
                if not one.complete:
                    log.warning(
                        "Worker: the end of job %s is told before all of its log is stored", one.job_id
                    )
                tell, one.tell_end = one.tell_end, None
                tell()
            if one.complete or (one.ended_at is None and one.job_id not in self.tracked):
                await self._close(one)
        if any(one.over and one.read for one in self._logs.values()):
            self._hurry.set()

    async def _close(self, one: _Log) -> None:
        if one.reader is not None and not one.reader.done():
            one.reader.cancel()
            await asyncio.wait({one.reader})
        if one.clean_up is not None:
            one.clean_up()
            one.clean_up = None
        if one.job_id not in self.tracked and self._logs.get(one.job_id) is one:
            del self._logs[one.job_id]


def _now() -> float:
    return asyncio.get_running_loop().time()
