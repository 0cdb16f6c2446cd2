# SPDX-License-Identifier: Apache-2.0
"""The workload's way into a container: a file that only the container's user can read, copied in before the start.

So the token is in no argument, no environment and no label, which everybody who may look at a container can read.
"""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

from airflow_workpools.errors import LaunchRejected
from airflow_workpools.infrastructure.containers import WORKLOAD_DIRECTORY, WORKLOAD_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_workpools.infrastructure.docker.engine import Engine

_PASSWD = "/etc/passwd"
_ROOT = ("", "root", "0")


async def put_workload(
    engine: Engine, container: Mapping[str, Any], workload: str, *, into_volume: bool
) -> None:
    """Copy a workload into a container that was not started yet.

    :param container: what the engine says of it.
    :param into_volume: whether the directory is a volume of the container, which is there already.
    """
    id_, uid = container["Id"], await _uid(engine, container)
    path, data = ("/", _archive(workload, uid, with_directory=True))
    if into_volume:
        path, data = (WORKLOAD_DIRECTORY, _archive(workload, uid, with_directory=False))
    await engine.ask(lambda client: client.api.put_archive(id_, path, data))


def _archive(workload: str, uid: int, *, with_directory: bool) -> bytes:
    buffer, content = io.BytesIO(), workload.encode()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        directory = WORKLOAD_DIRECTORY.strip("/")
        name = f"{directory}/{WORKLOAD_NAME}" if with_directory else WORKLOAD_NAME
        if with_directory:
            folder = tarfile.TarInfo(directory)
            folder.type, folder.mode, folder.uid = tarfile.DIRTYPE, 0o700, uid
            archive.addfile(folder)
        file = tarfile.TarInfo(name)
        file.size, file.mode, file.uid = len(content), 0o600, uid
        archive.addfile(file, io.BytesIO(content))
    return buffer.getvalue()


async def _uid(engine: Engine, container: Mapping[str, Any]) -> int:
    """Return the number of the container's user; a name is looked up in the image."""
    user = (container["Config"].get("User") or "").partition(":")[0]
    if user in _ROOT:
        return 0
    if user.isdigit():
        return int(user)
    id_ = container["Id"]
    passwd = await engine.ask(lambda client: _read_file(client.api, id_, _PASSWD))
    for line in passwd.splitlines():
        name, _, uid, *_ = [*line.split(":"), "", "", ""]
        if name == user and uid.isdigit():
            return int(uid)
    raise LaunchRejected(f"user {user!r} is not in the image's {_PASSWD}; name it by its number")


def _read_file(api: Any, container: str, path: str) -> str:
    from docker.errors import NotFound

    try:
        chunks, _ = api.get_archive(container, path)
    except NotFound:
        return ""
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        member = archive.next()
        file = archive.extractfile(member) if member is not None else None
        return file.read().decode(errors="replace") if file is not None else ""
