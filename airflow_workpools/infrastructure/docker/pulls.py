# SPDX-License-Identifier: Apache-2.0
"""Pulling images: each once at a time, however many jobs wait for it."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from airflow_workpools.errors import LaunchRejected
from airflow_workpools.infrastructure.docker.engine import EngineRefusal, in_thread_of_its_own

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_workpools.infrastructure.docker.engine import Engine
    from airflow_workpools.infrastructure.docker.registries import RegistryLogin
    from airflow_workpools.infrastructure.image_names import ImageName

log = logging.getLogger(__name__)

_REFUSED_FOR_GOOD = (
    "not found",
    "manifest unknown",
    "access denied",
    "access to the resource is denied",
    "unauthorized",
    "authentication required",
    "no basic auth credentials",
    "denied",
    "no matching manifest",
    "does not exist",
    "name unknown",
)
"""What registries say of images that they don't have, or not for us. What else goes wrong may go well later."""
_MAY_GO_WELL = ("toomanyrequests", "rate limit", "no such host", "server misbehaving")


class PullFailed(Exception):
    """An image could not be pulled, and may be later."""


class Pulls:
    """The pulls that are under way on one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._under_way: dict[tuple[ImageName, RegistryLogin | None], asyncio.Future[None]] = {}

    async def pull(self, image: ImageName, login: RegistryLogin | None) -> None:
        """Pull an image, or wait for the pull that is under way.

        :raises LaunchRejected: if the registry does not have it, or not for us.
        :raises PullFailed: if it may go well later.
        :raises InfrastructureUnavailable: if the engine does not answer.
        """
        key = (image, login)
        pull = self._under_way.get(key)
        if pull is None:
            log.info("Pulling image %s:%s", image.repository, image.tag)
            pull = in_thread_of_its_own(lambda: self._pull(image, login), name=f"pull {image.repository}")
            self._under_way[key] = pull
            pull.add_done_callback(lambda done: self._on_done(key, done))
        try:
            await asyncio.shield(pull)  # who waits may be told to stop; the others go on waiting
        except EngineRefusal as refusal:
            raise _explained(image, refusal) from refusal

    def _on_done(self, key: tuple[ImageName, RegistryLogin | None], done: asyncio.Future[None]) -> None:
        self._under_way.pop(key, None)
        if not done.cancelled():
            done.exception()  # seen, also where everybody who waited is gone

    def _pull(self, image: ImageName, login: RegistryLogin | None) -> None:
        self._engine.guarded(
            lambda: _read(
                self._engine.api.pull(
                    image.repository,
                    tag=image.tag,
                    stream=True,
                    decode=True,
                    auth_config=login.for_sdk if login else None,
                )
            )
        )


def _read(progress: Iterable[Mapping[str, Any]]) -> None:
    """Follow a pull to its end; what fails after it has begun is told within."""
    for step in progress:
        if error := step.get("error"):
            raise EngineRefusal(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))


def _explained(image: ImageName, refusal: EngineRefusal) -> Exception:
    name, said = f"{image.repository}:{image.tag}", str(refusal)
    words = said.lower()
    passes = any(hint in words for hint in _MAY_GO_WELL)
    if not passes and (refusal.is_not_found or any(hint in words for hint in _REFUSED_FOR_GOOD)):
        return LaunchRejected(
            f"image {name} could not be pulled from {image.registry}: {said}. "
            "Check the image's name, and the login of registry_conn_id"
        )
    return PullFailed(f"image {name} could not be pulled from {image.registry}: {said}")
