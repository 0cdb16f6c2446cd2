# SPDX-License-Identifier: Apache-2.0
"""Names of images, taken apart. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_workpools.errors import InvalidInput

DOCKER_HUB = "docker.io"
_HUB_ALIASES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_MAX_REPOSITORY = 255


def registry_host(address: str) -> str:
    """Return a registry as image names have it: no scheme, no path, and one name for Docker Hub."""
    host = address.partition("://")[2] or address
    host = host.partition("/")[0].lower()
    return DOCKER_HUB if host in _HUB_ALIASES else host


@dataclass(frozen=True, kw_only=True)
class ImageName:
    """The name of an image."""

    repository: str
    """With the registry, as it was written."""
    registry: str
    tag: str
    """A tag, or a digest like ``sha256:…``."""

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """Read ``[registry/]repository[:tag][@digest]``.

        :raises InvalidInput: with what is wrong with it.
        """
        named, at, digest = text.partition("@")
        repository, colon, tag = named.rpartition(":")
        if not colon or "/" in tag:  # that colon belongs to the registry's port
            repository, colon, tag = named, "", ""
        if problem := _problem(repository, tag if colon else None, digest if at else None):
            raise InvalidInput(
                f"image name {text!r} is malformed: {problem}. It must look like "
                "registry.example.com/team/image:tag; registry and tag may be left out"
            )
        return cls(repository=repository, registry=_registry(repository), tag=digest or tag or "latest")


def _registry(repository: str) -> str:
    first, slash, _ = repository.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    return registry_host(first) if is_host else DOCKER_HUB


def _problem(repository: str, tag: str | None, digest: str | None) -> str | None:
    if not repository:
        return "it is empty" if tag is None and digest is None else "nothing stands before the tag"
    first, slash, rest = repository.partition("/")
    path = rest if slash and _registry(repository) != DOCKER_HUB and _HOST.fullmatch(first) else repository
    if first.lower() in _HUB_ALIASES and slash:
        path = rest
    for component in path.split("/"):
        if not _COMPONENT.fullmatch(component):
            upper = " (letters must be lower-case)" if component != component.lower() else ""
            return f"{component!r} is no part of a repository's name{upper}"
    if len(repository) > _MAX_REPOSITORY:
        return (
            f"the repository's name has {len(repository)} characters, at most {_MAX_REPOSITORY} are allowed"
        )
    if tag is not None and not _TAG.fullmatch(tag):
        return f"{tag!r} is no tag"
    if digest is not None and not _DIGEST.fullmatch(digest):
        return f"{digest!r} is no digest like sha256:…"
    return None
