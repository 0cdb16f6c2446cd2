# SPDX-License-Identifier: Apache-2.0
"""Workers of pull pools, started as people start them, and a way to them over TLS."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.engines import Certificates


class RunningWorker:
    """A worker, and what it writes."""

    def __init__(self, command: list[str], environment: dict[str, str], output: Path) -> None:
        self.output = output
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """Take it away, if it is there."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def worker_environment(home: Path, *, dags: Path, url: str, trace: Path) -> dict[str, str]:
    """Return all that a worker has: no database that answers, and no secret of Airflow's."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **kept,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "airflow_workpools.WorkPoolExecutor",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://nobody:nothing@127.0.0.1:9/none",
        "AIRFLOW__WORKPOOLS__WORKER_HEARTBEAT_INTERVAL": "2",
        "AIRFLOW__WORKPOOLS__API_URL": url,
        "WORKPOOLS_TEST_TRACE": str(trace),
    }


def worker_command(pool: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "airflow", "workpools", "worker", "start", "--pool", pool, *arguments]


@contextlib.contextmanager
def over_tls(port: int, certificates: Certificates) -> Iterator[int]:
    """Serve over TLS what a port of this machine has; gives the port to use."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.folder / "server.pem", certificates.folder / "server.key")
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    threading.Thread(target=_accept, args=(listener, context, port), daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _accept(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            inner, _ = listener.accept()
            threading.Thread(target=_serve, args=(inner, context, port), daemon=True).start()


def _serve(inner: socket.socket, context: ssl.SSLContext, port: int) -> None:
    """Pass on one connection. Reading and writing go on in two threads, each with one direction."""
    with contextlib.suppress(OSError):
        encrypted = context.wrap_socket(inner, server_side=True)
        outer = socket.create_connection(("127.0.0.1", port))
        back = threading.Thread(target=_pass_on, args=(outer, encrypted), daemon=True)
        back.start()
        _pass_on(encrypted, outer)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
