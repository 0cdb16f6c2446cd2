# SPDX-License-Identifier: Apache-2.0
"""Requests may be only so long: what is longer is refused before it is in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from airflow_workpools.api.problems import answer
from airflow_workpools.api.wire import ProblemCode

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Refuses requests whose body is longer than ``most`` bytes."""

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        text = f"the request is longer than {self._most} bytes; send it in parts"
        said = dict(scope["headers"]).get(b"content-length", b"")
        if said.isdigit() and int(said) > self._most:
            await answer(413, ProblemCode.TOO_LARGE, text)(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise HTTPException(413, text)
            return message

        await self._app(scope, counted, send)
