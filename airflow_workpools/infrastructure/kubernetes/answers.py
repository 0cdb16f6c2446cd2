# SPDX-License-Identifier: Apache-2.0
"""What an answer of the Kubernetes API means: done, there already, refused for good, or worth another try. Pure."""

from __future__ import annotations

import contextlib
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from airflow_workpools.errors import InfrastructureUnavailable, LaunchRejected

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRY_AGAIN = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_RIGHTS = "give the worker's account the rights that docs/kubernetes.md lists"


class ApiRefusal(LaunchRejected):
    """The API said no, and would say so again."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class AlreadyExists(ApiRefusal):
    """An object of that name is there."""


class DoesNotExist(ApiRefusal):
    """There is no such object."""


class Outdated(ApiRefusal):
    """What was asked for lies too far back; it has to be listed anew."""


class NotNow(InfrastructureUnavailable):
    """The API can't do it now.

    :param retry_after: how many seconds it asks to wait.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotAccepted(InfrastructureUnavailable):
    """The API does not accept the credentials, which may have to be renewed."""


def error_of(
    status: int, body: bytes, *, retry_after: str | None = None
) -> ApiRefusal | InfrastructureUnavailable:
    """Return the error that an answer stands for, with the API's own words."""
    told = _status_object(body)
    message, reason = _message(told, body, status), str(told.get("reason") or "")
    if status == HTTPStatus.UNAUTHORIZED:
        return NotAccepted(f"the Kubernetes API does not accept the credentials: {message}")
    if status in _TRY_AGAIN:
        return NotNow(
            f"the Kubernetes API can't do it now: {message}", retry_after=_seconds(retry_after, told)
        )
    if status == HTTPStatus.NOT_FOUND:
        return DoesNotExist(f"the Kubernetes API says: {message}", status)
    if status == HTTPStatus.GONE:
        return Outdated(message, status)
    if status == HTTPStatus.CONFLICT:
        # Two changed the same object at once, a quota's use for one: the next try sees what is there by then.
        return AlreadyExists(message, status) if reason == "AlreadyExists" else NotNow(message)
    if status == HTTPStatus.FORBIDDEN and "exceeded quota" in message:
        return NotNow(f"the Kubernetes API has no room for it now: {message}")
    if status == HTTPStatus.FORBIDDEN:
        return ApiRefusal(f"the Kubernetes API refused it: {message}{_way_out(message)}", status)
    return ApiRefusal(f"the Kubernetes API refused it: {message}", status)


def _way_out(message: str) -> str:
    # Other refusals (an admission webhook's, a limit's) are nothing that rights would help with.
    return f" ({_RIGHTS})" if " cannot " in message and "User " in message else ""


def _status_object(body: bytes) -> Mapping[str, Any]:
    try:
        told = json.loads(body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _message(told: Mapping[str, Any], body: bytes, status: int) -> str:
    message = str(told.get("message") or body[:500].decode(errors="replace")).strip()
    if not message:
        return f"HTTP status {status}"
    causes = [
        f"{cause['field']}: {cause.get('message')}"
        for cause in (told.get("details") or {}).get("causes") or ()
        if cause.get("field") and str(cause["field"]) not in message
    ]
    return f"{message} ({'; '.join(causes)})" if causes else message


def _seconds(header: str | None, told: Mapping[str, Any]) -> float | None:
    given: Any
    for given in (header, (told.get("details") or {}).get("retryAfterSeconds")):
        with contextlib.suppress(TypeError, ValueError):  # a header may also be a date
            return float(given)
    return None
