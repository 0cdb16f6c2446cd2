# SPDX-License-Identifier: Apache-2.0
"""Which process is meant, does it live, and how to end it with everything it started.

A pid alone means nothing: it is given to another process some time after its first owner has ended. A process
is therefore named by its pid, the time it started (in clock ticks since boot), and the realm its pid belongs
to.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC = Path("/proc")
_ROUNDS = 100
"""How often a family is looked at again before it is killed: it may have forked meanwhile."""


@cache
def pid_realm() -> str:
    """Return what names the place where a pid means one process: a boot of a machine, and a pid namespace."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{(_PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return "unknown"


@dataclass(frozen=True)
class ProcessStat:
    """The lines of ``/proc/<pid>/stat`` that matter here."""

    pid: int
    state: str
    parent: int
    session: int
    start_time: int

    @property
    def has_ended(self) -> bool:
        """Whether only its exit status is left (a zombie)."""
        return self.state in "ZX"


def read_stat(pid: int) -> ProcessStat | None:
    """Return what the kernel says of a process, or None if there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name of the program stands in brackets and may hold anything, also brackets and blanks.
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessStat(
        pid=pid, state=fields[0], parent=int(fields[1]), session=int(fields[3]), start_time=int(fields[19])
    )


def all_stats() -> Iterator[ProcessStat]:
    """Yield what the kernel says of every process that can be seen."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (stat := read_stat(int(entry.name))) is not None:
            yield stat


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, never to be mistaken for a later one with the same pid."""

    pid: int
    start_time: int
    realm: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Return the identity of the process that has this pid now, or None if there is none."""
        stat = read_stat(pid)
        return None if stat is None else cls(pid, stat.start_time, pid_realm())

    def stat(self) -> ProcessStat | None:
        """Return what the kernel says of this process, or None if it is no more. A zombie still is."""
        if self.realm != pid_realm():
            return None
        stat = read_stat(self.pid)
        return stat if stat is not None and stat.start_time == self.start_time else None

    def signal(self, number: int) -> bool:
        """Send it a signal; False if it is no more.

        Through a pidfd, where there is one, so that the signal cannot reach a later process with the same
        pid.
        """
        pidfd = self.open_pidfd()
        try:
            if pidfd is None:
                if self.stat() is None:
                    return False
                os.kill(self.pid, number)
            else:
                signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            return False
        finally:
            if pidfd is not None:
                os.close(pidfd)
        return True

    def open_pidfd(self) -> int | None:
        """Open a file descriptor that becomes readable when the process ends; the caller closes it.

        None if it is no more, or if this kernel has no such thing.
        """
        try:
            pidfd = os.pidfd_open(self.pid)
        except (OSError, AttributeError):
            return None
        # Looked at after opening: if it is still the same process now, the descriptor is surely of this
        # process.
        if self.stat() is None:
            os.close(pidfd)
            return None
        return pidfd


def family_of(leader: int) -> set[int]:
    """Return the living processes of a session, and what descends from its leader in sessions of its own."""
    children: dict[int, list[int]] = defaultdict(list)
    family: set[int] = set()
    alive: set[int] = set()
    for stat in all_stats():
        children[stat.parent].append(stat.pid)
        if not stat.has_ended:
            alive.add(stat.pid)
        if stat.session == leader or stat.pid == leader:
            family.add(stat.pid)
    to_visit = list(family)
    while to_visit:
        for child in children[to_visit.pop()]:
            if child not in family:
                family.add(child)
                to_visit.append(child)
    return family & alive


def kill_family(leader: int) -> int:
    """Kill a session and what descends from its leader; return how many processes that were.

    All are stopped before any is killed: an orphan no longer shows whose child it was, so nobody may die
    while another can still fork. The caller makes sure that the pid is still the leader's: it lives, or has
    not been reaped.
    """
    stopped: set[int] = set()
    for _ in range(_ROUNDS):
        fresh = family_of(leader) - stopped - {os.getpid()}
        if not fresh:
            break
        for pid in fresh:
            _send(pid, signal.SIGSTOP)
        stopped |= fresh
    for pid in stopped:
        _send(pid, signal.SIGKILL)
    return len(stopped)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
