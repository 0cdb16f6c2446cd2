# SPDX-License-Identifier: Apache-2.0
"""From errors to answers: every refusal is a :class:`~airflow_workpools.api.wire.Problem` with a status code."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from airflow_workpools.api.wire import Problem, ProblemCode
from airflow_workpools.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    PoolRefused,
    TokenRefused,
    TooLarge,
    TooManyAttempts,
    VersionRefused,
    WorkpoolsError,
)

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

log = logging.getLogger(__name__)

UNAVAILABLE_SECONDS = 5
"""After this time it may be tried again to reach the database."""

_ANSWERS: dict[type[WorkpoolsError], tuple[int, ProblemCode]] = {
    TokenRefused: (401, ProblemCode.TOKEN),
    PoolRefused: (403, ProblemCode.POOL),
    NotFound: (404, ProblemCode.WORKER),
    Conflict: (409, ProblemCode.REPEATED),
    TooLarge: (413, ProblemCode.TOO_LARGE),
    InvalidInput: (422, ProblemCode.INVALID),
    VersionRefused: (426, ProblemCode.VERSION),
    TooManyAttempts: (429, ProblemCode.TOO_MANY_ATTEMPTS),
}
STATUSES: dict[int | str, dict[str, object]] = {
    status: {"model": Problem, "description": code.value.replace("_", " ")}
    for status, code in [*_ANSWERS.values(), (503, ProblemCode.UNAVAILABLE)]
}
"""What a call may answer but for success, for the OpenAPI document."""


def answer(status: int, code: ProblemCode, detail: str, *, retry_after: int | None = None) -> Response:
    """Make the answer that says what is wrong."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = Problem(code=code, detail=detail).model_dump_json()
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def add_handlers(app: FastAPI) -> None:
    """Have an app answer errors so."""

    @app.exception_handler(WorkpoolsError)
    async def _(_request: Request, error: WorkpoolsError) -> Response:
        status, code = next(
            (_ANSWERS[kind] for kind in type(error).__mro__ if kind in _ANSWERS), (422, ProblemCode.INVALID)
        )
        retry_after = error.retry_after_seconds if isinstance(error, TooManyAttempts) else None
        return answer(status, code, str(error), retry_after=retry_after)

    @app.exception_handler(SQLAlchemyError)
    async def _(request: Request, error: SQLAlchemyError) -> Response:
        log.error(
            "The worker API could not do %s: %s", request.url.path, getattr(error, "orig", None) or error
        )
        text = "the metadata database does not answer as it should; the API server's log has the reason"
        return answer(503, ProblemCode.UNAVAILABLE, text, retry_after=UNAVAILABLE_SECONDS)

    @app.exception_handler(RequestValidationError)
    async def _(_request: Request, error: RequestValidationError) -> Response:
        # What was said is not said back: it may be anything, and of any length.
        found = [
            f"{'.'.join(str(part) for part in one['loc'])[:200]}: {one['msg'][:200]}"
            for one in error.errors()
        ]
        return answer(422, ProblemCode.INVALID, "; ".join(found[:10]))

    @app.exception_handler(HTTPException)
    async def _(_request: Request, error: HTTPException) -> Response:
        code = ProblemCode.TOO_LARGE if error.status_code == 413 else ProblemCode.INVALID
        return answer(error.status_code, code, str(error.detail))
