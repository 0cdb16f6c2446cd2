# SPDX-License-Identifier: Apache-2.0
"""A cluster whose parts may be killed, and brought back with all they knew: one whose processes are this machine's.

Their pids stand in ``$TESTBED_HOME/run/<name>.pid``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_HOME = Path(os.environ.get("TESTBED_HOME") or Path("~/.cache/workpools-testbed").expanduser())
PROGRAMS = ("etcd", "kube-apiserver", "kubelet")


def missing() -> str | None:
    """Say why no cluster may be broken here; None if one may."""
    for program in PROGRAMS:
        if _pid(program) is None:
            return f"there is no cluster here whose {program} may be killed"
    return None


def _pid_file(program: str) -> Path:
    return _HOME / "run" / f"{program}.pid"


def _pid(program: str) -> int | None:
    try:
        pid = int(_pid_file(program).read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except (OSError, ValueError):
        return None
    return pid if Path(command).name == program else None


@contextmanager
def killed(program: str) -> Iterator[None]:
    """Kill a part of the cluster; bring it back at the end, as it was started."""
    pid = _pid(program)
    assert pid is not None, missing()
    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    os.kill(pid, signal.SIGKILL)
    while _is_alive(pid):
        time.sleep(0.02)
    try:
        yield
    finally:
        _start(program, command)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _start(program: str, command: Sequence[str]) -> None:
    with (_HOME / "log" / f"{program}.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
    _pid_file(program).write_text(f"{process.pid}\n")


@contextmanager
def using_the_cluster(*, alone: bool) -> Iterator[None]:
    """Use the cluster together with other tests, in whatever process they run, or alone, to break it."""
    with (Path(tempfile.gettempdir()) / "workpools-kubernetes.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)
