# SPDX-License-Identifier: Apache-2.0
"""A whole Airflow on this machine: its components as processes, started, watched and ended by one owner.

The demo, the benchmarks and the tests use it. Everything it needs comes from its arguments; nothing of the
caller's Airflow configuration reaches it. Every process it starts, and every process those start, carries a
mark in its environment, so that :func:`sweep` finds also those that have left their group and session.
"""

from __future__ import annotations

import base64
import contextlib
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from airflow_workpools.cli import local_sqlite
from airflow_workpools.cli.local_api import LocalApi
from airflow_workpools.errors import WorkpoolsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

MARK = "WORKPOOLS_LOCAL_AIRFLOW"
"""Environment variable that every process of a local Airflow carries; its value is the home."""

API_SERVER, SCHEDULER, DAG_PROCESSOR, TRIGGERER = "api-server", "scheduler", "dag-processor", "triggerer"
COMPONENTS = (API_SERVER, SCHEDULER, DAG_PROCESSOR)

_HEALTH_NAMES = {SCHEDULER: "scheduler", DAG_PROCESSOR: "dag_processor", TRIGGERER: "triggerer"}


class LocalAirflowError(WorkpoolsError):
    """The local Airflow could not be started, or did not do what was waited for."""


def wait_until(condition: Callable[[], Any], *, timeout: float, what: str, interval: float = 0.1) -> Any:
    """Wait until ``condition`` returns something true, and return that.

    :raises LocalAirflowError: after ``timeout`` seconds, saying ``what`` was waited for.
    """
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise LocalAirflowError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(interval)
    return result


def free_port(preferred: int | None = None, *, avoid: Iterable[int] = ()) -> int:
    """Return a port that nothing listens on: the preferred one if it is free.

    Otherwise one below the range from which the kernel gives out ports by itself, because a component binds
    it only seconds later.
    """
    taken = set(avoid)
    candidates = [preferred] if preferred else []
    candidates += random.SystemRandom().sample(range(20000, 32000), 200)
    for port in candidates:
        if port not in taken and _can_listen(port):
            return port
    raise LocalAirflowError("found no free port between 20000 and 32000")


def _can_listen(port: int) -> bool:
    # One answer on IPv4 and no listener on IPv6 either: Airflow's log server binds [::].
    for family, address in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind((address, port))
        except OSError as error:
            if family == socket.AF_INET or error.errno == 98:  # EADDRINUSE; no IPv6 at all is fine
                return False
    return True


@dataclass(frozen=True)
class Ports:
    """The ports that a local Airflow listens on."""

    api: int
    worker_log: int
    trigger_log: int

    @classmethod
    def choose(cls, preferred_api: int | None = None) -> Ports:
        api = free_port(preferred_api)
        worker_log = free_port(avoid=[api])
        return cls(api, worker_log, free_port(avoid=[api, worker_log]))


def marked_pids(home: Path) -> list[int]:
    """Return the processes that belong to the local Airflow with this home."""
    mark = f"{MARK}={home}".encode()
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - a Path object for each process would cost more
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError), Path("/proc", entry, "environ").open("rb") as environ:
            if mark in environ.read().split(b"\0"):
                found.append(int(entry))
    return found


def sweep(home: Path, *, grace_seconds: float) -> int:
    """End every process of the local Airflow with this home; return how many were found."""
    found = marked_pids(home)
    _signal(found, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while (left := marked_pids(home)) and time.monotonic() < deadline:
        time.sleep(0.05)
    # A process may be started while the others are being killed: repeat until there is none.
    for _ in range(50):
        if not left:
            break
        _signal(left, signal.SIGKILL)
        time.sleep(0.02)
        left = marked_pids(home)
    return len(found)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@dataclass(kw_only=True)
class LocalAirflow:
    """One Airflow installation under ``home``, and the processes that run it."""

    home: Path
    dags_folder: Path
    executor: str
    database_url: str = ""
    """SQLAlchemy's URL of the metadata database; SQLite under ``home`` if not given."""
    ports: Ports = field(default_factory=Ports.choose)
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables on top of the ones that are always set."""
    python: str = sys.executable
    stop_grace_seconds: float = 5.0
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)
    _secret: str = field(default_factory=lambda: secrets.token_urlsafe(64), init=False, repr=False)
    _fernet_key: str = field(
        default_factory=lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        init=False,
        repr=False,
    )

    def __post_init__(self) -> None:
        self.home = self.home.resolve()
        self.home.mkdir(parents=True, exist_ok=True)
        self.database_url = self.database_url or f"sqlite:///{self.home / 'airflow.db'}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports.api}"

    @property
    def api(self) -> LocalApi:
        return LocalApi(self.url)

    @property
    def logs(self) -> Path:
        """Where the components' output goes, one file each."""
        return self.home / "components"

    def environment(self, component: str | None = None) -> dict[str, str]:
        """Return the environment of a component, or of any other process of this Airflow."""
        environment = {
            **_outer_environment(),
            **self._own_environment(),
            **self._database_environment(component),
            **self.settings,
        }
        environment["PATH"] = os.pathsep.join(
            [str(Path(self.python).parent), environment.get("PATH", os.defpath)]
        )
        return environment

    def _own_environment(self) -> dict[str, str]:
        return {
            MARK: str(self.home),
            "SPT_NOENV": "1",  # else setproctitle overwrites the environment that marked_pids() reads
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__EXECUTOR": self.executor,
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags_folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__FERNET_KEY": self._fernet_key,
            # The machine's own name needs no DNS; looking the full one up can take seconds without a network.
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.ports.api),
            "AIRFLOW__API__BASE_URL": f"{self.url}/",
            "AIRFLOW__API__SECRET_KEY": self._secret,
            "AIRFLOW__API_AUTH__JWT_SECRET": self._secret,
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.home / "logs"),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(self.ports.worker_log),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(self.ports.trigger_log),
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "1",
            "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        }

    def _database_environment(self, component: str | None) -> dict[str, str]:
        environment = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.database_url}
        if self.database_url.startswith("sqlite"):
            args = "API_SERVER_CONNECT_ARGS" if component == API_SERVER else "CONNECT_ARGS"
            for option in ("SQL_ALCHEMY_CONNECT_ARGS", "SQL_ALCHEMY_CONNECT_ARGS_ASYNC"):
                environment[f"AIRFLOW__DATABASE__{option}"] = f"{local_sqlite.__name__}.{args}"
        return environment

    # -- what runs

    def run_cli(self, *arguments: str, timeout: float = 180) -> str:
        """Run an ``airflow`` command to its end and return what it wrote to stdout.

        :raises LocalAirflowError: with what it wrote to stderr, if it failed.
        """
        done = subprocess.run(
            [self.python, "-m", "airflow", *arguments],
            env=self.environment(),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise LocalAirflowError(
                f"`airflow {' '.join(arguments)}` ended with {done.returncode}: {done.stderr.strip()[-3000:]}"
            )
        return done.stdout

    def migrate(self) -> None:
        """Create the tables, or bring them up to date."""
        self.run_cli("db", "migrate")

    def start(self, *components: str) -> None:
        """Start components (by default the usual three), each in a session of its own."""
        for name in components or COMPONENTS:
            self.start_command(name, [name])

    def start_command(self, name: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start any ``airflow`` command that goes on running, and own it under ``name``."""
        self.logs.mkdir(exist_ok=True)
        with (self.logs / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(
                [self.python, "-m", "airflow", *arguments],
                env=self.environment(name),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[name] = process
        return process

    def process(self, component: str) -> subprocess.Popen[bytes]:
        """Return the process of a component that was started."""
        return self._running[component]

    def wait_ready(self, *, timeout: float = 120) -> None:
        """Wait until every component that was started answers or has sent its heartbeat."""
        if API_SERVER in self._running:
            self.wait_for(self.api.health, timeout=timeout, what="the API server")
        expected = [_HEALTH_NAMES[name] for name in self._running if name in _HEALTH_NAMES]
        if API_SERVER in self._running:
            self.wait_for(
                lambda: all(self._healthy(name) for name in expected),
                timeout=timeout,
                what=f"the first heartbeat of {' and '.join(expected)}",
            )

    def _healthy(self, name: str) -> bool:
        report = self.api.health() or {}
        return (report.get(name) or {}).get("status") == "healthy"

    def wait_for(
        self, condition: Callable[[], Any], *, timeout: float, what: str, interval: float = 0.1
    ) -> Any:
        """Wait as :func:`wait_until` does, but give up at once when a component has ended."""

        def alive_and_met() -> Any:
            self.check_alive()
            return condition()

        return wait_until(alive_and_met, timeout=timeout, what=what, interval=interval)

    def check_alive(self) -> None:
        """Raise :class:`LocalAirflowError` with the end of its output if a component has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise LocalAirflowError(
                    f"the {name} ended by itself ({process.returncode}):\n{self.tail(name)}\nAll of it: "
                    f"{self.logs / name}.log"
                )

    def tail(self, component: str, lines: int = 25) -> str:
        """Return the last lines that a component has written."""
        path = self.logs / f"{component}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    # -- the end

    def release(self, component: str) -> subprocess.Popen[bytes]:
        """Disown a component that the caller ends itself: that it ends is no failure from now on."""
        return self._running.pop(component)

    def kill9(self, component: str) -> None:
        """Kill a component as a crash would: its own process, without a chance to clean up.

        And its children that are not of work pools. Those of Airflow, what serves logs and LocalExecutor's workers,
        are forked with the scheduler's connection to the database: they would keep open for ever the transaction in
        which the scheduler dies.
        """
        process = self.release(component)
        children = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
        for child in children:
            with contextlib.suppress(psutil.Error):
                if not " ".join(child.cmdline()).startswith("airflow_workpools: "):
                    child.kill()

    def terminate(self, component: str) -> None:
        """Ask a component to end, wait, and kill what is left of its group."""
        self._end([self._running.pop(component)])

    def stop(self) -> None:
        """End everything; no process of this Airflow is left afterwards."""
        # The API server goes last: what ends tells it so.
        api_server = self._running.pop(API_SERVER, None)
        others, self._running = list(self._running.values()), {}
        self._end(others)
        if api_server:
            self._end([api_server])
        sweep(self.home, grace_seconds=self.stop_grace_seconds)

    def _end(self, processes: list[subprocess.Popen[bytes]]) -> None:
        for process in processes:
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + self.stop_grace_seconds
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            _signal_group(process, signal.SIGKILL)
            process.wait()

    def __enter__(self) -> LocalAirflow:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _outer_environment() -> dict[str, str]:
    """Return the caller's environment without its Airflow, and with no proxy before this machine."""
    outer = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))
    }
    hosts = [outer.get("NO_PROXY") or outer.get("no_proxy") or "", "127.0.0.1", "localhost"]
    outer["NO_PROXY"] = outer["no_proxy"] = ",".join(host for host in hosts if host)
    return outer
