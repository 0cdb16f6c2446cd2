# SPDX-License-Identifier: Apache-2.0
"""Workers that do not come back: when they are given up, and what is said of their jobs. Pure.

A worker that is silent may be dead, or only out of touch: the heartbeats of standalone workers pass through the API
server, and after an outage of it all of them have missed some. So one is given up only if another has been heard of all
the time, a *witness*: then its own heartbeats could have come, too. Without a witness nobody is given up here. What
runs goes on then, and what must end is ended by others: Airflow fails a task that says nothing for
``[scheduler] task_instance_heartbeat_timeout``, the start timeout ends what never started, and reconciliation frees
the slots of both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_workpools.core.wording import duration

if TYPE_CHECKING:
    from datetime import datetime

NEVER_LAUNCHED = "its worker was lost before it launched the job"


def lost_reason(name: str, hostname: str, *, last_heartbeat_at: datetime, grace_seconds: float) -> str:
    """Say why a job of a lost worker failed."""
    return (
        f"worker '{name}' on host '{hostname}' was lost: it was last heard of at "
        f"{last_heartbeat_at:%Y-%m-%d %H:%M:%S %Z}, and for {duration(grace_seconds)} no worker of that host has come "
        "back to look after the job ([workpools] lost_worker_grace)"
    )
