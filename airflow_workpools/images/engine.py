# SPDX-License-Identifier: Apache-2.0
"""The container engine: everything here talks to it, and tells what it says as it says it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from airflow_workpools.errors import ImageError, InfrastructureUnavailable, InvalidInput, NotFound
from airflow_workpools.images.recipe import Base

if TYPE_CHECKING:
    from docker import APIClient

Tell = Callable[[str], None]
"""Takes a line of what goes on."""

LAST_LINES = 15

_STEP = re.compile(r"Step \d+/\d+ : ")
# An engine colours what a step writes to standard error.
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


@dataclass(frozen=True, kw_only=True)
class Login:
    """Who logs in to a registry."""

    registry: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How the engine shall build."""

    platform: str | None = None
    network: str | None = None
    no_cache: bool = False


class BuildFailed(ImageError):
    """A step of a build failed.

    :param lines: the last that it said.
    """

    def __init__(self, message: str, lines: tuple[str, ...]) -> None:
        super().__init__(message)
        self.lines = lines


def require_sdk() -> None:
    """Check that the SDK is there.

    :raises InvalidInput: if it is not; the message names the extra that brings it.
    """
    try:
        import docker  # noqa: F401
    except ImportError:
        raise InvalidInput(
            "images are built with the Docker SDK, which is not installed; install it: "
            'pip install "airflow-provider-workpools[docker]"'
        ) from None


class Engine:
    """An engine that answers."""

    def __init__(self, client: APIClient) -> None:
        self._client = client

    @classmethod
    @contextmanager
    def reached(cls) -> Iterator[Engine]:
        """Connect to the engine that ``DOCKER_HOST`` names, or else to the one of this host.

        :raises InfrastructureUnavailable: if none answers.
        """
        from docker import APIClient
        from docker.errors import DockerException
        from docker.utils import kwargs_from_env

        try:
            # Building takes as long as it takes.
            client = APIClient(**kwargs_from_env(), version="auto", timeout=None)
        except DockerException as error:
            raise InfrastructureUnavailable(
                f"no container engine answers ({error}); start one, let this user reach its socket, or name it with "
                "DOCKER_HOST"
            ) from error
        try:
            yield cls(client)
        finally:
            client.close()

    def log_in(self, login: Login) -> None:
        """Use a name and password for a registry from now on.

        :raises ImageError: if the registry refuses them.
        """
        with _explained(f"registry {login.registry} refuses the login of {login.username!r}"):
            self._client.login(login.username, login.password, registry=login.registry, reauth=True)

    def base(self, name: str, *, platform: str | None, tell: Tell) -> Base:
        """Return a base image, pulled if it is not here.

        :raises NotFound: if it can't be had.
        """
        from docker.errors import ImageNotFound

        try:
            found = self._client.inspect_image(name)
        except ImageNotFound:
            tell(f"Pulling {name}")
            self._pull(name, platform, tell)
            found = self._client.inspect_image(name)
        config = found.get("Config") or {}
        pairs = (entry.partition("=") for entry in config.get("Env") or ())
        return Base(
            name=name,
            user=config.get("User") or "",
            environment={variable: value for variable, _, value in pairs},
        )

    def _pull(self, name: str, platform: str | None, tell: Tell) -> None:
        from docker.errors import APIError

        wanted = f"base image {name!r} is not here and can't be pulled"
        try:
            events = self._client.pull(name, stream=True, decode=True, platform=platform)
            _follow_transfer(events, tell, failing=wanted)
        except (APIError, ImageError) as error:
            reason = str(error).removeprefix(f"{wanted}: ")
            raise NotFound(f"{wanted}: {reason}; name another with --base-image") from error

    def build(self, context: IO[bytes], *, tag: str, options: BuildOptions, tell: Tell) -> str:
        """Build an image, and return its id.

        :raises BuildFailed: if a step fails; with the last that it said.
        """
        with _explained("the engine refuses the build"):
            events = self._client.build(
                fileobj=context,
                custom_context=True,
                tag=tag,
                nocache=options.no_cache,
                platform=options.platform,
                network_mode=options.network,
                rm=True,
                forcerm=True,
                decode=True,
            )
            return follow_build(events, tell)

    def push(self, tag: str, *, tell: Tell) -> str:
        """Push an image to its registry, and return its digest.

        :raises ImageError: if the registry does not take it.
        """
        failing = f"pushing {tag} failed"
        with _explained(failing):
            events = self._client.push(tag, stream=True, decode=True)
            return _follow_transfer(events, tell, failing=failing)


def follow_build(events: Iterator[Mapping[str, Any]], tell: Tell) -> str:
    """Tell what a build says until its end, and return the image's id."""
    image, step = "", "the first step"
    lines: deque[str] = deque(maxlen=LAST_LINES)
    for event in events:
        text = _COLOUR.sub("", str(event.get("stream") or event.get("status") or ""))
        for line in text.splitlines():
            if _STEP.match(line):
                step = line
                lines.clear()
            elif line.strip():
                lines.append(line)
            tell(line)
        if problem := _problem(event):
            raise BuildFailed(f"the build failed at {step}: {_why(lines, problem)}", tuple(lines))
        image = (event.get("aux") or {}).get("ID") or image
    return image


def _why(lines: deque[str], problem: str) -> str:
    """Return what our own program in the image said, where it said why."""
    said = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    return said[-1] if said else problem


def _follow_transfer(events: Iterator[Mapping[str, Any]], tell: Tell, *, failing: str) -> str:
    """Tell how a pull or push goes, layer by layer, and return the digest of what was pushed."""
    digest = ""
    told: dict[str, str] = {}
    for event in events:
        if problem := _problem(event):
            raise ImageError(f"{failing}: {problem}")
        layer, status = str(event.get("id") or ""), str(event.get("status") or "")
        # An engine repeats itself many times a second.
        if status and told.get(layer) != status:
            told[layer] = status
            tell(f"{layer}: {status}" if layer else status)
        digest = (event.get("aux") or {}).get("Digest") or digest
    return digest


def _problem(event: Mapping[str, Any]) -> str | None:
    detail = event.get("errorDetail") or {}
    found = detail.get("message") or event.get("error")
    return str(found) if found else None


@contextmanager
def _explained(what: str) -> Iterator[None]:
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except APIError as error:
        raise ImageError(f"{what}: {error.explanation or error}") from error
    except (DockerException, RequestException) as error:
        raise InfrastructureUnavailable(f"{what}: {error}") from error
