# SPDX-License-Identifier: Apache-2.0
"""What an exit code means, in words for the person who looks at the task.

An exit code is what a process returned (0 to 255) or, when a signal ended it, minus the signal's number.
Where only a shell's view is left, a signal shows as 128 plus its number; both ways of writing it get the same
words.
"""

from __future__ import annotations

import signal

_SHELL_SIGNAL_BASE = 128

_EXIT_WORDS = {
    0: "ended normally",
    1: "ended with an error",
    2: "ended with an error: it was called with wrong arguments, or interrupted",
    125: "could not be started: the command that starts it failed",
    126: "could not be started: the command was found but may not be executed",
    127: "could not be started: the command was not found",
}

_SIGNAL_WORDS = {
    signal.SIGKILL: "killed: out of memory, or killed from outside",
    signal.SIGTERM: "terminated: it was asked to end",
    signal.SIGINT: "interrupted",
    signal.SIGSEGV: "crashed: it touched memory that is not its own, mostly a fault in a compiled library",
    signal.SIGBUS: "crashed: memory it used went away (a full disk or shared memory)",
    signal.SIGABRT: "aborted itself, mostly after a fault in a compiled library",
    signal.SIGXCPU: "stopped by its limit of CPU time",
    signal.SIGXFSZ: "stopped by its limit of file size",
}


def signal_of(exit_code: int) -> signal.Signals | None:
    """Return the signal that an exit code stands for, or None if it stands for none."""
    number = -exit_code if exit_code < 0 else exit_code - _SHELL_SIGNAL_BASE
    try:
        return signal.Signals(number)
    except ValueError:
        return None


def explain_exit(exit_code: int) -> str:
    """Say in words how a process with this exit code ended."""
    if exit_code in _EXIT_WORDS:
        return f"{_EXIT_WORDS[exit_code]} (exit code {exit_code})"
    ended_by = signal_of(exit_code)
    if ended_by is not None:
        words = _SIGNAL_WORDS.get(ended_by, "ended by a signal")
        return f"{words} ({ended_by.name}, exit code {exit_code})"
    if exit_code < 0:
        return f"ended by signal {-exit_code} (exit code {exit_code})"
    return f"ended with an error (exit code {exit_code})"
