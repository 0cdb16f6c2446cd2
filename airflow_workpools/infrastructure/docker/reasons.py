# SPDX-License-Identifier: Apache-2.0
"""From what the engine says of a container to what is seen of its job, with a reason a person understands. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.exits import explain_exit
from airflow_workpools.infrastructure.base import Observation, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

RUNS = frozenset({"running", "paused", "restarting", "stopping"})
"""States in which a container has a process. ("stopping" is Podman's.)"""
NOT_STARTED = frozenset({"created", "configured", "initialized"})
"""States before the first start. (The last two are Podman's.)"""

_KILLED = (137, 143, 255)
"""What remains of containers that ended because their engine did."""
_AROUND = timedelta(seconds=30)
"""How far the clocks of worker and engine may differ."""
_MB = 1024 * 1024


def ended(container: Mapping[str, Any], *, lost_at: datetime | None = None) -> Observation:
    """Say how a container ended.

    :param container: what the engine says of it.
    :param lost_at: when the engine was lost sight of last.
    """
    state = container["State"]
    code = int(state.get("ExitCode") or 0)
    reason = explain_exit(code)
    if state.get("OOMKilled"):
        reason = _out_of_memory(container, code)
    elif code in _KILLED and _ended_after(state, lost_at):
        reason = (
            f"the Docker Engine was stopped or restarted while it ran (exit code {code}); "
            "with the engine's option live-restore containers survive that"
        )
    if said := state.get("Error"):
        reason = f"{reason}: {said}"
    return Observation(phase=Phase.EXITED, exit_code=code, reason=reason)


def _out_of_memory(container: Mapping[str, Any], code: int) -> str:
    limit = (container.get("HostConfig") or {}).get("Memory") or 0
    if code == 0:
        return f"ended normally (exit code 0), but a process of it was killed: out of memory: {_which(limit)}"
    if not limit:
        return f"out of memory: no mem_limit was set, so the engine's host had none left (exit code {code})"
    return f"out of memory: mem_limit was {_size(limit)} (exit code {code})"


def _which(limit: int) -> str:
    return f"mem_limit was {_size(limit)}" if limit else "no mem_limit was set"


def _size(number: int) -> str:
    return f"{number // _MB} MB" if number >= _MB else f"{number} bytes"


def _ended_after(state: Mapping[str, Any], lost_at: datetime | None) -> bool:
    if lost_at is None:
        return False
    finished = _time(state.get("FinishedAt") or "")
    return finished is None or finished > lost_at - _AROUND


def _time(text: str) -> datetime | None:
    """Read a time of the engine's, which has nanoseconds and may have a zone."""
    try:
        seconds = datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return None if seconds.year == 1 else seconds


def removed(name: str, exit_code: int | None) -> Observation:
    """Say what became of a container that is not there any more.

    :param exit_code: how it was seen to end, if it was.
    """
    if exit_code is None:
        reason = f"its container {name} was removed from outside, before it was seen how it ended"
        return Observation(phase=Phase.GONE, reason=reason)
    words = (explain_exit(exit_code), f"its container {name} was removed from outside")
    return Observation(phase=Phase.EXITED, exit_code=exit_code, reason="; ".join(words))


def removed_before_start(name: str) -> str:
    """Say why a container that was made could not be started any more."""
    return f"its container {name} was removed from outside before it was started"


NO_CONTAINER = Observation(phase=Phase.GONE, reason="nothing is known of a container of it")


def not_started(reason: str) -> Observation:
    """Say that nothing of a job has run, so that it may be launched again."""
    return Observation(phase=Phase.GONE, reason=reason, never_started=True)


START_HINTS = {
    "executable file not found": 127,
    "no such file or directory": 127,
    "permission denied": 126,
}


def start_refused(said: str) -> str:
    """Explain why a container could not be started."""
    code = _code_of_start(said)
    return (
        f"{explain_exit(code)}: {said}" if code is not None else f"the container could not be started: {said}"
    )


def is_about_command(said: str) -> bool:
    """Say whether a container could not be started for its command: it never can."""
    return _code_of_start(said) is not None


def _code_of_start(said: str) -> int | None:
    return next((code for hint, code in START_HINTS.items() if hint in said.lower()), None)
