# SPDX-License-Identifier: Apache-2.0
"""Following what a pod's container writes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.kubernetes.answers import ApiRefusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_workpools.infrastructure.kubernetes.client import KubernetesApi
    from airflow_workpools.infrastructure.kubernetes.namespace import Entry, NamespaceWatch

_BEGIN_SECONDS = 0.2
"""How often it is looked whether a container has begun; that costs no request."""
_EXCUSES = (b"unable to retrieve container logs", b"rpc error: code = ", b"failed to try resolving symlinks")
"""How a node begins what it sends, with a status that says all is well, when the container of a log is removed."""
_END_SECONDS = 5.0
_SILENCE_SECONDS = 3600.0
"""After so long without a word the log is asked for anew."""


async def follow_pod_log(
    api: KubernetesApi, watch: NamespaceWatch, name: str, container: str, *, offset: int
) -> AsyncIterator[bytes]:
    """Yield what a job's container writes, from this byte on, until it has ended.

    The API can't begin at a byte: what comes before it is fetched and left out. So the connection is kept as long as
    it lasts.

    :raises InfrastructureUnavailable: if it may work later.
    """
    pod = await _begun_pod(watch, name)
    if pod is None:
        return
    path = f"/api/v1/namespaces/{watch.namespace}/pods/{pod}/log"
    query = {"container": container, "follow": "true"}
    backoff = Backoff(initial=1.0, maximum=10.0)
    while True:
        skip = offset
        try:
            async with api.stream(path, query=query, seconds=_SILENCE_SECONDS) as chunks:
                async for chunk in without_excuse(chunks):
                    if skip < len(chunk):
                        offset += len(chunk) - skip
                        yield chunk[skip:]
                    skip = max(0, skip - len(chunk))
        except ApiRefusal as error:
            if _is_over(watch.get(name)):
                return  # nothing is left of it
            raise InfrastructureUnavailable(str(error)) from error
        # The watch may tell of the end a little later. If it does not, it was only the connection that ended.
        if await _ends_within(watch, name, _END_SECONDS):
            return
        await asyncio.sleep(backoff.next())


async def without_excuse(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a log without what a node may say, as its unfinished last line, of why there is no more of it."""
    held = b""
    at_line_start = True
    async for chunk in chunks:
        chunk, held = held + chunk, b""
        start = chunk.rfind(b"\n") + 1
        last = chunk[start:]
        if last and (start or at_line_start) and _may_be_excuse(last):
            chunk, held = chunk[:start], last
        if chunk:
            at_line_start = chunk.endswith(b"\n")
            yield chunk
    if held and not held.startswith(_EXCUSES):
        yield held


def _may_be_excuse(line: bytes) -> bool:
    return any(line[: len(excuse)] == excuse[: len(line)] for excuse in _EXCUSES)


def _is_over(entry: Entry | None) -> bool:
    return entry is None or entry.ended is not None or entry.seen.pod is None


async def _begun_pod(watch: NamespaceWatch, name: str) -> str | None:
    """Return the name of a job's pod once its container has begun; None if it will not."""
    while True:
        entry = watch.get(name)
        if entry is None:
            now = asyncio.get_running_loop().time()
            await watch.listed_since(now)
            if (entry := watch.get(name)) is None:
                return None
        if entry.has_begun and entry.seen.pod is not None:
            return str(entry.seen.pod["metadata"]["name"])
        if entry.ended is not None:
            return None
        await asyncio.sleep(_BEGIN_SECONDS)


async def _ends_within(watch: NamespaceWatch, name: str, seconds: float) -> bool:
    """Say whether a job is over, or will be told to be within this time."""
    until = asyncio.get_running_loop().time() + seconds
    while not _is_over(watch.get(name)):
        if asyncio.get_running_loop().time() > until:
            return False
        await asyncio.sleep(_BEGIN_SECONDS)
    return True
