# SPDX-License-Identifier: Apache-2.0
"""Requests to the Kubernetes API, over :mod:`kubernetes_asyncio`, which logs in and keeps connections.

Objects are plain JSON both ways: to make instances of its models of a thousand pods would take seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay
from tenacity.wait import wait_base, wait_random_exponential

from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.kubernetes.answers import NotAccepted, NotNow, error_of
from airflow_workpools.infrastructure.kubernetes.connection import Cluster, find_cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from tenacity import RetryCallState

log = logging.getLogger(__name__)

REQUEST_SECONDS = 30.0
"""Longest time for one request that is answered at once."""
PAGE = 500
"""Most objects that one answer lists."""
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
"""Adds to lists of which the API knows what tells their items apart, instead of replacing them."""


class KubernetesApi:
    """The API of one cluster.

    :param connection: the pool's infrastructure connection, if it has one.
    :param in_flight: most requests that are under way at a time, besides those that stay open.
    """

    def __init__(self, connection: Mapping[str, Any] | None, *, in_flight: int) -> None:
        self._connection = connection
        self._places = asyncio.Semaphore(in_flight)
        self._logging_in = asyncio.Lock()
        self._cluster: Cluster | None = None
        self._client: Any = None
        self.requests = 0
        """How many requests were made, for tests and benchmarks."""

    @property
    def namespace(self) -> str:
        """Where jobs go that name no namespace."""
        assert self._cluster is not None, "open() comes first"
        return self._cluster.namespace

    @property
    def host(self) -> str:
        return str(self._cluster.client.host) if self._cluster is not None else "the cluster"

    async def open(self) -> None:
        """Read how to reach the cluster, and ask it something that everyone may ask."""
        await self._log_in()
        try:
            await self.request("GET", "/version")
        except InfrastructureUnavailable:
            await self.close()
            raise

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _log_in(self, instead_of: Any = None) -> Any:
        """Return a client that is logged in; another one, if the one given is no longer accepted."""
        async with self._logging_in:
            if self._client is None or self._client is instead_of:
                self._cluster = await find_cluster(self._connection)
                old, self._client = self._client, _client_class()(configuration=self._cluster.client)
                if old is not None:
                    await old.close()
            return self._client

    # -- requests -------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Make a request and return what it is answered with.

        :raises ApiRefusal: if the API says no.
        :raises InfrastructureUnavailable: if it may work later.
        """
        async with self._places:
            answer = await self._send(method, path, query, body, content_type, seconds=REQUEST_SECONDS)
            try:
                content = await answer.read()
            except Exception as error:
                raise self._unreachable(error) from error
        told = json.loads(content) if content else {}
        return told if isinstance(told, dict) else {}

    async def list_all(self, path: str, selectors: Mapping[str, str]) -> list[Any]:
        """Return all objects at a path that these select, asked for page by page.

        :raises ApiRefusal: if the API says no.
        :raises InfrastructureUnavailable: if it may work later.
        """
        items: list[Any] = []
        query: dict[str, Any] = {**selectors, "limit": PAGE}
        while True:
            page = await self.request("GET", path, query=query)
            items += page.get("items") or ()
            query["continue"] = (page.get("metadata") or {}).get("continue")
            if not query["continue"]:
                return items

    async def persist(
        self, method: str, path: str, *, seconds: float, bodies: Iterator[Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        """Make a request again and again, with growing pauses, while the API can't do it, for this long.

        :param bodies: gives each try its body.
        """
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(InfrastructureUnavailable),
            wait=_PausesOfApi(wait_random_exponential(multiplier=0.25, max=10)),
            stop=stop_after_delay(seconds),
            reraise=True,
        ):
            with attempt:
                if bodies is not None:
                    options["body"] = next(bodies)
                return await self.request(method, path, **options)
        raise AssertionError("tenacity ends in a result or an error")

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, *, query: Mapping[str, Any], seconds: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Make a request whose answer comes bit by bit.

        :param seconds: how long nothing may come before the connection counts as broken.
        """
        answer = await self._send("GET", path, query, None, "application/json", seconds=seconds, streams=True)
        try:
            yield self._chunks(answer)
        finally:
            answer.close()

    async def _chunks(self, answer: Any) -> AsyncIterator[bytes]:
        try:
            async for chunk in answer.content.iter_any():
                yield chunk
        except Exception as error:
            raise self._unreachable(error) from error

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Any,
        content_type: str,
        *,
        seconds: float | None,
        streams: bool = False,
    ) -> Any:
        client = await self._log_in()
        try:
            return await self._send_once(client, method, path, query, body, content_type, seconds, streams)
        except NotAccepted:
            # Tokens expire; where they come from a plugin or a file, there is a new one by now.
            client = await self._log_in(instead_of=client)
            return await self._send_once(client, method, path, query, body, content_type, seconds, streams)

    async def _send_once(
        self,
        client: Any,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Any,
        content_type: str,
        seconds: float | None,
        streams: bool,
    ) -> Any:
        import aiohttp

        timeout = (
            aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS, sock_read=seconds)
            if streams
            else aiohttp.ClientTimeout(total=seconds)
        )
        self.requests += 1
        try:
            answer = await client.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json, */*", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=timeout,
            )
            if answer.status < HTTPStatus.MULTIPLE_CHOICES:
                return answer
            content = await answer.read()
        except Exception as error:
            raise self._unreachable(error) from error
        raise error_of(answer.status, content, retry_after=answer.headers.get("Retry-After"))

    def _unreachable(self, error: Exception) -> InfrastructureUnavailable:
        words = str(error).strip() or type(error).__name__
        return InfrastructureUnavailable(f"the Kubernetes API at {self.host} does not answer: {words}")


@cache
def _client_class() -> Any:
    """Import what makes requests, and let the garbage collector never look at it again: that took 0.1 s each time."""
    from kubernetes_asyncio.client import ApiClient

    gc.collect()
    gc.freeze()
    return ApiClient


class _PausesOfApi(wait_base):
    """Waits as long as the API asks to, else as another strategy says."""

    def __init__(self, otherwise: wait_base) -> None:
        self._otherwise = otherwise

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome is not None else None
        asked = error.retry_after if isinstance(error, NotNow) else None
        return max(asked or 0.0, self._otherwise(retry_state))
