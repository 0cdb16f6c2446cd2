# SPDX-License-Identifier: Apache-2.0
"""Engines and registries of a test's own, which it may take away."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from docker.errors import DockerException

from tests.containers import client, wait_for
from tests.servers import serve_as


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


@dataclass(frozen=True)
class Certificates:
    """Of an authority of a test's own, for a server on 127.0.0.1 and for a client."""

    folder: Path

    def make(self) -> None:
        run = partial(subprocess.run, cwd=self.folder, check=True, capture_output=True)
        (self.folder / "server.ext").write_text(
            "subjectAltName = IP:127.0.0.1\nextendedKeyUsage = serverAuth\n"
        )
        (self.folder / "client.ext").write_text("extendedKeyUsage = clientAuth\n")
        new_key = ["-newkey", "rsa:2048", "-nodes", "-days", "1"]
        run(["openssl", "req", "-x509", *new_key, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem"])
        for who in ("server", "client"):
            run(
                [
                    "openssl",
                    "req",
                    *new_key,
                    "-subj",
                    f"/CN={who}",
                    "-keyout",
                    f"{who}.key",
                    "-out",
                    f"{who}.csr",
                ]
            )
            signed = ["-in", f"{who}.csr", "-extfile", f"{who}.ext", "-out", f"{who}.pem", "-days", "1"]
            run(["openssl", "x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", *signed])

    @property
    def of_server(self) -> tuple[str, ...]:
        folder = self.folder
        return (
            "--tlsverify",
            f"--tlscacert={folder}/ca.pem",
            f"--tlscert={folder}/server.pem",
            f"--tlskey={folder}/server.key",
        )

    @property
    def of_client(self) -> dict[str, str]:
        """As they stand in the extra of a connection."""
        folder = self.folder
        return {
            "tls_ca_cert": f"{folder}/ca.pem",
            "tls_client_cert": f"{folder}/client.pem",
            "tls_client_key": f"{folder}/client.key",
        }


def short_folder() -> Path:
    """Make a folder whose name leaves room for those of sockets, which may have 107 characters."""
    return Path(tempfile.mkdtemp(prefix="wp"))


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


class OwnEngine:
    """An engine of a test's own, which it may kill: everything of it is in a folder."""

    def __init__(self, *options: str) -> None:
        self._folder = short_folder()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._folder / 'docker.sock'}"

    def __enter__(self) -> OwnEngine:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.closing(client(self.url)) as engine:
            for container in engine.containers.list(all=True, ignore_removed=True):
                container.remove(force=True)
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)
        for mount in ("data", "exec/netns/default"):  # an engine that was killed has left them to nobody
            subprocess.run(["umount", "--lazy", self._folder / mount], capture_output=True, check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def up(self) -> None:
        for left in ("docker.pid", "exec/containerd/containerd.pid", "exec/containerd/containerd.sock"):
            (self._folder / left).unlink(missing_ok=True)
        folders = [f"--{name}={self._folder / place}" for name, place in _OWN_PLACES.items()]
        self._process = serve_as(
            None,
            [*_DOCKERD, f"--host={self.url}", *folders, *self._options],
            cwd=self._folder,
            log=self._folder / "dockerd.log",
            stop_signal=signal.SIGTERM,
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
def podman() -> Iterator[str]:
    """Run Podman's Docker-compatible service with everything of it in a folder; gives its address."""
    folder = short_folder()
    configuration = folder / "containers.conf"
    # Limits that may be set without more rights than tests have.
    configuration.write_text(
        '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\nlog_driver = "k8s-file"\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        # crun, the usual one, starts nothing where some controllers are of cgroups v1 and some of v2.
        + ('runtime = "runc"\n' if shutil.which("runc") else "")
    )
    url = f"unix://{folder / 'podman.sock'}"
    # vfs mounts nothing, so that the folder can be removed like any other.
    command = ["env", f"CONTAINERS_CONF={configuration}", "podman", "--storage-driver", "vfs"]
    command += [
        "--root",
        str(folder / "root"),
        "--runroot",
        str(folder / "run"),
        "--tmpdir",
        str(folder / "tmp"),
    ]
    process = serve_as(
        None,
        [*command, "system", "service", "--time=0", url],
        cwd=folder,
        log=folder / "podman.log",
        stop_signal=signal.SIGTERM,
    )
    try:
        wait_for(lambda: _answers(url))
        yield url
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Registry:
    """A registry that asks for a login."""

    address: str
    log: Path
    user: str = "etl"
    password: str = "open sesame"


_HTPASSWD = "etl:$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"
_REGISTRY = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/images}}}}
http: {{addr: {address}}}
auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}
"""


@contextmanager
def registry(folder: Path) -> Iterator[Registry]:
    """Run a registry on this host."""
    address = free_address()
    (folder / "htpasswd").write_text(_HTPASSWD)
    configuration = folder / "registry.yml"
    configuration.write_text(_REGISTRY.format(folder=folder, address=address))
    log = folder / "registry.log"
    process = serve_as(
        None,
        ["docker-registry", "serve", str(configuration)],
        cwd=folder,
        log=log,
        stop_signal=signal.SIGTERM,
    )
    try:
        wait_for(lambda: _listens(address))
        yield Registry(address=address, log=log)
    finally:
        process.terminate()
        process.wait(30)


def _listens(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as one:
        return one.connect_ex((host, int(port))) == 0


def _answers(url: str) -> bool:
    try:
        with_client = client(url)
    except DockerException:
        return False
    with_client.close()
    return True
