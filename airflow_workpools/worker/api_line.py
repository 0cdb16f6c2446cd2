# SPDX-License-Identifier: Apache-2.0
"""The line to the API server: a request goes out, an answer or one of our errors comes back, and nothing else."""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from airflow_workpools import __version__
from airflow_workpools.api import wire
from airflow_workpools.api.wire import ProblemCode
from airflow_workpools.errors import (
    ApiNotThere,
    ApiRefused,
    ApiUnavailable,
    Conflict,
    InvalidInput,
    NotFound,
    TokenNotTaken,
    VersionNotTaken,
    WorkpoolsError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_workpools.worker.credential import Credential

Answer = TypeVar("Answer", bound=BaseModel)

CONNECT_SECONDS = 10.0
"""Longest time that it may take to connect."""
TELL_SILENCE_SECONDS = 60.0
"""After this time without an answer it is said for how long there was none."""

_MEANING: dict[ProblemCode, type[WorkpoolsError]] = {
    ProblemCode.TOKEN: TokenNotTaken,
    ProblemCode.POOL: ApiRefused,
    ProblemCode.VERSION: VersionNotTaken,
    ProblemCode.WORKER: NotFound,
    ProblemCode.REPEATED: Conflict,
    ProblemCode.INVALID: InvalidInput,
    ProblemCode.TOO_LARGE: InvalidInput,
    ProblemCode.TOO_MANY_ATTEMPTS: ApiUnavailable,
    ProblemCode.UNAVAILABLE: ApiUnavailable,
}


class ApiLine:
    """Sends requests of one worker; threads may share it.

    :param transport: how requests are sent, for tests.
    :raises InvalidInput: if the URL is none, or there are no certificates in the file.
    """

    def __init__(
        self,
        url: str,
        credential: Credential,
        *,
        verify: bool | str = True,
        timeout_seconds: float,
        transport: httpx.BaseTransport | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._credential = credential
        self._timeout_seconds = timeout_seconds
        self._monotonic = monotonic
        self._silent_since: float | None = None
        self._http = httpx.Client(
            base_url=f"{_checked_url(url)}{wire.MOUNT}{wire.PATH}/",
            headers={
                wire.VERSION_HEADER: __version__,
                "User-Agent": f"airflow-workpools/{__version__}",
            },
            verify=_verification(verify),
            # The heartbeat must not have to wait for a connection that something else waits on.
            limits=httpx.Limits(max_connections=32, keepalive_expiry=60.0),
            transport=transport,
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def call(
        self, name: str, request: BaseModel, answer: type[Answer], *, wait_seconds: float = 0.0
    ) -> Answer:
        """Say something and return what is answered.

        :param wait_seconds: how long the API server was asked to wait with its answer.
        :raises WorkpoolsError: of the kind that the answer means, or that there is none.
        """
        body = request.model_dump_json().encode()
        started = self._monotonic()
        try:
            response = self._send_with_token(name, body, self._timeout_seconds + wait_seconds)
            read = _read(response, answer, self.url)
        except ApiUnavailable as error:
            if self._silent_since is None:
                self._silent_since = started
            if (silent := self._monotonic() - self._silent_since) >= TELL_SILENCE_SECONDS:
                raise type(error)(f"{error} (so for {silent / 60:.0f} min)") from error.__cause__
            raise
        self._silent_since = None
        return read

    def _send_with_token(self, name: str, body: bytes, timeout_seconds: float) -> httpx.Response:
        """Send a request; if its token is not taken, with another one, if there is one by now.

        :raises TokenNotTaken: if there is none that is taken.
        """
        while True:
            token = self._credential.to_show()
            response = self._send(name, body, token, timeout_seconds)
            refusal = _refusal_of(response)
            if refusal is None:
                if response.is_success:
                    self._credential.taken(token)
                return response
            self._credential.refused(token, refusal)

    def _send(self, name: str, body: bytes, token: str, timeout_seconds: float) -> httpx.Response:
        timeout = httpx.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, self._timeout_seconds))
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        for attempt in (1, 2):
            try:
                return self._http.post(name, content=body, headers=headers, timeout=timeout)
            except httpx.TransportError as error:
                # A connection that has been idle may be closed just now. To say it again does no harm.
                if attempt == 2 or isinstance(error, httpx.TimeoutException | httpx.ConnectError):
                    raise _unreachable(error, self.url) from error
        raise AssertionError("a request is answered or raises")


def _checked_url(url: str) -> httpx.URL:
    """Read the URL.

    :raises InvalidInput: if it is none.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise InvalidInput(f"{url!r} is no URL of an API server: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidInput(
            f"{url!r} is no URL of an API server; it must look like https://airflow.example.com"
        )
    return parsed


def _verification(verify: bool | str) -> ssl.SSLContext | bool:
    """Say how certificates are checked.

    :raises InvalidInput: if there are no certificates in the file.
    """
    if not isinstance(verify, str):
        return verify
    try:
        # Beside the public authorities, as in the client that tasks have.
        context = httpx.create_ssl_context()
        context.load_verify_locations(cafile=verify)
        return context
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidInput(f"the certificates in {verify!r} cannot be read: {reason}") from error


def _unreachable(error: httpx.TransportError, url: str) -> ApiUnavailable:
    if isinstance(error, httpx.TimeoutException):
        return ApiUnavailable(f"the API server at {url} does not answer in time")
    text = str(error) or type(error).__name__
    if "SSL" in text or "CERTIFICATE" in text.upper():
        return ApiNotThere(
            f"the API server at {url} can't be trusted: {text}. Name the file of the authorities that its certificate "
            "is from as [api] ssl_cert (AIRFLOW__API__SSL_CERT) where the worker runs, or use the name that is in it"
        )
    return ApiUnavailable(f"the API server at {url} can't be reached: {text}")


def _read(response: httpx.Response, answer: type[Answer], url: str) -> Answer:
    """Return an answer, or raise what it means."""
    if response.status_code == httpx.codes.OK:
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            # Cut off on its way; or a page for people, such as a proxy shows.
            json_ = response.headers.get("content-type", "").startswith("application/json")
            meaning = ApiUnavailable if json_ else ApiNotThere
            raise meaning(f"what {url} answers can't be understood: {_first(error)}") from error
    try:
        problem = wire.Problem.model_validate_json(response.content)
    except ValidationError:
        raise _strange(response, url) from None
    raise _MEANING[problem.code](problem.detail)


def _refusal_of(response: httpx.Response) -> TokenNotTaken | None:
    """Return why the token was not taken; None if it is not known to be refused."""
    if response.status_code != httpx.codes.UNAUTHORIZED:
        return None
    try:
        problem = wire.Problem.model_validate_json(response.content)
    except ValidationError:
        return None
    return TokenNotTaken(problem.detail) if problem.code is ProblemCode.TOKEN else None


def _strange(response: httpx.Response, url: str) -> WorkpoolsError:
    """Say what an answer means that is not from the worker API."""
    if response.is_redirect:
        return ApiNotThere(f"{url} sends on to {response.headers.get('location')}; use that address")
    if response.status_code in (502, 503, 504, 429, 500):
        return ApiUnavailable(f"the API server at {url} can't answer now: {response.status_code}")
    return ApiNotThere(
        f"there is no worker API at {url} (it answers {response.status_code}): is this the address of Airflow's API "
        "server, and is airflow-provider-workpools installed there?"
    )


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    place = ".".join(map(str, found[0]["loc"]))
    return f"{place}: {found[0]['msg']}" if place else found[0]["msg"]
