# SPDX-License-Identifier: Apache-2.0
"""What the jobs of the process tests do: their workload says it, as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_workpools.infrastructure.process.job import LaunchRequest

if TYPE_CHECKING:
    from collections.abc import Callable


class ScriptedTask:
    """Does what the workload's ``do`` names; writes what it saw into the workload's ``diary``."""

    def warm_up(self) -> None:
        pass

    def prepare(self, request: LaunchRequest, user: pwd.struct_passwd | None) -> None:
        script = json.loads(request.workload)
        if script.get("die_in") == "prepare":
            os.kill(os.getpid(), signal.SIGKILL)
        if script.get("fail_in") == "prepare":
            raise OSError("no space left on device")

    def run(self, request: LaunchRequest, on_begun: Callable[[], None]) -> int:
        script = json.loads(request.workload)
        diary = Path(script["diary"])
        # First, because tests act as soon as they read that it has begun: what follows must be ready for that.
        if script.get("tells_that_it_begins", True):
            on_begun()
        with diary.open("a") as file:
            file.write("begun\n")
        result: int = getattr(self, "do_" + script["do"])(script, diary)
        return result

    def do_exit(self, script: dict[str, Any], _diary: Path) -> int:
        return int(script["code"])

    def do_end_by_itself(self, _script: dict[str, Any], _diary: Path) -> int:
        return 0

    def do_write(self, script: dict[str, Any], diary: Path) -> int:
        """Write lines, and end, or go on until someone opens the pipe for writing."""
        for line in script["lines"]:
            print(line, flush=True)
        return self.do_wait(script, diary) if script["goes_on"] else 0

    def do_wait(self, script: dict[str, Any], _diary: Path) -> int:
        """Wait until someone opens the pipe for writing."""
        Path(script["pipe"]).read_bytes()
        return 0

    def do_wait_stubbornly(self, script: dict[str, Any], diary: Path) -> int:
        signal.signal(signal.SIGTERM, lambda *_: _note(diary, "asked to end"))
        while True:
            self.do_wait(script, diary)

    def do_end_when_asked(self, script: dict[str, Any], diary: Path) -> int:
        def end(*_: object) -> None:
            _note(diary, "asked to end")
            raise SystemExit(7)

        signal.signal(signal.SIGTERM, end)
        _note(diary, "ready")
        return self.do_wait(script, diary)

    def do_raise(self, _script: dict[str, Any], _diary: Path) -> int:
        raise RuntimeError("the API server did not answer")

    def do_exit_by_system_exit(self, _script: dict[str, Any], _diary: Path) -> int:
        sys.exit("a message")

    def do_start_others(self, script: dict[str, Any], diary: Path) -> int:
        """Start children (one in a group, one in a session of its own) and a grandchild; then wait."""
        sleep = ["sleep", "1000"]
        children = [
            subprocess.Popen(sleep),
            subprocess.Popen(sleep, preexec_fn=os.setpgrp),
            subprocess.Popen(sleep, start_new_session=True),
            subprocess.Popen(["sh", "-c", "sleep 1000 & echo $! > $0.grandchild; wait", str(diary)]),
        ]
        grandchild = diary.with_name(diary.name + ".grandchild")
        while not (grandchild.exists() and grandchild.read_text().strip()):
            os.sched_yield()
        pids = [child.pid for child in children] + [int(grandchild.read_text())]
        _note(diary, json.dumps(pids))
        if script.get("then") == "exit":
            return 0
        return self.do_wait(script, diary)

    def do_describe(self, _script: dict[str, Any], diary: Path) -> int:
        """Write down what this process is."""
        _note(
            diary,
            json.dumps(
                {
                    "cwd": str(Path.cwd()),
                    "environ": dict(os.environ),
                    "uid": os.getuid(),
                    "gid": os.getgid(),
                    "groups": os.getgroups(),
                    "can_become_root": _can_become_root(),
                    "nice": os.getpriority(os.PRIO_PROCESS, 0),
                    "memory": resource.getrlimit(resource.RLIMIT_DATA)[0],
                    "session": os.getsid(0),
                    "pid": os.getpid(),
                    "argv": Path("/proc/self/cmdline").read_text(),
                    "descriptors": links_of_descriptors(),
                    "descriptors_of_parent": links_of_descriptors(os.getppid()),
                    "ignored": [
                        number.name
                        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
                        if signal.getsignal(number) is signal.SIG_IGN
                    ],
                }
            ),
        )
        return 0

    def do_take_memory(self, script: dict[str, Any], _diary: Path) -> int:
        block = bytearray(int(script["mb"]) * 1024 * 1024)
        return 0 if block else 1

    def do_print(self, _script: dict[str, Any], _diary: Path) -> int:
        print("to standard output")
        os.write(2, b"to standard error\n")
        return 0


def links_of_descriptors(pid: int | None = None) -> dict[str, str]:
    """Return what the open descriptors of a process lead to, by their numbers; nothing of one of another user.

    :param pid: of the process; None: this one.
    """
    links = {}
    with contextlib.suppress(PermissionError):
        for descriptor in Path(f"/proc/{pid or 'self'}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the one that listed the directory
                links[descriptor.name] = str(descriptor.readlink())
    return links


def _note(diary: Path, line: str) -> None:
    with diary.open("a") as file:
        file.write(line + "\n")


def _can_become_root() -> bool:
    try:
        os.setuid(0)
    except PermissionError:
        return False
    return True
