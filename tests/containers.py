# SPDX-License-Identifier: Apache-2.0
"""A real engine for tests: what jobs run in, and who looks at containers from outside."""

from __future__ import annotations

import io
import shutil
import tarfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
from docker.errors import ImageNotFound

from airflow_workpools.infrastructure.base import LaunchSpec
from airflow_workpools.infrastructure.docker import DockerInfrastructure

SMALL_IMAGE = "workpools-small:latest"
"""A shell and little else."""
_PUBLIC_IMAGE = "busybox:stable"
_APPLETS = (
    "sh",
    "cat",
    "echo",
    "sleep",
    "id",
    "stat",
    "kill",
    "env",
    "head",
    "tail",
    "dd",
    "touch",
    "ls",
    "seq",
    "tr",
)
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nworker:x:4711:4711::/:/bin/sh\n"

WORKLOAD = '{"token": "secret-token"}'
RUNTIME = {"FROM_RUNTIME": "yes"}


def client(url: str | None = None) -> docker.DockerClient:
    return docker.DockerClient(base_url=url, version="auto") if url else docker.from_env(version="auto")


def ensure_small_image(engine: docker.DockerClient) -> None:
    """Make the small image of this machine's busybox if there is one that needs no libraries, else pull one."""
    try:
        engine.images.get(SMALL_IMAGE)
    except ImageNotFound:
        binary = _static_busybox()
        if binary is None:
            engine.images.pull(_PUBLIC_IMAGE).tag(SMALL_IMAGE)
        else:
            repository, _, tag = SMALL_IMAGE.partition(":")
            engine.api.import_image_from_data(_root_file_system(binary), repository=repository, tag=tag)


def _static_busybox() -> Path | None:
    found = shutil.which("busybox")
    if found is None or b"ld-linux" in Path(found).read_bytes()[:4096]:
        return None
    return Path(found)


def _root_file_system(busybox: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("not-a-program", 0o755)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            archive.addfile(folder)
        for name, mode, content in (
            ("bin/busybox", 0o755, busybox.read_bytes()),
            ("etc/passwd", 0o644, _PASSWD.encode()),
            ("plain-file", 0o644, b"not a program\n"),
        ):
            file = tarfile.TarInfo(name)
            file.size, file.mode = len(content), mode
            archive.addfile(file, io.BytesIO(content))
        for applet in _APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return buffer.getvalue()


class DockerPlatform:
    """Jobs as containers of a real engine; each leaves a line in a file of the host when it begins.

    :param url: of the engine; None: the one of the environment.
    """

    def __init__(self, runs: Path, url: str | None = None) -> None:
        self.engine = client(url)
        self.url = url
        self.runs = runs
        self._names: list[str] = []
        ensure_small_image(self.engine)

    def __enter__(self) -> DockerPlatform:
        return self

    def __exit__(self, *_: object) -> None:
        for container in self.engine.containers.list(all=True, ignore_removed=True):
            if container.name.startswith(tuple(self._names)):
                container.remove(force=True, v=True)
        self.engine.close()

    def worker(self, **connection: Any) -> DockerInfrastructure:
        extra = {"base_url": self.url} if self.url else {}
        given = {"conn_id": "engine", "conn_type": "docker", "extra": extra} | connection
        return DockerInfrastructure(
            home=self.runs, connection=given if self.url or connection else None, environment=lambda: RUNTIME
        )

    def job(self, script: str, **configuration: Any) -> LaunchSpec:
        """Return a job that runs a script in the small image."""
        job_id = uuid.uuid4()
        begun = f"[ ! -d /runs ] || echo begun >> /runs/{job_id}"
        spec = LaunchSpec(
            job_id=job_id,
            configuration={
                "image": SMALL_IMAGE,
                "command": ["sh", "-c", f"{begun}; {script}"],
                "network_mode": "host",
                "image_pull_policy": "never",
                "volumes": [f"{self.runs}:/runs"],
            }
            | configuration,
            workload=WORKLOAD,
            labels={"job_id": str(job_id), "dag_id": "etl", "run_id": "manual__2026-01-01T00:00:00+00:00"},
        )
        self._names.append(spec.name)
        return spec

    def exits_with(self, code: int) -> LaunchSpec:
        return self.job(f"exit {code}")

    def waits(self) -> LaunchSpec:
        return self.job("trap '' TERM; while true; do sleep 1; done")

    def writes(self, *lines: str, goes_on: bool = False) -> LaunchSpec:
        script = "; ".join(f"echo {line}" for line in lines)
        return self.job(f"{script}; while true; do sleep 1; done" if goes_on else script)

    def cannot_start(self) -> LaunchSpec:
        return self.job("true", image="Not an image")

    def times_run(self, spec: LaunchSpec) -> int:
        file = self.runs / str(spec.job_id)
        return len(file.read_text().splitlines()) if file.exists() else 0

    def container(self, spec: LaunchSpec) -> Any:
        """Return a job's container, as the engine has it."""
        return self.engine.containers.get(spec.name)


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Return when something has become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)
