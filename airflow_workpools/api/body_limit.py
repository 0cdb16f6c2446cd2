# SPDX-License-Identifier: Apache-2.0
"""Requests may be only so long: what is longer is refused before it is in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Refuses requests whose body is longer than ``most`` bytes.

    :param text: what is said then.
    :param refuse: makes the answer that says so.
    """

    def __init__(self, app: ASGIApp, *, most: int, text: str, refuse: Callable[[str], Response]) -> None:
        self._app = app
        self._most = most
        self._text = text
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"")
        if said.isdigit() and int(said) > self._most:
            await self._refuse(self._text)(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise HTTPException(413, self._text)
            return message

        await self._app(scope, counted, send)
