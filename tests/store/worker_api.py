# SPDX-License-Identifier: Apache-2.0
"""The worker API on a real server of its own, with clients whose line to it may fail."""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from airflow_workpools import __version__
from airflow_workpools.api import wire
from airflow_workpools.api.access import Access
from airflow_workpools.api.app import worker_app
from airflow_workpools.api.left_behind import LeftBehind
from airflow_workpools.api.news import NewsDesk
from airflow_workpools.api.served import ServedPools
from airflow_workpools.api.service import WorkerService
from airflow_workpools.core.pools import Delivery, InvalidPool, WorkPool
from airflow_workpools.core.worker_tokens import WorkerToken, new_token
from airflow_workpools.store.records import WorkerKind, WorkerRecord
from airflow_workpools.store.tokens import TokenStore
from airflow_workpools.worker.http_client import HttpClient
from tests.store.rigs import NOW, Rig, new_worker, work_pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_workpools.core.names import WorkQueueRef


def pull_pool(name: str = "etl", limit: int | None = None, **queues: tuple[int, int | None]) -> WorkPool:
    return replace(work_pool(name, limit, **queues), delivery=Delivery.PULL)


@dataclass
class Api:
    """A server, the store behind it, and what it is told of pools and of the time."""

    rig: Rig
    tokens: TokenStore
    url: str = ""
    now: datetime = NOW
    pools: dict[str, WorkPool | InvalidPool] = field(default_factory=dict)
    access: Any = None
    _clients: list[HttpClient] = field(default_factory=list)

    def read_pools(self, *, fresh: bool = False) -> dict[str, WorkPool | InvalidPool]:
        return self.pools

    def token(self, *pools: str, **values: Any) -> str:
        """Make a token for pools, and return it."""
        parts = new_token(secrets.token_hex)
        token = {"id": parts.id, "hash": parts.hash, "pools": pools, "created_at": self.now, **values}
        self.tokens.add(WorkerToken(**token))
        return parts.text

    def client(
        self,
        *pools: str,
        token: str | None = None,
        queues: tuple[WorkQueueRef, ...] | None = None,
        transport: httpx.BaseTransport | None = None,
        kinds: frozenset[str] = frozenset({"process"}),
    ) -> HttpClient:
        pools = pools or ("etl",)
        client = HttpClient(
            self.url,
            token or self.token(*pools),
            kinds=kinds,
            pools=pools,
            queues=queues,
            timeout_seconds=20,
            transport=transport,
        )
        self._clients.append(client)
        return client

    def online(self, client: HttpClient, *pools: str, **values: Any) -> WorkerRecord:
        """Register a worker."""
        values = {"kind": WorkerKind.STANDALONE, "pools": pools or ("etl",), **values}
        worker = new_worker(**values)
        client.register(worker, now=self.now)
        return worker

    def post(self, name: str, token: str | None, body: Any = None, **options: Any) -> httpx.Response:
        """Send a request as it is."""
        headers = {wire.VERSION_HEADER: __version__, **options.pop("headers", {})}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            options["json"] = body
        return httpx.post(f"{self.url}{wire.MOUNT}{wire.PATH}/{name}", headers=headers, timeout=30, **options)


@contextmanager
def serving(rig: Rig, session_factory: Any, **pools: WorkPool) -> Iterator[Api]:
    """Serve the worker API for a store."""
    api = Api(rig, TokenStore(session_factory), pools=dict(pools) or {"etl": pull_pool()})
    service = WorkerService(
        store=rig.store,
        served=ServedPools(api.read_pools),
        left_behind=LeftBehind(rig.store),
        mint_token=lambda ti, seconds: f"token of {ti} for {seconds:.0f} s",
        opens=api.tokens.opens,
        clock=lambda: api.now,
    )
    api.access = Access(tokens=api.tokens, clock=lambda: api.now, version=__version__)
    app = worker_app(service, api.access, NewsDesk(rig.store))
    config = uvicorn.Config(
        Starlette(routes=[Mount(wire.MOUNT, app)]),
        host="127.0.0.1",
        port=0,
        log_level="error",
        lifespan="off",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        api.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield api
    finally:
        for client in api._clients:
            client.close()
        server.should_exit = server.force_exit = True
        thread.join(30)


FAULTS = ("request lost", "answer lost", "answer cut off", "delivered late", "refused for now", "sent twice")
"""The last one alone is answered as if nothing had happened."""


class Faulty(httpx.BaseTransport):
    """A line on which one kind of call goes wrong in these ways, one after the other, twice each."""

    def __init__(self, call: str, faults: Iterable[str]) -> None:
        self._inner = httpx.HTTPTransport()
        self._call = call
        self._late: httpx.Request | None = None
        self.to_come = [fault for fault in faults for _ in range(2)]

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        late, self._late = self._late, None
        try:
            return self._handle(request)
        finally:
            if late is not None:  # after what was said later
                self._inner.handle_request(late).read()

    def _handle(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith(f"/{self._call}") or not self.to_come:
            return self._inner.handle_request(request)
        fault = self.to_come.pop(0)
        request.read()
        if fault == "request lost":
            raise httpx.ReadTimeout("lost", request=request)
        if fault == "delivered late":
            self._late = request
            raise httpx.ReadTimeout("late", request=request)
        if fault == "refused for now":
            return httpx.Response(503, text="try again later")
        response = self._inner.handle_request(request)
        response.read()
        if fault == "sent twice":
            again = self._inner.handle_request(request)
            again.read()
            return again
        if fault == "answer lost":
            raise httpx.ReadTimeout("lost", request=request)
        half = response.content[: len(response.content) // 2]
        return httpx.Response(
            response.status_code, content=half, headers={"content-type": "application/json"}
        )
