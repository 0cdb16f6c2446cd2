# SPDX-License-Identifier: Apache-2.0
"""A real engine for tests: what jobs run in, and who looks at containers from outside."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException, ImageNotFound

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
        for container in self.engine.containers.list(all=True):
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


class Relay:
    """A socket of its own through which an engine is reached; it can go away, as an engine does."""

    def __init__(self, path: Path, target: str = "/var/run/docker.sock") -> None:
        self.url = f"unix://{path}"
        self._path = path
        self._target = target
        self._server: socket.socket | None = None
        self._open: list[socket.socket] = []

    def up(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server = server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(str(self._path))
        server.listen()
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()

    def down(self) -> None:
        if self._server is not None:
            for one in (self._server, *self._open):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            self._server = None
            self._open.clear()

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = server.accept()
                other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                other.connect(self._target)
                self._open += [one, other]
                for source, sink in ((one, other), (other, one)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


class OwnEngine:
    """An engine of a test's own, which it may kill: everything of it is in a folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder / 'docker.sock'}"

    def __enter__(self) -> OwnEngine:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.closing(client(self.url)) as engine:
            for container in engine.containers.list(all=True):
                container.remove(force=True)
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)

    def up(self) -> None:
        for left in ("docker.pid", "exec/containerd/containerd.pid", "exec/containerd/containerd.sock"):
            (self._folder / left).unlink(missing_ok=True)
        folders = [f"--{name}={self._folder / place}" for name, place in _OWN_PLACES.items()]
        with (self._folder / "dockerd.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*_DOCKERD, f"--host={self.url}", *folders, *self._options],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_for(lambda: _answers(self.url))

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)


# Without a network of its own: tests use the host's.
_DOCKERD = ("dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs")
_OWN_PLACES = {"data-root": "data", "exec-root": "exec", "pidfile": "docker.pid"}


@contextmanager
def podman(folder: Path) -> Iterator[str]:
    """Run Podman's Docker-compatible service with everything of it in a folder; gives its address."""
    configuration = folder / "containers.conf"
    # Limits that may be set without more rights than tests have.
    configuration.write_text(
        '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\nlog_driver = "k8s-file"\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    )
    url = f"unix://{folder / 'podman.sock'}"
    # vfs mounts nothing, so that the folder can be removed like any other.
    command = [
        "podman",
        "--storage-driver",
        "vfs",
        "--root",
        str(folder / "root"),
        "--runroot",
        str(folder / "run"),
    ]
    command += ["--tmpdir", str(folder / "tmp"), "system", "service", "--time=0", url]
    with (folder / "podman.log").open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, "CONTAINERS_CONF": str(configuration)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_for(lambda: _answers(url))
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        with_client = client(url)
    except DockerException:
        return False
    with_client.close()
    return True


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Return when something has become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)
