# SPDX-License-Identifier: Apache-2.0
"""Stopping containers: asked first, killed when the grace is over. Nobody waits for that."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.docker.engine import EngineRefusal
from airflow_workpools.infrastructure.docker.reasons import NOT_STARTED

if TYPE_CHECKING:
    from airflow_workpools.infrastructure.docker.engine import Engine

log = logging.getLogger(__name__)


class Stops:
    """The containers of one engine that are being stopped from here."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kills: dict[str, tuple[float, asyncio.Task[None]]] = {}
        """When (loop time) each is killed, and what does it."""

    async def stop(self, container: str, *, grace_seconds: float) -> None:
        """Ask a container to end, and kill it later; the shortest grace that was asked for counts."""
        if grace_seconds > 0:
            if not await self._signal(container, "SIGTERM"):
                return
        elif not await self._signal(container, "SIGKILL"):
            return
        kill_at = asyncio.get_running_loop().time() + grace_seconds
        if (planned := self._kills.get(container)) is not None:
            if planned[0] <= kill_at:
                return
            planned[1].cancel()
        task = asyncio.create_task(self._kill_at(container, kill_at), name=f"kill {container[:12]}")
        self._kills[container] = kill_at, task

    def forget(self, container: str) -> None:
        """Drop what is planned for a container that has ended."""
        if (planned := self._kills.pop(container, None)) is not None:
            planned[1].cancel()

    def close(self) -> None:
        """Drop all plans; the next worker is told again whom to stop."""
        for container in list(self._kills):
            self.forget(container)

    async def _kill_at(self, container: str, kill_at: float) -> None:
        await asyncio.sleep(max(0.0, kill_at - asyncio.get_running_loop().time()))
        backoff = Backoff(maximum=10.0)
        while True:
            try:
                if not await self._signal(container, "SIGKILL"):
                    return
            except InfrastructureUnavailable as error:
                log.warning("Could not kill container %s, trying again: %s", container[:12], error)
            await asyncio.sleep(backoff.next())

    async def _signal(self, container: str, signal: str) -> bool:
        """Send a signal; return whether there is anything left that may run."""
        try:
            await self._engine.kill(container, signal)
        except EngineRefusal as refusal:
            return await self._is_left(container, refusal)
        return True

    async def _is_left(self, container: str, refusal: EngineRefusal) -> bool:
        found = None if refusal.is_not_found else await self._engine.inspect(container)
        if found is None:
            return False
        state = found["State"]
        if state["Status"] in NOT_STARTED:
            # Whoever starts it now is told that there is no such container.
            await self._engine.remove(container, force=True)
            return False
        if state.get("Paused"):
            await self._engine.ask(lambda client: client.api.unpause(container))
            return True
        if state.get("Running"):
            log.warning("Could not signal container %s: %s", container[:12], refusal)
            return True
        return False
