# SPDX-License-Identifier: Apache-2.0
"""The engine's own news: one thread reads its stream of events for as long as the worker lives.

Events are hints, so that nobody has to ask all the time; what is true is asked. One thing only the stream knows: the
exit code of a container that somebody removed right after its end.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.infrastructure.containers import JOB_ID_LABEL

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from airflow_workpools.infrastructure.docker.engine import Engine

log = logging.getLogger(__name__)

# No filter by label: Podman's does not know labels of any value.
_FILTERS = {
    "type": "container",
    # Podman filters by its own words, "died" and "remove", and writes Docker's.
    "event": ["start", "die", "died", "oom", "destroy", "remove"],
}
_MOST_EXIT_CODES = 10_000


class EventStream:
    """Follows an engine's events.

    :param on_change: called in the loop, after each event, and when the stream is there again after a gap.
    """

    def __init__(
        self, engine: Engine, on_change: Callable[[], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._engine = engine
        self._on_change = on_change
        self._loop = loop
        self._closed = threading.Event()
        self._stream: Any = None
        self._lock = threading.Lock()
        self.lost: str | None = None
        """Why the engine does not tell of events now."""
        self.lost_at: datetime | None = None
        """When a stream that was there broke last."""
        self.exit_codes: dict[str, int] = {}
        """Of containers that were seen to end, by id."""
        self._thread = threading.Thread(target=self._run, name="docker events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._closed.set()
        with self._lock:
            stream, self._stream = self._stream, None
        _close(stream)

    def forget(self, container: str) -> None:
        """Drop what is kept of a container."""
        self.exit_codes.pop(container, None)

    def _run(self) -> None:
        backoff = Backoff(initial=0.2, maximum=10.0)
        while not self._closed.is_set():
            try:
                self._follow(backoff)
                self.lost_at = datetime.now(timezone.utc)
            except Exception as error:
                self._on_failure(str(error) or type(error).__name__)
            self._tell()
            self._closed.wait(backoff.next())

    def _on_failure(self, why: str) -> None:
        if self.lost is None and not self._closed.is_set():
            self.lost_at = datetime.now(timezone.utc)
            log.warning("Lost sight of containers: %s", why)
        self.lost = why

    def _follow(self, backoff: Backoff) -> None:
        stream = self._engine.guarded(lambda: self._engine.api.events(decode=True, filters=_FILTERS))
        with self._lock:
            self._stream = stream
        if self._closed.is_set():
            return _close(stream)
        if self.lost is not None:
            log.info("The Docker Engine at %s answers again", self._engine.url)
        self.lost = None
        backoff.reset()
        self._tell()
        for event in stream:
            if JOB_ID_LABEL in ((event.get("Actor") or {}).get("Attributes") or {}):
                self._note(event)
                self._tell()
        return None

    def _note(self, event: dict[str, Any]) -> None:
        actor = event["Actor"]
        attributes = actor["Attributes"]
        exit_code = attributes.get("exitCode", attributes.get("containerExitCode"))
        if event.get("Action") in ("die", "died") and exit_code is not None:
            self.exit_codes[actor.get("ID", "")] = int(exit_code)
            if len(self.exit_codes) > _MOST_EXIT_CODES:  # other workers' containers are among them
                self.exit_codes.pop(next(iter(self.exit_codes)))

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._on_change)


def _close(stream: Any) -> None:
    if stream is not None:
        try:
            stream.close()
        except Exception as error:  # whatever the SDK's way to a socket comes to; the thread is a daemon
            log.debug("Could not close the stream of events: %s", error)
