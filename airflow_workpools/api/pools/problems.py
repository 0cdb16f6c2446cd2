# SPDX-License-Identifier: Apache-2.0
"""From errors to answers: every refusal is a :class:`~airflow_workpools.api.pools.wire.Problem` with a status code."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from airflow_workpools.api.pools.wire import Fault, Problem, ProblemCode
from airflow_workpools.core.pointers import place_in, pointer
from airflow_workpools.errors import Conflict, InvalidInput, NotFound, WorkpoolsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fastapi import FastAPI, Request

log = logging.getLogger(__name__)

UNAVAILABLE_SECONDS = 5
"""After this time it may be tried again to reach the database."""

_CODES = {
    401: ProblemCode.NOT_LOGGED_IN,
    403: ProblemCode.FORBIDDEN,
    404: ProblemCode.NOT_FOUND,
    405: ProblemCode.METHOD,
    409: ProblemCode.CONFLICT,
    413: ProblemCode.TOO_LARGE,
    422: ProblemCode.INVALID,
    503: ProblemCode.UNAVAILABLE,
}
_STATUS: dict[type[WorkpoolsError], int] = {NotFound: 404, Conflict: 409, InvalidInput: 422}


def statuses(*codes: int) -> dict[int | str, dict[str, object]]:
    """Return what a call may answer but for success, for the OpenAPI document."""
    return {code: {"model": Problem, "description": _CODES[code].value.replace("_", " ")} for code in codes}


def answer(
    status: int, detail: str, *, faults: Sequence[Fault] = (), retry_after: int | None = None
) -> Response:
    """Make the answer that says what is wrong."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    problem = Problem(code=_CODES.get(status, ProblemCode.INVALID), detail=detail, faults=list(faults))
    return Response(
        problem.model_dump_json(), status_code=status, headers=headers, media_type="application/json"
    )


def faults_of(problems: Iterable[str]) -> list[Fault]:
    """Return what is wrong with a template, or with job variables, each with its place."""
    return [Fault(pointer=place, detail=text) for place, text in map(place_in, problems)]


def add_handlers(app: FastAPI) -> None:
    """Have an app answer errors so."""

    @app.exception_handler(WorkpoolsError)
    async def _(_request: Request, error: WorkpoolsError) -> Response:
        status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 422)
        faults = faults_of(error.problems) if isinstance(error, InvalidInput) else ()
        return answer(status, str(error), faults=faults)

    @app.exception_handler(SQLAlchemyError)
    async def _(request: Request, error: SQLAlchemyError) -> Response:
        log.error("The pool API could not do %s: %s", request.url.path, getattr(error, "orig", None) or error)
        text = "the metadata database does not answer as it should; the API server's log has the reason"
        return answer(503, text, retry_after=UNAVAILABLE_SECONDS)

    @app.exception_handler(RequestValidationError)
    async def _(_request: Request, error: RequestValidationError) -> Response:
        # What was said is not said back: it may be anything, and of any length.
        faults = [
            Fault(
                pointer=pointer(one["loc"][1:])[:300] if one["loc"][:1] == ("body",) else None,
                detail=f"{'.'.join(str(part) for part in one['loc'])[:200]}: {one['msg'][:200]}",
            )
            for one in error.errors()[:20]
        ]
        return answer(422, "; ".join(fault.detail for fault in faults[:10]), faults=faults)

    @app.exception_handler(HTTPException)
    async def _(_request: Request, error: HTTPException) -> Response:
        # FastAPI has a status of its own for a body that is no text at all.
        return answer(422 if error.status_code == 400 else error.status_code, str(error.detail))
