# SPDX-License-Identifier: Apache-2.0
"""The engine, asked by the blocking SDK in a few threads; its errors become ours here and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random

from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.containers import JOB_ID_LABEL
from airflow_workpools.infrastructure.docker.connecting import (
    connect,
    engine_url,
    is_for_all_hosts,
    is_here,
    unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

THREADS = 16
"""Most requests under way at a time; each takes milliseconds, a start some tenths of a second."""

OF_KUBERNETES = "io.kubernetes.pod.name"
"""What a kubelet labels containers with, beside the labels of their pods, which may be those of jobs."""
OF_JOBS = {"label": JOB_ID_LABEL}
_NAME_IN_USE = "already in use"
_LOOKS = 5
"""How often a question is asked that the engine fails to answer."""


class EngineRefusal(Exception):
    """The engine answered, and refused.

    :param status: of HTTP.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_not_found(self) -> bool:
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def is_about_image(self) -> bool:
        """Whether it says something of an image; networks may be missing, too."""
        return "image" in str(self).lower()

    @property
    def is_name_in_use(self) -> bool:
        """Docker says 409 of a name that exists; Podman says 500."""
        return _NAME_IN_USE in str(self)

    @property
    def is_final(self) -> bool:
        """Whether trying again would be refused again, as far as the status tells."""
        return self.status < HTTPStatus.INTERNAL_SERVER_ERROR


class Engine:
    """One Docker Engine.

    :param connection: the pool's infrastructure connection; None: the environment says where it is.
    """

    def __init__(self, connection: Mapping[str, Any] | None) -> None:
        self._connection = connection
        self._client: Any = None
        self._threads: ThreadPoolExecutor | None = None

    @property
    def url(self) -> str:
        return engine_url(self._connection)

    @property
    def is_here(self) -> bool:
        """Whether its host is the worker's."""
        return is_here(self.url)

    @property
    def is_for_all_hosts(self) -> bool:
        """Whether workers of other hosts reach the same one."""
        return is_for_all_hosts(self._connection)

    @property
    def api(self) -> Any:
        """The SDK's client of single requests, for what blocks long and has a thread of its own."""
        return self.client.api

    @property
    def client(self) -> Any:
        if self._client is None:
            raise InfrastructureUnavailable("not connected to the Docker Engine yet")
        return self._client

    async def open(self) -> None:
        """Connect, and see that it answers."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="docker")
        if self._client is None:
            loop = asyncio.get_running_loop()
            connecting = functools.partial(connect, self._connection, connections=THREADS)
            self._client = await loop.run_in_executor(self._threads, connecting)
        await self.ask(lambda client: client.ping())

    async def close(self) -> None:
        """Let go of connections and threads."""
        client, self._client = self._client, None
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
        if client is not None:
            client.close()

    async def ask(self, request: Callable[[Any], T]) -> T:
        """Make a request in a thread.

        :param request: is given the SDK's client.
        :raises EngineRefusal: if the engine answers with an error.
        :raises InfrastructureUnavailable: if it does not answer.
        """
        client = self.client
        assert self._threads is not None
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: self.guarded(lambda: request(client))
        )

    def guarded(self, request: Callable[[], T]) -> T:
        """Make a request here and now, with errors as :meth:`ask` has them."""
        from docker.errors import APIError, DockerException
        from requests.exceptions import RequestException

        try:
            return request()
        except APIError as error:
            status = error.status_code or HTTPStatus.INTERNAL_SERVER_ERROR
            raise EngineRefusal(int(status), str(error.explanation or error)) from error
        except (RequestException, OSError) as error:
            raise unavailable(self.url, error) from error
        except DockerException as error:
            raise EngineRefusal(HTTPStatus.BAD_REQUEST, str(error)) from error

    # -- requests -------------------------------------------------------------------------------------------

    async def containers(self) -> list[dict[str, Any]]:
        """List the containers of all jobs, running or not; not those of Kubernetes, if that runs its pods here."""
        found = await self._look(lambda client: client.api.containers(all=True, filters=OF_JOBS))
        return [container for container in found if OF_KUBERNETES not in (container.get("Labels") or {})]

    async def inspect(self, container: str) -> dict[str, Any] | None:
        """Return what is known of a container, by id or name; None if it is not there."""
        try:
            found: dict[str, Any] = await self._look(lambda client: client.api.inspect_container(container))
        except EngineRefusal as refusal:
            if refusal.is_not_found:
                return None
            raise
        return found

    async def has_image(self, image: str) -> bool:
        """Say whether an image is on the engine, by its name."""
        try:
            await self._look(lambda client: client.api.inspect_image(image))
        except EngineRefusal as refusal:
            if refusal.is_not_found:
                return False
            raise
        return True

    async def join(self, container: str, network: str) -> None:
        """Connect a container to another network."""
        await self.ask(lambda client: client.api.connect_container_to_network(container, network))

    async def kill(self, container: str, signal: str) -> None:
        """Send a signal to a container."""
        await self.ask(lambda client: client.api.kill(container, signal))

    async def remove(self, container: str, *, force: bool) -> None:
        """Remove a container with its own volumes. Fine if it is not there.

        :param force: also if it runs.
        """
        try:
            await self.ask(lambda client: client.api.remove_container(container, v=True, force=force))
        except EngineRefusal as refusal:
            if not refusal.is_not_found:
                raise

    async def _look(self, request: Callable[[Any], T]) -> T:
        """Ask for what is there, a few times if the engine fails: it may work again in a moment.

        Podman answers 500 to a list, too, while one of the containers ends: their cgroups, which it reads one after
        another, go away meanwhile (``read /proc/…/cgroup: no such process``).

        :raises EngineRefusal: if the engine refuses.
        :raises InfrastructureUnavailable: if it does not answer, or fails each time.
        """
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(
                    lambda error: isinstance(error, EngineRefusal) and not error.is_final
                ),
                wait=wait_random(0.02, 0.2),
                stop=stop_after_attempt(_LOOKS),
                reraise=True,
            ):
                with attempt:
                    return await self.ask(request)
        except EngineRefusal as refusal:
            if refusal.is_final:
                raise
            raise InfrastructureUnavailable(f"the Docker Engine at {self.url} fails: {refusal}") from refusal
        raise AssertionError("tenacity ends in a result or an error")


def in_thread_of_its_own(call: Callable[[], T], *, name: str) -> asyncio.Future[T]:
    """Run what may block for minutes; a process that ends does not wait for it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if not future.done():
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
