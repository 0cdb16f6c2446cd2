# SPDX-License-Identifier: Apache-2.0
"""An image with a folder of DAG files, for tests that run tasks in containers: built once for the same content.

``$TESTBED_IMAGE`` names the base. Without it, that is ``workpools-test:local`` if it is there, and else the official
image with this Airflow and Python.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airflow import __version__ as airflow_version

from airflow_workpools import __version__
from airflow_workpools.images.build import ImageOrder, build, gather
from airflow_workpools.images.context import packed
from airflow_workpools.images.engine import BuildOptions, Engine
from airflow_workpools.images.recipe import official_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from docker import APIClient

LOCAL_BASE = "workpools-test:local"
REPOSITORY = "workpools-test-tasks"


@contextmanager
def docker_client() -> Iterator[APIClient]:
    from docker import APIClient
    from docker.utils import kwargs_from_env

    client = APIClient(**kwargs_from_env(), version="auto")
    try:
        yield client
    finally:
        client.close()


def base_image() -> str:
    """Return the name of the image to build on."""
    with docker_client() as client:
        there = bool(client.images(LOCAL_BASE, quiet=True))
    return os.environ.get("TESTBED_IMAGE") or (
        LOCAL_BASE if there else official_image(airflow_version, sys.version_info[:2])
    )


def task_image(
    dags_folder: Path,
    *,
    requirements: Sequence[Path] = (),
    executor: str = "airflow_workpools.WorkPoolExecutor",
) -> str:
    """Return the name of an image with these DAG files, built if none has them yet."""
    order = ImageOrder(
        tag=REPOSITORY,
        base_image=base_image(),
        dags_folder=dags_folder,
        requirements=tuple(requirements),
        airflow_version=airflow_version,
        provider_version=__version__,
        executor=executor,
    )
    files = gather(order)
    with packed(files) as archive:
        content = hashlib.sha256(archive.read() + f"{order.base_image} {executor}".encode())
    tag = f"{REPOSITORY}:{content.hexdigest()[:16]}"
    # Processes of a parallel run must not build the same.
    with (Path(tempfile.gettempdir()) / f"{REPOSITORY}.lock").open("w") as lock, docker_client() as client:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not client.images(tag, quiet=True):
            _build(order, files, tag)
    return tag


def _build(order: ImageOrder, files: dict[str, bytes | Path], tag: str) -> None:
    from dataclasses import replace

    with Engine.reached() as engine:
        # The host's network: an engine without a bridge has no other.
        options = BuildOptions(network="host")
        build(engine, replace(order, tag=tag), files, options=options, tell=lambda _: None)
