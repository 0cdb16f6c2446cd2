# SPDX-License-Identifier: Apache-2.0
"""What database servers of the tests' own have in common: whom they run as, and that they end with the tests."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_START_TIMEOUT_SECONDS = 60
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def account_for(name: str) -> pwd.struct_passwd | None:
    """Return whom to run a server as where the tests are run by root, which servers refuse."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return pwd.getpwnam("nobody")


def run_as(account: pwd.struct_passwd | None, command: Sequence[Path | str], *, cwd: Path) -> None:
    """Run a command to its end; it must succeed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **_identity(account))
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()}")


def serve_as(
    account: pwd.struct_passwd | None,
    command: Sequence[Path | str],
    *,
    cwd: Path,
    log: Path,
    stop_signal: signal.Signals,
) -> subprocess.Popen[bytes]:
    """Start a server that gets ``stop_signal`` when this process ends, however it ends."""
    parent = os.getpid()

    def end_with_parent() -> None:
        # In the child, after it has changed its user: that would undo it.
        if _libc.prctl(_PR_SET_PDEATHSIG, int(stop_signal), 0, 0, 0) or os.getppid() != parent:
            os._exit(1)

    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,
            **_identity(account),
        )


def wait_ready(
    connect: Callable[[], Any], refused: type[Exception], process: subprocess.Popen[bytes], log: Path
) -> None:
    """Wait until a server takes connections.

    :param connect: makes a connection.
    :param refused: what it raises as long as there is none.
    """
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while True:
        try:
            connect().close()
        except refused as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args!r} did not start: {log.read_text()[-2000:]}") from error
            time.sleep(0.05)
        else:
            return


def _identity(account: pwd.struct_passwd | None) -> dict[str, Any]:
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
