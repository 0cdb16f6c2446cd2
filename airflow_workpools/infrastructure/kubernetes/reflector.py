# SPDX-License-Identifier: Apache-2.0
"""Keeps up with one kind of object in one namespace: a list, then a watch from where the list ended.

After any gap, and where the API has forgotten how it went on (410), it lists anew. So the number of requests has
nothing to do with the number of objects: one every minute or so while all is well.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.errors import InfrastructureError, InfrastructureUnavailable
from airflow_workpools.infrastructure.kubernetes.answers import ApiRefusal, Outdated, error_of
from airflow_workpools.infrastructure.kubernetes.client import PAGE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from airflow_workpools.infrastructure.kubernetes.client import KubernetesApi

log = logging.getLogger(__name__)

WATCH_SECONDS = (60.0, 90.0)
"""How long one watch lasts, at random, so that those of many workers do not end together."""
_REFUSED_SECONDS = 300.0
"""After this time it is asked again whether what is good to know may be known now."""


@dataclass(kw_only=True)
class Reflector:
    """Keeps up with the objects at one path.

    :param path: of the objects, like ``/api/v1/namespaces/default/pods``.
    :param selectors: which of them: ``labelSelector``, ``fieldSelector``.
    :param on_list: takes everything there is, and the time (loop) before which it was so at the latest.
    :param on_event: takes the type of an event (ADDED, MODIFIED, DELETED) and the object.
    """

    api: KubernetesApi
    path: str
    selectors: Mapping[str, str]
    on_list: Callable[[list[Any], float], None]
    on_event: Callable[[str, Any], None]
    on_state: Callable[[], None] = lambda: None
    """Called when :attr:`problem` has changed."""
    problem: InfrastructureError | None = None
    """Why it does not keep up now, if it does not."""
    listed_at: float = float("-inf")
    """Everything that there was at this time (loop) is known."""
    _task: asyncio.Task[None] | None = None
    _watch: asyncio.Task[str] | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _backoff: Backoff = field(default_factory=lambda: Backoff(initial=0.2, maximum=10.0))
    _list_again: bool = False
    _closing: bool = False
    _lists_since: float | None = float("inf")
    """When the list that is being made was begun (loop time); infinite: one is yet to begin; None: none is."""

    def start(self) -> None:
        """Begin to keep up."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"watch {self.path}")

    async def close(self) -> None:
        """Stop keeping up."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def listed_since(self, moment: float) -> None:
        """Return when everything that there was at that moment (loop time) is known.

        :raises InfrastructureError: if that is not possible now.
        """
        if self.listed_at >= moment:
            return
        if self._lists_since is None or self._lists_since < moment:
            self._list_again = True
            if self._watch is not None:
                self._watch.cancel()
        while self.listed_at < moment:
            if self.problem is not None:
                raise self.problem
            self._changed.clear()
            await self._changed.wait()

    async def _run(self) -> None:
        while True:
            try:
                self._list_again = False
                version = await self._list()
                self._backoff.reset()
                while not self._list_again:
                    self._watch = asyncio.create_task(self._watch_from(version))
                    try:
                        version = await self._watch
                    except asyncio.CancelledError:
                        if self._closing or not self._list_again:
                            raise
                    finally:
                        self._watch.cancel()
                        self._watch = None
            except Outdated:
                log.debug("%s: the API has forgotten what came next; listing anew", self.path)
            except Exception as error:
                known = isinstance(error, InfrastructureError)
                if not known:
                    log.warning("Watching %s failed: %s", self.path, error, exc_info=True)
                self._lists_since = float("inf")
                self._tell(error if known else InfrastructureUnavailable(f"{type(error).__name__}: {error}"))  # type: ignore[arg-type]
                await asyncio.sleep(self._pause_after(error))

    def _pause_after(self, error: Exception) -> float:
        return self._backoff.next()

    def _tell(self, problem: InfrastructureError | None) -> None:
        changed = (problem is None) is not (self.problem is None)
        self.problem = problem
        self._changed.set()
        if changed:
            self.on_state()

    async def _list(self) -> str:
        began = self._lists_since = asyncio.get_running_loop().time()
        items: list[Any] = []
        query: dict[str, Any] = {**self.selectors, "limit": PAGE}
        while True:
            page = await self.api.request("GET", self.path, query=query)
            metadata = page.get("metadata") or {}
            items += page.get("items") or ()
            if not metadata.get("continue"):
                break
            query["continue"] = metadata["continue"]
        self.listed_at, self._lists_since = began, None
        self.on_list(items, began)
        self._tell(None)
        return str(metadata.get("resourceVersion", ""))

    async def _watch_from(self, version: str) -> str:
        """Take events until the watch ends; return from where the next goes on."""
        seconds = random.uniform(*WATCH_SECONDS)
        query = {
            **self.selectors,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": int(seconds),
            "resourceVersion": version,
        }
        async with self.api.stream(self.path, query=query, seconds=seconds + 10) as chunks:
            async for line in lines(chunks):
                event = json.loads(line)
                object_ = event.get("object") or {}
                if event.get("type") == "ERROR":
                    code = int(object_.get("code") or 500)
                    raise error_of(code, json.dumps(object_).encode())
                version = str((object_.get("metadata") or {}).get("resourceVersion") or version)
                if event.get("type") != "BOOKMARK":
                    self.on_event(str(event.get("type")), object_)
        return version


class OptionalReflector(Reflector):
    """Keeps up if it may: what it would tell is good to know, and nothing depends on it."""

    def _tell(self, problem: InfrastructureError | None) -> None:
        if isinstance(problem, ApiRefusal) and self.problem is None:
            log.info("Reasons will be shorter: %s", problem)
        super()._tell(problem)

    def _pause_after(self, error: Exception) -> float:
        return _REFUSED_SECONDS if isinstance(error, ApiRefusal) else super()._pause_after(error)


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cut a stream into its lines; an unfinished last one is left out."""
    rest: list[bytes] = []
    async for chunk in chunks:
        *complete, last = chunk.split(b"\n")
        for line in complete:
            rest.append(line)
            if whole := b"".join(rest):
                yield whole
            rest.clear()
        if last:
            rest.append(last)
